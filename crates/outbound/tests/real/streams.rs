//! Bodies are sent and read as they come, in constant memory; an answer that nobody wants ends its
//! connection.

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

use crate::common::{
    Body, Server, client, client_with, eventually, full, limits, ok, options, policy, policy_with,
    redirect,
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

#[tokio::test]
async fn a_gibibyte_each_way_needs_a_few_buffers() {
    let peer = server(|request| async move {
        match request.uri().path() {
            "/down" => Response::new(frames(bytes(GIB))),
            "/up" => {
                let mut body = request.into_body();
                let mut count = 0;
                while let Some(Ok(frame)) = body.frame().await {
                    count += frame.data_ref().map_or(0, Bytes::len);
                }
                Response::new(full(count.to_string()))
            }
            _ => echo(request),
        }
    })
    .await;
    let client = client_with(ClientOptions {
        memory: MIB,
        ..options()
    });
    let policy = policy(&["127.0.0.1"]);
    for path in ["/down", "/up", "/echo"] {
        let account = Account::new(MIB);
        let sent = match path {
            "/down" => 0,
            _ => GIB,
        };
        let request = Request::post(peer.url(path))
            .body(StreamBody::new(bytes(sent)))
            .unwrap();
        let answer = client
            .stream(&policy, request, Some(Box::new(account.clone())))
            .await
            .expect(path);
        if path == "/up" {
            let count = answer.into_body().collect().await.expect(path).to_bytes();
            assert_eq!(count, GIB.to_string());
        } else {
            assert_eq!(count(answer.into_body()).await.expect(path), GIB);
        }
        let most = account.2.load(Ordering::Relaxed);
        assert!(most > 0 && most < 700 << 10, "{path}: {most}");
        assert_eq!(account.charged(), 0, "{path}");
    }
    // All three used one connection.
    assert_eq!(peer.opened.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn pieces_go_both_ways_as_they_come() {
    let peer = server(|request| async move { echo(request) }).await;
    let (client, policy) = (client(""), policy(&["127.0.0.1"]));
    let (sender, body) = channel();
    let request = Request::post(peer.url("/")).body(body).unwrap();
    sender.send(piece("one")).await.unwrap();
    let answer = send(&client, &policy, request).await.expect("the head");
    let mut body = answer.into_body();
    for text in ["one", "two", "three"] {
        if text != "one" {
            sender.send(piece(text)).await.unwrap();
        }
        let frame = body.frame().await.expect("a frame").expect("data");
        assert_eq!(frame.into_data().unwrap(), text);
    }
    drop(sender);
    assert!(body.frame().await.is_none());
    assert_eq!(client.connections().open, 1, "it is kept");
    let answer = get(&client, &policy, &peer.url("/")).await.expect("again");
    assert_eq!(count(answer.into_body()).await, Ok(0));
    assert_eq!(client.connections().opened, 1);
}

#[tokio::test]
async fn nothing_is_read_ahead_of_a_slow_reader() {
    let made = Arc::new(AtomicU64::new(0));
    let counted = made.clone();
    let peer = server(move |_| {
        let counted = counted.clone();
        let body = bytes(GIB).inspect(move |frame| {
            let len = frame.as_ref().unwrap().data_ref().unwrap().len();
            counted.fetch_add(len as u64, Ordering::Relaxed);
        });
        async move { Response::new(frames(body)) }
    })
    .await;
    let (client, policy) = (client(""), policy(&["127.0.0.1"]));
    let account = Account::new(MIB);
    let request = Request::get(peer.url("/")).body(Empty::new()).unwrap();
    let request: Request<Empty<Bytes>> = request;
    let answer = client
        .stream(&policy, request, Some(Box::new(account.clone())))
        .await
        .expect("head");
    let mut body = answer.into_body();
    let frame = body.frame().await.unwrap().unwrap();
    let held = frame.data_ref().unwrap().len() as u64;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(account.charged(), held, "only what the reader has");
    // Buffers of the system's sockets, and no more.
    let made = made.load(Ordering::Relaxed);
    assert!(made < 16 * MIB, "{made}");
    drop((frame, body));
    assert_eq!(account.charged(), 0);
    eventually("closed", || peer.open() == 0).await;
}

#[tokio::test]
async fn nothing_is_taken_ahead_of_a_slow_peer() {
    let peer = server(|request| async move {
        // Reads nothing, and keeps the request.
        tokio::time::sleep(Duration::from_secs(60)).await;
        echo(request)
    })
    .await;
    let taken = Arc::new(AtomicU64::new(0));
    let counted = taken.clone();
    let body = bytes(GIB).inspect(move |frame| {
        let len = frame.as_ref().unwrap().data_ref().unwrap().len();
        counted.fetch_add(len as u64, Ordering::Relaxed);
    });
    let request = Request::post(peer.url("/"))
        .body(StreamBody::new(body))
        .unwrap();
    let policy = policy_with(&["127.0.0.1"], short());
    let client = client("");
    let start = Instant::now();
    let error = send(&client, &policy, request).await.err().expect("stuck");
    assert_eq!(error.reason, Reason::HeadTimeout, "{error}");
    assert!(start.elapsed() < Duration::from_secs(30));
    let taken = taken.load(Ordering::Relaxed);
    assert!(taken < 16 * MIB, "{taken}");
    // The connection waits to write: it is closed all the same.
    eventually("closed", || client.connections().open == 0).await;
}

fn short() -> PolicyLimits {
    PolicyLimits {
        timeout: Duration::from_millis(300),
        ..limits()
    }
}

#[tokio::test]
async fn each_piece_of_an_upload_has_its_own_timeout() {
    let peer = server(|request| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(full(body))
    })
    .await;
    let slow = |count, pause| {
        let pieces = stream::iter(0..count).then(move |_| async move {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            piece("x")
        });
        Request::post(peer.url("/"))
            .body(StreamBody::new(pieces))
            .unwrap()
    };
    let limits = PolicyLimits {
        timeout: Duration::from_millis(1500),
        ..limits()
    };
    let (client, policy) = (client(""), policy_with(&["127.0.0.1"], limits));
    let answer = send(&client, &policy, slow(10, 300)).await;
    assert_eq!(count(answer.expect("slow").into_body()).await, Ok(10));
    let error = send(&client, &policy, slow(2, 4000)).await.err();
    let error = error.expect("too slow");
    assert_eq!(
        (error.kind, error.reason),
        (ErrorKind::Timeout, Reason::HeadTimeout)
    );
}

#[tokio::test]
async fn silent_response_ends_after_the_idle_timeout() {
    let peer = server(|_| async {
        let pieces = stream::iter(0..4).then(|number| async move {
            let pause = if number == 3 { 60_000 } else { 150 };
            tokio::time::sleep(Duration::from_millis(pause)).await;
            piece("x")
        });
        Response::new(frames(pieces_sync(pieces)))
    })
    .await;
    let client = client("");
    let idle = PolicyLimits {
        idle: Some(Duration::from_millis(1500)),
        ..limits()
    };
    for (limits, timeouts) in [
        (idle, Timeouts::default()),
        (
            limits(),
            Timeouts {
                between_bytes: Some(Duration::from_millis(1500)),
                ..Timeouts::default()
            },
        ),
    ] {
        let mut request = Request::get(peer.url("/"))
            .body(Empty::<Bytes>::new())
            .unwrap();
        request.extensions_mut().insert(timeouts);
        let answer = send(&client, &policy_with(&["127.0.0.1"], limits), request).await;
        let mut body = answer.expect("head").into_body();
        for _ in 0..3 {
            body.frame().await.unwrap().expect("in time");
        }
        let start = Instant::now();
        let error = body.frame().await.unwrap().expect_err("silence");
        assert_eq!(
            (error.kind, error.reason),
            (ErrorKind::Timeout, Reason::IdleTimeout)
        );
        assert!(error.message.contains("sent nothing for 1.5s"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(30));
        assert!(body.frame().await.is_none() && body.is_end_stream());
    }
    eventually("closed", || peer.open() == 0).await;
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

#[tokio::test]
async fn request_has_its_own_timeouts() {
    let peer = server(|_| async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        ok("late")
    })
    .await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let policy = policy(&["127.0.0.1"]);
    let own = Duration::from_millis(200);
    for (url, timeouts, reason) in [
        (
            peer.url("/"),
            Timeouts {
                first_byte: Some(own),
                ..Timeouts::default()
            },
            Reason::HeadTimeout,
        ),
        (
            format!("https://{}/", silent.local_addr().unwrap()),
            Timeouts {
                connect: Some(own),
                ..Timeouts::default()
            },
            Reason::ConnectTimeout,
        ),
    ] {
        let mut request = Request::get(url).body(Empty::<Bytes>::new()).unwrap();
        request.extensions_mut().insert(timeouts);
        let start = Instant::now();
        let error = send(&client(""), &policy, request).await.err().unwrap();
        assert_eq!((error.kind, error.reason), (ErrorKind::Timeout, reason));
        assert!(error.message.contains("200ms"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(30));
    }
    eventually("closed", || peer.open() == 0).await;
}

/// A server that writes these bytes after it was sent a request, and closes.
async fn raw(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer).await;
        }
    });
    url
}

