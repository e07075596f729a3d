//! A stand-in for the outside service of the example workers:
//! `https://random-data-api.com/api/v2/users`, on loopback.
//!
//! Its certificate is signed by an authority made for the occasion. A container that is to trust it
//! gets that authority's certificate as `/etc/ssl/certs/ca-certificates.crt`, and a resolver
//! override for the host name.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use rustix::net::{Shutdown, shutdown};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::wait::patience;

/// The host that the stand-in stands in for.
pub const HOST: &str = "random-data-api.com";

/// The path that answers a user.
pub const PATH: &str = "/api/v2/users";

/// The user that it answers. The last two fields are there for the worker to leave out.
pub const USER: &str = concat!(
    r#"{"first_name":"Cherly","last_name":"Medhurst","username":"cherly.medhurst","#,
    r#""email":"cherly.medhurst@email.com","password":"secret","id":7}"#
);

/// The longest request head that is read, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// The longest wait for a client's next byte.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A running server. It stops when dropped.
#[derive(Debug)]
pub struct StandIn {
    address: SocketAddr,
    listener: TcpListener,
    authority: String,
    shared: Arc<StandInState>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct StandInState {
    stop: AtomicBool,
    answered: AtomicUsize,
    requests: Mutex<Vec<String>>,
}

impl StandIn {
    /// Starts a server on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// The certificates cannot be made, or there is no free port.
    pub fn start() -> Result<Self> {
        Self::start_on(Ipv4Addr::LOCALHOST)
    }

    /// Starts a server on a free port of `host`.
    ///
    /// # Errors
    /// The certificates cannot be made, or there is no free port.
    pub fn start_on(host: Ipv4Addr) -> Result<Self> {
        let (authority, config) = certificates()?;
        let listener = TcpListener::bind((host, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(StandInState::default());
        let accepting = {
            let (listener, shared) = (listener.try_clone()?, Arc::clone(&shared));
            thread::spawn(move || accept(&listener, &config, &shared))
        };
        Ok(Self {
            address,
            listener,
            authority,
            shared,
            accepting: Some(accepting),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate of the authority to trust, as PEM.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The value of `WWS_RESOLVE` that leads calls for [`HOST`] here.
    #[must_use]
    pub fn resolve(&self) -> String {
        format!("{HOST}:443={}", self.address)
    }

    /// How many requests were answered.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// The heads of the requests so far, in order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.shared
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // The accept call returns, whatever has become of the network.
        let _ = shutdown(&self.listener, Shutdown::Both);
        if let Some(thread) = self.accepting.take() {
            drop(thread.join());
        }
    }
}

fn certificates() -> Result<(String, Arc<ServerConfig>)> {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "stand-in authority of a test");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new([HOST.to_owned()])?.signed_by(&key, &authority)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    Ok((authority.pem(), Arc::new(config)))
}

fn accept(listener: &TcpListener, config: &Arc<ServerConfig>, shared: &Arc<StandInState>) {
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let (config, shared) = (Arc::clone(config), Arc::clone(shared));
        thread::spawn(move || {
            // A client that breaks off is not this server's trouble: what the client sees is what
            // tests look at.
            drop(serve(stream, config, &shared));
        });
    }
}

/// Answers the requests of one connection.
fn serve(stream: TcpStream, config: Arc<ServerConfig>, shared: &StandInState) -> Result<()> {
    stream.set_read_timeout(Some(patience(TIMEOUT)))?;
    stream.set_write_timeout(Some(patience(TIMEOUT)))?;
    stream.set_nodelay(true)?;
    let mut tls = StreamOwned::new(ServerConnection::new(config)?, stream);
    while let Some(head) = read_head(&mut tls)? {
        let (status, body) = if head.starts_with(&format!("GET {PATH} ")) {
            ("200 OK", USER)
        } else {
            ("404 Not Found", "{}")
        };
        shared
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(head);
        // Before whoever gets the answer can look.
        shared.answered.fetch_add(1, Ordering::Relaxed);
        write!(
            tls,
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n\
             {body}",
            body.len()
        )?;
        tls.flush()?;
    }
    Ok(())
}

/// Reads up to the empty line that ends a request's head. `None` is a client that has no further
/// request.
fn read_head(stream: &mut impl Read) -> Result<Option<String>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(0) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Ok(_) if head.len() < MAX_HEAD => head.push(byte[0]),
            Ok(_) => bail!("a request head of more than {MAX_HEAD} bytes"),
            Err(error) => return Err(error).context("read a request head"),
        }
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}
