//! The HTTP client of a process.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioTimer},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::{Host, Position, Url};

use crate::{
    body::{self, BodyLimits, ResponseBody},
    coding::{self, Decode},
    connect::{Connector, Count, Route},
    error::{Error, ErrorKind, Reason},
    exchange::{Exchange, Http, Phases},
    headers::{self, Framing},
    memory::{Budget, Memory, MemoryCharge},
    options::{AnsweredBy, ClientOptions, KeepRedirects, MAX_HEAD, Timeouts},
    policy::Policy,
    redirect,
    resolve::Resolver,
    routes::Routes,
    sending::{Payload, Progress, charged, within},
};

/// The connections of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Since the client was created.
    pub opened: u64,
    /// Now.
    pub open: usize,
}

/// Sends guests' requests over a pool of connections. Clones share the pool.
///
/// Every request, and every redirect it meets, is checked against the worker's [`Policy`], the
/// host's name resolved and its addresses checked, also where a connection is there already: a
/// connection is shared only among requests for the same host that were admitted to the same
/// addresses.
#[derive(Clone)]
pub struct Client(Arc<ClientParts>);

struct ClientParts {
    http: Http,
    routes: Routes,
    requests: Arc<Semaphore>,
    sockets: Arc<Semaphore>,
    max_kept: usize,
    budget: Arc<Budget>,
    count: Arc<Count>,
}