#[tokio::test]
async fn an_answer_that_ends_early_is_an_error() {
    let (client, policy) = (client(""), policy(&["127.0.0.1"]));
    for (answer, reason) in [
        (
            &b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"[..],
            Reason::ConnectionLost,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            Reason::ConnectionLost,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
            Reason::ConnectionLost,
        ),
    ] {
        let answer = get(&client, &policy, &raw(answer).await).await;
        let mut body = answer.expect("head").into_body();
        let frame = body.frame().await.unwrap().expect("the half");
        assert_eq!(frame.into_data().unwrap(), "half");
        let error = body.frame().await.unwrap().expect_err("no end");
        assert_eq!(
            (error.kind, error.reason),
            (ErrorKind::InvalidResponseBody, reason)
        );
        assert!(error.message.contains("broke off"), "{error}");
        assert!(body.frame().await.is_none());
    }
    for (answer, reason) in [
        (&b""[..], Reason::ConnectionLost),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", Reason::Protocol),
    ] {
        let error = get(&client, &policy, &raw(answer).await).await.err();
        let error = error.expect("no answer");
        assert_eq!((error.kind, error.reason), (ErrorKind::Internal, reason));
    }
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", nobody.local_addr().unwrap());
    drop(nobody);
    let error = get(&client, &policy, &url).await.err().expect("nobody");
    assert_eq!(error.reason, Reason::ConnectionRefused);
}

