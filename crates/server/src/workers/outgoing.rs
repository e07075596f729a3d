//! Outgoing HTTP of workers: one client for all, created only if a worker may use it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use wws_engine::{LoadError, LoadErrorKind};
use wws_outbound::{Client, ClientOptions, Overrides, Policy, PolicyLimits, Proxies, Roots};
use wws_project::{Network, Project, Worker};

/// The certificate authorities of an image, relative to the root.
const AUTHORITIES: &str = "etc/ssl";

/// The certificate authorities of the machine; in a container, those of the image.
const MACHINE_AUTHORITIES: [&str; 2] = ["/etc/ssl", "/etc/pki/tls"];

/// The variable with addresses of hosts that the operator sets.
pub(crate) const RESOLVE: &str = "WWS_RESOLVE";

/// Directory entries that are looked at to find out whether certificates have changed.
const MAX_ENTRIES: usize = 4096;

/// The client of a project's workers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Outgoing {
    client: Option<Client>,
    /// What the client was created from, if there is one.
    origin: [u8; 32],
    /// Private networks for all workers.
    allow_private: Vec<Network>,
}

impl Outgoing {
    /// Creates the client, if a worker of the project needs it, or takes over that of the
    /// generation before if nothing has changed that it was created from. `memory`: bytes that
    /// outgoing requests may hold.
    ///
    /// # Errors
    /// `WWS_RESOLVE` or a proxy is invalid, or TLS does not work.
    pub(crate) fn new(
        project: &Project,
        env: &BTreeMap<String, String>,
        root: &Path,
        memory: u64,
        before: Option<&Self>,
    ) -> Result<Self, LoadError> {
        let variable = |name: &str| env.get(name).map(String::as_str).filter(|v| !v.is_empty());
        let text = variable(RESOLVE).unwrap_or("");
        let resolve = Overrides::parse(text)
            .map_err(|error| LoadError::new(LoadErrorKind::Host, RESOLVE).caused_by(error))?;
        let used = |worker: &Worker| !worker.http.allowed_hosts.is_empty();
        if !project.workers().iter().any(used) {
            return Ok(Self {
                client: None,
                origin: [0; 32],
                allow_private: Vec::new(),
            });
        }
        let allow_private = project.settings().allow_private.clone();
        let roots = roots(root, variable);
        let origin = origin(env, &roots);
        if let Some(before) = before
            && before.client.is_some()
            && before.origin == origin
        {
            return Ok(Self {
                allow_private,
                ..before.clone()
            });
        }
        let proxies = Proxies::from_env(variable)
            .map_err(|error| LoadError::new(LoadErrorKind::Host, error.to_string()))?;
        let options = ClientOptions {
            resolve,
            roots,
            proxies,
            ..ClientOptions::default()
        }
        .with_memory(memory);
        let client = Client::new(options).map_err(|error| {
            LoadError::new(LoadErrorKind::Host, "outgoing HTTP").caused_by(error)
        })?;
        Ok(Self {
            client: Some(client),
            origin,
            allow_private,
        })
    }

    /// Whether workers that are the same have the same client and the same rights.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.client.is_some() == other.client.is_some()
            && self.origin == other.origin
            && self.allow_private == other.allow_private
    }

    /// What a worker may send, and the client for it; `None` if it may send nothing.
    ///
    /// # Errors
    /// Its allow list is invalid.
    pub(crate) fn of(&self, worker: &Worker) -> Result<Option<(Policy, Client)>, LoadError> {
        let Some(client) = &self.client else {
            return Ok(None);
        };
        let http = &worker.http;
        if http.allowed_hosts.is_empty() {
            return Ok(None);
        }
        let limits = PolicyLimits {
            response: worker.limits.http_response,
            timeout: worker.limits.http_timeout,
            idle: Some(worker.limits.http_idle).filter(|idle| !idle.is_zero()),
            ..PolicyLimits::default()
        };
        let policy = Policy::new(
            &http.allowed_hosts,
            &http.allowed_methods,
            http.allow_http,
            limits,
        )
        .map_err(|error| invalid("features.http_requests.allowed_hosts", error))?;
        let policy = match http.public_only {
            true => policy.public_only(),
            false => policy,
        };
        let text = |networks: &[Network]| -> Vec<String> {
            networks.iter().map(Network::to_string).collect()
        };
        let policy = policy
            .allow_private(&text(&http.allow_private))
            .map_err(|error| invalid("features.http_requests.allow_private", error))?
            .allow_private(&text(&self.allow_private))
            .map_err(|error| invalid("server.allow_private", error))?;
        Ok(Some((policy, client.clone())))
    }
}

/// A setting is invalid.
fn invalid(setting: &str, error: impl std::error::Error + Send + Sync + 'static) -> LoadError {
    LoadError::new(LoadErrorKind::Host, format!("`{setting}`")).caused_by(error)
}

