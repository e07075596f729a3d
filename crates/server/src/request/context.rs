//! What the steps of a request share.

use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode, header, uri::Authority};
use wws_project::Worker;
use wws_telemetry::{Refusal, Telemetry, WorkerSeries};

use crate::connection::activity::{Activity, RequestFraming};
use crate::connection::body::Body;
use crate::request::access::AccessRecord;
use crate::request::authority::LastHost;
use crate::request::forwarded::Peer;
use crate::request::generation::Generation;
use crate::request::page::page;

/// The connection that a request comes from.
#[derive(Clone, Copy)]
pub(crate) struct Client<'a> {
    pub(crate) activity: &'a Arc<Activity>,
    /// The server's address.
    pub(crate) local: &'a Authority,
    pub(crate) last_host: &'a LastHost,
    pub(crate) peer: &'a Peer,
}

/// One request, from its head to its response. Dropping it counts the request and writes the access
/// log.
pub(crate) struct RequestContext<'a> {
    pub(crate) id: String,
    pub(crate) framing: RequestFraming,
    pub(crate) client: Client<'a>,
    /// The project that answers.
    pub(crate) generation: &'a Generation,
    /// The worker that answers, once the route is known.
    pub(crate) worker: Option<&'a Worker>,
    pub(crate) access: AccessRecord,
    pub(crate) telemetry: &'a Telemetry,
    /// What the request is counted in, once the route is known.
    pub(crate) series: &'a Arc<WorkerSeries>,
    /// Whether the response has its CORS headers, or must have none: that to a preflight request,
    /// and the panel.
    pub(crate) is_cors_decided: bool,
}

impl RequestContext<'_> {
    /// Counts that no worker answers the request.
    pub(crate) fn refused(&self, cause: Refusal) {
        self.telemetry.refused(cause);
    }

    /// A short page of the server's own.
    pub(crate) fn page(&self, status: StatusCode, text: &str) -> Response<Body> {
        page(status, text, &self.id)
    }

    /// A page after which the connection closes: the rest of the request is not read.
    pub(crate) fn closing_page(&self, status: StatusCode, text: &str) -> Response<Body> {
        let mut response = self.page(status, text);
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }

    /// The worker's index, if a worker answers.
    pub(crate) fn worker_index(&self) -> Option<usize> {
        Some(self.worker?.id.index())
    }

    /// The worker's name, for logs.
    pub(crate) fn worker_name(&self) -> Option<&str> {
        self.worker.map(|worker| worker.name.as_str())
    }
}

impl Drop for RequestContext<'_> {
    fn drop(&mut self) {
        let worker = self.worker.map(|worker| worker.name.as_str());
        let time = self.access.time();
        self.access.end(time, self.series, &self.id, worker);
    }
}
