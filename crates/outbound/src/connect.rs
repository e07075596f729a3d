//! Connections to exactly the addresses that were checked.
//!
//! The pool of the HTTP client identifies a connection only by scheme and authority. If that were
//! the host's name, a worker whose policy lets `db.internal` resolve to 10.0.0.5 would leave a
//! connection there that another worker, which may only reach public addresses, gets for the same
//! name. So the route to the host is part of the authority ([`Route`]): a connection is shared only
//! among requests whose policies admitted the same addresses for the same host, and a name that
//! moved gets a new connection.

use std::{
    future::{self, Future, Ready},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
    vec,
};

use futures_util::task::AtomicWaker;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector, dns::Name, proxy::Tunnel},
    rt::TokioIo,
};
use tokio::net::TcpStream;
use tower_service::Service;
use url::Host;

use crate::{
    error::chain,
    host,
    proxy::{Proxies, Proxy},
    resolve::Resolver,
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The route to a host, encoded in the user part of the authority that the pool sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// To one of these addresses.
    Direct(Vec<SocketAddr>),
    /// Through the proxy's tunnel, to this address.
    TunnelTo(SocketAddr),
    /// Through the proxy's tunnel, to the host's name: the proxy looks it up.
    Tunnel,
    /// By the proxy, which gets the whole URL. There is no user part: the proxy sees the authority.
    Forward,
}

/// The user part of [`Route::Tunnel`], and the beginning of that of [`Route::TunnelTo`].
const TUNNEL: &str = "tunnel";

impl Route {
    /// The user part with its `@`.
    pub(crate) fn user(&self) -> String {
        match self {
            Self::Direct(addresses) => format!("{}@", pin(addresses)),
            Self::TunnelTo(address) => format!("{TUNNEL}.{}@", pin(&[*address])),
            Self::Tunnel => format!("{TUNNEL}@"),
            Self::Forward => String::new(),
        }
    }

    fn of(uri: &Uri) -> Option<Self> {
        let Some((user, _)) = uri.authority()?.as_str().rsplit_once('@') else {
            return Some(Self::Forward);
        };
        match user.strip_prefix(TUNNEL) {
            None => pinned(user).map(Self::Direct),
            Some("") => Some(Self::Tunnel),
            Some(rest) => {
                let addresses = pinned(rest.strip_prefix('.')?)?;
                addresses.first().copied().map(Self::TunnelTo)
            }
        }
    }
}

/// Addresses in hexadecimal, `-` before the port, `.` between them.
fn pin(addresses: &[SocketAddr]) -> String {
    let mut text = String::with_capacity(addresses.len() * 14);
    for address in addresses {
        if !text.is_empty() {
            text.push('.');
        }
        let (ip, port) = (address.ip(), address.port());
        text.push_str(&match ip {
            IpAddr::V4(ip) => format!("{:08x}-{port:x}", ip.to_bits()),
            IpAddr::V6(ip) => format!("{:032x}-{port:x}", ip.to_bits()),
        });
    }
    text
}

/// The addresses that [`pin`] wrote.
fn pinned(text: &str) -> Option<Vec<SocketAddr>> {
    text.split('.')
        .map(|part| {
            let (ip, port) = part.split_once('-')?;
            let port = u16::from_str_radix(port, 16).ok()?;
            let ip: IpAddr = match ip.len() {
                8 => Ipv4Addr::from_bits(u32::from_str_radix(ip, 16).ok()?).into(),
                32 => Ipv6Addr::from_bits(u128::from_str_radix(ip, 16).ok()?).into(),
                _ => return None,
            };
            Some(SocketAddr::new(ip, port))
        })
        .collect()
}

/// Connections that were made, and that there are.
#[derive(Debug, Default)]
pub(crate) struct Count {
    pub(crate) opened: AtomicU64,
    pub(crate) open: AtomicUsize,
}

/// TCP, and TLS where the scheme is https, within one time limit.
#[derive(Clone)]
pub(crate) struct Connector {
    https: HttpsConnector<Dialer>,
    timeout: Duration,
}

