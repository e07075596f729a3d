//! Answers requests: assets and workers of a project, whose generations may be exchanged.

use std::{
    io,
    panic::AssertUnwindSafe,
    path::Path,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts,
};
use http_body::Body as _;
use wws_engine::{BodyStream, Call, Engine, Guest, RequestBody, ResponseBody, StreamedBody};
use wws_project::{PanelAccess, RouteMatch, Worker};
use wws_telemetry::{Refusal, Sampler, Telemetry, WorkerSeries};
use wws_websocket::Offer;

use crate::assets::serve;
use crate::connection::activity::{RequestFraming, StreamInProgress};
use crate::connection::body::Body;
use crate::connection::clients::{Clients, EVICTION_INTERVAL, ListedStream};
use crate::connection::headers;
use crate::connection::http2::ExtendedConnect;
use crate::connection::idle::Idle;
use crate::connection::incoming::IncomingBody;
use crate::request::access::{AccessRecord, StreamRecord};
use crate::request::admission::{Admission, AdmissionError, CallPermit};
use crate::request::compress::{self, Compressor, Encoder};
use crate::request::context::{Client, RequestContext};
use crate::request::cors;
use crate::request::failed::{call_failed, upload_failed, upload_page};
use crate::request::generation::Generation;
use crate::request::loaded_memory::LoadedMemory;
use crate::request::page::{BUSY_TEXT, INTERNAL_ERROR_TEXT, UNCOMPILED_TEXT};
use crate::request::request_id::{self, RequestIds};
use crate::request::sockets::{SocketRequest, Sockets};
use crate::request::stream::{self, WorkerStream, report_failure};
use crate::request::trace::RequestTrace;
use crate::request::upload::{UploadError, Uploads};
use crate::request::upload_stream::{UploadFailure, UploadStream, UploadStreamBounds};
use crate::request::{target, transfer_encoding};
use crate::status::answer::{self, SharedRoute, StatusClient, StatusRequest};
use crate::status::view::{ServerGauges, StatusView};

/// Everything that answers requests. What the settings of a running server cannot change is here;
/// the rest is in the generation.
pub(crate) struct App {
    generation: ArcSwap<Generation>,
    pub(crate) engine: Engine,
    pub(crate) telemetry: Telemetry,
    pub(crate) admission: Arc<Admission>,
    pub(crate) sockets: Sockets,
    pub(crate) uploads: Uploads,
    pub(crate) clients: Arc<Clients>,
    pub(crate) loaded_memory: LoadedMemory,
    /// Bytes that this process may use.
    pub(crate) memory: u64,
    pub(crate) ids: RequestIds,
    /// Which traces are recorded; `None` if they are not exported.
    pub(crate) sampler: Option<Sampler>,
    pub(crate) idle: Idle,
    pub(crate) on_idle: Option<fn()>,
    /// Whether the server stops.
    pub(crate) draining: AtomicBool,
}

/// The parts of an [`App`] that are the same for all generations.
pub(crate) struct AppParts {
    pub(crate) engine: Engine,
    pub(crate) telemetry: Telemetry,
    pub(crate) admission: Arc<Admission>,
    pub(crate) sockets: Sockets,
    pub(crate) uploads: Uploads,
    pub(crate) clients: Arc<Clients>,
    pub(crate) loaded_memory: LoadedMemory,
    pub(crate) memory: u64,
    pub(crate) sampler: Option<Sampler>,
    pub(crate) on_idle: Option<fn()>,
}

impl App {
    /// Answers from a first generation.
    pub(crate) fn new(parts: AppParts, generation: Generation) -> Self {
        Self {
            generation: ArcSwap::from_pointee(generation),
            engine: parts.engine,
            telemetry: parts.telemetry,
            admission: parts.admission,
            sockets: parts.sockets,
            uploads: parts.uploads,
            clients: parts.clients,
            loaded_memory: parts.loaded_memory,
            memory: parts.memory,
            ids: RequestIds::new(),
            sampler: parts.sampler,
            idle: Idle::default(),
            on_idle: parts.on_idle,
            draining: AtomicBool::new(false),
        }
    }

    /// The generation from which new requests are answered.
    pub(crate) fn generation(&self) -> Arc<Generation> {
        self.generation.load_full()
    }

    /// Answers new requests from another generation. Requests in progress end in theirs.
    pub(crate) fn exchange(&self, generation: Generation) {
        self.generation.store(Arc::new(generation));
    }