#[tokio::test]
async fn a_body_that_fails_ends_the_request() {
    let peer = server(|request| async move { echo(request) }).await;
    let (client, policy) = (client(""), policy(&["127.0.0.1"]));
    let announced = |length: &str| Request::post(peer.url("/")).header("content-length", length);
    for (request, pieces, reason, part) in [
        (
            Request::post(peer.url("/")),
            vec![piece("x"), Err(std::io::Error::other("the guest gave up"))],
            Reason::RequestBody,
            "the guest gave up",
        ),
        (
            announced("3"),
            vec![piece("x")],
            Reason::RequestBodySize,
            "shorter than its Content-Length",
        ),
        (
            announced("3"),
            vec![piece("x"), piece("xxx")],
            Reason::RequestBodySize,
            "longer than its Content-Length",
        ),
    ] {
        let request = request.body(StreamBody::new(stream::iter(pieces))).unwrap();
        // Before the head or after it: the peer sends that at once.
        let error = match send(&client, &policy, request).await {
            Err(error) => error,
            Ok(answer) => count(answer.into_body()).await.expect_err("half"),
        };
        assert_eq!(
            (error.kind, error.reason),
            (ErrorKind::InvalidRequestBody, reason)
        );
        assert!(error.message.contains(part), "{error}");
    }
    let request = announced("7").body(Full::new(Bytes::from_static(b"x")));
    let error = send(&client, &policy, request.unwrap()).await.err();
    assert_eq!(error.unwrap().reason, Reason::RequestBodySize);
    for length in ["x", "-1", "+1", "", "99999999999999999999999"] {
        let request = announced(length).body(Empty::new()).unwrap();
        let request: Request<Empty<Bytes>> = request;
        let error = send(&client, &policy, request).await.err();
        assert_eq!(error.expect(length).kind, ErrorKind::InvalidRequest);
    }
    eventually("closed", || peer.open() == 0).await;
}

