//! Connections over real sockets, with responses that are made while they are sent.
#![allow(clippy::unwrap_used, clippy::panic)]

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

mod http1 {
    use super::*;

    #[tokio::test]
    async fn pieces_arrive_as_they_are_made() {
        let server = TestServer::start(64 * MIB).await;
        let mut client = server.connect().await;
        client.write_all(get("/steps").as_bytes()).await.unwrap();
        let (mut text, mut buffer) = (String::new(), [0; 4096]);
        for count in 1..=4 {
            // None is made before the one before it was read.
            server.responses.steps.add_permits(1);
            while text.matches("tick").count() < count {
                let read = timeout(PATIENCE, client.read(&mut buffer)).await;
                let read = read.unwrap().unwrap();
                assert!(read > 0, "{text}");
                text += &String::from_utf8_lossy(&buffer[..read]);
            }
        }
        let (rest, end) = read_all(&mut client).await;
        text += &rest;
        assert!(text.ends_with("0\r\n\r\n") && end.is_ok(), "{text}");
        server.settles().await;
    }

    #[tokio::test]
    async fn a_stream_that_sends_nothing_is_not_a_slow_client() {
        let server = TestServer::start(64 * MIB).await;
        let (text, _) = server.exchange(&get("/late")).await;
        assert!(text.ends_with("5\r\nlate\n\r\n0\r\n\r\n"), "{text}");
    }