    /// Returns memory to the OS.
    pub(crate) fn trim(&self) {
        let generation = self.generation();
        generation.guests.iter().flatten().for_each(Guest::trim);
        self.engine.trim();
        self.telemetry.changes().touch();
        if let Some(on_idle) = self.on_idle {
            on_idle();
        }
        self.loaded_memory.charge(&self.engine);
    }

    /// What an operator can read.
    pub(crate) fn status<'a>(&'a self, generation: &'a Generation) -> StatusView<'a> {
        let load = self.admission.load();
        let connections = self.clients.count();
        let memory = self.engine.memory();
        StatusView {
            project: &generation.project,
            telemetry: &self.telemetry,
            series: &generation.series,
            stores: &generation.stores,
            gauges: ServerGauges {
                generation: generation.number,
                running: load.running,
                concurrency: load.concurrency,
                waiting: load.waiting,
                queue: load.queue,
                connections: connections.open,
                accepted: connections.accepted,
                max_connections: connections.max,
                memory,
                memory_used: memory.saturating_sub(self.engine.free_memory()),
                draining: self.draining.load(Ordering::Relaxed),
                uncompiled: generation.uncompiled.len(),
            },
        }
    }

    /// Answers a request. Dropping the future cancels its call.
    pub(crate) async fn handle(
        &self,
        client: &Client<'_>,
        request: Request<IncomingBody>,
    ) -> Response<Body> {
        let version = request.version();
        let begun = client.activity.begin_request();
        let generation = self.generation();
        let mut context = RequestContext {
            id: self
                .ids
                .id_for(request.headers(), generation.proxies.trust(client.peer)),
            framing: begun.framing,
            client: *client,
            generation: &generation,
            worker: None,
            access: AccessRecord::new(
                generation.project.settings().access_log,
                request.method(),
                request.uri(),
            ),
            telemetry: &self.telemetry,
            series: self.telemetry.unrouted(),
            is_cors_decided: false,
        };
        context.access.trace = RequestTrace::begin(self.sampler, &request);
        let origin = match generation.cors.any {
            true => request.headers().get(header::ORIGIN).cloned(),
            false => None,
        };
        let response = catch_panics(self.respond(&mut context, request)).await;
        let mut response = response.unwrap_or_else(|| {
            tracing::error!(
                request_id = context.id,
                "a defect of the server: the request panicked"
            );
            context.page(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL_ERROR_TEXT)
        });
        let status = response.status();
        context.access.responded(status, response.body().size());
        if generation.cors.any
            && !context.is_cors_decided
            && let Some(rules) = generation.cors.rules(context.worker_index())
        {
            rules.add_to(response.headers_mut(), origin.as_ref());
        }
        if let Ok(id) = HeaderValue::from_str(&context.id) {
            // A worker may have set another id.
            let headers = response.headers_mut();
            headers.entry(request_id::HEADER).or_insert(id);
        }
        let sending = &client.activity.sending;
        sending.set_held(response.body().held());
        if version == Version::HTTP_10 && response.body().is_stream() {
            sending.set_until_close(!response.headers().contains_key(header::CONTENT_LENGTH));
        }
        response.map(|body| body.until_sent(begun.in_progress, self.engine.account()))
    }