#[tokio::test]
async fn lengths_and_trailers_are_sent() {
    let (seen, mut requests) = mpsc::unbounded_channel();
    let peer = server(move |request| {
        let seen = seen.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap();
            let trailers = body.trailers().cloned();
            seen.send((parts.headers, trailers, body.to_bytes()))
                .unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "7".parse().unwrap());
            trailers.insert("connection", "x".parse().unwrap());
            let body = vec![piece("text"), Ok(Frame::trailers(trailers))];
            Response::builder()
                .header("trailer", "x-sum")
                .body(frames(stream::iter(body)))
                .unwrap()
        }
    })
    .await;
    let (client, policy) = (client(""), policy(&["127.0.0.1"]));
    let mut trailers = HeaderMap::new();
    trailers.insert("x-check", "1".parse().unwrap());
    let body = || {
        let frames = vec![
            piece("ab"),
            piece("cd"),
            Ok(Frame::trailers(trailers.clone())),
        ];
        StreamBody::new(stream::iter(frames))
    };
    let request = Request::post(peer.url("/"))
        .header("trailer", "x-check")
        .header("te", "trailers")
        .body(body())
        .unwrap();
    let answer = send(&client, &policy, request).await.expect("answer");
    assert!(!answer.headers().contains_key("transfer-encoding"));
    let answer = answer.into_body().collect().await.expect("body");
    let sum = answer.trailers().expect("trailers").clone();
    assert_eq!((sum.len(), &sum["x-sum"]), (1, &"7".parse().unwrap()));
    let (headers, trailers, body_seen) = requests.recv().await.unwrap();
    assert_eq!(headers["transfer-encoding"], "chunked");
    assert_eq!(
        (&headers["te"], &body_seen[..]),
        (&"trailers".parse().unwrap(), &b"abcd"[..])
    );
    assert_eq!(trailers.expect("trailers")["x-check"], "1");

    // A GET may have a body; one that does not read trailers gets none.
    let request = Request::get(peer.url("/")).body(body()).unwrap();
    let answer = send(&client, &policy, request).await.expect("answer");
    let answer = answer.into_body().collect().await.expect("body");
    assert!(answer.trailers().is_none());
    let (headers, _, body_seen) = requests.recv().await.unwrap();
    assert_eq!(
        (&body_seen[..], headers.contains_key("te")),
        (&b"abcd"[..], false)
    );

    // A GET whose stream has nothing has no body.
    let request = Request::get(peer.url("/")).body(StreamBody::new(bytes(0)));
    let answer = send(&client, &policy, request.unwrap()).await;
    answer.expect("answer");
    let (headers, _, body_seen) = requests.recv().await.unwrap();
    assert!(body_seen.is_empty() && !headers.contains_key("transfer-encoding"));

    // Lengths that are known, or announced.
    let request = Request::post(peer.url("/")).body(Full::new(Bytes::from_static(b"abc")));
    send(&client, &policy, request.unwrap())
        .await
        .expect("answer");
    let (headers, ..) = requests.recv().await.unwrap();
    assert_eq!(headers["content-length"], "3");
    let body = StreamBody::new(stream::iter(vec![piece("ab"), piece("cd")]));
    let request = Request::post(peer.url("/"))
        .header("content-length", "4")
        .body(body);
    send(&client, &policy, request.unwrap())
        .await
        .expect("answer");
    let (headers, ..) = requests.recv().await.unwrap();
    assert_eq!(headers["content-length"], "4");
    assert!(!headers.contains_key("transfer-encoding"));
    let request = Request::post(peer.url("/"))
        .body(Empty::<Bytes>::new())
        .unwrap();
    send(&client, &policy, request).await.expect("answer");
    let (headers, ..) = requests.recv().await.unwrap();
    assert!(!headers.contains_key("transfer-encoding"));
}

