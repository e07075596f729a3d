//! Outgoing HTTP of workers: one client for all, made only where a worker may use it.

use std::{collections::BTreeMap, path::Path};

use wws_outbound::{Client, ClientOptions, Overrides, Policy, PolicyLimits};
use wws_project::{Project, Worker};

/// Where an image has its certificate authorities, relative to the root.
const AUTHORITIES: &str = "etc/ssl";

/// The operator's word on where hosts are.
const RESOLVE: &str = "WWS_RESOLVE";

pub(crate) struct Outgoing {
    client: Option<Client>,
}

impl Outgoing {
    /// Makes the client, if a worker of the project needs it.
    ///
    /// # Errors
    /// `WWS_RESOLVE` cannot be read, or TLS does not work.
    pub(crate) fn new(
        project: &Project,
        env: &BTreeMap<String, String>,
        root: &Path,
    ) -> Result<Self, String> {
        let text = env.get(RESOLVE).map_or("", String::as_str);
        let resolve = Overrides::parse(text).map_err(|error| format!("{RESOLVE}: {error}"))?;
        let used = |worker: &Worker| !worker.http.allowed_hosts.is_empty();
        if !project.workers().iter().any(used) {
            return Ok(Self { client: None });
        }
        let options = ClientOptions {
            resolve,
            roots: Some(root.join(AUTHORITIES)),
            ..ClientOptions::default()
        };
        let client = Client::new(options).map_err(|error| format!("outgoing HTTP: {error}"))?;
        Ok(Self {
            client: Some(client),
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
        Policy::new(
            &http.allowed_hosts,
            &http.allowed_methods,
            http.allow_http,
            limits,
        )
        .map(|policy| Some((policy, client.clone())))
        .map_err(|error| format!("`features.http_requests.allowed_hosts`: {error}"))
    }
}
