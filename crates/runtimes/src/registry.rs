//! The npm registry that this machine is configured for.
//!
//! In npm's order: the registry of a scope first; then the environment, the project's `.npmrc`, and
//! the user's. If none of these names a registry, npm itself is asked for its default. This crate
//! has no default.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use url::Url;

use crate::{
    error::{Error, FailureKind},
    npmrc::Npmrc,
    package::Package,
};

/// The time for npm to answer.
const NPM_TIME: Duration = Duration::from_secs(20);

/// The configuration of a machine and a project.
pub(crate) struct Registries {
    env: BTreeMap<String, String>,
    project: Npmrc,
    user: Npmrc,
    directory: PathBuf,
}

/// The root URL of a registry.
#[derive(Debug)]
pub(crate) struct Registry {
    root: Url,
}

impl Registries {
    pub(crate) fn of(project: &Path, env: &BTreeMap<String, String>) -> Result<Self, Error> {
        let user = variable(env, "userconfig")
            .map(PathBuf::from)
            .or_else(|| Some(Path::new(env.get("HOME")?).join(".npmrc")));
        Ok(Self {
            // A project is not trusted: its lines may not read variables.
            project: Npmrc::read(&project.join(".npmrc"), &BTreeMap::new())?,
            user: match user {
                Some(file) => Npmrc::read(&file, env)?,
                None => Npmrc::default(),
            },
            env: env.clone(),
            directory: project.to_owned(),
        })
    }

    /// The registry of a package.
    pub(crate) fn registry(&self, package: &Package) -> Result<Registry, Error> {
        let of_files = |key: &str| self.project.get(key).or_else(|| self.user.get(key));
        let of_scope = package
            .scope()
            .and_then(|scope| of_files(&format!("{scope}:registry")));
        let found = of_scope
            .or_else(|| variable(&self.env, "registry"))
            .or_else(|| of_files("registry"))
            .map(str::to_owned)
            .or_else(|| self.ask_npm());
        let Some(text) = found else {
            return Err(Error::new(
                FailureKind::Input,
                "no npm registry is configured: set NPM_CONFIG_REGISTRY=https://..., or write \
                 `registry=https://...` into ~/.npmrc",
            ));
        };
        let mut root = Url::parse(&text)
            .ok()
            .filter(|url| matches!(url.scheme(), "https" | "http"))
            .ok_or_else(|| {
                Error::new(
                    FailureKind::Input,
                    format!("the npm registry is configured as `{text}`, expected https://..."),
                )
            })?;
        if !root.path().ends_with('/') {
            let path = format!("{}/", root.path());
            root.set_path(&path);
        }
        Ok(Registry { root })
    }

    /// The credentials for a request of `url`. Only the user's own file is trusted.
    pub(crate) fn authorization(&self, url: &Url) -> Option<String> {
        let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
        let mut path = url.path();
        // The longest path with credentials wins.
        while let Some(end) = path.rfind('/') {
            let place = format!("//{host}{}", &path[..=end]);
            if let Some(token) = self.user.get(&format!("{place}:_authToken")) {
                return Some(format!("Bearer {token}"));
            }
            if let Some(basic) = self.user.get(&format!("{place}:_auth")) {
                return Some(format!("Basic {basic}"));
            }
            path = &path[..end];
        }
        None
    }

    /// A file of certificates that npm trusts.
    pub(crate) fn certificates(&self) -> Option<&str> {
        variable(&self.env, "cafile").or_else(|| self.user.get("cafile"))
    }

