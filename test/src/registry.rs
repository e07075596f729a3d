//! A registry of images on loopback: the part of the OCI distribution specification that pulling
//! takes.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use wws_image::Blob;

use crate::image::Image;

/// The longest wait for a client's next line.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The first byte of a connection by TLS.
const TLS_HANDSHAKE: u8 = 0x16;

/// The most lines of a request's head.
const MAX_LINES: usize = 100;

/// A running registry. It stops when dropped.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    shared: Arc<RegistryState>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct RegistryState {
    stop: AtomicBool,
    /// Media type and content of each digest.
    blobs: Mutex<HashMap<String, (&'static str, Vec<u8>)>>,
    /// The digest that the name of an image stands for.
    names: Mutex<HashMap<String, String>>,
    requests: Mutex<Vec<String>>,
}

impl Registry {
    /// Starts one on a free port of 127.0.0.1, without images.
    ///
    /// # Errors
    /// There is no free port.
    pub fn start() -> Result<Self> {
        Self::start_on((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// The same, on an address.
    ///
    /// # Errors
    /// It is taken.
    pub fn start_on(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(RegistryState::default());
        let accepting = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || accept(&listener, &shared))
        };
        Ok(Self {
            address,
            shared,
            accepting: Some(accepting),
        })
    }

    /// Adds an image. The answer is the name to pull it by.
    ///
    /// # Errors
    /// It cannot be packed.
    pub fn push(&self, name: &str, image: Image) -> Result<String> {
        self.push_blobs(name, image.into_blobs()?)
    }

    /// Adds an image by its parts. The answer is the name to pull it by.
    ///
    /// # Errors
    /// It has none.
    pub fn push_blobs(&self, name: &str, blobs: Vec<Blob>) -> Result<String> {
        let top = blobs
            .last()
            .context("an image without parts")?
            .digest()
            .to_owned();
        let mut all = lock(&self.shared.blobs);
        for blob in blobs {
            all.insert(blob.digest().to_owned(), (blob.media_type, blob.bytes()?));
        }
        lock(&self.shared.names).insert(name.to_owned(), top);
        Ok(format!("{}/{name}:latest", self.address))
    }

    /// Adds what is no image, by its parts with their media types; the last one is the manifest.
    /// The answer is the name to pull it by.
    #[must_use]
    pub fn push_parts(&self, name: &str, parts: Vec<(&'static str, Vec<u8>)>) -> String {
        let mut top = String::new();
        for (media_type, bytes) in parts {
            top = digest(&bytes);
            lock(&self.shared.blobs).insert(top.clone(), (media_type, bytes));
        }
        lock(&self.shared.names).insert(name.to_owned(), top);
        format!("{}/{name}:latest", self.address)
    }

    /// The requests so far, as `GET /v2/...`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        lock(&self.shared.requests).clone()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
    }
}

/// The name of a blob.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let hex = Sha256::digest(bytes);
    let hex = hex.iter().map(|byte| format!("{byte:02x}"));
    format!("sha256:{}", hex.collect::<String>())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<RegistryState>) {
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            if let Err(error) = serve(&stream, &shared) {
                eprintln!("registry: {error:#}");
            }
        });
    }
}

/// Answers one request, and closes the connection.
fn serve(stream: &TcpStream, shared: &RegistryState) -> Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut first = [0];
    if stream.peek(&mut first)? > 0 && first == [TLS_HANDSHAKE] {
        return reject_tls(stream);
    }
    let mut lines = BufReader::new(stream).lines();
    let Some(first) = lines.next().transpose()? else {
        return Ok(());
    };
    for line in lines.by_ref().take(MAX_LINES) {
        if line?.is_empty() {
            break;
        }
    }
    let mut words = first.split(' ');
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    lock(&shared.requests).push(format!("{method} {path}"));
    let (status, kind, body) = find(shared, path);
    let mut head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\ncontent-type: {kind}\r\nconnection: close\r\n",
        body.len()
    );
    if let Some(digest) = digest_of(shared, path) {
        head += &format!("docker-content-digest: {digest}\r\n");
    }
    let mut stream = stream;
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if method == "GET" {
        stream.write_all(&body)?;
    }
    Ok(())
}

/// Answers a client that tries TLS first, as containerd does on loopback: the answer tells it to
/// try without.
fn reject_tls(mut stream: &TcpStream) -> Result<()> {
    let mut hello = [0; 4096];
    let _ = stream.read(&mut hello)?;
    stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    // Closed with bytes unread, the answer would be lost.
    while stream.read(&mut hello).is_ok_and(|count| count > 0) {}
    Ok(())
}

/// What a path of a manifest or blob stands for.
fn digest_of(shared: &RegistryState, path: &str) -> Option<String> {
    let path = path.split('?').next().unwrap_or_default();
    let mut parts = path.strip_prefix("/v2/")?.rsplitn(3, '/');
    let (reference, _, name) = (parts.next()?, parts.next()?, parts.next()?);
    if reference.starts_with("sha256:") {
        return Some(reference.to_owned());
    }
    lock(&shared.names).get(name).cloned()
}

fn find(shared: &RegistryState, path: &str) -> (&'static str, &'static str, Vec<u8>) {
    const JSON: &str = "application/json";
    if path == "/v2/" {
        return ("200 OK", JSON, b"{}".to_vec());
    }
    let blob = digest_of(shared, path).and_then(|digest| lock(&shared.blobs).get(&digest).cloned());
    match blob {
        Some((kind, bytes)) => ("200 OK", kind, bytes),
        None => ("404 Not Found", JSON, b"{\"errors\":[]}".to_vec()),
    }
}
