//! Time limits of streamed bodies.

use super::*;

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