#[tokio::test]
async fn redirects_of_a_stream() {
    let peer = server(|request| async move {
        let path = request.uri().path().to_owned();
        match path.strip_prefix("/to/") {
            Some(status) => {
                let status = status.parse().unwrap();
                if status == 302 {
                    // Some servers answer before they read.
                    return redirect(status, "/end");
                }
                request.into_body().collect().await.unwrap();
                redirect(status, "/end")
            }
            None => {
                let method = request.method().clone();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                Response::new(full(format!("{method} {}", body.len())))
            }
        }
    })
    .await;
    let client = client("");
    let hosts = ["127.0.0.1".to_owned()];
    let methods = [Method::GET, Method::POST, Method::PUT];
    let policy = Policy::new(&hosts, &methods, true, limits()).unwrap();
    let request = |status: u16, method: Method, size| {
        Request::builder()
            .method(method)
            .uri(peer.url(&format!("/to/{status}")))
            .body(StreamBody::new(bytes(size)))
            .unwrap()
    };
    for (status, method) in [
        (303, Method::POST),
        (303, Method::PUT),
        (301, Method::POST),
        (302, Method::POST),
    ] {
        // More than fits into buffers: the rest is never sent.
        let size = if status == 302 { 100 * MIB } else { 10 };
        let answer = send(&client, &policy, request(status, method, size)).await;
        let answer = answer.expect("followed");
        assert_eq!(
            answer.extensions().get(),
            Some(&AnsweredBy {
                url: peer.url("/end"),
                redirects: 1
            })
        );
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "GET 0");
    }
    for (status, method) in [(307, Method::POST), (308, Method::POST), (301, Method::PUT)] {
        let error = send(&client, &policy, request(status, method.clone(), 10)).await;
        let error = error.err().expect("the body is gone");
        assert_eq!(error.kind, ErrorKind::InvalidRequestBody);
        let part = format!("status {status}, but a streamed body cannot be sent again");
        assert!(error.message.contains(&part), "{error}");
        let mut kept = request(status, method, 10);
        kept.extensions_mut().insert(KeepRedirects);
        let answer = send(&client, &policy, kept).await.expect("kept");
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(answer.headers()["location"], "/end");
    }
    let empty = Request::post(peer.url("/to/307")).body(Empty::<Bytes>::new());
    let answer = send(&client, &policy, empty.unwrap())
        .await
        .expect("nothing to send");
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "POST 0");
    let refused = Server::http(|_| redirect(303, "http://10.0.0.1/")).await;
    let request = Request::post(refused.url("/")).body(StreamBody::new(bytes(10)));
    let error = send(&client, &policy, request.unwrap()).await.err();
    assert_eq!(error.expect("not allowed").kind, ErrorKind::NotAllowed);
}

