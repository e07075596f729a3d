//! Clients of HTTP/2.

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
