//! The process' environment, as projects and settings see it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use wws_project::{LoadOptions, Problems, Project, PublicHosts};
use wws_server::{CodeCache, Languages, available_memory};

use crate::args::ProjectArgs;

/// The variables of an image or a repository that this process serves.
#[derive(Debug, Default)]
struct ImageVariables {
    /// Those of the image.
    image: BTreeMap<String, String>,
    /// Those that the user gives to it.
    given: BTreeMap<String, String>,
    allowed: Allowed,
}

/// What the user allows an image or a repository to use of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allowed {
    /// To read the machine's secrets.
    pub(crate) secrets: bool,
    /// To reach hosts that are not public.
    pub(crate) private_hosts: bool,
}

/// The setting that lets workers reach private networks: an image does not decide about that.
const ALLOW_PRIVATE: &str = "WWS_ALLOW_PRIVATE";

static IMAGE: OnceLock<ImageVariables> = OnceLock::new();

/// Says that this process serves an image, or a repository, with these variables, which are for the
/// project and its settings alone: what this program reads about the machine, as the place of the
/// code cache, is not the image's to say. An image sees no other variables of this process than the
/// server's own.
pub(crate) fn serve_untrusted(
    image: impl IntoIterator<Item = (String, String)>,
    given: impl IntoIterator<Item = (String, String)>,
    allowed: Allowed,
) {
    // A process serves one image.
    let _ = IMAGE.set(ImageVariables {
        image: image.into_iter().collect(),
        given: given.into_iter().collect(),
        allowed,
    });
}

/// All variables; those that are not UTF-8 cannot be named in a project.
pub(crate) fn variables() -> BTreeMap<String, String> {
    match IMAGE.get() {
        None => own_variables(),
        Some(variables) => variables.with(own_variables()),
    }
}

impl ImageVariables {
    fn with(&self, own: BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut all = self.image.clone();
        if !self.allowed.private_hosts {
            all.remove(ALLOW_PRIVATE);
        }
        all.extend(own.into_iter().filter(|(name, _)| is_of_server(name)));
        all.extend(self.given.clone());
        all
    }

    /// Set unless the project may reach other hosts.
    fn public_hosts(&self) -> Option<PublicHosts> {
        (!self.allowed.private_hosts).then(|| PublicHosts {
            given: self.given.keys().cloned().collect(),
        })
    }
}

/// Whether a variable is for the server: its settings, proxies, certificates and exporters.
fn is_of_server(name: &str) -> bool {
    const NAMES: [&str; 7] = [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "NODE_EXTRA_CA_CERTS",
    ];
    let name = name.to_ascii_uppercase();
    name.starts_with("WWS_") || name.starts_with("OTEL_") || NAMES.contains(&name.as_str())
}

/// The process's own variables, without those of the image that is served: what they say of
/// proxies, certificates and collectors is the operator's.
pub(crate) fn own_variables() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Where the shim mounts this program in a container, and the code of the container's project.
const IN_CONTAINER: [(&str, &str); 2] = [
    ("/dev/wws", "/dev/wws-code"),
    ("/.wws/server", "/.wws/code"),
];

/// Whether this command runs inside a container.
pub(crate) fn is_in_container() -> bool {
    code_of_container().is_some()
}

/// The directory with the code of the container's project, if it was compiled ahead of time: the
/// shim mounts something there in any case. No option or variable can change it, because the image
/// sets both.
pub(crate) fn code_of_container() -> Option<&'static Path> {
    let program = std::env::current_exe().ok()?;
    IN_CONTAINER
        .iter()
        .find(|(path, _)| program == Path::new(path))
        .map(|(_, code)| Path::new(code))
}

/// Loads a project. `hashed`: files of runtimes whose SHA-256 is known.
pub(crate) fn load(
    given: &ProjectArgs,
    container: bool,
    hashed: BTreeMap<PathBuf, String>,
) -> Result<Project, Problems> {
    load_with(given, container, hashed, None)
}

/// Loads a project, whose compiled code may be in `code`, and reports all problems, whatever its
/// settings say.
pub(crate) fn load_strictly(
    given: &ProjectArgs,
    code: Option<&CodeCache>,
) -> Result<Project, Problems> {
    let hashed = code.map(|code| wws_server::hashed(code.directory()));
    load_with(given, false, hashed.unwrap_or_default(), Some(true))
}

fn load_with(
    given: &ProjectArgs,
    container: bool,
    hashed: BTreeMap<PathBuf, String>,
    strict: Option<bool>,
) -> Result<Project, Problems> {
    let options = LoadOptions {
        prefix: given.prefix.clone(),
        ignore: given.ignore.clone(),
        strict,
        hashed,
        ..load_options(container || is_in_container())
    };
    wws_project::load(&given.path, &options)
}

/// How a project is loaded, whatever the command line says of it.
pub(crate) fn load_options(container: bool) -> LoadOptions {
    LoadOptions {
        env: variables(),
        // That of an image would be its author's.
        dot_env: !container && IMAGE.get().is_none(),
        container,
        untrusted: IMAGE.get().is_some_and(|image| !image.allowed.secrets),
        public_hosts: IMAGE.get().and_then(ImageVariables::public_hosts),
        memory: Some(available_memory()),
        languages: Languages::standard().specs(),
        ..LoadOptions::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_sees_its_own_variables_and_those_of_the_server() {
        let pairs = |all: &[(&str, &str)]| -> BTreeMap<String, String> {
            let owned = all
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()));
            owned.collect()
        };
        let variables = ImageVariables {
            image: pairs(&[
                ("A", "image"),
                ("WWS_ALLOW_PRIVATE", "10.0.0.0/8"),
                ("WWS_PORT", "1"),
                ("WWS_PREFIX", "/v1"),
            ]),
            given: pairs(&[("B", "given"), ("WWS_PREFIX", "/v2")]),
            allowed: Allowed::default(),
        };
        let own = pairs(&[
            ("A", "own"),
            ("B", "own"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("WWS_PORT", "2"),
            ("https_proxy", "http://proxy"),
        ]);
        let expected = pairs(&[
            ("A", "image"),
            ("B", "given"),
            ("WWS_PORT", "2"),
            ("WWS_PREFIX", "/v2"),
            ("https_proxy", "http://proxy"),
        ]);
        assert_eq!(variables.with(own), expected);
    }
}