#[tokio::test]
async fn dropping_the_response_closes_the_connection_and_frees_its_place() {
    let peer = server(|request| async move {
        match request.uri().path() {
            "/small" => ok("fine"),
            "/early" => ok("before the body"),
            "/echo" => echo(request),
            _ => Response::new(frames(bytes(GIB))),
        }
    })
    .await;
    let client = client_with(ClientOptions {
        max_requests: 1,
        ..options()
    });
    let policy = policy(&["127.0.0.1"]);
    let small = || async {
        let answer = get(&client, &policy, &peer.url("/small")).await;
        count_any(answer.expect("the place is free").into_body()).await
    };
    // Before the first piece, after it, and while the request is still being sent.
    let body = get(&client, &policy, &peer.url("/")).await.unwrap();
    drop(body);
    small().await;
    let mut body = get(&client, &policy, &peer.url("/"))
        .await
        .unwrap()
        .into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    small().await;
    let (sender, body) = channel();
    let request = Request::post(peer.url("/echo")).body(body).unwrap();
    sender.send(piece("x")).await.unwrap();
    let mut answer = send(&client, &policy, request).await.unwrap().into_body();
    answer.frame().await.unwrap().unwrap();
    drop(answer);
    small().await;
    tokio::time::timeout(Duration::from_secs(60), sender.closed())
        .await
        .expect("the body of the request is dropped");
    // An answer that is complete before the request is.
    let (sender, body) = channel();
    let request = Request::post(peer.url("/early")).body(body).unwrap();
    sender.send(piece("x")).await.unwrap();
    let answer = send(&client, &policy, request).await.unwrap();
    assert_eq!(count_any(answer.into_body()).await, 15);
    small().await;
    tokio::time::timeout(Duration::from_secs(60), sender.closed())
        .await
        .expect("the body of the request is dropped");
    // An answer whose end was read frees its place, although somebody still has it.
    let mut body = get(&client, &policy, &peer.url("/small"))
        .await
        .unwrap()
        .into_body();
    while body.frame().await.is_some() {}
    small().await;
    drop(body);
    // And one without a body does, too.
    let head = Policy::new(&["127.0.0.1".to_owned()], &[Method::HEAD], true, limits()).unwrap();
    let request = Request::head(peer.url("/small")).body(Empty::<Bytes>::new());
    let answer = send(&client, &head, request.unwrap()).await.unwrap();
    small().await;
    assert_eq!(answer.status(), StatusCode::OK);
    eventually("one is kept", || peer.open() == 1).await;
}

async fn count_any(body: ResponseBody) -> usize {
    body.collect().await.expect("body").to_bytes().len()
}

#[tokio::test]
async fn a_request_that_is_dropped_before_its_head_leaves_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (client, policy) = (client(""), policy(&["127.0.0.1"]));
    // A body that waits, and one that fills the buffers.
    let (sender, waits) = channel();
    let waiting = Request::post(&url).body(waits).unwrap();
    let sending = Request::post(&url)
        .body(StreamBody::new(bytes(GIB)))
        .unwrap();
    for (opened, call) in [
        (1, send(&client, &policy, waiting).boxed()),
        (2, send(&client, &policy, sending).boxed()),
    ] {
        tokio::select! {
            answer = call => panic!("{:?}", answer.err()),
            () = eventually("opened", || client.connections().opened == opened) => {}
        }
    }
    eventually("closed", || client.connections().open == 0).await;
    assert_eq!(client.connections().opened, 2);
    tokio::time::timeout(Duration::from_secs(60), sender.closed())
        .await
        .expect("the body of the request is dropped");
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A gzip member of 1 MiB, about four times smaller: one quarter of it is noise.
static MEMBER: LazyLock<Bytes> = LazyLock::new(|| {
    let mut state = 1u32;
    let data: Vec<u8> = (0..MIB)
        .map(|index| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            match index % 4 {
                0 => (state >> 8) as u8,
                _ => b'x',
            }
        })
        .collect();
    gzip(&data).into()
});

/// Members, as they are wanted.
fn zipped(count: u64) -> impl Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send + Sync {
    stream::iter(0..count).map(|_| Ok(Frame::data(MEMBER.clone())))
}

