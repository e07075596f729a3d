//! One line for each request, whatever becomes of it.

use std::{net::IpAddr, time::Instant};

use http::{Method, StatusCode, Uri};

/// The status of a request whose client has gone, which nobody is told.
const CLIENT_GONE: u16 = 499;

/// A request's line, written when this is dropped.
pub(crate) struct Entry<'a> {
    on: bool,
    start: Instant,
    method: Method,
    target: Uri,
    request_id: &'a str,
    /// The client, once it is known.
    client: Option<IpAddr>,
    /// The worker that answers.
    worker: Option<&'a str>,
    status: u16,
    bytes: u64,
}

impl<'a> Entry<'a> {
    /// Begins a request's line; `on` says whether it is written.
    pub(crate) fn new(on: bool, method: &Method, target: &Uri, request_id: &'a str) -> Self {
        Self {
            on,
            start: Instant::now(),
            method: method.clone(),
            target: target.clone(),
            request_id,
            client: None,
            worker: None,
            status: CLIENT_GONE,
            bytes: 0,
        }
    }

    pub(crate) fn client(&mut self, address: IpAddr) {
        self.client = Some(address);
    }

    pub(crate) fn worker(&mut self, name: &'a str) {
        self.worker = Some(name);
    }

    /// The response is ready.
    pub(crate) fn answered(&mut self, status: StatusCode, bytes: u64) {
        self.status = status.as_u16();
        self.bytes = bytes;
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if !self.on {
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
            worker = self.worker,
            request_id = self.request_id,
        );
    }
}
