//! WebSockets over HTTP/2 (RFC 8441).

use super::*;

/// A connection of HTTP/2 whose server has said that it knows the extended CONNECT.
async fn http2(sockets: &Sockets) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(sockets.server.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let settings = async {
        while !client.is_extended_connect_protocol_enabled() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, settings).await.expect("the setting");
    client
}

/// Sends an extended CONNECT. Returns the answer, and both directions.
async fn connect(
    client: &SendRequest<Bytes>,
    path: &str,
    protocol: &'static str,
    headers: &[(&str, &str)],
) -> (Response<RecvStream>, SendStream<Bytes>) {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://a.example{path}"))
        .extension(Protocol::from_static(protocol));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(()).unwrap();
    let mut client = client.clone().ready().await.unwrap();
    let (response, send) = client.send_request(request, false).unwrap();
    let response = timeout(PATIENCE, response).await.expect("an answer");
    (response.unwrap(), send)
}

const VERSION: (&str, &str) = ("sec-websocket-version", "13");

/// The next bytes of a stream, as many as are expected.
async fn expect(body: &mut RecvStream, expected: &[u8]) {
    let mut all = Vec::new();
    while all.len() < expected.len() {
        let piece = timeout(PATIENCE, body.data()).await.expect("bytes");
        let piece = piece.expect("no end").unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        all.extend_from_slice(&piece);
    }
    assert!(all == expected, "{all:x?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_are_streams_of_http2() {
    let sockets = start("", "").await;
    let client = http2(&sockets).await;
    let headers = [VERSION, ("sec-websocket-protocol", "log, chat")];
    let (response, mut send) = connect(&client, "/protocol", "websocket", &headers).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
    assert_eq!(response.headers()["x-own"], "yes");
    for name in ["upgrade", "connection", "sec-websocket-accept"] {
        assert!(!response.headers().contains_key(name), "{name}");
    }
    let mut body = response.into_body();
    // More messages, and more bytes, than the windows hold.
    let long = vec![b'x'; 10_000];
    for content in
        std::iter::repeat_n(&b"hello"[..], 3_000).chain(std::iter::repeat_n(&long[..], 50))
    {
        send.send_data(frame(BINARY, content).into(), false)
            .unwrap();
        let head = match content.len() {
            5 => vec![BINARY, 5],
            len => vec![BINARY, 126, (len >> 8) as u8, len as u8],
        };
        expect(&mut body, &[&head, content].concat()).await;
    }
    // Another one on the same connection.
    let (other, mut other_send) = connect(&client, "/echo", "websocket", &[VERSION]).await;
    let mut other = other.into_body();
    other_send
        .send_data(frame(TEXT, b"other").into(), false)
        .unwrap();
    expect(&mut other, b"\x81\x05other").await;

    let close = frame(CLOSE, &1000u16.to_be_bytes());
    send.send_data(close.into(), false).unwrap();
    expect(&mut body, b"\x88\x02\x03\xe8").await;
    while let Some(rest) = timeout(PATIENCE, body.data()).await.expect("the end") {
        assert!(rest.unwrap().is_empty());
    }
    sockets.wait_for_end_of(1).await;
    // A client that resets its stream ends its worker.
    other_send.send_reset(Reason::CANCEL);
    sockets.wait_for_end_of(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn extended_connect_opens_only_websockets() {
    let sockets = start("", "").await;
    let client = http2(&sockets).await;
    for (path, protocol, headers, status) in [
        ("/echo", "websocket", &[][..], 426),
        ("/echo", "connect-udp", &[VERSION], 501),
        ("/refuses", "websocket", &[VERSION], 200),
        ("/nothing", "websocket", &[VERSION], 404),
        ("/wrong", "websocket", &[VERSION], 500),
    ] {
        let (response, _send) = connect(&client, path, protocol, headers).await;
        assert_eq!(response.status(), status, "{path} {protocol}");
        let mut body = response.into_body();
        if status == 200 {
            expect(&mut body, b"no socket").await;
        }
    }
    // A GET asks for none.
    let get = Request::get("http://a.example/echo").body(()).unwrap();
    let (response, _) = client
        .clone()
        .ready()
        .await
        .unwrap()
        .send_request(get, true)
        .unwrap();
    let response = timeout(PATIENCE, response).await.expect("an answer");
    assert_eq!(response.unwrap().status(), 501);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http2_that_reads_nothing_is_disconnected() {
    let sockets = start("body_timeout = \"600ms\"", "").await;
    let client = http2(&sockets).await;
    let (response, _send) = connect(&client, "/floods", "websocket", &[VERSION]).await;
    assert_eq!(response.status(), 200);
    sockets.wait_for_end_of(1).await;
}
