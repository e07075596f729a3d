//! Opens connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::address::{RedisAddress, RedisPlace};
use super::command::{Command, Naming};
use super::failure::{ConnectError, Failure};
use super::link::{ByteStream, Link};
use super::reply::ReplyReader;
use super::{HostAddresses, RedisOptions};
use crate::error::Error;

/// Time for a connection, without TLS. While Redis is away, each attempt takes so long at most.
const CONNECT: Duration = Duration::from_millis(200);

/// Time for a connection with TLS, whose handshake takes round trips of its own.
const CONNECT_TLS: Duration = Duration::from_millis(750);

/// Opens connections to a Redis.
pub(super) struct Connector {
    address: RedisAddress,
    tls: Option<TlsConnector>,
    names: Option<Arc<dyn HostAddresses>>,
}

impl Connector {
    pub(super) fn new(url: &str, options: RedisOptions) -> Result<Self, Error> {
        let address = RedisAddress::parse(url)?;
        let tls = match address.is_tls() {
            true => Some(tls(options.roots.as_deref())?),
            false => None,
        };
        Ok(Self {
            address,
            tls,
            names: options.names,
        })
    }

    /// Opens a connection that is ready for commands.
    pub(super) async fn open(&self) -> Result<Link, ConnectError> {
        let limit = match &self.tls {
            Some(_) => CONNECT_TLS,
            None => CONNECT,
        };
        let opened = timeout(limit, async {
            let stream = self
                .stream(limit)
                .await
                .map_err(|error| ConnectError::Stream(Arc::new(error)))?;
            let link = Link::open(stream);
            self.greet(&link)
                .await
                .map_err(|failure| ConnectError::Greeting(Arc::new(failure)))?;
            Ok(link)
        });
        opened.await.unwrap_or(Err(ConnectError::TimedOut))
    }

    async fn stream(&self, limit: Duration) -> io::Result<Box<dyn ByteStream>> {
        let (host, port) = match &self.address.place {
            RedisPlace::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
            RedisPlace::Tcp { host, port, .. } => (host, *port),
        };
        let tcp = self.tcp(host, port, limit).await?;
        // Commands that wait for each other are sent at once.
        tcp.set_nodelay(true)?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(tcp));
        };
        let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
        Ok(Box::new(tls.connect(name, tcp).await?))
    }

    /// Connects to the first address that answers.
    async fn tcp(&self, host: &str, port: u16, limit: Duration) -> io::Result<TcpStream> {
        let addresses: Vec<SocketAddr> = match (host.parse::<IpAddr>(), &self.names) {
            (Ok(address), _) => vec![SocketAddr::new(address, port)],
            (Err(_), Some(names)) => {
                let found = names.addresses(host).await?.into_iter();
                found
                    .map(|address| SocketAddr::new(address, port))
                    .collect()
            }
            (Err(_), None) => lookup_host((host, port)).await?.collect(),
        };
        let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in addresses {
            // One that does not answer leaves time for the others.
            match timeout(limit / count, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failed = error,
                Err(_) => failed = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(failed)
    }

    /// Says who asks, and for which database.
    async fn greet(&self, link: &Link) -> Result<(), Failure> {
        let RedisAddress {
            user,
            password,
            database,
            ..
        } = &self.address;
        if let Some(password) = password {
            let mut command = Command::new("AUTH");
            if let Some(user) = user {
                command.arg(user);
            }
            command.arg(password);
            accepted(&link.send(&command, Naming::Hash).await?)?;
        }
        if *database > 0 {
            let mut command = Command::new("SELECT");
            command.number(u64::from(*database));
            return accepted(&link.send(&command, Naming::Hash).await?);
        }
        // One command at least: a Redis that refuses connections says why.
        let ping = Command::new("PING");
        let answered = accepted(&link.send(&ping, Naming::Hash).await?);
        answered.or_else(|failure| match failure.is_forbidden() {
            true => Ok(()),
            false => Err(failure),
        })
    }
}

fn accepted(reply: &[u8]) -> Result<(), Failure> {
    ReplyReader::new(reply).skip()
}

/// TLS that trusts the certificates of `pem`, or public ones.
fn tls(pem: Option<&[u8]>) -> Result<TlsConnector, Error> {
    let mut roots = RootCertStore::empty();
    match pem {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(Error::backend)?;
                roots.add(certificate).map_err(Error::backend)?;
            }
        }
    }
    // That of the process may be another one.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::backend)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn open(port: u16) -> ConnectError {
        let url = format!("redis://127.0.0.1:{port}");
        let connector = Connector::new(&url, RedisOptions::default()).unwrap();
        connector.open().await.err().unwrap()
    }

    #[tokio::test]
    async fn reports_why_no_connection_was_opened() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            let _ = client.read(&mut [0; 64]).await;
            let _ = client
                .write_all(b"-NOAUTH a password is required\r\n")
                .await;
            // The reply is read before the connection closes.
            let _ = client.read(&mut [0; 64]).await;
        });
        let rejected = open(port).await;
        assert!(
            matches!(&rejected, ConnectError::Greeting(cause) if cause.code() == Some("NOAUTH")),
            "{rejected:?}"
        );
        server.await.unwrap();
        // Nobody listens any more.
        let refused = open(port).await;
        assert!(
            matches!(&refused, ConnectError::Stream(error)
                if error.kind() == io::ErrorKind::ConnectionRefused),
            "{refused:?}"
        );
    }
}
