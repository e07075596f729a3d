//! Pages of other origins: which may read responses, and who answers their preflight requests.

use crate::common::client::Response;
use crate::common::{Running, Site, wat};

const PAGE: &str = "origin: https://app.example\r\n";

async fn preflight(server: &Running, path: &str, origin: &str) -> Response {
    let headers = format!(
        "origin: {origin}\r\naccess-control-request-method: PUT\r\n\
         access-control-request-headers: x-token\r\n"
    );
    let mut client = server.connect().await;
    client.request("OPTIONS", path, &headers, b"").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_answers_preflight_requests_for_its_origins() {
    let site = Site::new();
    site.settings("cors = [\"https://app.example\", \"http://localhost:5173\"]")
        .wasm("api.wasm", &wat::answers("x"));
    let server = site.start().await;
    let response = preflight(&server, "/api", "https://app.example").await;
    assert_eq!(response.status, 204);
    let allowed = response.header("access-control-allow-origin");
    assert_eq!(allowed, Some("https://app.example"));
    let methods = response.header("access-control-allow-methods").unwrap();
    assert!(methods.contains("PUT"), "{methods}");
    assert_eq!(
        response.header("access-control-allow-headers"),
        Some("x-token")
    );
    assert_eq!(response.header("access-control-max-age"), Some("600"));
    assert_eq!(response.header("access-control-allow-credentials"), None);
    let response = preflight(&server, "/api", "https://evil.example").await;
    assert_eq!(response.header("access-control-allow-origin"), None);
    assert_eq!(response.header("vary"), Some("origin"));
    assert_eq!(
        preflight(&server, "/none", "https://app.example")
            .await
            .status,
        404
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_of_workers_assets_and_the_server_can_be_read() {
    let site = Site::new();
    site.settings("cors = \"https://app.example\"")
        .wasm("api.wasm", &wat::answers("x"))
        .wasm("fails.wasm", &wat::prints("no json", ""))
        .file("public/a.txt", "a");
    let server = site.start().await;
    let mut client = server.connect().await;
    for (path, status) in [
        ("/api", 200),
        ("/fails", 500),
        ("/a.txt", 200),
        ("/none", 404),
    ] {
        let response = client.request("GET", path, PAGE, b"").await;
        assert_eq!(response.status, status);
        let allowed = response.header("access-control-allow-origin");
        assert_eq!(allowed, Some("https://app.example"), "{path}");
        assert_eq!(response.header("vary"), Some("origin"), "{path}");
        // Caches must not pass this on to the page.
        let response = client.get(path).await;
        assert_eq!(response.header("access-control-allow-origin"), None);
        assert_eq!(response.header("vary"), Some("origin"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_has_rules_of_its_own() {
    let site = Site::new();
    site.settings("cors = \"*\"")
        .wasm("own.wasm", &wat::answers("x"))
        .file(
            "own.toml",
            "version = \"1\"\n[cors]\norigins = [\"https://app.example\"]\ncredentials = true\n\
             methods = [\"PUT\"]\nheaders = [\"x-own\"]\nexpose = [\"x-total\"]\n\
             max_age = \"1m\"\n",
        )
        .wasm("none.wasm", &wat::answers("x"))
        .file("none.toml", "version = \"1\"\n[cors]\norigins = []\n")
        .wasm("other.wasm", &wat::answers("x"));
    let server = site.start().await;
    let response = preflight(&server, "/own", "https://app.example").await;
    for (name, value) in [
        ("access-control-allow-origin", "https://app.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "PUT"),
        ("access-control-allow-headers", "x-own"),
        ("access-control-max-age", "60"),
    ] {
        assert_eq!(response.header(name), Some(value));
    }
    let mut client = server.connect().await;
    let response = client.request("GET", "/own", PAGE, b"").await;
    assert_eq!(
        response.header("access-control-expose-headers"),
        Some("x-total")
    );
    let response = client.request("GET", "/other", PAGE, b"").await;
    assert_eq!(response.header("access-control-allow-origin"), Some("*"));
    assert_eq!(response.header("vary"), None);
    // The worker itself answers.
    let response = preflight(&server, "/none", "https://app.example").await;
    assert_eq!((response.status, response.text()), (200, "x".to_owned()));
    assert_eq!(response.header("access-control-allow-origin"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_for_all_origins_are_refused() {
    let site = Site::new();
    site.settings("cors = \"*\"")
        .wasm("api.wasm", &wat::answers("x"))
        .file("api.toml", "version = \"1\"\n[cors]\ncredentials = true\n");
    let problems = site.problems();
    assert!(
        problems.contains("cors.credentials") && problems.contains("api.toml:2"),
        "{problems}"
    );
}