impl Connector {
    pub(crate) fn new(
        tls: rustls::ClientConfig,
        timeout: Duration,
        count: Arc<Count>,
        proxies: Proxies,
        resolver: Arc<Resolver>,
    ) -> Self {
        let dialer = Dialer {
            timeout,
            count,
            proxies,
            resolver,
        };
        Self {
            https: hyper_rustls::HttpsConnectorBuilder::new()
                .with_tls_config(tls)
                .https_or_http()
                .enable_http1()
                .wrap_connector(dialer),
            timeout,
        }
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<Counted>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.https.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.https.call(uri);
        let timeout = self.timeout;
        Box::pin(async move {
            match tokio::time::timeout(timeout, connecting).await {
                Ok(result) => result,
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            }
        })
    }
}

/// Follows the route of the authority; the host is used only for TLS and the proxy.
#[derive(Clone)]
struct Dialer {
    timeout: Duration,
    count: Arc<Count>,
    proxies: Proxies,
    resolver: Arc<Resolver>,
}

impl Service<Uri> for Dialer {
    type Response = Counted;
    type Error = BoxError;
    type Future = Connecting;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Connecting {
        match Route::of(&uri) {
            Some(Route::Direct(addresses)) => self.tcp().connect(addresses, false),
            Some(route) => {
                let dialer = self.clone();
                Box::pin(async move { dialer.by_proxy(route, &uri).await })
            }
            None => Box::pin(future::ready(Err("no checked address".into()))),
        }
    }
}

impl Dialer {
    fn tcp(&self) -> Tcp {
        Tcp {
            timeout: self.timeout,
            count: self.count.clone(),
        }
    }

    async fn by_proxy(&self, route: Route, uri: &Uri) -> Result<Counted, BoxError> {
        let scheme = uri.scheme_str().unwrap_or_default();
        let (host, port) = url::Url::parse(&uri.to_string())
            .ok()
            .and_then(|url| host::of_url(&url))
            .ok_or("the URL has no host")?;
        let proxy = self
            .proxies
            .of(scheme, &host, port)
            .ok_or("no proxy for it")?;
        let connecting = self.to_proxy(&proxy, route == Route::Forward);
        let failed =
            |text: String| -> BoxError { format!("the proxy of this server: {text}").into() };
        if route == Route::Forward {
            return connecting.await.map_err(|error| failed(chain(&*error)));
        }
        let target: Uri = match route {
            Route::TunnelTo(address) => format!("http://{address}/").parse()?,
            _ => format!("http://{host}:{port}/").parse()?,
        };
        let mut tunnel = Tunnel::new(
            proxy.uri().ok_or("the proxy has no URL")?,
            Once(Some(connecting)),
        );
        if let Some(authorization) = proxy.authorization {
            tunnel = tunnel.with_auth(authorization);
        }
        tunnel
            .call(target)
            .await
            .map_err(|error| failed(chain(&error)))
    }

    /// Connects to the proxy, wherever it is: the operator named it.
    fn to_proxy(&self, proxy: &Proxy, forwards: bool) -> Connecting {
        let (tcp, resolver) = (self.tcp(), self.resolver.clone());
        let (host, port) = (proxy.host.clone(), proxy.port);
        Box::pin(async move {
            let addresses = match host {
                Host::Domain(name) => resolver.addresses(&name).await.map_err(|error| {
                    tracing::warn!(proxy = name, %error, "the proxy's name is not resolved");
                    "the proxy of this server is not found"
                })?,
                Host::Ipv4(address) => vec![address.into()],
                Host::Ipv6(address) => vec![address.into()],
            };
            let addresses = addresses.into_iter().map(|ip| (ip, port).into()).collect();
            tcp.connect(addresses, forwards).await
        })
    }
}

type Connecting = Pin<Box<dyn Future<Output = Result<Counted, BoxError>> + Send>>;

