//! A request, from its head to its response.

use std::{io, panic::AssertUnwindSafe, path::Path, sync::Arc};

use futures_util::FutureExt;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts,
    uri::Authority,
};
use hyper::body::{Body as _, Incoming};
use wws_engine::{Call, CallError, Engine, Guest};
use wws_project::{Found, Problem, Project, Worker, beneath::Root};

use crate::{
    access::Entry,
    activity::Activity,
    admission::Admission,
    asset,
    body::Body,
    clients::Clients,
    compress::{self, Compressor, Precompressed},
    connection::Asked,
    forwarded::{Peer, Proxies},
    idle::Idle,
    page::page,
    request_id::{self, RequestIds},
    target,
    upload::{BadUpload, Uploads},
};

/// What answers requests.
pub(crate) struct App {
    pub(crate) project: Project,
    pub(crate) root: Root,
    pub(crate) engine: Engine,
    /// One for each worker, in their order; none of a worker that cannot be loaded.
    pub(crate) guests: Vec<Option<Guest>>,
    /// What was found when the guests were made.
    pub(crate) warnings: Vec<Problem>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) uploads: Uploads,
    /// `None` where answers are sent as they are.
    pub(crate) compressor: Option<Compressor>,
    pub(crate) precompressed: Precompressed,
    pub(crate) clients: Arc<Clients>,
    pub(crate) proxies: Proxies,
    /// Bytes that this process may use.
    pub(crate) memory: u64,
    pub(crate) ids: RequestIds,
    pub(crate) access_log: bool,
    pub(crate) idle: Idle,
    pub(crate) on_idle: Option<fn()>,
}

/// The connection that a request comes from.
pub(crate) struct Client {
    pub(crate) activity: Arc<Activity>,
    /// Our address.
    pub(crate) local: Authority,
    pub(crate) peer: Peer,
}

const SORRY: &str = "The request could not be answered.";

impl App {
    /// Gives memory back to the system.
    pub(crate) fn trim(&self) {
        self.guests.iter().flatten().for_each(Guest::trim);
        self.engine.trim();
        if let Some(on_idle) = self.on_idle {
            on_idle();
        }
    }

    /// Answers a request. Dropping the future ends its call.
    pub(crate) async fn handle(&self, client: &Client, request: Asked) -> Response<Body> {
        let (busy, number) = client.activity.request();
        let id = self.ids.of(request.headers());
        let mut entry = Entry::new(self.access_log, request.method(), request.uri(), &id);
        let answer = self.answer(client, number, request, &id, &mut entry);
        let mut response = unless_panics(answer, &id).await;
        entry.answered(response.status(), response.body().size());
        if let Ok(id) = HeaderValue::from_str(&id) {
            // A worker may have named it otherwise.
            let headers = response.headers_mut();
            headers.entry(request_id::HEADER).or_insert(id);
        }
        client.activity.set_held(response.body().held());
        response.map(|body| body.until_sent(busy, self.engine.account()))
    }

