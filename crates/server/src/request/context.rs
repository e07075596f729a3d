//! What the steps of a request share.

use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode, header, uri::Authority};
use wws_project::Worker;

use crate::connection::activity::{Activity, RequestFraming};
use crate::connection::body::Body;
use crate::request::access::AccessRecord;
use crate::request::forwarded::Peer;
use crate::request::page::page;

/// The connection that a request comes from.
#[derive(Clone, Copy)]
pub(crate) struct Client<'a> {
    pub(crate) activity: &'a Arc<Activity>,
    /// The server's address.
    pub(crate) local: &'a Authority,
    pub(crate) peer: &'a Peer,
}

/// One request, from its head to its response. Dropping it writes the access log.
pub(crate) struct RequestContext<'a> {
    pub(crate) id: String,
    pub(crate) framing: RequestFraming,
    pub(crate) client: Client<'a>,
    /// The worker that answers, once the route is known.
    pub(crate) worker: Option<&'a Worker>,
    pub(crate) access: AccessRecord,
}

impl RequestContext<'_> {
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

    /// The worker's name, for logs.
    pub(crate) fn worker_name(&self) -> Option<&str> {
        self.worker.map(|worker| worker.name.as_str())
    }
}

impl Drop for RequestContext<'_> {
    fn drop(&mut self) {
        self.access.log(&self.id, self.worker_name());
    }
}
