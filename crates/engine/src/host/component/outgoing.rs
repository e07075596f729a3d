//! Outgoing requests of components: within the worker's rules, through the server's client.

use std::future::Future;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use wasmtime_wasi_http::{
    Error, ForbiddenHeaderFilter, RequestOptions, Result, WasiBody, WasiHttpHooks,
};
use wws_outbound::{ErrorKind, KeepRedirects, Reason, Timeouts};
use wws_telemetry::Limit;

use crate::host::grants::GuestGrants;
use crate::host::report::{CallTrace, OutgoingReport};
use crate::memory::account::Account;

/// Bytes that a guest may write to a body at once.
const MAX_WRITE: usize = 64 << 10;

/// The outgoing requests of one call.
pub(super) struct OutgoingHttp {
    grants: Arc<GuestGrants>,
    /// Requests that are left.
    left: u32,
    /// Charged for bodies.
    buffers: Account,
    trace: Option<CallTrace>,
}

impl OutgoingHttp {
    pub(super) fn new(
        grants: Arc<GuestGrants>,
        buffers: Account,
        trace: Option<CallTrace>,
    ) -> Self {
        Self {
            left: grants.limits.http_calls,
            grants,
            buffers,
            trace,
        }
    }

    /// Begins another call of the same instance.
    pub(super) fn renew(&mut self, trace: Option<CallTrace>) {
        self.left = self.grants.limits.http_calls;
        self.trace = trace;
    }

    /// Begins another call of an instance that has `active` with it: they share their requests.
    pub(super) fn join(&mut self, trace: Option<CallTrace>, active: u32) {
        let each = self.grants.limits.http_calls;
        let most = each.saturating_mul(active);
        self.left = self.left.saturating_add(each).min(most);
        self.trace = trace;
    }
}

/// What a response is followed by: whether it was received completely, known with its body.
type ResponseEnd = Box<dyn Future<Output = Result<()>> + Send>;

impl WasiHttpHooks for OutgoingHttp {
    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::new(is_forbidden)
    }

    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        is_forbidden(name)
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<()>> + Send>,
    ) -> Box<dyn Future<Output = Result<(Response<WasiBody>, ResponseEnd)>> + Send> {
        let allowed = match (&self.grants.http, self.left) {
            (None, _) => Err(Error::HttpRequestDenied),
            (Some(_), 0) => {
                if let Some(series) = self.grants.series() {
                    series.limit_met(Limit::HttpCalls);
                }
                Err(Error::ConnectionLimitReached)
            }
            (Some(_), _) => {
                self.left -= 1;
                Ok(())
            }
        };
        let (grants, buffers) = (self.grants.clone(), self.buffers.clone());
        let trace = self.trace.clone();
        Box::new(async move {
            allowed?;
            let response = send(&grants, &buffers, trace.as_ref(), request, options).await?;
            let done: ResponseEnd = Box::new(std::future::ready(Ok(())));
            Ok((response, done))
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        MAX_WRITE
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        MAX_WRITE
    }
}

/// Headers that belong to the connection, which the server and the client set themselves.
fn is_forbidden(name: &HeaderName) -> bool {
    wasmtime_wasi_http::DEFAULT_FORBIDDEN_HEADERS.contains(name)
}

async fn send(
    grants: &GuestGrants,
    buffers: &Account,
    trace: Option<&CallTrace>,
    mut request: Request<WasiBody>,
    options: Option<RequestOptions>,
) -> Result<Response<WasiBody>> {
    let Some((policy, client)) = &grants.http else {
        return Err(Error::HttpRequestDenied);
    };
    let options = options.unwrap_or_default();
    let extensions = request.extensions_mut();
    extensions.insert(KeepRedirects);
    extensions.insert(Timeouts {
        connect: options.connect_timeout,
        first_byte: options.first_byte_timeout,
        between_bytes: options.between_bytes_timeout,
    });
    // Components have an interface for trailers.
    let trailers = HeaderValue::from_static("trailers");
    request.headers_mut().insert(header::TE, trailers);
    let charge = Box::new(buffers.nothing());
    let report = OutgoingReport::begin(grants, trace, &mut request);
    let response = client.stream(policy, request, Some(charge)).await;
    let response = report.end_with(response).map_err(failure)?;
    Ok(response.map(|body| body.map_err(failure).boxed_unsync()))
}

/// The error that a guest gets for a request, or for the body of a response, that failed.
fn failure(error: wws_outbound::Error) -> Error {
    match error.reason {
        Reason::AddressRefused => Error::DestinationIpProhibited,
        Reason::NameNotFound => Error::DnsError {
            rcode: None,
            info_code: None,
        },
        Reason::ConnectTimeout => Error::ConnectionTimeout,
        Reason::ConnectionRefused => Error::ConnectionRefused,
        Reason::ConnectionFailed => Error::DestinationUnavailable,
        Reason::Certificate => Error::TlsCertificateError,
        Reason::Tls => Error::TlsProtocolError,
        Reason::HeadTimeout | Reason::IdleTimeout => Error::ConnectionReadTimeout,
        Reason::ConnectionLost if error.kind == ErrorKind::InvalidResponseBody => {
            Error::HttpResponseIncomplete
        }
        Reason::ConnectionLost => Error::ConnectionTerminated,
        Reason::Protocol => Error::HttpProtocolError,
        Reason::TooLarge => Error::HttpResponseBodySize(None),
        Reason::Coding => Error::HttpResponseContentCoding(None),
        Reason::RequestBodySize => Error::HttpRequestBodySize(None),
        _ if error.kind == ErrorKind::NotAllowed => Error::HttpRequestDenied,
        _ => Error::InternalError(Some(error.message)),
    }
}