    async fn answer<'a>(
        &'a self,
        client: &Client,
        number: u64,
        request: Asked,
        id: &str,
        entry: &mut Entry<'a>,
    ) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        // Until it is read.
        client.activity.set_abandoned(!body.is_end_stream());
        if client.activity.conflicts(number) {
            let text =
                "The request has both Content-Length and Transfer-Encoding, or a bad length.";
            return closing(page(StatusCode::BAD_REQUEST, text, id));
        }
        if let Some((status, text)) = bad_coding(&parts.headers) {
            return closing(page(status, text, id));
        }
        if matches!(parts.method, Method::CONNECT | Method::TRACE) {
            return closing(page(
                StatusCode::NOT_IMPLEMENTED,
                "The method is not supported.",
                id,
            ));
        }
        let origin = self.proxies.origin(&client.peer, &mut parts.headers);
        entry.client(origin.client);
        let (version, local) = (parts.version, &client.local);
        match target::url(&parts.uri, &parts.headers, version, local, &origin) {
            Ok(url) => parts.uri = url,
            Err(bad) => return closing(page(StatusCode::BAD_REQUEST, bad.text(), id)),
        }
        let path = parts.uri.clone();
        let found = match parts.method {
            Method::GET | Method::HEAD => self.project.find(path.path()),
            _ => self.project.find_for_change(path.path()),
        };
        match found {
            Found::AssetAt(location) => asset::moved(&location, path.query()),
            Found::Asset(asset) => {
                let served = self.asset(&asset.path, &parts.method, &parts.headers);
                served.unwrap_or_else(|error| self.no_file(&asset.path, &error, id))
            }
            Found::Worker { worker, params } => {
                entry.worker(&worker.name);
                let params = params
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect();
                if let Ok(id) = HeaderValue::from_str(id) {
                    parts.headers.insert(request_id::HEADER, id);
                }
                self.work(client, worker, parts, params, body, id).await
            }
            Found::NotFound => self.not_found(id),
        }
    }

    async fn work(
        &self,
        client: &Client,
        worker: &Worker,
        parts: Parts,
        params: Vec<(String, String)>,
        body: Incoming,
        id: &str,
    ) -> Response<Body> {
        let index = worker.id.index();
        // The log said why at the start.
        let Some(guest) = &self.guests[index] else {
            return closing(page(StatusCode::INTERNAL_SERVER_ERROR, SORRY, id));
        };
        // Before admission: a slow client takes no worker's place.
        client.activity.set_uploading(!body.is_end_stream());
        let body = self.uploads.read(body).await;
        client.activity.set_uploading(false);
        let body = match body {
            Ok(body) => body,
            Err(bad) => return bad_upload(bad, id),
        };
        client.activity.set_abandoned(false);
        let _permit = match self.admission.enter(index).await {
            Ok(permit) => permit,
            Err(refused) => {
                tracing::warn!(worker = worker.name, request_id = id, "not run: {refused}");
                return page(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "The server is busy. Try again.",
                    id,
                );
            }
        };
        let wanted = self.compressor.as_ref().map(|compressor| {
            let accepted = compress::accepted(&parts.headers);
            (compressor, parts.method.clone(), accepted)
        });
        let request = Request::from_parts(parts, body);
        match guest
            .call(Call {
                request,
                params,
                request_id: id.to_owned(),
            })
            .await
        {
            Ok(response) => match wanted {
                // Beside the request's own state, which is moved, and rarely compresses.
                Some((compressor, method, accepted)) => {
                    Box::pin(compressor.compress(&method, &accepted, response))
                        .await
                        .map(Body::from)
                }
                None => response.map(Body::from),
            },
            Err(error) => failed(worker, &error, id),
        }
    }

    /// A file, or the compressed one beside it that the client prefers.
    fn asset(
        &self,
        path: &Path,
        method: &Method,
        headers: &HeaderMap,
    ) -> io::Result<Response<Body>> {
        if !self.precompressed.has(path) {
            return asset::serve(&self.root, path, method, headers);
        }
        let mut response = match self.precompressed.find(path, headers) {
            Some((beside, coding)) => {
                let mut response = asset::serve(&self.root, &beside, method, headers)?;
                let headers = response.headers_mut();
                if headers.contains_key(header::CONTENT_TYPE) {
                    headers.insert(header::CONTENT_ENCODING, coding);
                    if let Some(kind) = asset::content_type(path) {
                        headers.insert(header::CONTENT_TYPE, kind);
                    }
                }
                response
            }
            None => asset::serve(&self.root, path, method, headers)?,
        };
        compress::vary(response.headers_mut());
        Ok(response)
    }

    fn not_found(&self, id: &str) -> Response<Body> {
        let page_of_user = self
            .project
            .not_found()
            .map(|asset| asset::not_found(&self.root, &asset.path));
        match page_of_user {
            Some(Ok(response)) => response,
            Some(Err(error)) => {
                tracing::error!(request_id = id, "public/404.html: {error}");
                page(StatusCode::NOT_FOUND, "There is nothing here.", id)
            }
            None => page(StatusCode::NOT_FOUND, "There is nothing here.", id),
        }
    }

    /// A file that was there at start cannot be opened.
    fn no_file(&self, path: &Path, error: &io::Error, id: &str) -> Response<Body> {
        if error.kind() == io::ErrorKind::NotFound {
            return self.not_found(id);
        }
        tracing::error!(request_id = id, "{}: {error}", path.display());
        page(StatusCode::INTERNAL_SERVER_ERROR, SORRY, id)
    }
}

