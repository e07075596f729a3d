//! Outgoing HTTP of workers: one client for all, made only where a worker may use it.

use std::{collections::BTreeMap, path::Path};

use wws_outbound::{Client, Policy};
use wws_project::{Project, Worker};

pub(crate) struct Outgoing {
    client: Option<Client>,
}

impl Outgoing {
    pub(crate) fn new(_project: &Project, _env: &BTreeMap<String, String>, _root: &Path) -> Result<Self, String> {
        Ok(Self { client: None })
    }

    /// What a worker may do; `None` where it may do nothing.
    pub(crate) fn of(&self, _worker: &Worker) -> Result<Option<(Policy, Client)>, String> {
        Ok(self.client.clone().map(|client| (Policy, client)))
    }
}
