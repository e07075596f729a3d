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
    /// Who ended the response before its end.
    aborted_by: Option<AbortedBy>,
}

/// Who ended a response before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AbortedBy {
    /// The client went away, took too little or was disconnected for another one.
    Client,
    /// The worker failed or met a limit.
    Worker,
    /// The server stopped.
    Shutdown,
}

impl AbortedBy {
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Worker => "worker",
            Self::Shutdown => "shutdown",
        }
    }
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
            aborted_by: None,
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
            aborted_by = self.aborted_by.map(AbortedBy::name),
        );
    }
}

/// The record of a request whose response is streamed: the line is written when this is dropped.
pub(crate) struct StreamRecord {
    record: AccessRecord,
    pub(crate) request_id: String,
    pub(crate) worker: String,
}

impl StreamRecord {
    /// Takes a record over, which is not logged elsewhere then.
    pub(crate) fn new(
        record: &mut AccessRecord,
        status: StatusCode,
        request_id: &str,
        worker: &str,
    ) -> Self {
        Self {
            record: AccessRecord {
                enabled: std::mem::take(&mut record.enabled),
                start: record.start,
                method: record.method.clone(),
                target: record.target.clone(),
                client: record.client,
                status: status.as_u16(),
                bytes: 0,
                aborted_by: None,
            },
            request_id: request_id.to_owned(),
            worker: worker.to_owned(),
        }
    }

    /// Counts bytes that are sent.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.record.bytes += bytes as u64;
    }

    /// Records who ends the response before its end.
    pub(crate) fn aborted(&mut self, by: AbortedBy) {
        self.record.aborted_by = Some(by);
    }
}

impl Drop for StreamRecord {
    fn drop(&mut self) {
        self.record.log(&self.request_id, Some(&self.worker));
    }
}