/// What a client is created from: the environment, and the files with certificates as far as their
/// status shows.
fn origin(env: &BTreeMap<String, String>, roots: &Roots) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for (name, value) in env {
        add(name.as_bytes());
        add(value.as_bytes());
    }
    // Certificates are in these and in the directories in these.
    let all = roots.chosen.iter().chain(&roots.directories);
    let mut paths: Vec<(PathBuf, u8)> = all
        .chain(&roots.extra)
        .map(|path| (path.clone(), 2))
        .collect();
    let mut left = MAX_ENTRIES;
    while let Some((path, depth)) = paths.pop()
        && left > 0
    {
        left -= 1;
        let Ok(status) = fs::metadata(&path) else {
            continue;
        };
        add(path.as_os_str().as_bytes());
        for number in [status.dev(), status.ino(), status.size()] {
            add(&number.to_le_bytes());
        }
        for number in [
            status.mtime(),
            status.mtime_nsec(),
            status.ctime(),
            status.ctime_nsec(),
        ] {
            add(&number.to_le_bytes());
        }
        if status.is_dir() && depth > 0 {
            let entries = fs::read_dir(&path).into_iter().flatten().flatten();
            let mut entries: Vec<_> = entries.take(left).map(|entry| entry.path()).collect();
            entries.sort_unstable();
            paths.extend(entries.into_iter().map(|path| (path, depth - 1)));
        }
    }
    hash.finalize().into()
}

/// The trusted certificates: those that the operator names, those of the image or project, and
/// those of the machine.
pub(crate) fn roots<'a>(root: &Path, variable: impl Fn(&str) -> Option<&'a str>) -> Roots {
    let directories = MACHINE_AUTHORITIES.iter().map(PathBuf::from);
    let file = variable("SSL_CERT_FILE").map(PathBuf::from);
    let named = variable("SSL_CERT_DIR").unwrap_or_default();
    let named = std::env::split_paths(named).filter(|path| !path.as_os_str().is_empty());
    Roots {
        chosen: file.into_iter().chain(named).collect(),
        directories: std::iter::once(root.join(AUTHORITIES))
            .chain(directories)
            .collect(),
        extra: variable("NODE_EXTRA_CA_CERTS")
            .map(PathBuf::from)
            .into_iter()
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_worker_has_the_limits_of_its_toml() {
        let project = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(project.path().join(name), text).unwrap();
        };
        for name in ["a", "b"] {
            write(&format!("{name}.js"), "export default () => {};");
        }
        let hosts = "version = \"1\"\n[features.http_requests]\nallowed_hosts = [\"a.example\"]\n";
        write("a.toml", hosts);
        write(
            "b.toml",
            &format!("{hosts}[limits]\nhttp_timeout = \"3s\"\nhttp_idle = \"70s\"\n"),
        );
        let options = wws_project::LoadOptions {
            languages: wws_languages::Languages::standard().specs(),
            ..wws_project::LoadOptions::default()
        };
        let loaded = wws_project::load(project.path(), &options).unwrap();
        let outgoing =
            Outgoing::new(&loaded, &BTreeMap::new(), project.path(), 1 << 20, None).unwrap();
        let limits: Vec<_> = loaded
            .workers()
            .iter()
            .map(|worker| {
                let (policy, _) = outgoing.of(worker).unwrap().unwrap();
                (policy.limits().timeout, policy.limits().idle)
            })
            .collect();
        let seconds = Duration::from_secs;
        let expected = [(seconds(10), None), (seconds(3), Some(seconds(70)))];
        assert_eq!(limits, expected);
    }

    #[test]
    fn the_origin_of_a_client_shows_changed_certificates() {
        let project = tempfile::tempdir().unwrap();
        let certs = project.path().join("certs");
        std::fs::create_dir(&certs).unwrap();
        std::fs::write(certs.join("a.pem"), "a").unwrap();
        let roots = Roots {
            chosen: vec![project.path().to_owned()],
            ..Roots::default()
        };
        let mut env = BTreeMap::new();
        let first = origin(&env, &roots);
        assert_eq!(origin(&env, &roots), first);
        std::fs::write(certs.join("a.pem"), "other").unwrap();
        let second = origin(&env, &roots);
        assert_ne!(second, first);
        env.insert("HTTPS_PROXY".into(), "http://proxy".into());
        assert_ne!(origin(&env, &roots), second);
    }

    #[test]
    fn certificates_of_the_environment() {
        let none = roots(Path::new("/project"), |_| None);
        assert!(none.chosen.is_empty() && none.extra.is_empty());
        let places = ["/project/etc/ssl", "/etc/ssl", "/etc/pki/tls"].map(PathBuf::from);
        assert_eq!(none.directories, places);
        let named = roots(Path::new("/"), |name| match name {
            "SSL_CERT_FILE" => Some("/a.pem"),
            "SSL_CERT_DIR" => Some("/b:/c:"),
            "NODE_EXTRA_CA_CERTS" => Some("/d.pem"),
            _ => None,
        });
        assert_eq!(named.chosen, ["/a.pem", "/b", "/c"].map(PathBuf::from));
        assert_eq!(named.extra, [PathBuf::from("/d.pem")]);
    }
}
