//! Bodies that end early, and answers that nobody wants.

use super::*;

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