    #[tokio::test]
    async fn a_failed_stream_never_looks_complete() {
        let server = TestServer::start(64 * MIB).await;
        let (text, _) = server.exchange(&get("/fails")).await;
        assert!(text.contains("\r\n\r\n2\r\nab\r\n"), "{text}");
        assert!(!text.contains("0\r\n\r\n"), "{text}");
        // The end of a response without a length is the end of its connection.
        let (text, end) = server.exchange("GET /fails HTTP/1.0\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.0 200"), "{text}");
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let (text, end) = server.exchange("GET /clock HTTP/1.0\r\n\r\n").await;
        assert!(text.ends_with("\r\n\r\ntick\ntick\ntick\ntick\n") && end.is_ok());
        server.settles().await;
    }

    #[tokio::test]
    async fn a_client_that_goes_away_ends_its_response() {
        let server = TestServer::start(64 * MIB).await;
        for path in ["/stuck", "/never", "/large"] {
            let mut client = server.connect().await;
            client.write_all(get(path).as_bytes()).await.unwrap();
            server.begins().await;
            drop(client);
            server.settles().await;
        }
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_disconnected() {
        let server = TestServer::start(64 * MIB).await;
        let mut client = server.connect().await;
        client.write_all(get("/large").as_bytes()).await.unwrap();
        let start = Instant::now();
        server.begins().await;
        server.settles().await;
        assert!(start.elapsed() > TIME * 3 / 4, "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn trailers_are_sent_to_those_who_accept_them() {
        let server = TestServer::start(64 * MIB).await;
        let accepting =
            "GET /trailers HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te, close\r\n\r\n";
        let (text, _) = server.exchange(accepting).await;
        assert!(
            text.ends_with("3\r\nabc\r\n0\r\nx-sum: 3\r\n\r\n"),
            "{text}"
        );
        let (text, _) = server.exchange(&get("/trailers")).await;
        assert!(text.ends_with("3\r\nabc\r\n0\r\n\r\n"), "{text}");
    }

    #[tokio::test]
    async fn bodies_and_trailers_of_requests_pass_through() {
        let server = TestServer::start(64 * MIB).await;
        let request = "POST /echo HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te, close\r\n\
            transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n";
        let (text, _) = server.exchange(request).await;
        assert!(text.contains("abc") && text.contains("de"), "{text}");
        assert!(text.ends_with("0\r\nx-sum: 5\r\n\r\n"), "{text}");
        let broken =
            "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nz\r\n";
        let (text, _) = server.exchange(broken).await;
        assert!(!text.contains("0\r\n\r\n"), "{text}");
    }

    /// The longest chunk of the echo of a long body, after which the connection stays open.
    async fn longest_chunk(server: &TestServer, client: TcpStream) -> (usize, TcpStream) {
        const LEN: usize = 2 << 20;
        let (read, mut write) = client.into_split();
        let sending = tokio::spawn(async move {
            let head = format!("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: {LEN}\r\n\r\n");
            write.write_all(head.as_bytes()).await.unwrap();
            write.write_all(&vec![b'x'; LEN]).await.unwrap();
            write
        });
        let mut read = tokio::io::BufReader::new(read);
        let (mut line, mut longest, mut all) = (String::new(), 0, 0);
        while line != "\r\n" {
            line.clear();
            read.read_line(&mut line).await.unwrap();
        }
        loop {
            line.clear();
            read.read_line(&mut line).await.unwrap();
            let len = usize::from_str_radix(line.trim_end(), 16).unwrap();
            let mut chunk = vec![0; len + 2];
            read.read_exact(&mut chunk).await.unwrap();
            if len == 0 {
                break;
            }
            (longest, all) = (longest.max(len), all + len);
        }
        assert_eq!(all, LEN);
        let write = sending.await.unwrap();
        server.settles().await;
        (longest, read.into_inner().reunite(write).unwrap())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn long_bodies_are_read_in_long_pieces_while_memory_is_free() {
        let server = TestServer::with_bounds(64 * MIB, |_| {}).await;
        let client = server.connect().await;
        let (longest, client) = patient(longest_chunk(&server, client)).await;
        assert!(longest > 16 << 10, "{longest}");
        let (longest, _) = patient(longest_chunk(&server, client)).await;
        assert!(longest > 16 << 10, "{longest}");
        // Of a memory of which long heads may take less than a long body needs.
        let server = TestServer::with_bounds(MIB, |_| {}).await;
        let client = server.connect().await;
        let (longest, _) = patient(longest_chunk(&server, client)).await;
        assert!(longest < 8 << 10, "{longest}");
    }

    #[tokio::test]
    async fn a_stream_may_end_while_the_server_stops() {
        let server = TestServer::start(64 * MIB).await;
        let mut client = server.connect().await;
        client.write_all(get("/clock").as_bytes()).await.unwrap();
        server.begins().await;
        server.draining.cancel();
        let (text, _) = read_all(&mut client).await;
        assert!(text.ends_with("tick\n\r\n0\r\n\r\n"), "{text}");
    }

    #[tokio::test]
    async fn a_part_of_http2_s_preface_is_http1() {
        let server = TestServer::with_bounds(64 * MIB, |_| {}).await;
        for (request, status) in [
            (
                "PRI * HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
                "200",
            ),
            (
                "PUT /x HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                "200",
            ),
            ("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "400"),
        ] {
            // At once, and byte by byte.
            let (text, _) = server.exchange(request).await;
            assert!(
                text.starts_with(&format!("HTTP/1.1 {status}")),
                "{request:?}: {text}"
            );
            let mut client = server.connect().await;
            client.set_nodelay(true).unwrap();
            for byte in request.as_bytes() {
                if client.write_all(&[*byte]).await.is_err() {
                    break;
                }
                sleep(Duration::from_millis(1)).await;
            }
            let (slow, _) = read_all(&mut client).await;
            assert!(
                slow.starts_with(&format!("HTTP/1.1 {status}")),
                "{request:?}: {slow}"
            );
        }
    }
}

mod http2_client {
    use h2::{Reason, client::SendRequest};

    use super::*;

    type Client = SendRequest<Bytes>;

    async fn connect(server: &TestServer) -> (Client, JoinHandle<Result<(), h2::Error>>) {
        connect_with(server, &h2::client::Builder::new()).await
    }

    async fn connect_with(
        server: &TestServer,
        builder: &h2::client::Builder,
    ) -> (Client, JoinHandle<Result<(), h2::Error>>) {
        let stream = server.connect().await;
        let (client, connection) = builder.handshake(stream).await.unwrap();
        (client, tokio::spawn(connection))
    }

    fn request(path: &str) -> Request<()> {
        Request::get(format!("http://a{path}")).body(()).unwrap()
    }

    /// The body of a response, or why it ended early; and its trailers.
    async fn body(
        response: Response<h2::RecvStream>,
    ) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
        let (mut body, mut all) = (response.into_body(), Vec::new());
        while let Some(piece) = patient(body.data()).await {
            let piece = piece?;
            all.extend_from_slice(&piece);
            body.flow_control().release_capacity(piece.len())?;
        }
        Ok((all, patient(body.trailers()).await?))
    }

    async fn fetch(client: &Client, path: &str) -> Result<Vec<u8>, h2::Error> {
        let mut client = patient(client.clone().ready()).await?;
        let (response, _) = client.send_request(request(path), true)?;
        Ok(body(patient(response).await?).await?.0)
    }

    #[tokio::test]
    async fn answers_many_requests_of_a_connection_at_once() {
        let server = TestServer::start(64 * MIB).await;
        let (client, _connection) = connect(&server).await;
        let start = Instant::now();
        let all = (0..100).map(|_| fetch(&client, "/clock"));
        for body in futures_util::future::join_all(all).await {
            assert_eq!(body.unwrap(), b"tick\ntick\ntick\ntick\n");
        }
        // One after the other they would take a minute.
        assert!(
            start.elapsed() < Duration::from_secs(40),
            "{:?}",
            start.elapsed()
        );
        assert_eq!(fetch(&client, "/x").await.unwrap(), b"hello");
        assert_eq!(fetch(&client, "/large").await.unwrap().len(), 64 << 20);
        server.settles().await;
    }

    #[tokio::test]
    async fn bodies_and_trailers_pass_both_ways() {
        let server = TestServer::start(64 * MIB).await;
        let (client, _connection) = connect(&server).await;
        let mut client = client.ready().await.unwrap();
        let post = Request::post("http://a/echo").body(()).unwrap();
        let (response, mut upload) = client.send_request(post, false).unwrap();
        let response = patient(response).await.unwrap();
        assert!(!response.headers().contains_key("keep-alive"));
        assert!(response.headers().contains_key(header::DATE));
        let mut download = response.into_body();
        // Each message is echoed before the next is sent.
        for message in ["one", "two", "three"] {
            upload.send_data(Bytes::from(message), false).unwrap();
            let echo = patient(download.data()).await.unwrap().unwrap();
            assert_eq!(echo, message);
            download
                .flow_control()
                .release_capacity(echo.len())
                .unwrap();
            sleep(TIME * 3 / 2).await;
        }
        let mut trailers = HeaderMap::new();
        let status = HeaderName::from_static("grpc-status");
        trailers.insert(&status, HeaderValue::from_static("0"));
        upload.send_trailers(trailers.clone()).unwrap();
        assert!(patient(download.data()).await.is_none());
        let echo = patient(download.trailers()).await.unwrap();
        assert_eq!(echo, Some(trailers));
        server.settles().await;
    }

    #[tokio::test]
    async fn a_failed_stream_is_reset_and_others_go_on() {
        let server = TestServer::start(64 * MIB).await;
        let (client, _connection) = connect(&server).await;
        let (failed, other) = tokio::join!(fetch(&client, "/fails"), fetch(&client, "/clock"));
        assert_eq!(failed.unwrap_err().reason(), Some(Reason::INTERNAL_ERROR));
        assert_eq!(other.unwrap().len(), 20);
    }

    #[tokio::test]
    async fn a_client_that_goes_away_ends_its_responses() {
        let server = TestServer::start(64 * MIB).await;
        let (client, connection) = connect(&server).await;
        for path in ["/stuck", "/never", "/large"] {
            let mut client = client.clone().ready().await.unwrap();
            let (response, mut stream) = client.send_request(request(path), true).unwrap();
            server.begins().await;
            stream.send_reset(Reason::CANCEL);
            drop(response);
            server.settles().await;
        }
        let mut client = client.ready().await.unwrap();
        let _never = client.send_request(request("/never"), true).unwrap();
        server.begins().await;
        connection.abort();
        server.settles().await;
    }

    #[tokio::test]
    async fn a_slow_reader_is_reset_and_others_of_its_connection_are_served() {
        let server = TestServer::start(64 * MIB).await;
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(1000)
            .initial_connection_window_size(1 << 20);
        let (client, _connection) = connect_with(&server, &builder).await;
        let mut slow = client.clone().ready().await.unwrap();
        let (response, _) = slow.send_request(request("/large"), true).unwrap();
        let mut response = patient(response).await.unwrap().into_body();
        let start = Instant::now();
        while server.responses.alive.load(Relaxed) > 0 {
            assert_eq!(fetch(&client, "/x").await.unwrap(), b"hello");
            sleep(Duration::from_millis(20)).await;
        }
        assert!(start.elapsed() > TIME * 3 / 4, "{:?}", start.elapsed());
        let end = loop {
            match patient(response.data()).await {
                Some(Ok(_)) => {}
                end => break end,
            }
        };
        let reason = end.unwrap().unwrap_err().reason();
        assert_eq!(reason, Some(Reason::ENHANCE_YOUR_CALM));
        server.settles().await;
    }

    #[tokio::test]
    async fn window_that_opens_byte_by_byte_counts_as_slow_reader() {
        let server = TestServer::start(64 * MIB).await;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1);
        let (client, _connection) = connect_with(&server, &builder).await;
        let mut client = client.ready().await.unwrap();
        let (response, _) = client.send_request(request("/large"), true).unwrap();
        let mut response = patient(response).await.unwrap().into_body();
        let start = Instant::now();
        let end = loop {
            match patient(response.data()).await {
                Some(Ok(piece)) => {
                    sleep(Duration::from_millis(5)).await;
                    let _ = response.flow_control().release_capacity(piece.len());
                }
                end => break end,
            }
        };
        assert!(end.unwrap().is_err());
        assert!(start.elapsed() < PATIENCE);
        server.settles().await;
    }

    #[tokio::test]
    async fn memory_of_streams_is_bounded() {
        // Room for about twenty.
        let server = TestServer::start(MIB).await;
        let (client, _connection) = connect(&server).await;
        let all = (0..100).map(|_| fetch(&client, "/clock"));
        let (mut served, mut refused) = (0, 0);
        for body in futures_util::future::join_all(all).await {
            match body {
                Ok(_) => served += 1,
                Err(error) => {
                    assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
                    refused += 1;
                }
            }
        }
        assert!(
            served >= 10 && refused >= 50,
            "{served} served, {refused} refused"
        );
        server.settles().await;
        assert_eq!(fetch(&client, "/x").await.unwrap(), b"hello");
    }

    #[tokio::test]
    async fn more_streams_than_allowed_wait() {
        let server = TestServer::start(64 * MIB).await;
        let (client, _connection) = connect(&server).await;
        // Now the client knows how many may be open.
        assert_eq!(fetch(&client, "/x").await.unwrap(), b"hello");
        let all = (0..1000).map(|_| fetch(&client, "/x"));
        for body in futures_util::future::join_all(all).await {
            assert_eq!(body.unwrap(), b"hello");
        }
        server.settles().await;
    }

    #[tokio::test]
    async fn cookies_are_joined() {
        let mut headers = HeaderMap::new();
        for cookie in ["a=1", "b=2", "c=3"] {
            headers.append(header::COOKIE, HeaderValue::from_static(cookie));
        }
        http2::join_cookies(&mut headers);
        let cookies: Vec<_> = headers.get_all(header::COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3"]);
    }

    #[tokio::test]
    async fn idle_and_stopping_connections_close_with_a_goaway() {
        let server = TestServer::start(64 * MIB).await;
        let (client, connection) = connect(&server).await;
        assert_eq!(fetch(&client, "/x").await.unwrap(), b"hello");
        let start = Instant::now();
        patient(connection).await.unwrap().unwrap();
        assert!(start.elapsed() > TIME * 3 / 4, "{:?}", start.elapsed());
        // What is in progress may end.
        let (client, connection) = connect(&server).await;
        let clock = tokio::spawn(async move { fetch(&client, "/clock").await });
        server.begins().await;
        server.draining.cancel();
        assert_eq!(patient(clock).await.unwrap().unwrap().len(), 20);
        patient(connection).await.unwrap().unwrap();
        server.settles().await;
    }
}

/// Clients that attack.
mod attacks {
    use h2::Reason;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// A block of headers of a GET of a path of one byte.
    fn get(path: u8) -> Vec<u8> {
        // :method GET, :scheme http, :path, :authority.
        vec![0x82, 0x86, 0x04, 2, b'/', path, 0x01, 1, b'a']
    }

    async fn connect(server: &TestServer) -> TcpStream {
        let mut client = server.connect().await;
        let mut hello = PREFACE.to_vec();
        hello.extend(frame(4, 0, 0, &[]));
        client.write_all(&hello).await.unwrap();
        client
    }

    /// Sends frames until the server closes the connection, and returns how many were sent and the
    /// reason of its GOAWAY.
    async fn flood(
        client: TcpStream,
        frames: impl Iterator<Item = Vec<u8>>,
    ) -> (usize, Option<u32>) {
        let (mut reader, mut writer) = client.into_split();
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            let _ = timeout(PATIENCE, reader.read_to_end(&mut all)).await;
            all
        });
        let mut sent = 0;
        for frame in frames {
            if writer.write_all(&frame).await.is_err() || reading.is_finished() {
                break;
            }
            sent += 1;
        }
        let all = reading.await.unwrap();
        (sent, goaway(&all))
    }

    fn goaway(mut bytes: &[u8]) -> Option<u32> {
        while bytes.len() >= 9 {
            let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
            let payload = bytes.get(9..9 + length)?;
            if bytes[3] == 7 {
                return Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
            bytes = &bytes[9 + length..];
        }
        None
    }

    /// The slowest of the requests of another client meanwhile.
    fn good_client(server: &TestServer) -> JoinHandle<Duration> {
        let address = server.address;
        tokio::spawn(async move {
            let mut slowest = Duration::ZERO;
            for _ in 0..50 {
                let start = Instant::now();
                let mut client = TcpStream::connect(address).await.unwrap();
                client.write_all(super::get("/x").as_bytes()).await.unwrap();
                let (text, _) = read_all(&mut client).await;
                assert!(text.ends_with("hello"));
                slowest = slowest.max(start.elapsed());
                sleep(Duration::from_millis(5)).await;
            }
            slowest
        })
    }

    async fn assert_unharmed(server: &TestServer, good: JoinHandle<Duration>) {
        let slowest = good.await.unwrap();
        assert!(slowest < Duration::from_secs(20), "{slowest:?}");
        server.settles().await;
    }

    fn streams() -> impl Iterator<Item = u32> {
        (0..1_000_000).map(|number| number * 2 + 1)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rapid_resets_close_the_connection() {
        let server = TestServer::start(64 * MIB).await;
        let good = good_client(&server);
        let reset = Reason::CANCEL.into();
        let code = u32::to_be_bytes(reset);
        // At once, and such that each request has begun.
        for pause in [false, true] {
            let client = connect(&server).await;
            let frames = streams().map(|stream| {
                let mut pair = frame(1, 5, stream, &get(b'n'));
                pair.extend(frame(3, 0, stream, &code));
                pair
            });
            let (sent, reason) = if pause {
                let paused = frames.inspect(|_| std::thread::sleep(Duration::from_millis(1)));
                flood(client, paused).await
            } else {
                flood(client, frames).await
            };
            assert!(sent < 100_000, "{sent}");
            assert!(matches!(reason, None | Some(11)), "{reason:?}");
        }
        assert_unharmed(&server, good).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn cancelled_requests_close_the_connection() {
        let server = TestServer::start(64 * MIB).await;
        let stream = server.connect().await;
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut cancelled = 0;
        for _ in 0..1000 {
            let Ok(mut client) = client.clone().ready().await else {
                break;
            };
            let never = Request::get("http://a/never").body(()).unwrap();
            let Ok((_response, mut stream)) = client.send_request(never, true) else {
                break;
            };
            let begun = async {
                while server.responses.alive.load(Relaxed) == 0 && !connection.is_finished() {
                    sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(PATIENCE, begun).await.unwrap();
            stream.send_reset(Reason::CANCEL);
            let ended = async {
                while server.responses.alive.load(Relaxed) > 0 {
                    sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(PATIENCE, ended).await.unwrap();
            cancelled += 1;
        }
        assert!((50..200).contains(&cancelled), "{cancelled}");
        let error = connection.await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
        server.settles().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn endless_headers_close_the_connection() {
        let server = TestServer::start(64 * MIB).await;
        let good = good_client(&server);
        // Small parts, large parts, and parts without content.
        for size in [1, 16_000, 0] {
            let client = connect(&server).await;
            let first = frame(1, 0, 1, &get(b'x'));
            // A literal header with a short name and a long value, again and again.
            let mut part = vec![0x00, 1, b'a', 0x7f, 0x80, 0x7c];
            part.resize(size, b'x');
            let parts = std::iter::repeat_n(frame(9, 0, 1, &part[..size]), 1_000_000);
            let (sent, _) = flood(client, std::iter::once(first).chain(parts)).await;
            assert!(sent < 500_000, "{sent} of {size}");
        }
        assert_unharmed(&server, good).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn floods_of_control_frames_close_the_connection() {
        let server = TestServer::start(64 * MIB).await;
        let good = good_client(&server);
        let frames = [
            ("ping", frame(6, 0, 0, &[0; 8])),
            ("settings", frame(4, 0, 0, &[])),
            ("priority", frame(2, 0, 1, &[0, 0, 0, 0, 1])),
            ("window", frame(8, 0, 0, &[0, 0, 0, 1])),
            ("unknown", frame(99, 0, 0, &[0; 8])),
        ];
        for (name, frame) in frames {
            let client = connect(&server).await;
            let (sent, _) = flood(client, std::iter::repeat_n(frame, 10_000_000)).await;
            assert!(sent > 5_000 && sent < 2_000_000, "{sent} of {name}");
        }
        assert_unharmed(&server, good).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn incomplete_header_block_is_closed_after_the_header_timeout() {
        let server = TestServer::start(64 * MIB).await;
        for frames in [
            frame(1, 0, 1, &get(b'x')),
            frame(1, 4, 1, &get(b'x'))[..12].to_vec(),
        ] {
            let mut client = connect(&server).await;
            client.write_all(&frames).await.unwrap();
            let start = Instant::now();
            let mut all = Vec::new();
            timeout(PATIENCE, client.read_to_end(&mut all))
                .await
                .unwrap()
                .unwrap();
            assert!(start.elapsed() > TIME * 3 / 4, "{:?}", start.elapsed());
            assert_eq!(goaway(&all), Some(Reason::PROTOCOL_ERROR.into()));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn bounds_a_thousand_streams_whose_responses_are_not_read() {
        let server = TestServer::start(64 * MIB).await;
        let good = good_client(&server);
        let mut clients = Vec::new();
        for _ in 0..10 {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_recv_buffer_size(4096).unwrap();
            let mut client = socket.connect(server.address).await.unwrap();
            let mut bytes = PREFACE.to_vec();
            // The largest window for streams and connection.
            bytes.extend(frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]));
            bytes.extend(frame(8, 0, 0, &[0x7f, 0xff, 0, 0]));
            for stream in streams().take(100) {
                bytes.extend(frame(1, 5, stream, &get(b'l')));
            }
            client.write_all(&bytes).await.unwrap();
            clients.push(client);
        }
        assert_unharmed(&server, good).await;
    }
}
