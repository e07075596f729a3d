//! What workers and the log learn of a request's client and name.

use crate::common::{Running, Site, log, wat};

async fn server(settings: &str) -> Running {
    let site = Site::new();
    site.settings(settings)
        .wasm("in.wasm", &wat::logs_input())
        .wasm(
            "named.wasm",
            &wat::prints(
                r#"{"data":"x","headers":{"x-request-id":"of-the-worker"}}"#,
                "",
            ),
        );
    site.start().await
}

const HEADERS: &str = "x-forwarded-for: 6.6.6.6, 198.51.100.1\r\nx-forwarded-proto: https\r\n\
    x-forwarded-host: shop.example\r\nx-real-ip: 6.6.6.6\r\n";

/// What the worker read of a request with the headers of a proxy.
async fn input(server: &Running, id: &str) -> String {
    let headers = format!("{HEADERS}x-request-id: {id}\r\n");
    let response = server
        .connect()
        .await
        .request("GET", "/in", &headers, b"")
        .await;
    assert_eq!(response.status, 200);
    log::line(id, "guest").await
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_sees_the_real_address_of_the_client() {
    let server = server("").await;
    let input = input(&server, "origin-1").await;
    assert!(
        input.contains(r#""x-forwarded-for":"127.0.0.1""#),
        "{input}"
    );
    for forged in [
        "6.6.6.6",
        "shop.example",
        "https",
        "x-real-ip",
        "198.51.100.1",
    ] {
        assert!(!input.contains(forged), "{forged}: {input}");
    }
    let access = log::line("origin-1", "access").await;
    assert!(access.contains("client=127.0.0.1"), "{access}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_is_believed() {
    let server = server("trusted_proxies = [\"127.0.0.0/8\"]").await;
    let input = input(&server, "origin-2").await;
    assert!(
        input.contains(r#""x-forwarded-for":"198.51.100.1, 127.0.0.1""#),
        "{input}"
    );
    assert!(
        input.contains(r#""url":"https://shop.example/in""#),
        "{input}"
    );
    assert!(
        log::line("origin-2", "access")
            .await
            .contains("client=198.51.100.1")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_sees_the_request_id_and_may_replace_it() {
    let server = server("").await;
    let input = input(&server, "origin-3").await;
    assert!(input.contains(r#""x-request-id":"origin-3""#), "{input}");
    let response = server.get("/in").await;
    let id = response.header("x-request-id").unwrap().to_owned();
    let line = log::line(&id, "guest").await;
    assert!(
        line.contains(&format!(r#""x-request-id":"{id}""#)),
        "{line}"
    );
    let response = server.get("/named").await;
    assert_eq!(response.header("x-request-id"), Some("of-the-worker"));
}
