//! Answers requests: assets and workers of a project, whose generations may be exchanged.

use std::{
    io,
    panic::AssertUnwindSafe,
    path::Path,
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
use wws_engine::{Engine, Guest};
use wws_project::{PanelAccess, RouteMatch};
use wws_telemetry::{Refusal, Sampler, Telemetry};

use crate::assets::serve;
use crate::connection::activity::RequestFraming;
use crate::connection::body::Body;
use crate::connection::clients::Clients;
use crate::connection::idle::Idle;
use crate::connection::incoming::IncomingBody;
use crate::request::access::AccessRecord;
use crate::request::admission::Admission;
use crate::request::context::{Client, RequestContext};
use crate::request::cors;
use crate::request::generation::Generation;
use crate::request::loaded_memory::LoadedMemory;
use crate::request::page::INTERNAL_ERROR_TEXT;
use crate::request::request_id::{self, RequestIds};
use crate::request::sockets::Sockets;
use crate::request::trace::RequestTrace;
use crate::request::upload::Uploads;
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
    /// Bytes for guests, and for what the host holds for them and for clients.
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
        let (sockets, max_sockets) = self.sockets.count();
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
                sockets,
                max_sockets,
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
                self.call_worker(context, worker, parts, params, body).await
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
