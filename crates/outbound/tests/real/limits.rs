//! Time, size and number are bounded.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::common::{
    Body, Server, client, client_with, full, get, limits, ok, options, policy, policy_with,
};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use wws_outbound::{ClientOptions, Error, ErrorKind, MemoryCharge, PolicyLimits};

/// A server that writes these bytes, whatever it is asked, and then waits or closes.
async fn raw(answer: Vec<u8>, then_wait: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&answer).await;
                if then_wait {
                    let _ = stream.read(&mut request).await;
                }
            });
        }
    });
    url
}

async fn fails(url: &str, limits: PolicyLimits) -> Error {
    get(&client(""), &policy_with(&["127.0.0.1"], limits), url)
        .await
        .expect_err("a failure")
}

fn short() -> PolicyLimits {
    PolicyLimits {
        timeout: Duration::from_millis(300),
        ..limits()
    }
}

#[tokio::test]
async fn sizes() {
    let endless = || -> Response<Body> {
        let frame = Bytes::from(vec![b'x'; 64 << 10]);
        let frames = futures_util::stream::repeat_with(move || Ok(Frame::data(frame.clone())));
        Response::new(BodyExt::boxed(StreamBody::new(frames)))
    };
    let server = Server::http(move |seen| match seen.target.as_str() {
        "/declared" => Response::new(full(vec![b'x'; (1 << 20) + 1])),
        "/most" => Response::new(full(vec![b'x'; 1 << 20])),
        _ => endless(),
    })
    .await;
    for path in ["/declared", "/endless"] {
        let error = fails(&server.url(path), limits()).await;
        assert_eq!(
            error.kind,
            ErrorKind::InvalidResponseBody,
            "{path}: {error}"
        );
        assert!(
            error.message.contains("larger than 1048576 bytes"),
            "{error}"
        );
    }
    let most = get(&client(""), &policy(&["127.0.0.1"]), &server.url("/most"))
        .await
        .expect("fits");
    assert_eq!(most.body().len(), 1 << 20);
}

#[tokio::test]
async fn bounds_the_sum_of_all_requests() {
    let server = Server::http(|_| Response::new(full(vec![b'x'; 300 << 10]))).await;
    let client = client_with(ClientOptions {
        memory: 256 << 10,
        ..options()
    });
    let error = get(&client, &policy(&["127.0.0.1"]), &server.url("/"))
        .await
        .expect_err("more than all may have");
    assert_eq!(error.kind, ErrorKind::InvalidResponseBody);
    assert!(error.message.contains("no memory left"), "{error}");
    // What it took was given back.
    let small = Server::http(|_| Response::new(full(vec![b'x'; 200 << 10]))).await;
    for _ in 0..5 {
        get(&client, &policy(&["127.0.0.1"]), &small.url("/"))
            .await
            .expect("fits");
    }
    // An answer counts until nobody has any of its bytes.
    let answer = get(&client, &policy(&["127.0.0.1"]), &small.url("/")).await;
    let part = answer.expect("fits").into_body().slice(..1);
    get(&client, &policy(&["127.0.0.1"]), &small.url("/"))
        .await
        .expect_err("the first is still there");
    drop(part);
    get(&client, &policy(&["127.0.0.1"]), &small.url("/"))
        .await
        .expect("fits again");
    // So do the bodies of requests.
    let large = |size| {
        Request::post(small.url("/"))
            .body(Bytes::from(vec![0; size]))
            .unwrap()
    };
    let policy = policy(&["127.0.0.1"]);
    let error = client.send(&policy, large(300 << 10)).await;
    let error = error.expect_err("more than all may have");
    assert_eq!(error.kind, ErrorKind::InvalidRequestBody);
    assert!(error.message.contains("no memory left"), "{error}");
}

/// Memory of a call: so many bytes at most, and how many are charged.
struct Account(u64, Arc<AtomicU64>);

impl MemoryCharge for Account {
    fn grow_to(&mut self, bytes: u64) -> bool {
        let fits = bytes <= self.0;
        if fits {
            self.1.store(bytes, Ordering::Relaxed);
        }
        fits
    }

