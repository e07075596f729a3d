//! Connections over real sockets, with responses that are made while they are sent.
#![allow(clippy::unwrap_used, clippy::panic)]

mod attacks;
mod http1;
mod http2_client;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use wws_engine::Account;

use super::activity::Activity;
use super::body::Body;
use super::bounds::{Bounds, ConnectionSettings};
use super::driver;
use super::frames::PREFACE;
use super::http2::{self, Handle};
use super::incoming::IncomingBody;
use super::listen;

const MIB: u64 = 1 << 20;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a client may take for a head, nothing, and a part of a response.
const TIME: Duration = Duration::from_secs(1);

/// A server of connections.
struct TestServer {
    address: SocketAddr,
    memory: Account,
    draining: CancellationToken,
    responses: TestResponses,
    task: JoinHandle<()>,
}

/// Answers by path.
#[derive(Clone)]
struct TestResponses {
    /// Responses that are being made.
    alive: Arc<AtomicU32>,
    /// One for each piece of `/steps` that may be made.
    steps: Arc<Semaphore>,
}

struct Alive(Arc<AtomicU32>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn piece(text: &'static str) -> io::Result<Frame<Bytes>> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

impl Handle for TestResponses {
    async fn handle(
        &self,
        activity: Arc<Activity>,
        request: Request<IncomingBody>,
    ) -> Response<Body> {
        self.alive.fetch_add(1, Relaxed);
        let alive = Alive(self.alive.clone());
        let is_old = request.version() == http::Version::HTTP_10;
        let begun = activity.begin_request();
        let (head, body) = request.into_parts();
        let pieces = match head.uri.path() {
            "/clock" => stream::iter(0..4)
                .then(|_| async {
                    sleep(Duration::from_millis(150)).await;
                    piece("tick\n")
                })
                .boxed(),
            "/late" => stream::once(async { piece("first\n") })
                .chain(stream::once(async {
                    sleep(TIME * 3 / 2).await;
                    piece("late\n")
                }))
                .boxed(),
            "/stuck" => stream::once(async { piece("first\n") })
                .chain(stream::pending())
                .boxed(),
            "/steps" => stream::iter(0..4)
                .then({
                    let steps = self.steps.clone();
                    move |_| {
                        let steps = steps.clone();
                        async move {
                            steps.acquire().await.unwrap().forget();
                            piece("tick\n")
                        }
                    }
                })
                .boxed(),
            "/fails" => stream::iter([piece("ab"), Err(io::Error::other("it fails"))])
                .then(|frame| async {
                    sleep(Duration::from_millis(50)).await;
                    frame
                })
                .boxed(),
            "/large" | "/l" => stream::iter(0..1024)
                .map(|_| Ok(Frame::data(Bytes::from(vec![7; 64 << 10]))))
                .boxed(),
            "/trailers" => {
                let mut trailers = HeaderMap::new();
                trailers.insert("x-sum", HeaderValue::from_static("3"));
                stream::iter([piece("abc"), Ok(Frame::trailers(trailers))]).boxed()
            }
            "/never" | "/n" => std::future::pending().await,
            "/echo" => http_body_util::BodyStream::new(body)
                .map(|frame| frame.map_err(io::Error::other))
                .boxed(),
            _ => {
                let body = Body::from(Bytes::from_static(b"hello"));
                return Response::new(body.until_sent(begun.in_progress, &Account::new(MIB)));
            }
        };
        let pieces = pieces.map(move |frame| {
            let _alive = &alive;
            frame
        });
        if is_old {
            activity.sending.set_until_close(true);
        }
        let body = Body::pieces(Box::pin(StreamBody::new(pieces)));
        let body = body.until_sent(begun.in_progress, &Account::new(64 * MIB));
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(header::TRAILER, HeaderValue::from_static("x-sum"));
        headers.insert("keep-alive", HeaderValue::from_static("timeout=5"));
        response
    }
}

impl TestServer {
    async fn start(memory: u64) -> Self {
        Self::with_bounds(memory, |bounds| {
            (bounds.header, bounds.idle, bounds.write) = (TIME, TIME, TIME);
        })
        .await
    }

    async fn with_bounds(memory: u64, change: impl FnOnce(&mut Bounds)) -> Self {
        let memory = Account::new(memory);
        let project = wws_project::ServerSettings::default();
        let mut bounds = listen::bounds(&project, &memory);
        change(&mut bounds);
        let draining = CancellationToken::new();
        let settings = Arc::new(ConnectionSettings {
            http1: listen::builder(&project),
            http2: http2::builder(project.max_header_bytes, project.max_streams),
            bounds,
            draining: draining.clone(),
        });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let responses = TestResponses {
            alive: Arc::default(),
            steps: Arc::new(Semaphore::new(0)),
        };
        let task = tokio::spawn({
            let responses = responses.clone();
            async move {
                let mut connections = tokio::task::JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let (settings, responses) = (settings.clone(), responses.clone());
                    connections.spawn(async move {
                        driver::serve(stream, responses, Activity::new(), &settings).await;
                    });
                }
            }
        });
        Self {
            address,
            memory,
            draining,
            responses,
            task,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Waits until a response is being made.
    async fn begins(&self) {
        let begun = async {
            while self.responses.alive.load(Relaxed) == 0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, begun).await.unwrap();
    }

    /// Waits until no response is being made, and all memory is free.
    async fn settles(&self) {
        let settled = async {
            while self.responses.alive.load(Relaxed) > 0 || self.memory.free() < self.memory.total()
            {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let settled = timeout(PATIENCE, settled).await;
        assert!(
            settled.is_ok(),
            "{} are alive, {} bytes are held",
            self.responses.alive.load(Relaxed),
            self.memory.total() - self.memory.free()
        );
    }

    /// All that comes for a request of HTTP/1.
    async fn exchange(&self, request: &str) -> (String, io::Result<()>) {
        let mut client = self.connect().await;
        client.write_all(request.as_bytes()).await.unwrap();
        read_all(&mut client).await
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn patient<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap()
}

async fn read_all(client: &mut TcpStream) -> (String, io::Result<()>) {
    let mut all = Vec::new();
    let end = timeout(PATIENCE, client.read_to_end(&mut all))
        .await
        .unwrap();
    (String::from_utf8_lossy(&all).into_owned(), end.map(drop))
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
}
