//! Bodies are sent and read as they come, in constant memory.

use super::*;

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