/// A panic ends its request alone.
async fn unless_panics(answer: impl Future<Output = Response<Body>>, id: &str) -> Response<Body> {
    match AssertUnwindSafe(answer).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            tracing::error!(
                request_id = id,
                "a defect of the server: the request panicked"
            );
            page(StatusCode::INTERNAL_SERVER_ERROR, SORRY, id)
        }
    }
}

fn failed(worker: &Worker, error: &CallError, id: &str) -> Response<Body> {
    tracing::error!(worker = worker.name, request_id = id, "{error}");
    if error.is_timeout() {
        page(StatusCode::GATEWAY_TIMEOUT, "The worker took too long.", id)
    } else if error.is_overload() {
        page(
            StatusCode::SERVICE_UNAVAILABLE,
            "The server is busy. Try again.",
            id,
        )
    } else {
        page(StatusCode::INTERNAL_SERVER_ERROR, SORRY, id)
    }
}

fn bad_upload(bad: BadUpload, id: &str) -> Response<Body> {
    let (status, text) = match bad {
        BadUpload::TooLarge => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "The request's body is too large.",
        ),
        BadUpload::TooSlow => (
            StatusCode::REQUEST_TIMEOUT,
            "The request's body took too long.",
        ),
        BadUpload::NoRoom => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The server is busy. Try again.",
        ),
        BadUpload::Broken => (StatusCode::BAD_REQUEST, "The request's body is broken."),
    };
    if bad == BadUpload::NoRoom {
        tracing::warn!(
            request_id = id,
            "the bodies of all requests together are too large"
        );
    }
    closing(page(status, text, id))
}

/// What is wrong with the transfer codings of a request: hyper looks at the last one only, and passes the body on as it came
/// whatever the others are.
fn bad_coding(headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
    let mut values = headers.get_all(header::TRANSFER_ENCODING).iter();
    let first = values.next()?;
    let is_chunked = |value: &[u8]| value.trim_ascii().eq_ignore_ascii_case(b"chunked");
    if values.next().is_none() && is_chunked(first.as_bytes()) {
        return None;
    }
    let mut codings = headers
        .get_all(header::TRANSFER_ENCODING)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    if codings.all(|coding| coding.trim_ascii().is_empty() || is_chunked(coding)) {
        return Some((
            StatusCode::BAD_REQUEST,
            "The request's Transfer-Encoding is not valid.",
        ));
    }
    Some((
        StatusCode::NOT_IMPLEMENTED,
        "The request's Transfer-Encoding is not supported.",
    ))
}

/// The rest of the request is not worth reading.
fn closing(mut response: Response<Body>) -> Response<Body> {
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The address as a host, for clients that name none.
pub(crate) fn authority(address: std::net::SocketAddr) -> Authority {
    Authority::try_from(address.to_string()).unwrap_or_else(|_| Authority::from_static("localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[allow(clippy::panic)]
    async fn a_panic_is_an_answer_that_tells_nothing() {
        let response = unless_panics(async { panic!("secret") }, "r1").await;
        assert_eq!(response.status(), 500);
        let html = http_body_util::BodyExt::collect(response.into_body())
            .await
            .map(|body| body.to_bytes());
        let html = String::from_utf8_lossy(&html.unwrap_or_default()).into_owned();
        assert!(html.contains("r1") && !html.contains("secret"), "{html}");
    }

    #[test]
    fn an_address_is_a_host() {
        assert_eq!(
            authority(([127, 0, 0, 1], 80).into()).as_str(),
            "127.0.0.1:80"
        );
        assert_eq!(
            authority("[::1]:80".parse().unwrap_or(([0, 0, 0, 0], 0).into())).as_str(),
            "[::1]:80"
        );
    }
}
