//! Clients of HTTP/1.

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
