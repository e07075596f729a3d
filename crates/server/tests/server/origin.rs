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
    // One that is not believed is not that of the request.
    log::line(response.header("x-request-id").unwrap(), "guest").await
}

/// No proxy that a test asks from.
const STRANGERS: &str = "trusted_proxies = [\"192.0.2.0/24\"]";

#[tokio::test(flavor = "multi_thread")]
async fn worker_sees_the_real_address_of_the_client() {
    let server = server(STRANGERS).await;
    let input = input(&server, "origin-1").await;
    assert!(!input.contains("origin-1"), "{input}");
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
    let id = input.split(r#""x-request-id":""#).nth(1).unwrap();
    let id = id.split('"').next().unwrap();
    let access = log::line(id, "access").await;
    assert!(access.contains("client=127.0.0.1"), "{access}");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_does_not_choose_the_request_id() {
    let server = server(STRANGERS).await;
    let mut client = server.connect().await;
    let mut ids = Vec::new();
    for path in ["/in", "/in", "/missing"] {
        let headers = "x-request-id: chosen-1\r\n";
        let response = client.request("GET", path, headers, b"").await;
        ids.push(response.header("x-request-id").unwrap().to_owned());
    }
    ids.dedup();
    assert_eq!(ids.len(), 3, "{ids:?}");
    assert!(!ids.iter().any(|id| id == "chosen-1"));
    for (id, target) in ids.iter().zip(["guest", "access", "access"]) {
        log::line(id, target).await;
    }
    assert!(log::lines("chosen-1", "").is_empty());
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
