//! A request that is dropped ends at once, whatever it waits for: its connection closes, its place
//! is free.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::common::{Server, client_with, eventually, get, ok, options, policy};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use wws_outbound::ClientOptions;

/// A server that writes `answer` and then nothing more; the number of connections that it sees
/// open.
async fn stuck(answer: &'static [u8]) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let open = Arc::new(AtomicUsize::new(0));
    let counted = open.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(answer).await;
                while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
                counted.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    (address, open)
}

#[tokio::test]
async fn cancels_in_every_phase() {
    let fast = Server::http(|_| ok("fast")).await;
    for (what, scheme, answer) in [
        ("TLS", "https", &b""[..]),
        ("the head", "http", b""),
        ("the rest of the head", "http", b"HTTP/1.1 200 OK\r\n"),
        (
            "the body",
            "http",
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        ),
        (
            "a redirect's body",
            "http",
            b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 10\r\n\r\nhalf",
        ),
    ] {
        let (address, open) = stuck(answer).await;
        // One place: whoever keeps it keeps all others waiting.
        let client = client_with(ClientOptions {
            max_requests: 1,
            ..options()
        });
        let policy = policy(&["127.0.0.1"]);
        let url = format!("{scheme}://{address}/");
        {
            let mut request = std::pin::pin!(get(&client, &policy, &url));
            let opened = eventually("connected", || open.load(Ordering::Relaxed) > 0);
            tokio::select! {
                result = &mut request => panic!("{what}: {result:?}"),
                () = opened => {}
            }
            // The answer's beginning arrives.
            let wait = tokio::time::timeout(Duration::from_millis(50), &mut request);
            assert!(wait.await.is_err(), "{what}");
        }
        let start = Instant::now();
        get(&client, &policy, &fast.url("/")).await.expect(what);
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        eventually(what, || open.load(Ordering::Relaxed) == 0).await;
    }
}
