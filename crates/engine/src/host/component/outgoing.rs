//! Outgoing requests of components: within the worker's rules, through the server's client.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use wasmtime_wasi_http::{
    Error, ForbiddenHeaderFilter, RequestOptions, Result, WasiBody, WasiHttpHooks,
};
use wws_outbound::{ErrorKind, KeepRedirects};

use crate::host::grants::GuestGrants;
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
}

impl OutgoingHttp {
    pub(super) fn new(grants: Arc<GuestGrants>, buffers: Account) -> Self {
        Self {
            left: grants.limits.http_calls,
            grants,
            buffers,
        }
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
            (Some(_), 0) => Err(Error::ConnectionLimitReached),
            (Some(_), _) => {
                self.left -= 1;
                Ok(())
            }
        };
        let (grants, buffers) = (self.grants.clone(), self.buffers.clone());
        Box::new(async move {
            allowed?;
            let sent = send(&grants, &buffers, request);
            let timeout = options.and_then(|options| options.first_byte_timeout);
            let response = match timeout {
                Some(timeout) => tokio::time::timeout(timeout, sent)
                    .await
                    .unwrap_or(Err(Error::ConnectionReadTimeout))?,
                None => sent.await?,
            };
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
    request: Request<WasiBody>,
) -> Result<Response<WasiBody>> {
    let Some((policy, client)) = &grants.http else {
        return Err(Error::HttpRequestDenied);
    };
    let (mut head, body) = request.into_parts();
    let limit = usize::try_from(grants.limits.buffers).unwrap_or(usize::MAX);
    let body = Limited::new(body, limit).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            Error::HttpRequestBodySize(None)
        } else {
            Error::HttpProtocolError
        }
    })?;
    head.extensions.insert(KeepRedirects);
    let request = Request::from_parts(head, body.to_bytes());
    let charge = Box::new(buffers.nothing());
    let response = client
        .send_charged(policy, request, Some(charge))
        .await
        .map_err(failure)?;
    Ok(response.map(|body: Bytes| {
        Full::new(body)
            .map_err(|never| match never {})
            .boxed_unsync()
    }))
}

/// What a guest is told of a request that failed.
fn failure(error: wws_outbound::Error) -> Error {
    match error.kind {
        ErrorKind::NotAllowed => Error::HttpRequestDenied,
        _ => Error::InternalError(Some(error.message)),
    }
}