fn decoding(url: &str) -> Request<Empty<Bytes>> {
    let request = Request::get(url).extension(Decode::Always);
    request.body(Empty::new()).unwrap()
}

#[tokio::test]
async fn decodes_codings_as_data_arrives() {
    LazyLock::force(&MEMBER);
    let peer = server(|request| async move {
        let body = match request.uri().path() {
            "/events" => {
                // Each event is flushed, as servers of events do.
                let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
                let mut pieces = Vec::new();
                for event in ["one", "two", "three"] {
                    encoder.write_all(event.as_bytes()).unwrap();
                    encoder.flush().unwrap();
                    pieces.push(Bytes::from(std::mem::take(encoder.get_mut())));
                }
                pieces.push(encoder.finish().unwrap().into());
                let pieces = stream::iter(pieces).then(|piece| async {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Ok(Frame::data(piece))
                });
                frames(pieces_sync(pieces))
            }
            "/large" => frames(zipped(256)),
            "/trailers" => {
                let mut trailers = HeaderMap::new();
                trailers.insert("x-sum", "7".parse().unwrap());
                let zipped = Bytes::from(gzip(b"text"));
                let parts = [Ok(Frame::data(zipped)), Ok(Frame::trailers(trailers))];
                frames(stream::iter(parts))
            }
            "/empty" => full(""),
            "/cut" => full(gzip(&[b'x'; 1000])[..20].to_vec()),
            _ => full([gzip(b"text"), vec![0; 1 << 20]].concat()),
        };
        Response::builder()
            .header("content-encoding", "gzip")
            .header("trailer", "x-sum")
            .body(body)
            .unwrap()
    })
    .await;
    let client = client_with(ClientOptions {
        memory: MIB,
        ..options()
    });
    let policy = policy(&["127.0.0.1"]);
    let answer = send(&client, &policy, decoding(&peer.url("/events")))
        .await
        .unwrap();
    assert!(!answer.headers().contains_key("content-encoding"));
    let mut body = answer.into_body();
    for event in ["one", "two", "three"] {
        let frame = body.frame().await.unwrap().expect("an event");
        assert_eq!(frame.into_data().unwrap(), event);
    }
    assert!(body.frame().await.is_none());

    let account = Account::new(MIB);
    let charge = Box::new(account.clone());
    let answer = client
        .stream(&policy, decoding(&peer.url("/large")), Some(charge))
        .await
        .unwrap();
    let mut body = answer.into_body();
    let mut count = 0;
    while let Some(frame) = body.frame().await {
        count += frame.expect("a piece").data_ref().unwrap().len() as u64;
    }
    assert_eq!(count, 256 * MIB, "more than a collected answer may have");
    drop(body);
    assert_eq!(account.charged(), 0);

    let mut request = decoding(&peer.url("/trailers"));
    request
        .headers_mut()
        .insert("te", "trailers".parse().unwrap());
    let body = send(&client, &policy, request).await.unwrap().into_body();
    let body = body.collect().await.expect("body");
    assert_eq!(body.trailers().expect("trailers")["x-sum"], "7");
    assert_eq!(body.to_bytes(), "text");
    for (path, text) in [("/empty", ""), ("/garbage", "text")] {
        let answer = send(&client, &policy, decoding(&peer.url(path))).await;
        let body = answer.unwrap().into_body().collect().await.expect(path);
        assert_eq!(body.to_bytes(), text, "{path}");
    }
    let answer = send(&client, &policy, decoding(&peer.url("/cut"))).await;
    let error = answer
        .unwrap()
        .into_body()
        .collect()
        .await
        .expect_err("half");
    assert_eq!(error.reason, Reason::Coding);
    assert!(
        error.message.contains("cannot be decoded as gzip"),
        "{error}"
    );
}

