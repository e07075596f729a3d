//! Outgoing HTTP of workers: one client for all, made only where a worker may use it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use wws_outbound::{Client, ClientOptions, Overrides, Policy, PolicyLimits, Proxies, Roots};
use wws_project::{Network, Project, Worker};

/// Where an image has its certificate authorities, relative to the root.
const AUTHORITIES: &str = "etc/ssl";

/// Where machines have theirs. In a container, these are the image's.
const MACHINE_AUTHORITIES: [&str; 2] = ["/etc/ssl", "/etc/pki/tls"];

/// The operator's word on where hosts are.
const RESOLVE: &str = "WWS_RESOLVE";

pub(crate) struct Outgoing {
    client: Option<Client>,
    /// Private networks for all workers.
    allow_private: Vec<Network>,
}

impl Outgoing {
    /// Makes the client, if a worker of the project needs it. `memory`: bytes that outgoing requests may hold.
    ///
    /// # Errors
    /// `WWS_RESOLVE` or a proxy cannot be read, or TLS does not work.
    pub(crate) fn new(
        project: &Project,
        env: &BTreeMap<String, String>,
        root: &Path,
        memory: u64,
    ) -> Result<Self, String> {
        let variable = |name: &str| env.get(name).map(String::as_str).filter(|v| !v.is_empty());
        let text = variable(RESOLVE).unwrap_or("");
        let resolve = Overrides::parse(text).map_err(|error| format!("{RESOLVE}: {error}"))?;
        let used = |worker: &Worker| !worker.http.allowed_hosts.is_empty();
        if !project.workers().iter().any(used) {
            return Ok(Self {
                client: None,
                allow_private: Vec::new(),
            });
        }
        let proxies = Proxies::from_env(variable).map_err(|error| error.to_string())?;
        let options = ClientOptions {
            resolve,
            roots: roots(root, variable),
            proxies,
            ..ClientOptions::default()
        }
        .with_memory(memory);
        let client = Client::new(options).map_err(|error| format!("outgoing HTTP: {error}"))?;
        Ok(Self {
            client: Some(client),
            allow_private: project.settings().allow_private.clone(),
        })
    }

    /// What a worker may send, and the client for it; `None` where it may send nothing.
    ///
    /// # Errors
    /// Its allow list cannot be read.
    pub(crate) fn of(&self, worker: &Worker) -> Result<Option<(Policy, Client)>, String> {
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
            ..PolicyLimits::default()
        };
        let policy = Policy::new(
            &http.allowed_hosts,
            &http.allowed_methods,
            http.allow_http,
            limits,
        )
        .map_err(|error| format!("`features.http_requests.allowed_hosts`: {error}"))?;
        let text = |networks: &[Network]| -> Vec<String> {
            networks.iter().map(Network::to_string).collect()
        };
        let policy = policy
            .allow_private(&text(&http.allow_private))
            .map_err(|error| format!("`features.http_requests.allow_private`: {error}"))?
            .allow_private(&text(&self.allow_private))
            .map_err(|error| format!("`server.allow_private`: {error}"))?;
        Ok(Some((policy, client.clone())))
    }
}

/// Whose certificates are believed: the operator's word, the image's or project's, the machine's.
fn roots<'a>(root: &Path, variable: impl Fn(&str) -> Option<&'a str>) -> Roots {
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
    use super::*;

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
