//! Connections to exactly the addresses that were checked.
//!
//! The pool of the HTTP client knows a connection by scheme and authority alone. Were that the host's name, a worker whose
//! policy lets `db.internal` resolve to 10.0.0.5 would leave a connection there that another worker, which may only reach
//! public addresses, is handed for the same name. So the addresses that were checked for a request are part of the authority
//! ([`pin`]): a connection is only ever shared among requests whose policies admitted the very same addresses for the same
//! host, and a name that moved gets a new connection.

use std::{
    future::{self, Future, Ready},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
    vec,
};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector, dns::Name},
    rt::TokioIo,
};
use tokio::net::TcpStream;
use tower_service::Service;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Addresses as the user part of an authority: hexadecimal, `-` before the port, `.` between them.
pub(crate) fn pin(addresses: &[SocketAddr]) -> String {
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

/// The addresses of an authority that [`pin`] made.
fn pinned(uri: &Uri) -> Option<Vec<SocketAddr>> {
    let (user, _) = uri.authority()?.as_str().rsplit_once('@')?;
    user.split('.')
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
    https: HttpsConnector<Pinned>,
    timeout: Duration,
}

impl Connector {
    pub(crate) fn new(tls: rustls::ClientConfig, timeout: Duration, count: Arc<Count>) -> Self {
        let pinned = Pinned { timeout, count };
        Self {
            https: hyper_rustls::HttpsConnectorBuilder::new()
                .with_tls_config(tls)
                .https_or_http()
                .enable_http1()
                .wrap_connector(pinned),
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

/// TCP to the addresses in the authority; the host beside them is for TLS alone.
#[derive(Clone)]
struct Pinned {
    timeout: Duration,
    count: Arc<Count>,
}

impl Service<Uri> for Pinned {
    type Response = Counted;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Counted, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Some(addresses) = pinned(&uri) else {
            return Box::pin(future::ready(Err("no checked address".into())));
        };
        // Tries one after the other, and IPv6 beside a slow IPv4.
        let mut tcp = HttpConnector::new_with_resolver(Checked(addresses));
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(self.timeout));
        let count = self.count.clone();
        // Without a port, the connector leaves the addresses' own ports as they are.
        let connecting = tcp.call(Uri::from_static("http://checked.invalid/"));
        Box::pin(async move {
            let stream = connecting.await?;
            count.opened.fetch_add(1, Ordering::Relaxed);
            count.open.fetch_add(1, Ordering::Relaxed);
            Ok(Counted { stream, count })
        })
    }
}

/// Answers every name with the addresses that were checked.
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
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection for Counted {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

impl Read for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Write for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_authority() {
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
            let uri: Uri = format!("https://{}@{host}/path?q=@", pin(&addresses))
                .parse()
                .expect("uri");
            assert_eq!(pinned(&uri).as_deref(), Some(addresses.as_slice()));
            assert!(host.starts_with(uri.host().expect("host")));
        }
        assert_eq!(pinned(&Uri::from_static("https://example.com/")), None);
        assert_eq!(pinned(&Uri::from_static("https://x@example.com/")), None);
    }
}