    fn shrink_to(&mut self, bytes: u64) {
        self.1.fetch_min(bytes, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn bodies_are_charged_to_the_sender_before_they_are_held() {
    let server = Server::http(|_| {
        let frames = (0..20).map(|_| Ok(Frame::data(Bytes::from(vec![b'x'; 10 << 10]))));
        Response::new(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(
            frames,
        ))))
    })
    .await;
    let (client, policy) = (client(""), policy(&["127.0.0.1"]));
    let send = |most| {
        let charged = Arc::new(AtomicU64::new(0));
        let account = Box::new(Account(most, charged.clone()));
        let request = Request::post(server.url("/"))
            .body(Bytes::from(vec![0; 1000]))
            .unwrap();
        let sent = client.send_charged(&policy, request, Some(account));
        async move { (sent.await, charged) }
    };
    let (answer, charged) = send(300 << 10).await;
    let answer = answer.expect("fits").into_body();
    assert_eq!(answer.len(), 200 << 10);
    let held = charged.load(Ordering::Relaxed);
    assert!((200 << 10..=230 << 10).contains(&held), "{held}");
    drop(answer);
    assert_eq!(charged.load(Ordering::Relaxed), 0);
    for most in [100, 100 << 10] {
        let (answer, charged) = send(most).await;
        let error = answer.expect_err("more than the account has");
        assert!(error.message.contains("no memory left"), "{error}");
        assert_eq!(charged.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn bounds_follow_the_available_memory() {
    let small = ClientOptions::default().with_memory(32 << 20);
    assert_eq!(
        (small.memory, small.max_requests, small.max_kept),
        (32 << 20, 64, 64)
    );
    let large = ClientOptions::default().with_memory(64 << 30);
    let most = ClientOptions::default();
    assert_eq!(
        (large.max_requests, large.max_kept),
        (most.max_requests, most.max_kept)
    );
    assert_eq!(large.memory, 64 << 30);
}

#[tokio::test]
async fn silence_is_a_timeout() {
    for answer in [
        &b""[..],
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
    ] {
        let url = raw(answer.to_vec(), true).await;
        let start = Instant::now();
        let error = fails(&url, short()).await;
        assert_eq!(error.kind, ErrorKind::Timeout, "{error}");
        assert!(
            error.message.contains("127.0.0.1") && error.message.contains("300ms"),
            "{error}"
        );
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}

#[tokio::test]
async fn one_timeout_covers_all_hops() {
    let server = Server::http(|_| {
        std::thread::sleep(Duration::from_millis(60));
        crate::common::redirect(302, "/again")
    })
    .await;
    let limits = PolicyLimits {
        redirects: 1000,
        ..short()
    };
    assert_eq!(
        fails(&server.url("/"), limits).await.kind,
        ErrorKind::Timeout
    );
    assert!(server.seen().len() < 10);
}

#[tokio::test]
async fn rejects_invalid_responses() {
    for (answer, kind) in [
        (
            &b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"[..],
            ErrorKind::InvalidResponseBody,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            ErrorKind::InvalidResponseBody,
        ),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", ErrorKind::Internal),
        (b"", ErrorKind::Internal),
        (b"HTTP/1.1 99999 Odd\r\n\r\n", ErrorKind::Internal),
        (
            b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
            ErrorKind::Internal,
        ),
    ] {
        let error = fails(&raw(answer.to_vec(), false).await, limits()).await;
        assert_eq!(
            error.kind,
            kind,
            "{:?}: {error}",
            String::from_utf8_lossy(answer)
        );
        assert!(error.message.contains("127.0.0.1"), "{error}");
    }
    let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
    head.extend(
        std::iter::repeat_n(b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n", 5000).flatten(),
    );
    let error = fails(&raw(head, true).await, limits()).await;
    assert_eq!(error.kind, ErrorKind::Internal, "an endless head: {error}");
}

#[tokio::test]
async fn reports_a_refused_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let error = fails(&url, limits()).await;
    assert_eq!(error.kind, ErrorKind::Internal);
    assert!(
        error.message.contains("cannot connect to `127.0.0.1`")
            && error.message.contains("refused"),
        "{error}"
    );
}

#[tokio::test]
async fn silent_tls_peer_is_a_connect_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let client = client_with(ClientOptions {
        connect_timeout: Duration::from_millis(200),
        ..options()
    });
    let error = get(&client, &policy(&["127.0.0.1"]), &url)
        .await
        .expect_err("no TLS");
    assert_eq!(error.kind, ErrorKind::Timeout);
    assert!(
        error.message.contains("cannot connect to `127.0.0.1`"),
        "{error}"
    );
    drop(listener);
}

#[tokio::test]
async fn waiting_for_a_place_has_its_own_timeout() {
    let url = raw(Vec::new(), true).await;
    let server = Server::http(|_| ok("fine")).await;
    let client = client_with(ClientOptions {
        max_requests: 1,
        ..options()
    });
    let (slow, policy) = (policy_with(&["127.0.0.1"], short()), policy(&["127.0.0.1"]));
    let (first, second) = tokio::join!(get(&client, &slow, &url), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        get(&client, &policy, &server.url("/")).await
    });
    assert_eq!(first.expect_err("silence").kind, ErrorKind::Timeout);
    assert_eq!(second.expect("its turn came").body(), "fine");
}

#[tokio::test]
async fn rejects_invalid_requests() {
    let client = client("");
    let policy = policy(&["127.0.0.1"]);
    let send =
        |request: http::request::Builder| client.send(&policy, request.body(Bytes::new()).unwrap());
    for request in [
        Request::get("/relative"),
        Request::get("http://me:secret@127.0.0.1/"),
        Request::get("ftp://127.0.0.1/"),
        Request::get("http://256.256.256.256/"),
        Request::builder()
            .method(Method::CONNECT)
            .uri("http://127.0.0.1:1"),
        Request::builder()
            .method(Method::TRACE)
            .uri("http://127.0.0.1:1/"),
    ] {
        let error = send(request).await.expect_err("invalid");
        assert_eq!(error.kind, ErrorKind::InvalidRequest, "{error}");
        assert!(!error.message.contains("secret"));
    }
    let error = send(
        Request::builder()
            .method("PURGE")
            .uri("http://127.0.0.1:1/"),
    )
    .await
    .expect_err("method");
    assert_eq!(error.kind, ErrorKind::NotAllowed);
}
