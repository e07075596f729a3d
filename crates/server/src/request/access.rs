//! The access log: one line for each request, however it ends.

use std::{net::IpAddr, time::Instant};

use http::{Method, StatusCode, Uri};

/// The logged status of a request whose client went away before the response.
const CLIENT_GONE: u16 = 499;

/// What the access log says of a request.
pub(crate) struct AccessRecord {
    enabled: bool,
    start: Instant,
    method: Method,
    target: Uri,
    /// The client, once it is known.
    pub(crate) client: Option<IpAddr>,
    status: u16,
    bytes: u64,
}

impl AccessRecord {
    /// Begins the record of a request, which is logged only if `enabled`.
    pub(crate) fn new(enabled: bool, method: &Method, target: &Uri) -> Self {
        Self {
            enabled,
            start: Instant::now(),
            method: method.clone(),
            target: target.clone(),
            client: None,
            status: CLIENT_GONE,
            bytes: 0,
        }
    }

    /// Records the response.
    pub(crate) fn responded(&mut self, status: StatusCode, bytes: u64) {
        self.status = status.as_u16();
        self.bytes = bytes;
    }

    /// Writes the line.
    pub(crate) fn log(&self, request_id: &str, worker: Option<&str>) {
        if !self.enabled {
            return;
        }
        let ms = self.start.elapsed().as_micros() as f64 / 1000.0;
        tracing::info!(
            target: "access",
            method = self.method.as_str(),
            // Queries may hold secrets.
            path = self.target.path(),
            status = self.status,
            bytes = self.bytes,
            ms,
            client = self.client.map(tracing::field::display),
            worker,
            request_id,
        );
    }
}