    /// `npm config get registry`, if npm is installed.
    fn ask_npm(&self) -> Option<String> {
        let mut child = Command::new("npm")
            .args(["config", "get", "registry"])
            .current_dir(&self.directory)
            .env_clear()
            .envs(&self.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let started = Instant::now();
        while child.try_wait().ok()?.is_none() {
            if started.elapsed() > NPM_TIME {
                // npm may have exited meanwhile.
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut text = String::new();
        child
            .stdout
            .take()?
            .take(4096)
            .read_to_string(&mut text)
            .ok()?;
        let text = text.trim();
        text.starts_with("http").then(|| text.to_owned())
    }
}

impl Registry {
    /// The URL of an archive in nearly all registries.
    pub(crate) fn archive(&self, package: &Package) -> Result<Url, Error> {
        self.below(&package.archive())
    }

    /// The URL of the metadata that has the archive's URL.
    pub(crate) fn metadata(&self, package: &Package) -> Result<Url, Error> {
        self.below(&package.metadata())
    }

    fn below(&self, path: &str) -> Result<Url, Error> {
        let mut url = self.root.clone();
        url.set_query(None);
        // A name begins with `@`, so nothing else can come first.
        url.join(&format!("./{path}")).map_err(|error| {
            Error::new(
                FailureKind::Input,
                format!("{path} is not below the registry"),
            )
            .caused_by(error)
        })
    }
}

/// The names of npm's variables may be in upper or lower case.
fn variable<'e>(env: &'e BTreeMap<String, String>, name: &str) -> Option<&'e str> {
    let name = format!("npm_config_{name}");
    env.get(&name)
        .or_else(|| env.get(&name.to_ascii_uppercase()))
        .map(String::as_str)
        .filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use base64::{Engine, engine::general_purpose::STANDARD};
    use tempfile::TempDir;

    use super::*;

    struct Machine {
        home: TempDir,
        project: TempDir,
        env: BTreeMap<String, String>,
    }

    fn machine(user: &str, project: &str, env: &[(&str, &str)]) -> Machine {
        let machine = Machine {
            home: TempDir::new().unwrap(),
            project: TempDir::new().unwrap(),
            env: BTreeMap::new(),
        };
        std::fs::write(machine.home.path().join(".npmrc"), user).unwrap();
        std::fs::write(machine.project.path().join(".npmrc"), project).unwrap();
        let home = machine.home.path().to_str().unwrap().to_owned();
        let env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .chain([("HOME".to_owned(), home)])
            .collect();
        Machine { env, ..machine }
    }

    impl Machine {
        fn registries(&self) -> Registries {
            Registries::of(self.project.path(), &self.env).unwrap()
        }

        fn archive(&self, name: &str) -> Result<String, Error> {
            let sum = STANDARD.encode([0; 64]);
            let package = Package::parse(&format!("{name}@1/f#sha512-{sum}")).unwrap();
            let registry = self.registries().registry(&package)?;
            registry.metadata(&package).unwrap();
            registry.archive(&package).map(String::from)
        }
    }

    #[test]
    fn the_nearest_registry_wins() {
        let env = [("NPM_CONFIG_REGISTRY", "https://env.example/npm")];
        let all = machine(
            "registry=https://user.example\n@s:registry=https://scope.example/x/",
            "registry=https://project.example/",
            &env,
        );
        assert_eq!(
            all.archive("@s/a").unwrap(),
            "https://scope.example/x/@s/a/-/a-1.tgz"
        );
        assert_eq!(
            all.archive("@t/a").unwrap(),
            "https://env.example/npm/@t/a/-/a-1.tgz"
        );
        let files = machine(
            "registry=https://user.example",
            "registry=https://project.example/",
            &[],
        );
        assert_eq!(
            files.archive("a").unwrap(),
            "https://project.example/a/-/a-1.tgz"
        );
        let user = machine("registry=https://user.example", "", &[]);
        assert_eq!(
            user.archive("a").unwrap(),
            "https://user.example/a/-/a-1.tgz"
        );
    }

    #[test]
    fn reports_a_missing_registry() {
        // npm is not found on an empty path.
        let none = machine("", "", &[("PATH", "/nowhere")]);
        let error = none.archive("a").unwrap_err().to_string();
        assert!(error.contains("set NPM_CONFIG_REGISTRY="), "{error}");
        let odd = machine("registry=ftp://a", "", &[]);
        let error = odd.archive("a").unwrap_err().to_string();
        assert!(error.contains("`ftp://a`, expected https"), "{error}");
    }

    #[test]
    fn sends_a_token_to_its_registry_only() {
        let machine = machine(
            "//a.example/npm/:_authToken=${T}\n//b.example:81/:_auth=dTpw",
            "//c.example/:_authToken=${T}",
            &[("T", "secret")],
        );
        let registries = machine.registries();
        let of = |url: &str| registries.authorization(&url.parse().unwrap());
        assert_eq!(
            of("https://a.example/npm/@s/a").as_deref(),
            Some("Bearer secret")
        );
        assert_eq!(of("http://b.example:81/a").as_deref(), Some("Basic dTpw"));
        for other in [
            "https://a.example/x",
            "https://b.example/a",
            "https://c.example/a",
            "https://a.example.evil/npm/a",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