#[tokio::test]
async fn sizes_and_expansion_are_limited() {
    // Not while a server answers: it takes its time.
    LazyLock::force(&MEMBER);
    // A bomb of two layers: 64 MiB in less than a KiB.
    let bomb = gzip(&gzip(&vec![0; 64 << 20]));
    assert!(bomb.len() < 1 << 10);
    let peer = server(move |request| {
        let bomb = bomb.clone();
        async move {
            match request.uri().path() {
                "/bomb" => Response::builder()
                    .header("content-encoding", "gzip, gzip")
                    .body(full(bomb))
                    .unwrap(),
                "/zipped" => Response::builder()
                    .header("content-encoding", "gzip")
                    .body(frames(zipped(4)))
                    .unwrap(),
                "/known" => Response::new(full(vec![b'x'; 3 << 20])),
                _ => Response::new(frames(bytes(3 * MIB))),
            }
        }
    })
    .await;
    let client = client("");
    let any = policy(&["127.0.0.1"]);
    let answer = send(&client, &any, decoding(&peer.url("/bomb"))).await;
    let error = answer
        .unwrap()
        .into_body()
        .collect()
        .await
        .expect_err("a bomb");
    assert_eq!(error.reason, Reason::TooLarge);
    assert!(error.message.contains("expands too much"), "{error}");
    let limits = PolicyLimits {
        streamed_response: Some(2 * MIB),
        ..limits()
    };
    let some = policy_with(&["127.0.0.1"], limits);
    for path in ["/bomb", "/zipped", "/known", "/unknown"] {
        let error = match send(&client, &some, decoding(&peer.url(path))).await {
            Err(error) => error,
            Ok(answer) => answer.into_body().collect().await.expect_err(path),
        };
        assert_eq!(error.reason, Reason::TooLarge, "{path}");
        assert!(
            error.message.contains("larger than 2097152") || path == "/bomb",
            "{error}"
        );
    }
    // What the account does not have is not read.
    for (path, most) in [("/unknown", 100), ("/zipped", 100 << 10)] {
        let account = Account::new(most);
        let charge = Box::new(account.clone());
        let answer = client.stream(&any, decoding(&peer.url(path)), Some(charge));
        let error = match answer.await {
            Err(error) => error,
            Ok(answer) => answer.into_body().collect().await.expect_err(path),
        };
        assert_eq!(error.reason, Reason::NoMemory, "{path}");
        assert_eq!(account.charged(), 0);
    }
    let request = Request::post(peer.url("/")).body(StreamBody::new(bytes(MIB)));
    let charge = Box::new(Account::new(100));
    let answer = client.stream(&any, request.unwrap(), Some(charge)).await;
    let error = match answer {
        Err(error) => error,
        Ok(answer) => answer.into_body().collect().await.expect_err("no memory"),
    };
    assert_eq!(error.reason, Reason::NoMemory);
    eventually("closed", || peer.open() == 0).await;
}

#[tokio::test]
async fn a_collected_request_is_sent_again_and_its_answer_streams() {
    let peer = server(|request| async move {
        match request.uri().path() {
            "/moved" => redirect(307, "/echo"),
            "/echo" => echo(request),
            _ => Response::new(frames(bytes(3 * MIB))),
        }
    })
    .await;
    let (client, policy) = (client(""), policy(&["127.0.0.1"]));
    let request = Request::post(peer.url("/moved")).body(Bytes::from_static(b"again"));
    let answer = client
        .stream_response(&policy, request.unwrap(), None)
        .await;
    let body = answer.expect("followed").into_body();
    assert_eq!(body.known_size(), Some(5));
    assert_eq!(body.read_all().await.expect("body"), "again");
    let get = || Request::get(peer.url("/large")).body(Bytes::new()).unwrap();
    let answer = client.stream_response(&policy, get(), None).await;
    assert_eq!(count(answer.unwrap().into_body()).await, Ok(3 * MIB));
    let answer = client.stream_response(&policy, get(), None).await;
    let error = answer
        .unwrap()
        .into_body()
        .read_all()
        .await
        .expect_err("large");
    assert_eq!(error.reason, Reason::TooLarge);
}
