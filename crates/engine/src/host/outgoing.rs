//! Outgoing requests of a call.

use std::future::{Future, poll_fn};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use wws_outbound::{ErrorKind, MemoryCharge};
use wws_telemetry::Limit;
use wws_websocket::{ClientHandshake, Close, Connection, End, Role, code};

use crate::body::RequestBody;
use crate::host::report::OutgoingReport;
use crate::host::state::Host;

/// An outgoing request that failed, as a guest may see it.
#[derive(Clone, Debug)]
pub struct HttpFailure {
    /// What went wrong, for programs.
    pub kind: ErrorKind,
    /// What went wrong, for people.
    pub message: String,
}

/// The result of an outgoing request.
type HttpResult<T> = Result<T, HttpFailure>;

impl HttpFailure {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

impl From<wws_outbound::Error> for HttpFailure {
    fn from(error: wws_outbound::Error) -> Self {
        Self::new(error.kind, error.message)
    }
}

impl Host {
    /// Sends a request, if the guest may. The future does not borrow the call, so several can run
    /// at once.
    ///
    /// # Errors
    /// Returns an error if the guest may not send requests, or not another one.
    pub fn send_http(
        &mut self,
        request: Request<Bytes>,
    ) -> HttpResult<impl Future<Output = HttpResult<Response<Bytes>>> + Send + use<>> {
        self.may_send_http()?;
        Ok(self.send_allowed_http(request))
    }

    /// [`send_http`](Self::send_http) of a request whose response is read as it comes, and whose
    /// body may be a stream, too.
    ///
    /// # Errors
    /// As for `send_http`.
    pub fn stream_http(
        &mut self,
        mut request: Request<RequestBody>,
    ) -> HttpResult<
        impl Future<Output = HttpResult<Response<wws_outbound::ResponseBody>>> + Send + use<>,
    > {
        self.may_send_http()?;
        let (grants, trace) = (self.grants.clone(), self.trace.clone());
        let charge: Option<Box<dyn MemoryCharge>> = Some(Box::new(self.quota.buffers().nothing()));
        Ok(async move {
            let Some((policy, client)) = &grants.http else {
                return Err(HttpFailure::new(ErrorKind::NotAllowed, "not allowed"));
            };
            let report = OutgoingReport::begin(&grants, trace.as_ref(), &mut request);
            let (head, body) = request.into_parts();
            let response = match body {
                RequestBody::Collected(bytes) => {
                    let request = Request::from_parts(head, bytes);
                    client.stream_response(policy, request, charge).await
                }
                RequestBody::Stream(body) => {
                    let request = Request::from_parts(head, body);
                    client.stream(policy, request, charge).await
                }
            };
            report.end_with(response).map_err(HttpFailure::from)
        })
    }

    /// Opens a WebSocket to another server, if the guest may, with one of these protocols. Returns
    /// the protocol that the server chose, and the guest's end. A socket whose end is dropped is
    /// closed.
    ///
    /// # Errors
    /// As for [`send_http`](Self::send_http).
    pub fn open_socket(
        &mut self,
        mut request: Request<()>,
        protocols: Vec<String>,
    ) -> HttpResult<impl Future<Output = HttpResult<(String, End)>> + Send + use<>> {
        self.may_send_http()?;
        let (grants, trace) = (self.grants.clone(), self.trace.clone());
        let limits = self.limits().stream.socket.clone();
        let (guest, end) = self.socket_ends();
        let charge = Box::new(self.quota.buffers().nothing());
        Ok(async move {
            let Some((policy, client)) = &grants.http else {
                return Err(HttpFailure::new(ErrorKind::NotAllowed, "not allowed"));
            };
            let asked = ClientHandshake::new(protocols)
                .map_err(|error| HttpFailure::new(ErrorKind::Internal, error.to_string()))?;
            let report = OutgoingReport::begin(&grants, trace.as_ref(), &mut request);
            let opened = client.open_socket(policy, request, &asked).await;
            let opened = report.end_as(opened, |_| StatusCode::SWITCHING_PROTOCOLS);
            let (protocol, stream) = opened?;
            let read = Bytes::new();
            let mut connection = Connection::new(stream, read, Role::Client, end, limits, charge);
            connection.close_at_end(Close::with(code::GOING_AWAY, ""));
            // Not within the call: a guest that waits for room in the queue waits for this.
            tokio::spawn(async move { poll_fn(|context| connection.poll(context)).await });
            Ok((protocol, guest))
        })
    }

    /// Counts a request, if the guest may send it. Call this before anything of it is copied.
    pub(crate) fn may_send_http(&mut self) -> HttpResult<()> {
        if self.grants.http.is_none() {
            return Err(HttpFailure::new(
                ErrorKind::NotAllowed,
                "this worker may not send HTTP requests: its TOML has no [features.http_requests]",
            ));
        }
        let Some(left) = self.http_calls.checked_sub(1) else {
            if let Some(series) = self.grants.series() {
                series.limit_met(Limit::HttpCalls);
            }
            return Err(HttpFailure::new(
                ErrorKind::NotAllowed,
                format!(
                    "more than {} requests in one call",
                    self.limits().http_calls
                ),
            ));
        };
        self.http_calls = left;
        Ok(())
    }

    /// Sends a request that was counted. Its body and its response are charged to the call's
    /// buffers.
    pub(crate) fn send_allowed_http(
        &mut self,
        mut request: Request<Bytes>,
    ) -> impl Future<Output = HttpResult<Response<Bytes>>> + Send + use<> {
        let (grants, trace) = (self.grants.clone(), self.trace.clone());
        let charge = Box::new(self.quota.buffers().nothing());
        async move {
            let Some((policy, client)) = &grants.http else {
                return Err(HttpFailure::new(ErrorKind::NotAllowed, "not allowed"));
            };
            let report = OutgoingReport::begin(&grants, trace.as_ref(), &mut request);
            let response = client.send_charged(policy, request, Some(charge)).await;
            report.end_with(response).map_err(HttpFailure::from)
        }
    }
}