    async fn respond<'a>(
        &'a self,
        context: &mut RequestContext<'a>,
        request: Request<IncomingBody>,
    ) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        let (client, generation) = (context.client, context.generation);
        // Until the body is read.
        let requests = &client.activity.requests;
        requests.set_body_unread(!body.is_end_stream());
        if context.framing == RequestFraming::Conflicting {
            context.refused(Refusal::BadRequest);
            let text =
                "The request has both Content-Length and Transfer-Encoding, or a bad length.";
            return context.closing_page(StatusCode::BAD_REQUEST, text);
        }
        if let Some((status, text)) = transfer_encoding::reject(&parts.headers) {
            context.refused(Refusal::BadRequest);
            return context.closing_page(status, text);
        }
        if matches!(parts.method, Method::CONNECT | Method::TRACE) {
            context.refused(Refusal::BadRequest);
            let text = "The method is not supported.";
            return context.closing_page(StatusCode::NOT_IMPLEMENTED, text);
        }
        if generation.project.settings().panel != PanelAccess::Off
            && let Some(route) = SharedRoute::parse(parts.uri.path())
        {
            let response = Box::pin(self.panel(generation, &client, &parts, route)).await;
            // Never for pages of other sites, whatever those of the project may be.
            context.is_cors_decided = true;
            return response.map(Body::from);
        }
        let origin = generation.proxies.origin(client.peer, &mut parts.headers);
        context.access.client = Some(origin.client);
        let (version, local, last) = (parts.version, client.local, client.last_host);
        match target::url(&parts.uri, &parts.headers, version, local, last, &origin) {
            Ok(url) => {
                context.access.trace.set_url(&url);
                parts.uri = url;
            }
            Err(bad) => {
                context.refused(Refusal::BadRequest);
                return context.closing_page(StatusCode::BAD_REQUEST, bad.text());
            }
        }
        let path = parts.uri.clone();
        let preflight = match generation.cors.any {
            true => cors::preflight_method(&parts.method, &parts.headers),
            false => None,
        };
        let found = match preflight.as_ref().unwrap_or(&parts.method) {
            &Method::GET | &Method::HEAD => generation.project.find(path.path()),
            _ => generation.project.find_for_change(path.path()),
        };
        if preflight.is_some()
            && let Some(response) = self.preflight(context, &found, &parts.headers)
        {
            return response;
        }
        match found {
            RouteMatch::AssetAt(location) => {
                context.series = self.telemetry.assets();
                serve::redirect(&location, path.query())
            }
            RouteMatch::Asset(asset) => {
                context.series = self.telemetry.assets();
                let files = &generation.files;
                let served = files.serve(&asset.path, &parts.method, &parts.headers);
                served.unwrap_or_else(|error| self.unreadable(&asset.path, &error, context))
            }
            RouteMatch::Worker { worker, params } => {
                context.worker = Some(worker);
                context.series = &generation.series[worker.id.index()];
                let params = params
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect();
                if let Ok(id) = HeaderValue::from_str(&context.id) {
                    parts.headers.insert(request_id::HEADER, id);
                }
                context.access.trace.pass_on(&mut parts.headers);
                self.call(context, worker, parts, params, body).await
            }
            RouteMatch::NotFound => self.not_found(context),
        }
    }

    /// Answers a request for the panel on the port of the workers.
    async fn panel(
        &self,
        generation: &Generation,
        client: &Client<'_>,
        parts: &Parts,
        route: SharedRoute<'_>,
    ) -> Response<Bytes> {
        let request = StatusRequest {
            method: &parts.method,
            uri: &parts.uri,
            headers: &parts.headers,
            client: match client.peer.is_loopback() {
                true => StatusClient::Local,
                false => StatusClient::Remote,
            },
        };
        answer::shared(&self.status(generation), &request, route).await
    }

    /// Answers a preflight request for what was found, unless that is left to the worker.
    fn preflight<'a>(
        &'a self,
        context: &mut RequestContext<'a>,
        found: &RouteMatch<'a>,
        headers: &HeaderMap,
    ) -> Option<Response<Body>> {
        let worker = match found {
            RouteMatch::Worker { worker, .. } => Some(*worker),
            RouteMatch::Asset(_) | RouteMatch::AssetAt(_) => None,
            RouteMatch::NotFound => return None,
        };
        let generation = context.generation;
        let rules = generation
            .cors
            .rules(worker.map(|worker| worker.id.index()))?;
        context.worker = worker;
        context.series = match worker {
            Some(worker) => &generation.series[worker.id.index()],
            None => self.telemetry.assets(),
        };
        context.is_cors_decided = true;
        Some(rules.preflight(headers))
    }

    /// Has a worker answer.
    async fn call(
        &self,
        context: &mut RequestContext<'_>,
        worker: &Worker,
        parts: Parts,
        params: Vec<(String, String)>,
        body: IncomingBody,
    ) -> Response<Body> {
        let (index, generation) = (worker.id.index(), context.generation);
        // The reason was logged when the project was loaded.
        let Some(guest) = &generation.guests[index] else {
            if generation.uncompiled.contains(&index) {
                return context.closing_page(StatusCode::SERVICE_UNAVAILABLE, UNCOMPILED_TEXT);
            }
            return context.closing_page(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL_ERROR_TEXT);
        };
        let is_extended_connect = parts.extensions.get::<ExtendedConnect>().is_some();
        let asked = SocketRequest {
            version: parts.version,
            offer: match is_extended_connect {
                true => Offer::of_extended_connect(&parts.headers),
                false => Offer::of(&parts, !body.is_end_stream()),
            },
            is_extended_connect,
            compression: generation.compressor.is_some(),
        };
        let failure = UploadFailure::default();
        let body = if guest.takes_streams() {
            self.stream_upload(worker, body, context, &failure)
        } else {
            // Before admission, so that a slow client takes no slot.
            self.collect_upload(body, &context.client).await
        };
        let body = match body {
            Ok(body) => body,
            Err(error) => return upload_failed(error, context),
        };
        let permit = match self.admit(generation, index).await {
            Ok(permit) => permit,
            Err(error) => {
                context.refused(match error {
                    AdmissionError::Full => Refusal::QueueFull,
                    AdmissionError::Timeout => Refusal::QueueTimeout,
                });
                tracing::warn!(
                    worker = worker.name,
                    request_id = context.id,
                    trace_id = context.access.trace.trace_id(),
                    span_id = context.access.trace.span_id(),
                    "not run: {error}"
                );
                return context.page(StatusCode::SERVICE_UNAVAILABLE, BUSY_TEXT);
            }
        };
        // A client that is slow to send is disconnected for calls that wait, as one that is slow to
        // read.
        let streaming = match &body {
            RequestBody::Collected(_) => None,
            RequestBody::Stream(_) => Some(self.begin_stream(&context.client)),
        };
        let running = RunningCall::new(context.series.clone());
        let method = parts.method.clone();
        let compression = generation.compressor.as_ref().map(|compressor| {
            let accepted = compress::accepted(&parts.headers);
            (compressor, accepted)
        });
        let request = Request::from_parts(parts, body);
        let call = Call {
            request,
            params,
            request_id: context.id.clone(),
        };
        let (mut head, body) = match guest.serve(call).await {
            Ok(response) => response.into_parts(),
            Err(error) => {
                return match failure.get() {
                    Some(failure) => {
                        tracing::debug!(request_id = context.id, "{error}");
                        report_failure(&error, context.series);
                        upload_page(failure.into(), context)
                    }
                    None => call_failed(&error, context),
                };
            }
        };
        match body {
            ResponseBody::Socket(socket) => {
                let cost = guest.call_cost();
                self.sockets
                    .accept(context, worker, &asked, head, socket, cost)
            }
            ResponseBody::Collected(body) => {
                let response = Response::from_parts(head, body);
                compressed(compression, response).await
            }
            ResponseBody::Stream(stream) => {
                if let Some(body) = stream::whole(&stream, &method, &mut head) {
                    let response = Response::from_parts(head, body);
                    return compressed(compression, response).await;
                }
                let mut stream = ResponseBody::Stream(stream);
                let streaming = streaming.unwrap_or_else(|| self.begin_stream(&context.client));
                stream.keep(Box::new((permit, running, streaming)));
                let ResponseBody::Stream(stream) = stream else {
                    return Response::from_parts(head, Body::default());
                };
                stream::clean(&mut head.headers);
                let encoder = compression.and_then(|(compressor, accepted)| {
                    compressor.encoder(&method, &accepted, &mut head)
                });
                let body = self.send(context, worker, &method, &head, stream, encoder);
                Response::from_parts(head, body)
            }
        }
    }

    /// Records that a request or its response streams, until this is dropped.
    fn begin_stream(&self, client: &Client<'_>) -> (StreamInProgress, Option<ListedStream>) {
        let activity = client.activity;
        let listed = activity.is_stream().then(|| self.clients.list(activity));
        (activity.begin_stream(), listed)
    }

    async fn collect_upload(
        &self,
        body: IncomingBody,
        client: &Client<'_>,
    ) -> Result<RequestBody, UploadError> {
        let activity = &client.activity;
        activity.reading.set_uploading(!body.is_end_stream());
        let body = self.uploads.read(body).await;
        activity.reading.set_uploading(false);
        let body = body?;
        activity.requests.set_body_unread(false);
        Ok(RequestBody::Collected(body))
    }

    /// Has a worker read the body of a request as it comes.
    fn stream_upload(
        &self,
        worker: &Worker,
        body: IncomingBody,
        context: &RequestContext<'_>,
        failure: &UploadFailure,
    ) -> Result<RequestBody, UploadError> {
        if body.is_end_stream() {
            return Ok(RequestBody::Collected(Bytes::new()));
        }
        let limits = &worker.limits;
        let max = Some(limits.stream_bytes).filter(|max| *max > 0);
        // A client that sent `Expect` need not send the body.
        if max.is_some_and(|max| body.size_hint().lower() > max) {
            return Err(UploadError::TooLarge);
        }
        let settings = context.generation.project.settings();
        let bounds = UploadStreamBounds {
            idle: limits.stream_idle,
            max,
            min_rate: settings.min_send_rate,
            average: settings.body_timeout,
            memory: self.engine.account().clone(),
        };
        let activity = context.client.activity.clone();
        let stream = UploadStream::new(body, activity, bounds, failure.clone());
        Ok(RequestBody::Stream(BodyStream::new(stream)))
    }

    /// Waits for a slot. Clients that keep workers waiting which stream are disconnected meanwhile.
    async fn admit(
        &self,
        generation: &Generation,
        worker: usize,
    ) -> Result<CallPermit, AdmissionError> {
        let mut entering = pin!(generation.places.enter(worker));
        if !generation.streams {
            return entering.await;
        }
        if let Some(entered) = entering.as_mut().now_or_never() {
            return entered;
        }
        loop {
            self.clients.evict_streams();
            if let Ok(entered) = tokio::time::timeout(EVICTION_INTERVAL, entering.as_mut()).await {
                return entered;
            }
        }
    }

    /// The body of a response that a worker makes while it is sent.
    fn send(
        &self,
        context: &mut RequestContext<'_>,
        worker: &Worker,
        method: &Method,
        head: &http::response::Parts,
        stream: Box<StreamedBody>,
        encoder: Option<Encoder>,
    ) -> Body {
        let after = worker.limits.wall_time;
        if headers::has_no_body(method, head.status) {
            let series = context.series.clone();
            stream::finish(
                stream,
                after,
                series,
                worker.name.clone(),
                context.id.clone(),
            );
            return Body::default();
        }
        let series = context.series.clone();
        let access = &mut context.access;
        let record = StreamRecord::new(access, series, head.status, &context.id, &worker.name);
        let activity = context.client.activity.clone();
        let stream = WorkerStream::new(stream, &head.headers, after, activity, record);
        Body::pieces(Box::pin(stream.encoded(encoder)))
    }

    fn not_found(&self, context: &RequestContext<'_>) -> Response<Body> {
        let generation = context.generation;
        let own_page = generation.project.not_found();
        let own_page = own_page.map(|asset| generation.files.not_found(&asset.path));
        match own_page {
            Some(Ok(response)) => return response,
            Some(Err(error)) => {
                tracing::error!(request_id = context.id, "public/404.html: {error}");
            }
            None => {}
        }
        context.page(StatusCode::NOT_FOUND, "There is nothing here.")
    }

    /// A file that existed when the project was loaded cannot be opened.
    fn unreadable(
        &self,
        path: &Path,
        error: &io::Error,
        context: &RequestContext<'_>,
    ) -> Response<Body> {
        if error.kind() == io::ErrorKind::NotFound {
            return self.not_found(context);
        }
        tracing::error!(request_id = context.id, "{}: {error}", path.display());
        context.page(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL_ERROR_TEXT)
    }
}

/// A whole response as it is sent: compressed, if there is a compressor.
async fn compressed(
    compression: Option<(&Compressor, HeaderMap)>,
    response: Response<Bytes>,
) -> Response<Body> {
    let response = match compression {
        // Boxed: most responses are not compressed, and the request's state is moved.
        Some((compressor, accepted)) => Box::pin(compressor.compress(&accepted, response)).await,
        None => response,
    };
    response.map(Body::from)
}

/// Counts a call as running until it is dropped.
struct RunningCall(Arc<WorkerSeries>);

impl RunningCall {
    fn new(series: Arc<WorkerSeries>) -> Self {
        series.call_began();
        Self(series)
    }
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        self.0.call_ended();
    }
}

/// Returns `None` if the future panics: a panic must not end other requests.
async fn catch_panics<T>(future: impl Future<Output = T>) -> Option<T> {
    AssertUnwindSafe(future).catch_unwind().await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[allow(clippy::panic)]
    async fn catches_panics() {
        assert_eq!(catch_panics(async { 1 }).await, Some(1));
        assert_eq!(catch_panics(async { panic!("secret") }).await, None::<u8>);
    }
}
