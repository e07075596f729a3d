//! Connections are used again, and not for ever; what is sent is what the guest meant.

use std::{sync::Arc, time::Duration};

use crate::common::{Server, client, client_with, eventually, full, get, ok, options, policy};
use bytes::Bytes;
use http::{Request, Response};
use wws_outbound::{Client, ClientOptions};

#[tokio::test]
async fn one_connection_for_many_requests() {
    let server = Server::http(|_| ok("fine")).await;
    let client = client("");
    let policy = policy(&["127.0.0.1"]);
    for _ in 0..50 {
        get(&client.clone(), &policy, &server.url("/"))
            .await
            .expect("answer");
    }
    assert_eq!((server.seen().len(), server.connections()), (50, 1));
    assert_eq!(client.connections().opened, 1);
}

/// Sends 20 requests at once, for which more than two connections are opened.
async fn send_many(client: &Client) {
    let server = Arc::new(Server::http(|_| ok("fine")).await);
    let mut tasks = Vec::new();
    for _ in 0..20 {
        let (client, server) = (client.clone(), server.clone());
        tasks.push(tokio::spawn(async move {
            get(&client, &policy(&["127.0.0.1"]), &server.url("/"))
                .await
                .expect("answer");
        }));
    }
    for task in tasks {
        task.await.expect("task");
    }
    assert!(client.connections().opened > 2);
}

#[tokio::test]
async fn bounds_number_of_idle_connections() {
    let client = client_with(ClientOptions {
        max_idle_per_host: 2,
        idle_timeout: Duration::from_secs(3600),
        ..options()
    });
    send_many(&client).await;
    eventually("two wait", || client.connections().open == 2).await;
}

#[tokio::test]
async fn bounds_age_of_idle_connections() {
    let client = client_with(ClientOptions {
        idle_timeout: Duration::from_millis(200),
        ..options()
    });
    send_many(&client).await;
    eventually("none waits for ever", || client.connections().open == 0).await;
}

#[tokio::test]
async fn closes_connections_above_the_limit() {
    let server = Server::http(|_| ok("fine")).await;
    let client = client_with(ClientOptions {
        max_kept: 0,
        ..options()
    });
    for _ in 0..5 {
        get(&client, &policy(&["127.0.0.1"]), &server.url("/"))
            .await
            .expect("answer");
    }
    eventually("all closed", || client.connections().open == 0).await;
    assert_eq!(server.connections(), 5);
}

#[tokio::test]
async fn replaces_a_connection_that_the_server_closed() {
    let server = Server::http(|seen| {
        let mut response = ok("fine");
        if seen.target == "/last" {
            response
                .headers_mut()
                .insert("connection", "close".parse().unwrap());
        }
        response
    })
    .await;
    let client = client("");
    for path in ["/", "/last", "/", "/"] {
        get(&client, &policy(&["127.0.0.1"]), &server.url(path))
            .await
            .expect("answer");
    }
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn dropped_call_leaves_nothing() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let client = client("");
    let policy = policy(&["127.0.0.1"]);
    tokio::select! {
        answer = get(&client, &policy, &url) => panic!("{answer:?}"),
        () = eventually("opened", || client.connections().opened == 1) => {}
    }
    eventually("closed", || client.connections().open == 0).await;
    assert_eq!(client.connections().opened, 1);
}

#[tokio::test]
async fn passes_headers_and_bodies_unchanged() {
    let server = Server::http(|_| {
        Response::builder()
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .header("keep-alive", "timeout=5")
            .header("content-encoding", "gzip")
            .header("x-odd", http::HeaderValue::from_bytes(b"\xe4").unwrap())
            .body(full(&[0x1f, 0x8b, 0xff, 0][..]))
            .unwrap()
    })
    .await;
    let body = Bytes::from_static(&[0, 1, 0xff, 0xfe]);
    let request = Request::post(server.url("/p%20a?q=%22x%22&a=b|c"))
        .header("host", "evil.example")
        .header("content-length", "999")
        .header("transfer-encoding", "chunked")
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("x-twice", "1")
        .header("x-twice", "2")
        .body(body.clone())
        .unwrap();
    let response = client("")
        .send(&policy(&["127.0.0.1"]), request)
        .await
        .expect("answer");
    let seen = &server.seen()[0];
    assert_eq!(seen.target, "/p%20a?q=%22x%22&a=b|c");
    assert_eq!(seen.body, body);
    assert_eq!(seen.headers["host"], server.address.to_string());
    assert_eq!(seen.headers["content-length"], "4");
    assert_eq!(seen.headers.get_all("x-twice").iter().count(), 2);
    for name in [
        "x-hop",
        "connection",
        "transfer-encoding",
        "accept-encoding",
    ] {
        assert!(!seen.headers.contains_key(name), "{name}");
    }
    assert!(
        seen.headers["user-agent"]
            .to_str()
            .unwrap()
            .starts_with("wws/")
    );
    assert_eq!(response.headers().get_all("set-cookie").iter().count(), 2);
    assert!(!response.headers().contains_key("keep-alive"));
    assert_eq!(response.headers()["x-odd"].as_bytes(), b"\xe4");
    assert_eq!(&response.body()[..], &[0x1f, 0x8b, 0xff, 0]);
}

/// Not a check: what a request costs over a loopback connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput() {
    let server = Server::http(|_| ok("fine")).await;
    let client = client(&format!("api.example.com=127.0.0.1:{}", server.port()));
    for tasks in [1, 32] {
        let start = std::time::Instant::now();
        let count = 20_000 / tasks;
        let mut running = Vec::new();
        for _ in 0..tasks {
            let client = client.clone();
            running.push(tokio::spawn(async move {
                let policy = policy(&["api.example.com"]);
                for _ in 0..count {
                    get(&client, &policy, "http://api.example.com/")
                        .await
                        .expect("answer");
                }
            }));
        }
        for task in running {
            task.await.expect("task");
        }
        let rate = f64::from(count * tasks) / start.elapsed().as_secs_f64();
        eprintln!(
            "{tasks} at once: {rate:.0} requests/s, {:?}",
            client.connections()
        );
    }
}
