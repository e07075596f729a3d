//! The one client of a process.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::Full;
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioTimer},
};
use tokio::sync::Semaphore;
use url::{Host, Position, Url};

use crate::{
    body::{self, Budget},
    connect::{self, Connector, Count},
    error::{Error, ErrorKind},
    headers,
    overrides::Overrides,
    policy::Policy,
    redirect,
    resolve::{Dns, Resolver},
    roots,
};

/// Bytes of an answer's head.
const MAX_HEAD: usize = 128 << 10;

/// How a [`Client`] is made.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Hosts whose addresses the operator gives.
    pub resolve: Overrides,
    /// A folder laid out as `/etc/ssl` whose authorities are believed instead of the public ones, where it has any.
    pub roots: Option<PathBuf>,
    /// Where names are looked up.
    pub dns: Dns,
    /// For TCP and TLS together.
    pub connect_timeout: Duration,
    /// How long a connection waits for its next request.
    pub idle_timeout: Duration,
    /// Connections to one host that wait.
    pub max_idle_per_host: usize,
    /// Connections, waiting or not, above which none is kept for another request.
    pub max_kept: usize,
    /// Requests at a time; further ones wait, within their own time limits.
    pub max_requests: usize,
    /// Bytes of answers, of all requests together, that are being read. Above it the answer that asks for more fails.
    pub max_reading: u64,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            resolve: Overrides::default(),
            roots: None,
            dns: Dns::default(),
            connect_timeout: Duration::from_secs(5),
            // Servers commonly close after 60 s or more: we close first.
            idle_timeout: Duration::from_secs(30),
            max_idle_per_host: 32,
            max_kept: 128,
            max_requests: 512,
            max_reading: 256 << 20,
        }
    }
}

/// In a request's extensions: an answer that redirects is given to the guest instead of followed.
#[derive(Clone, Copy, Debug)]
pub struct KeepRedirects;

/// In an answer's extensions: where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnsweredBy {
    /// The URL of the last hop.
    pub url: String,
    /// Redirects that were followed.
    pub redirects: u32,
}

/// How many connections a client made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Since the client was made.
    pub opened: u64,
    /// At this moment.
    pub open: usize,
}

/// Sends guests' requests over a pool of connections. Clones share the pool.
///
/// Every request, and every redirect it meets, is checked against the worker's [`Policy`], the host's name resolved and its
/// addresses checked, also where a connection is there already: a connection is shared only among requests for the same
/// host that were admitted to the same addresses.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: legacy::Client<Connector, Full<Bytes>>,
    resolver: Resolver,
    overrides: Overrides,
    requests: Semaphore,
    max_kept: usize,
    budget: Budget,
    count: Arc<Count>,
}