impl Client {
    /// Creates a client: reads the authorities and opens no connection. Needs no runtime.
    ///
    /// # Errors
    /// TLS cannot be initialized.
    pub fn new(options: ClientOptions) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal(format!("TLS: {error}")))?
            .with_root_certificates(options.roots.load())
            .with_no_client_auth();
        let count = Arc::new(Count::default());
        let resolver = Arc::new(Resolver::new(options.dns));
        let connector = Connector::new(
            tls,
            options.connect_timeout,
            count.clone(),
            options.proxies.clone(),
            resolver.clone(),
        );
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(options.idle_timeout)
            .pool_max_idle_per_host(options.max_idle_per_host)
            .http1_max_buf_size(MAX_HEAD)
            // The authority that the pool sees is not only the host's name.
            .set_host(false)
            .build(connector);
        Ok(Self(Arc::new(ClientParts {
            http,
            routes: Routes {
                resolver,
                overrides: options.resolve,
                proxies: options.proxies,
            },
            requests: Arc::new(Semaphore::new(
                options.max_requests.min(Semaphore::MAX_PERMITS),
            )),
            sockets: Arc::new(Semaphore::new(
                (options.max_requests / 2).clamp(1, Semaphore::MAX_PERMITS),
            )),
            max_kept: options.max_kept,
            budget: Arc::new(Budget::new(options.memory)),
            count,
        })))
    }

    /// The connections so far.
    #[must_use]
    pub fn connections(&self) -> Connections {
        Connections {
            opened: self.0.count.opened.load(Ordering::Relaxed),
            open: self.0.count.open.load(Ordering::Relaxed),
        }
    }

    /// Sends a request if the policy allows it, follows redirects, and reads the whole response.
    ///
    /// Headers of `request` that belong to the connection, `Host` and `Content-Length` are
    /// replaced. The body of the response is not decoded, unless the request has [`Decode`]. The
    /// response has [`AnsweredBy`].
    ///
    /// Dropping the future cancels the request: its connection is closed, its permit and memory are
    /// freed.
    ///
    /// # Errors
    /// The policy refuses the request or a redirect, or there is no complete response within the
    /// policy's limits.
    pub async fn send(
        &self,
        policy: &Policy,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, Error> {
        self.send_charged(policy, request, None).await
    }

    /// Like [`send`](Self::send), and charges the bodies to the sender's memory, too. The response
    /// stays charged until the last of its bytes is dropped.
    ///
    /// # Errors
    /// As for `send`; and a body that cannot be charged.
    pub async fn send_charged(
        &self,
        policy: &Policy,
        request: Request<Bytes>,
        charge: Option<Box<dyn MemoryCharge>>,
    ) -> Result<Response<Bytes>, Error> {
        let memory = Memory::new(self.0.budget.clone(), charge);
        let limits = policy.limits();
        let progress = Progress::new();
        // The time limit of the whole call holds for everything.
        let call = HopContext {
            policy,
            memory: &memory,
            progress: &progress,
            phases: Phases::default(),
            body: BodyLimits {
                bytes: Some(limits.response),
                idle: None,
                expanded: limits.response,
            },
            reads_trailers: false,
        };
        // The current hop, for the error message.
        let mut host = String::new();
        let answering = async {
            let (request, body) = request.into_parts();
            let payload = Payload::Whole(charged(body, &memory)?);
            let answer = self.follow(call, request, payload, &mut host).await?;
            let (parts, body) = answer.into_parts();
            Ok(Response::from_parts(parts, body.collect().await?))
        };
        match tokio::time::timeout(limits.timeout, Box::pin(answering)).await {
            Ok(result) => result,
            Err(_) => Err(no_answer_in_time(&host, "complete ", limits.timeout)),
        }
    }

    /// Sends a request and returns its response as soon as the head is there; both bodies are read
    /// and sent as they come, with their trailers.
    ///
    /// The rules are those of [`send`](Self::send), with these differences:
    ///
    /// * the policy's `timeout` ends with the head of the response, and begins again with each
    ///   piece of the request that is sent; from then on `idle` limits each wait for a piece. The
    ///   request may have its own [`Timeouts`];
    /// * the size of the response is limited only by the policy's `streamed_response`;
    /// * a redirect that asks for the same body again is an error, unless there is none or the
    ///   request has [`KeepRedirects`];
    /// * `Content-Length` of a request whose body does not know its length announces it; a body
    ///   that breaks the announcement is an error. `Trailer` and `TE: trailers` are sent;
    /// * only what is read and not dropped yet is charged, in both directions.
    ///
    /// The request counts as one of [`ClientOptions::max_requests`] until both bodies have ended or
    /// the response is dropped, which closes the connection.
    ///
    /// # Errors
    /// The policy refuses the request or a redirect, there is no head of a response in time, or the
    /// body of the request fails.
    pub async fn stream<B>(
        &self,
        policy: &Policy,
        request: Request<B>,
        charge: Option<Box<dyn MemoryCharge>>,
    ) -> Result<Response<ResponseBody>, Error>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (request, body) = request.into_parts();
        let framing = Framing::of(&request.headers)?;
        let reads_trailers = framing.reads_trailers;
        let payload = Payload::new(framing, body)?;
        self.streamed(policy, request, payload, reads_trailers, charge)
            .await
    }

    /// [`stream`](Self::stream) of a request whose body is there: it is sent again where a redirect
    /// asks for it.
    ///
    /// # Errors
    /// As for `stream`.
    pub async fn stream_response(
        &self,
        policy: &Policy,
        request: Request<Bytes>,
        charge: Option<Box<dyn MemoryCharge>>,
    ) -> Result<Response<ResponseBody>, Error> {
        let (request, body) = request.into_parts();
        let payload = Payload::Whole(body);
        self.streamed(policy, request, payload, false, charge).await
    }

    async fn streamed(
        &self,
        policy: &Policy,
        request: http::request::Parts,
        mut payload: Payload,
        reads_trailers: bool,
        charge: Option<Box<dyn MemoryCharge>>,
    ) -> Result<Response<ResponseBody>, Error> {
        let memory = Memory::new(self.0.budget.clone(), charge);
        if let Payload::Whole(body) = &mut payload {
            *body = charged(std::mem::take(body), &memory)?;
        }
        let limits = policy.limits();
        let progress = Progress::new();
        let own: Timeouts = request.extensions.get().copied().unwrap_or_default();
        let idle = limits.idle.unwrap_or(limits.timeout);
        let call = HopContext {
            policy,
            memory: &memory,
            progress: &progress,
            phases: Phases {
                connect: own.connect,
                head: own.first_byte,
            },
            body: BodyLimits {
                bytes: limits.streamed_response,
                idle: Some(own.between_bytes.map_or(idle, |own| own.min(idle))),
                expanded: limits.response,
            },
            reads_trailers,
        };
        let mut host = String::new();
        let following = Box::pin(self.follow(call, request, payload, &mut host));
        match within(limits.timeout, &progress, following).await {
            Some(result) => result,
            None => Err(no_answer_in_time(&host, "", limits.timeout)),
        }
    }

    async fn follow(
        &self,
        call: HopContext<'_>,
        parts: http::request::Parts,
        mut payload: Payload,
        waiting: &mut String,
    ) -> Result<Response<ResponseBody>, Error> {
        let policy = call.policy;
        let keep_redirects = parts.extensions.get::<KeepRedirects>().is_some();
        let decode = parts.extensions.get::<Decode>().copied();
        let mut method = parts.method;
        let mut url = first_url(&parts.uri, &method)?;
        let mut headers = headers::of_request(parts.headers)?;
        let decodes = coding::ask_for_codings(&mut headers, decode);
        let (mut host, mut port) = policy.check(&url, &method)?;
        *waiting = host.to_string();
        let permit = Arc::new(self.permit().await?);
        // Clients of some languages give every request a body, of no bytes where there is none.
        if method == Method::GET || method == Method::HEAD {
            payload = payload.settled().await;
        }
        let mut redirects = 0;
        loop {
            let route = self.0.routes.find(policy, &url, &host, port).await?;
            let mut request = self.request(&url, &host, port, &route, &method, &headers)?;
            let fields = request.headers_mut();
            let body = payload.begin(fields, call.memory, call.progress.clone())?;
            if call.reads_trailers {
                fields.insert(header::TE, HeaderValue::from_static("trailers"));
                fields.append(header::CONNECTION, HeaderValue::from_static("te"));
            }
            let (response, exchange) = Exchange::begin(
                &self.0.http,
                request.map(|()| body),
                &host,
                call.phases,
                call.progress,
                permit.clone(),
            )
            .await?;
            let next = if keep_redirects {
                None
            } else {
                redirect::next(response.status(), response.headers(), &url, &method)?
            };
            let Some(hop) = next else {
                let (mut parts, body) = response.into_parts();
                // The headers of a response without a body describe the one with a body.
                let codings = match decodes
                    && method != Method::HEAD
                    && parts.status != StatusCode::NOT_MODIFIED
                {
                    true => coding::codings(&parts.headers),
                    false => Vec::new(),
                };
                if !codings.is_empty() {
                    // The removed codings are no longer named: the response may be passed on.
                    parts.headers.remove(header::CONTENT_ENCODING);
                    parts.headers.remove(header::CONTENT_LENGTH);
                }
                headers::strip_connection(&mut parts.headers);
                parts.extensions.clear();
                let url = url.into();
                parts.extensions.insert(AnsweredBy { url, redirects });
                let body = ResponseBody::new(
                    host,
                    body,
                    call.body,
                    &codings,
                    call.memory.clone(),
                    call.progress.clone(),
                    exchange,
                )?;
                return Ok(Response::from_parts(parts, body));
            };
            if redirects >= policy.limits().redirects {
                return Err(Error::new(
                    ErrorKind::RedirectLoop,
                    format!("more than {redirects} redirects, the last from `{host}`"),
                ));
            }
            redirects += 1;
            let target = policy.check(&hop.url, &hop.method).map_err(|error| {
                Error::not_allowed(format!("`{host}` redirects: {}", error.message))
            })?;
            if hop.body && matches!(payload, Payload::Spent) {
                return Err(Error::new(
                    ErrorKind::InvalidRequestBody,
                    format!(
                        "`{host}` redirects with status {}, but a streamed body cannot be sent \
                         again",
                        response.status().as_u16()
                    ),
                ));
            }
            body::discard(response.into_body(), exchange).await;
            redirect::strip(&mut headers, &url, &hop);
            if !hop.body {
                payload = Payload::Whole(Bytes::new());
            }
            (host, port) = target;
            (url, method) = (hop.url, hop.method);
            *waiting = host.to_string();
        }
    }

    pub(crate) fn http(&self) -> &Http {
        &self.0.http
    }

    pub(crate) fn routes(&self) -> &Routes {
        &self.0.routes
    }

    /// Waits for the right to have one more request in progress.
    pub(crate) async fn permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        let permit = self.0.requests.clone().acquire_owned().await;
        permit.map_err(|error| Error::internal(error.to_string()))
    }

    /// Returns the right to have one more socket, which may be open for long.
    pub(crate) fn socket_place(&self) -> Result<OwnedSemaphorePermit, Error> {
        let place = self.0.sockets.clone().try_acquire_owned();
        place.map_err(|_| Error::internal("too many WebSockets to other servers are open"))
    }

    pub(crate) fn request(
        &self,
        url: &Url,
        host: &Host,
        port: u16,
        route: &Route,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<Request<()>, Error> {
        let uri = format!(
            "{}://{}{host}:{port}{}",
            url.scheme(),
            route.user(),
            &url[Position::BeforePath..Position::AfterQuery]
        );
        let mut request = Request::new(());
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri
            .parse()
            .map_err(|error| Error::invalid(format!("the URL cannot be sent: {error}")))?;
        *request.headers_mut() = headers.clone();
        let fields = request.headers_mut();
        fields.insert(header::HOST, headers::host(host, url.port())?);
        // A tunnel was authorized when it was made.
        if *route == Route::Forward
            && let Some(proxy) = self.0.routes.proxies.of(url.scheme(), host, port)
            && let Some(authorization) = proxy.authorization
        {
            fields.insert(header::PROXY_AUTHORIZATION, authorization);
        }
        if self.0.count.open.load(Ordering::Relaxed) >= self.0.max_kept {
            fields.append(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(request)
    }
}

/// What holds for all hops of a request.
#[derive(Clone, Copy)]
struct HopContext<'a> {
    policy: &'a Policy,
    memory: &'a Memory,
    progress: &'a Arc<Progress>,
    phases: Phases,
    body: BodyLimits,
    /// The sender reads trailers of the response.
    reads_trailers: bool,
}

pub(crate) fn no_answer_in_time(host: &str, what: &str, limit: Duration) -> Error {
    let text = format!("no {what}answer from `{host}` within {limit:?}");
    Error::new(ErrorKind::Timeout, text).because(Reason::HeadTimeout)
}

pub(crate) fn first_url(uri: &http::Uri, method: &Method) -> Result<Url, Error> {
    if *method == Method::CONNECT || *method == Method::TRACE {
        return Err(Error::invalid(format!(
            "the method {method} cannot be sent"
        )));
    }
    // Parsed as browsers do: `http://2130706433/` becomes 127.0.0.1 before anything is checked.
    let url = Url::parse(&uri.to_string())
        .map_err(|error| Error::invalid(format!("the URL is not valid: {error}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::invalid(
            "the URL has a user name or password: send an Authorization header",
        ));
    }
    Ok(url)
}
