//! Clients that attack.

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
async fn flood(client: TcpStream, frames: impl Iterator<Item = Vec<u8>>) -> (usize, Option<u32>) {
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
