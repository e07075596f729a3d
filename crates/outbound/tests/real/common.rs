//! Real servers on loopback: HTTP, HTTPS, DNS.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hickory_resolver::proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{RData, Record, RecordType, rdata},
};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UdpSocket},
};
use tokio_rustls::TlsAcceptor;
use wws_outbound::{Client, ClientOptions, Dns, Error, Overrides, Policy, PolicyLimits};

pub type Body = BoxBody<Bytes, std::io::Error>;

/// What a server was asked.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    pub method: Method,
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An HTTP server that counts and keeps.
pub struct Server {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<SeenRequest>>>,
}

impl Server {
    pub async fn http(
        answer: impl Fn(&SeenRequest) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        Self::start("127.0.0.1:0", None, answer).await
    }

    pub async fn start(
        at: &str,
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&SeenRequest) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(at).await.expect("bind");
        let server = Self {
            address: listener.local_addr().expect("address"),
            connections: Arc::default(),
            seen: Arc::default(),
        };
        let (connections, seen) = (server.connections.clone(), server.seen.clone());
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                let (seen, answer, tls) = (seen.clone(), answer.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, seen, answer).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, seen, answer).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn seen(&self) -> Vec<SeenRequest> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve<S>(
    stream: S,
    seen: Arc<Mutex<Vec<SeenRequest>>>,
    answer: Arc<impl Fn(&SeenRequest) -> Response<Body> + Send + Sync + 'static>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (seen, answer) = (seen.clone(), answer.clone());
        async move {
            let (parts, body) = request.into_parts();
            let asked = SeenRequest {
                method: parts.method,
                target: parts.uri.to_string(),
                headers: parts.headers,
                body: body.collect().await?.to_bytes(),
            };
            let response = answer(&asked);
            seen.lock().unwrap().push(asked);
            Ok::<_, hyper::Error>(response)
        }
    });
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

pub fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into())
        .map_err(|never| match never {})
        .boxed()
}

pub fn ok(body: &'static str) -> Response<Body> {
    Response::new(full(body))
}

pub fn redirect(status: u16, to: &str) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("location", to)
        .body(full("moved"))
        .expect("response")
}

/// A DNS server that is told its answers, and counts its questions by name.
#[derive(Clone, Default)]
pub struct Names {
    answers: Arc<Mutex<BTreeMap<String, Vec<IpAddr>>>>,
    asked: Arc<Mutex<Vec<String>>>,
    silent: Arc<Mutex<Vec<String>>>,
}

impl Names {
    pub async fn start(ttl: u32) -> (Self, Dns) {
        let names = Self::default();
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
        let dns = Dns::Servers(vec![socket.local_addr().expect("address")]);
        let served = names.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 2048];
            while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
                if let Some(answer) = served.answer(&buffer[..len], ttl) {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        (names, dns)
    }

    pub fn set(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses
            .iter()
            .map(|text| text.parse().expect("ip"))
            .collect();
        self.answers
            .lock()
            .unwrap()
            .insert(name.to_owned(), addresses);
    }

    /// Never answers a question such as `a.example AAAA`.
    pub fn silent(&self, question: &str) {
        self.silent.lock().unwrap().push(question.to_owned());
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn answer(&self, question: &[u8], ttl: u32) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).ok()?;
        let query = question.queries.first()?.clone();
        let name = query.name().to_ascii();
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.metadata.recursion_desired = true;
        answer.metadata.recursion_available = true;
        answer.add_query(query.clone());
        let asked = format!("{name} {}", query.query_type());
        self.asked.lock().unwrap().push(asked.clone());
        if self.silent.lock().unwrap().contains(&asked) {
            return None;
        }
        match self.answers.lock().unwrap().get(&name) {
            None => {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
            Some(addresses) => {
                for address in addresses {
                    let data = match (address, query.query_type()) {
                        (IpAddr::V4(ip), RecordType::A) => RData::A(rdata::A(*ip)),
                        (IpAddr::V6(ip), RecordType::AAAA) => RData::AAAA(rdata::AAAA(*ip)),
                        _ => continue,
                    };
                    answer.add_answer(Record::from_rdata(query.name().clone(), ttl, data));
                }
            }
        }
        answer.to_vec().ok()
    }
}

/// An authority, and servers' certificates from it.
pub struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pub pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let key = rcgen::KeyPair::generate().expect("key");
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        // Two authorities of one name would be one with a wrong signature.
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("Authority {}", NUMBER.fetch_add(1, Ordering::Relaxed));
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let pem = params.self_signed(&key).expect("authority").pem();
        Self {
            issuer: rcgen::Issuer::new(params, key),
            pem,
        }
    }

    pub fn acceptor(&self, name: &str) -> TlsAcceptor {
        let key = rcgen::KeyPair::generate().expect("key");
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("params");
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("certificate");
        TlsAcceptor::from(Arc::new(config))
    }

    /// A directory as `/etc/ssl` that has this authority alone.
    pub fn directory(&self) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("directory");
        let certs = directory.path().join("certs");
        std::fs::create_dir(&certs).expect("certs");
        std::fs::write(certs.join("ca-certificates.crt"), &self.pem).expect("bundle");
        directory
    }
}

pub fn limits() -> PolicyLimits {
    PolicyLimits {
        response: 1 << 20,
        timeout: Duration::from_secs(60),
        redirects: 5,
        ..PolicyLimits::default()
    }
}

/// GET and POST, plain http too.
pub fn policy(hosts: &[&str]) -> Policy {
    policy_with(hosts, limits())
}

pub fn policy_with(hosts: &[&str], limits: PolicyLimits) -> Policy {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    Policy::new(&hosts, &[Method::GET, Method::POST], true, limits).expect("policy")
}

/// A client that asks no name server of this machine.
pub fn client(overrides: &str) -> Client {
    client_with(ClientOptions {
        resolve: Overrides::parse(overrides).expect("overrides"),
        ..options()
    })
}

pub fn client_with(options: ClientOptions) -> Client {
    Client::new(options).expect("client")
}

pub fn options() -> ClientOptions {
    ClientOptions {
        dns: Dns::Servers(Vec::new()),
        ..ClientOptions::default()
    }
}

pub async fn get(client: &Client, policy: &Policy, url: &str) -> Result<Response<Bytes>, Error> {
    let request = Request::get(url).body(Bytes::new()).expect("request");
    client.send(policy, request).await
}

/// Waits until something is so; on a busy machine that may take its time.
pub async fn eventually(what: &str, so: impl Fn() -> bool) {
    let wait = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
    assert!(waited.is_ok(), "never: {what}");
}
