//! The process' environment, as projects and settings see it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use wws_project::{LoadOptions, Problems, Project};
use wws_server::{CodeCache, Languages};

use crate::args::Folder;

/// Variables of the image that is served.
static DEFAULTS: OnceLock<BTreeMap<String, String>> = OnceLock::new();

/// Sets the variables of the image that this process serves, for the project and its settings
/// alone: what this program reads about the machine, as the place of the code cache, is not the
/// image's to say. The process's own variables take precedence.
pub(crate) fn set_defaults(variables: impl IntoIterator<Item = (String, String)>) {
    // A process serves one image.
    let _ = DEFAULTS.set(variables.into_iter().collect());
}

/// All variables; those that are not UTF-8 cannot be named in a project.
pub(crate) fn variables() -> BTreeMap<String, String> {
    let mut variables = DEFAULTS.get().cloned().unwrap_or_default();
    variables.extend(own_variables());
    variables
}

/// The process's own variables, without those of the image that is served: what they say of proxies,
/// certificates and collectors is the operator's.
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
    folder: &Folder,
    container: bool,
    hashed: BTreeMap<PathBuf, String>,
) -> Result<Project, Problems> {
    load_with(folder, container, hashed, None)
}

/// Loads a project, whose compiled code may be in `code`, and reports all problems, whatever its
/// settings say.
pub(crate) fn load_strictly(
    folder: &Folder,
    code: Option<&CodeCache>,
) -> Result<Project, Problems> {
    let hashed = code.map(|code| wws_server::hashed(code.directory()));
    load_with(folder, false, hashed.unwrap_or_default(), Some(true))
}

fn load_with(
    folder: &Folder,
    container: bool,
    hashed: BTreeMap<PathBuf, String>,
    strict: Option<bool>,
) -> Result<Project, Problems> {
    let container = container || is_in_container();
    let options = LoadOptions {
        prefix: folder.prefix.clone(),
        ignore: folder.ignore.clone(),
        env: variables(),
        // That of an image would be its author's.
        dot_env: !container && DEFAULTS.get().is_none(),
        container,
        strict,
        languages: Languages::standard().specs(),
        hashed,
    };
    wws_project::load(&folder.path, &options)
}