impl Client {
    /// A client; reads the authorities, opens nothing. Needs no runtime.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(options: ClientOptions) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal(format!("TLS: {error}")))?
            .with_root_certificates(roots::load(options.roots.as_deref()))
            .with_no_client_auth();
        let count = Arc::new(Count::default());
        let connector = Connector::new(tls, options.connect_timeout, count.clone());
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(options.idle_timeout)
            .pool_max_idle_per_host(options.max_idle_per_host)
            .http1_max_buf_size(MAX_HEAD)
            // The authority that the pool sees is not the host's name alone.
            .set_host(false)
            .build(connector);
        Ok(Self(Arc::new(Inner {
            http,
            resolver: Resolver::new(options.dns),
            overrides: options.resolve,
            requests: Semaphore::new(options.max_requests.min(Semaphore::MAX_PERMITS)),
            max_kept: options.max_kept,
            budget: Budget::new(options.max_reading),
            count,
        })))
    }

    /// How many connections were made.
    #[must_use]
    pub fn connections(&self) -> Connections {
        Connections {
            opened: self.0.count.opened.load(Ordering::Relaxed),
            open: self.0.count.open.load(Ordering::Relaxed),
        }
    }

    /// Sends a request as far as the policy allows, follows redirects, and reads the whole answer.
    ///
    /// Fields of `request` that belong to the connection, and `Host` and `Content-Length`, are replaced by our own. The body
    /// of the answer comes as it was sent: compression is the guest's own business.
    ///
    /// # Errors
    /// The policy refuses the request or a redirect, or there is no complete answer within the policy's limits.
    pub async fn send(
        &self,
        policy: &Policy,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, Error> {
        let timeout = policy.limits().timeout;
        // The hop that is being waited for, for the message.
        let mut host = String::new();
        match tokio::time::timeout(timeout, Box::pin(self.follow(policy, request, &mut host))).await
        {
            Ok(result) => result,
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                format!("no complete answer from `{host}` within {timeout:?}"),
            )),
        }
    }

    async fn follow(
        &self,
        policy: &Policy,
        request: Request<Bytes>,
        waiting: &mut String,
    ) -> Result<Response<Bytes>, Error> {
        let (parts, mut sent) = request.into_parts();
        let keep_redirects = parts.extensions.get::<KeepRedirects>().is_some();
        let mut method = parts.method;
        let mut url = first_url(&parts.uri, &method)?;
        let mut headers = headers::of_request(parts.headers)?;
        let (mut host, mut port) = policy.check(&url, &method)?;
        *waiting = host.to_string();
        let _permit = self.0.requests.acquire().await;
        let mut redirects = 0;
        loop {
            let addresses = self.addresses(policy, &host, port).await?;
            let request = self.request(&url, &host, port, &addresses, &method, &headers, &sent)?;
            let response = match self.0.http.request(request).await {
                Ok(response) => response,
                Err(error) => return Err(Error::no_answer(&host, &error)),
            };
            let next = if keep_redirects {
                None
            } else {
                redirect::next(response.status(), response.headers(), &url, &method)?
            };
            let Some(hop) = next else {
                let mut response =
                    body::collect(response, &host, policy.limits().response, &self.0.budget)
                        .await?;
                headers::strip_connection(response.headers_mut());
                response.extensions_mut().clear();
                let url = url.into();
                response
                    .extensions_mut()
                    .insert(AnsweredBy { url, redirects });
                return Ok(response);
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
            body::discard(response).await;
            redirect::strip(&mut headers, &url, &hop);
            if !hop.body {
                sent = Bytes::new();
            }
            (host, port) = target;
            (url, method) = (hop.url, hop.method);
            *waiting = host.to_string();
        }
    }

    /// Where a request goes: addresses that the policy admits, or that the operator gave.
    async fn addresses(
        &self,
        policy: &Policy,
        host: &Host,
        port: u16,
    ) -> Result<Vec<SocketAddr>, Error> {
        if let Some(address) = self.0.overrides.get(host, port) {
            return Ok(vec![address]);
        }
        let found = match host {
            Host::Domain(name) => self.0.resolver.addresses(name).await?,
            Host::Ipv4(address) => vec![(*address).into()],
            Host::Ipv6(address) => vec![(*address).into()],
        };
        let mut refused = "no address";
        let mut admitted = Vec::with_capacity(found.len());
        for address in found {
            match policy.check_address(address, port) {
                Ok(()) => admitted.push((address, port).into()),
                Err(what) => {
                    tracing::debug!(%host, %address, "address refused: {what}");
                    refused = what;
                }
            }
        }
        if admitted.is_empty() {
            return Err(Error::not_allowed(format!(
                "`{host}` is at {refused}, which is refused unless allowed_hosts names that address itself"
            )));
        }
        Ok(admitted)
    }

    #[expect(clippy::too_many_arguments, reason = "one hop's parts, used once")]
    fn request(
        &self,
        url: &Url,
        host: &Host,
        port: u16,
        addresses: &[SocketAddr],
        method: &Method,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let uri = format!(
            "{}://{}@{host}:{port}{}",
            url.scheme(),
            connect::pin(addresses),
            &url[Position::BeforePath..Position::AfterQuery]
        );
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri
            .parse()
            .map_err(|error| Error::invalid(format!("the URL cannot be sent: {error}")))?;
        *request.headers_mut() = headers.clone();
        let fields = request.headers_mut();
        fields.insert(header::HOST, headers::host(host, url.port())?);
        if self.0.count.open.load(Ordering::Relaxed) >= self.0.max_kept {
            fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(request)
    }
}

fn first_url(uri: &http::Uri, method: &Method) -> Result<Url, Error> {
    if *method == Method::CONNECT || *method == Method::TRACE {
        return Err(Error::invalid(format!(
            "the method {method} cannot be sent"
        )));
    }
    // Parsed as browsers do: `http://2130706433/` is 127.0.0.1 here, before anything is checked.
    let url = Url::parse(&uri.to_string())
        .map_err(|error| Error::invalid(format!("the URL is not valid: {error}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::invalid(
            "the URL has a user name or password: send an Authorization header",
        ));
    }
    Ok(url)
}