/// A connection that is being established, as a connector.
struct Once(Option<Connecting>);

impl Service<Uri> for Once {
    type Response = Counted;
    type Error = BoxError;
    type Future = Connecting;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Connecting {
        self.0
            .take()
            .unwrap_or_else(|| Box::pin(future::ready(Err("used twice".into()))))
    }
}

struct Tcp {
    timeout: Duration,
    count: Arc<Count>,
}

impl Tcp {
    fn connect(self, addresses: Vec<SocketAddr>, forwards: bool) -> Connecting {
        // Tries the addresses one after the other, and IPv6 next to a slow IPv4.
        let mut tcp = HttpConnector::new_with_resolver(Checked(addresses));
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(self.timeout));
        let count = self.count;
        // Without a port, the connector leaves the addresses' own ports as they are.
        let connecting = tcp.call(Uri::from_static("http://checked.invalid/"));
        Box::pin(async move {
            let stream = connecting.await?;
            count.opened.fetch_add(1, Ordering::Relaxed);
            count.open.fetch_add(1, Ordering::Relaxed);
            Ok(Counted {
                stream,
                count,
                forwards,
                hangup: Hangup::default(),
            })
        })
    }
}

/// Resolves every name to the addresses that were checked.
#[derive(Clone)]
struct Checked(Vec<SocketAddr>);

impl Service<Name> for Checked {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        future::ready(Ok(self.0.clone().into_iter()))
    }
}

/// A connection that is counted as long as it is open.
pub(crate) struct Counted {
    stream: TokioIo<TcpStream>,
    count: Arc<Count>,
    /// To a proxy that is sent whole URLs.
    forwards: bool,
    hangup: Hangup,
}

/// Closes a connection, whatever it waits for: a peer that does not read could keep it open for
/// ever.
#[derive(Clone, Default)]
pub(crate) struct Hangup(Arc<HangupState>);

#[derive(Default)]
struct HangupState {
    is_over: AtomicBool,
    /// The connection's task.
    task: AtomicWaker,
}

impl Hangup {
    pub(crate) fn now(&self) {
        self.0.is_over.store(true, Ordering::Release);
        self.0.task.wake();
    }

    /// Fails once the connection is to be closed.
    fn check<T>(&self, io: Poll<io::Result<T>>, cx: &Context<'_>) -> Poll<io::Result<T>> {
        if io.is_pending() {
            self.0.task.register(cx.waker());
        }
        if self.0.is_over.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        io
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection for Counted {
    fn connected(&self) -> Connected {
        let connected = self.stream.connected().proxy(self.forwards);
        connected.extra(self.hangup.clone())
    }
}

impl Read for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let io = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.hangup.check(io, cx)
    }
}

impl Write for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let io = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.hangup.check(io, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let io = Pin::new(&mut self.stream).poll_flush(cx);
        self.hangup.check(io, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let io = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.hangup.check(io, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let io = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.hangup.check(io, cx)
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn routes_survive_the_authority() {
        let addresses: Vec<SocketAddr> =
            ["93.184.216.34:443", "[2606:4700::1111]:8443", "0.0.0.1:1"]
                .iter()
                .map(|text| text.parse().expect(text))
                .collect();
        for host in [
            "example.com",
            "example.com:444",
            "[::1]",
            "[::1]:80",
            "10.0.0.1",
        ] {
            for route in [
                Route::Direct(addresses.clone()),
                Route::TunnelTo(addresses[1]),
                Route::Tunnel,
                Route::Forward,
            ] {
                let uri: Uri = format!("https://{}{host}/path?q=@", route.user())
                    .parse()
                    .expect("uri");
                assert_eq!(Route::of(&uri), Some(route));
                assert!(host.starts_with(uri.host().expect("host")));
            }
        }
        for user in ["x", "tunnelx", "tunnel.", "5db8d822"] {
            let uri = format!("https://{user}@example.com/").parse().expect("uri");
            assert_eq!(Route::of(&uri), None, "{user}");
        }
    }
}
