//! Bodies are sent and read as they come, in constant memory; an answer that nobody wants ends its
//! connection.

mod codings;
mod ends;
mod flow;
mod timeouts;

use std::{
    convert::Infallible,
    io::Write,
    net::SocketAddr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures_util::{FutureExt, Stream, StreamExt, stream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};
use wws_outbound::{
    AnsweredBy, Client, ClientOptions, Decode, Error, ErrorKind, KeepRedirects, MemoryCharge,
    Policy, PolicyLimits, Reason, ResponseBody, Timeouts,
};

use crate::common::{
    Body, Server, client, client_with, eventually, full, limits, ok, options, policy, policy_with,
    redirect,
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A server whose answers may read the request's body as it comes; and the connections that it has
/// open.
async fn server<F>(answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static) -> Peer
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (open, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(answer));
    let opened = Arc::new(AtomicUsize::new(0));
    let peer = Peer {
        address,
        open: open.clone(),
        opened: opened.clone(),
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            open.fetch_add(1, Ordering::Relaxed);
            opened.fetch_add(1, Ordering::Relaxed);
            let (open, answer) = (open.clone(), answer.clone());
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let connection = http1::Builder::new();
                let _ = connection
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    peer
}

struct Peer {
    address: SocketAddr,
    open: Arc<AtomicUsize>,
    opened: Arc<AtomicUsize>,
}

impl Peer {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

fn frames(
    frames: impl Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send + Sync + 'static,
) -> Body {
    BodyExt::boxed(StreamBody::new(frames))
}

/// So many bytes, in pieces that are made when they are wanted.
fn bytes(count: u64) -> impl Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send + Sync {
    const PIECE: u64 = 100 << 10;
    stream::unfold(count, |left| async move {
        let size = left.min(PIECE);
        // A new allocation each time, as a guest would make.
        let piece = Bytes::from(vec![b'x'; usize::try_from(size).unwrap()]);
        (size > 0).then(|| (Ok(Frame::data(piece)), left - size))
    })
}

fn echo(request: Request<Incoming>) -> Response<Body> {
    Response::new(request.into_body().map_err(std::io::Error::other).boxed())
}

async fn send<B>(
    client: &Client,
    policy: &Policy,
    request: Request<B>,
) -> Result<Response<ResponseBody>, Error>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    client.stream(policy, request, None).await
}

async fn get(client: &Client, policy: &Policy, url: &str) -> Result<Response<ResponseBody>, Error> {
    let request = Request::get(url).body(Empty::<Bytes>::new()).unwrap();
    send(client, policy, request).await
}

type Piece = Result<Frame<Bytes>, std::io::Error>;

/// A body that is sent piece by piece by the test.
fn channel() -> (
    mpsc::Sender<Piece>,
    StreamBody<impl Stream<Item = Piece> + Send>,
) {
    let (sender, receiver) = mpsc::channel(1);
    let frames = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|frame| (frame, receiver))
    });
    (sender, StreamBody::new(frames))
}

fn piece(text: &'static str) -> Result<Frame<Bytes>, std::io::Error> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

/// The number of a body's bytes.
async fn count(mut body: ResponseBody) -> Result<u64, Error> {
    let mut count = 0;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            assert!(data.iter().all(|byte| *byte == b'x'));
            count += data.len() as u64;
        }
    }
    Ok(count)
}

/// Memory of a call: so many bytes at most, what is charged, and the most that was.
#[derive(Clone)]
struct Account(u64, Arc<AtomicU64>, Arc<AtomicU64>);

impl Account {
    fn new(bytes: u64) -> Self {
        Self(bytes, Arc::default(), Arc::default())
    }

    fn charged(&self) -> u64 {
        self.1.load(Ordering::Relaxed)
    }
}

impl MemoryCharge for Account {
    fn grow_to(&mut self, bytes: u64) -> bool {
        let fits = bytes <= self.0;
        if fits {
            self.1.store(bytes, Ordering::Relaxed);
            self.2.fetch_max(bytes, Ordering::Relaxed);
        }
        fits
    }

    fn shrink_to(&mut self, bytes: u64) {
        self.1.fetch_min(bytes, Ordering::Relaxed);
    }
}

fn short() -> PolicyLimits {
    PolicyLimits {
        timeout: Duration::from_millis(300),
        ..limits()
    }
}

/// A stream that is `Sync`, as the server's bodies are.
fn pieces_sync(
    pieces: impl Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send + 'static,
) -> impl Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send + Sync {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut pieces = std::pin::pin!(pieces);
        while let Some(piece) = pieces.next().await {
            if sender.send(piece).await.is_err() {
                break;
            }
        }
    });
    stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|frame| (frame, receiver))
    })
}
