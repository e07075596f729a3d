//! The admin address: metrics, health, workers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wws_project::AdminAddress;

use crate::common::client::{Client, Response};
use crate::common::{PATIENCE, Running, Site, wat};

pub(crate) fn address(server: &Running) -> SocketAddr {
    match &server.admin {
        Some(AdminAddress::Tcp(address)) => *address,
        other => panic!("{other:?}"),
    }
}

/// Asks the admin address.
pub(crate) async fn ask(server: &Running, path: &str) -> Response {
    let address = address(server);
    let mut client = Client::connect(address).await;
    client
        .send(format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n"))
        .await;
    client.response().await
}

/// The value of a series, 0 if there is none.
pub(crate) async fn metric(server: &Running, series: &str) -> f64 {
    let text = ask(server, "/metrics").await.text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// Waits until a series has a value.
pub(crate) async fn becomes(server: &Running, series: &str, expected: f64) {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if metric(server, series).await == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let text = ask(server, "/metrics").await.text();
    panic!("{series} is not {expected}\n{text}");
}

fn site() -> Site {
    let site = Site::new();
    site.settings("admin = \"127.0.0.1:0\"");
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_requests_by_route_method_and_status() {
    let site = site();
    site.wasm("api/[id].wasm", &wat::answers("x"))
        .wasm("fails.wasm", &wat::prints("no json", ""))
        .file("public/a.txt", "a");
    let server = site.start().await;
    for path in ["/api/1", "/api/2", "/api/3", "/fails", "/a.txt", "/none"] {
        server.get(path).await;
    }
    server
        .connect()
        .await
        .request("POST", "/api/4", "", b"x")
        .await;
    let requests = |labels: &str| format!("wws_requests_total{{{labels}}}");
    for (labels, count) in [
        ("worker=\"/api/[id]\",method=\"GET\",status=\"2xx\"", 3.0),
        ("worker=\"/api/[id]\",method=\"POST\",status=\"2xx\"", 1.0),
        ("worker=\"/fails\",method=\"GET\",status=\"5xx\"", 1.0),
        ("worker=\"_assets\",method=\"GET\",status=\"2xx\"", 1.0),
        ("worker=\"_none\",method=\"GET\",status=\"4xx\"", 1.0),
    ] {
        becomes(&server, &requests(labels), count).await;
    }
    becomes(
        &server,
        "wws_response_seconds_count{worker=\"/api/[id]\"}",
        4.0,
    )
    .await;
    becomes(
        &server,
        "wws_worker_memory_bytes_count{worker=\"/api/[id]\"}",
        4.0,
    )
    .await;
    becomes(
        &server,
        "wws_worker_memory_peak_bytes{worker=\"/api/[id]\"}",
        262_144.0,
    )
    .await;
    becomes(
        &server,
        "wws_worker_failures_total{worker=\"/fails\",kind=\"response\"}",
        1.0,
    )
    .await;
    assert!(
        metric(
            &server,
            "wws_worker_cpu_seconds_total{worker=\"/api/[id]\"}"
        )
        .await
            > 0.0
    );
    assert_eq!(metric(&server, "wws_workers").await, 2.0);
    assert_eq!(
        metric(&server, "wws_code_loads_total{source=\"compiled\"}").await,
        2.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_cannot_add_series() {
    const REQUESTS: usize = 10_000;
    let site = site();
    site.wasm("[id].wasm", &wat::answers("x"));
    let server = site.start().await;
    let series = async || {
        let text = ask(&server, "/metrics").await.text();
        text.lines().filter(|line| !line.starts_with('#')).count()
    };
    let mut client = server.connect().await;
    // One of each kind.
    for (method, path) in [("BREW", "/x"), ("BREW", "/a/b")] {
        client.request(method, path, "", b"").await;
    }
    let before = series().await;
    for number in 0..REQUESTS {
        let path = match number % 10 {
            0 => format!("/{number}"),
            _ => format!("/none/{number}"),
        };
        let headers = format!("x-request-id: id-{number}\r\nuser-agent: agent-{number}\r\n");
        let method = format!("M{number}");
        client.request(&method, &path, &headers, b"").await;
    }
    let all = "wws_requests_total{worker=\"_none\",method=\"other\",status=\"4xx\"}";
    becomes(&server, all, (REQUESTS * 9 / 10 + 1) as f64).await;
    assert_eq!(series().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_limits_and_refusals() {
    let site = Site::new();
    site.settings("admin = \"127.0.0.1:0\"\nconcurrency = 1\nqueue = 0\nmax_body = 10")
        .wasm("loops.wasm", &wat::loops())
        .file(
            "loops.toml",
            "version = \"1\"\n[limits]\ncpu_time = \"50ms\"\n",
        )
        .wasm("slow.wasm", &wat::sleeps(4000));
    let server = site.start().await;
    assert_eq!(server.get("/loops").await.status, 504);
    becomes(
        &server,
        "wws_limits_met_total{worker=\"/loops\",limit=\"cpu_time\"}",
        1.0,
    )
    .await;
    becomes(
        &server,
        "wws_worker_failures_total{worker=\"/loops\",kind=\"limit\"}",
        1.0,
    )
    .await;
    let cpu = metric(&server, "wws_worker_cpu_seconds_total{worker=\"/loops\"}").await;
    assert!((0.03..2.0).contains(&cpu), "{cpu}");
    let address = server.address;
    let slow = tokio::spawn(async move { Client::connect(address).await.get("/slow").await });
    becomes(&server, "wws_calls_running{worker=\"/slow\"}", 1.0).await;
    assert_eq!(metric(&server, "wws_slots_in_use").await, 1.0);
    assert_eq!(server.get("/loops").await.status, 503);
    assert_eq!(slow.await.unwrap().status, 200);
    becomes(&server, "wws_calls_running{worker=\"/slow\"}", 0.0).await;
    let large = b"12345678901";
    let mut client = server.connect().await;
    assert_eq!(client.request("POST", "/slow", "", large).await.status, 413);
    becomes(&server, "wws_refusals_total{cause=\"queue_full\"}", 1.0).await;
    becomes(&server, "wws_refusals_total{cause=\"body_too_large\"}", 1.0).await;
    let bad =
        "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n";
    let mut client = server.connect().await;
    client.send(bad).await;
    assert_eq!(client.response().await.status, 400);
    becomes(&server, "wws_refusals_total{cause=\"bad_request\"}", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_clients_that_go_away_as_499() {
    let site = site();
    site.wasm("slow.wasm", &wat::sleeps(120_000));
    let server = site.start().await;
    let mut client = server.connect().await;
    client.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    becomes(&server, "wws_calls_running{worker=\"/slow\"}", 1.0).await;
    drop(client);
    let gone = "wws_requests_total{worker=\"/slow\",method=\"GET\",status=\"4xx\"}";
    becomes(&server, gone, 1.0).await;
    becomes(&server, "wws_calls_running{worker=\"/slow\"}", 0.0).await;
    // It had no head.
    assert_eq!(
        metric(&server, "wws_response_head_seconds_count{worker=\"/slow\"}").await,
        0.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_paths_are_not_on_the_port_of_workers() {
    let site = site();
    site.wasm("index.wasm", &wat::answers("x"));
    let server = site.start().await;
    for path in [
        "/metrics",
        "/healthz",
        "/readyz",
        "/_panel/",
        "/_api/v0/workers",
    ] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
    assert_eq!(ask(&server, "/").await.status, 404);
    let metrics = ask(&server, "/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(
        metrics
            .header("content-type")
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    let site = Site::new();
    site.wasm("index.wasm", &wat::answers("x"));
    assert_eq!(site.start().await.admin, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn is_ready_until_it_drains() {
    let site = site();
    site.wasm("slow.wasm", &wat::sleeps(4000));
    let mut server = site.start().await;
    assert_eq!(ask(&server, "/healthz").await.status, 200);
    assert_eq!(ask(&server, "/readyz").await.text(), "ready\n");
    let mut client = server.connect().await;
    client.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    becomes(&server, "wws_calls_running{worker=\"/slow\"}", 1.0).await;
    server.stop();
    while ask(&server, "/readyz").await.status != 503 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(ask(&server, "/healthz").await.status, 200);
    assert_eq!(metric(&server, "wws_draining").await, 1.0);
    assert_eq!(client.response().await.status, 200);
    let admin = address(&server);
    assert_eq!(server.stopped().await.aborted, 0);
    assert!(tokio::net::TcpStream::connect(admin).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_workers_as_1_7_does_and_masks_variables() {
    let site = site();
    site.wasm("api/[id].wasm", &wat::answers("x")).file(
        "api/[id].toml",
        "name = \"item\"\nversion = \"1\"\n[vars]\nTOKEN = \"secret-value\"\n\
         [data.kv]\nnamespace = \"items\"\n[[folders]]\nfrom = \"./files\"\nto = \"/mnt/files\"\n",
    );
    site.file("api/files/a", "a");
    let server = site.start().await;
    let list = ask(&server, "/_api/v0/workers").await.text();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let worker = &list[0];
    assert_eq!(
        (&worker["name"], &worker["path"]),
        (&"item".into(), &"/api/[id]".into())
    );
    assert_eq!(worker["filepath"], "api/[id].wasm");
    let id = worker["id"].as_str().unwrap();
    let text = ask(&server, &format!("/_api/v0/workers/{id}")).await.text();
    assert!(!text.contains("secret-value"), "{text}");
    let worker: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&worker["id"], &worker["version"]),
        (&id.into(), &"1".into())
    );
    assert_eq!(worker["data"]["kv"], "items");
    assert_eq!(worker["folders"][0]["to"], "/mnt/files");
    assert_eq!(worker["vars"]["TOKEN"], "********");
    assert_eq!(ask(&server, "/_api/v0/workers/other").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_sites_cannot_read_it() {
    let site = site();
    site.wasm("index.wasm", &wat::answers("x"));
    let server = site.start().await;
    let mut client = Client::connect(address(&server)).await;
    // The name of a site that resolves to this machine.
    client
        .send("GET /_api/v0/workers HTTP/1.1\r\nhost: evil.example\r\n\r\n")
        .await;
    let response = client.response().await;
    assert_eq!(response.status, 403);
    assert_eq!(response.header("access-control-allow-origin"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn listens_on_a_unix_socket() {
    let site = Site::new();
    let path = site.root().join("admin.sock");
    site.settings(&format!("admin = \"unix:{}\"", path.display()))
        .wasm("index.wasm", &wat::answers("x"));
    let mut server = site.start().await;
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    stream
        .write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(
        text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("ready\n"),
        "{text}"
    );
    server.stop();
    server.stopped().await;
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_clients_do_not_block_others() {
    let site = site();
    site.wasm("index.wasm", &wat::answers("x"));
    let server = site.start().await;
    let mut stalled = Vec::new();
    for _ in 0..40 {
        let mut client = Client::connect(address(&server)).await;
        client.send("GET /metrics HT").await;
        stalled.push(client);
    }
    // Their heads do not arrive in time.
    assert_eq!(ask(&server, "/healthz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_panel_has_a_strict_policy_and_its_interface_escapes_nothing_into_the_page() {
    let site = site();
    let route = "<img src=x onerror=alert(1)>";
    site.wasm(&format!("{route}.wasm"), &wat::answers("x"))
        .wasm(
            "counter.wasm",
            &wat::prints(r#"{"data":"x","kv":{"<b>":"<i>"}}"#, ""),
        )
        .file(
            "counter.toml",
            "version = \"1\"\n[data.kv]\nnamespace = \"a/b\"\n",
        );
    let server = site.start().await;
    server.get("/counter").await;
    let page = ask(&server, "/_panel/").await;
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'sha256-"),
        "{policy}"
    );
    assert_eq!(
        ask(&server, "/_panel").await.header("location"),
        Some("/_panel/")
    );
    let status = ask(&server, "/_api/v1/status").await;
    assert_eq!(status.header("content-type"), Some("application/json"));
    let status: serde_json::Value = serde_json::from_str(&status.text()).unwrap();
    let workers = status["workers"].as_array().unwrap();
    assert!(
        workers
            .iter()
            .any(|worker| worker["route"] == format!("/{route}"))
    );
    assert_eq!(status["namespaces"][0], "a/b");
    let keys = ask(&server, "/_api/v1/kv/a%2Fb").await.text();
    let keys: serde_json::Value = serde_json::from_str(&keys).unwrap();
    assert_eq!(
        (&keys["more"], &keys["keys"][0]["key"]),
        (&false.into(), &"<b>".into())
    );
    assert_eq!(ask(&server, "/_api/v1/kv/other").await.status, 404);
    let id = workers[0]["id"].as_str().unwrap();
    let worker = ask(&server, &format!("/_api/v1/workers/{id}")).await;
    assert_eq!(worker.status, 200);
    assert!(worker.text().contains("cpu_time_ms"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_panel_is_on_the_workers_port_if_it_is_enabled() {
    let site = Site::new();
    site.settings("panel = \"loopback\"")
        .wasm("index.wasm", &wat::answers("x"));
    let server = site.start().await;
    let get = async |path: &str, headers: &str| {
        let mut client = server.connect().await;
        client
            .send(format!(
                "GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n"
            ))
            .await;
        client.response().await.status
    };
    assert_eq!(get("/_panel/", "").await, 200);
    assert_eq!(get("/_api/v0/workers", "").await, 200);
    assert_eq!(get("/", "").await, 200);
    // Metrics and health checks stay on the admin address.
    assert_eq!(get("/metrics", "").await, 404);
    // A proxy on this machine passes on requests of others.
    for header in [
        "x-forwarded-for: 10.1.2.3\r\n",
        "forwarded: for=x\r\n",
        "via: 1.1 p\r\n",
    ] {
        assert_eq!(get("/_panel/", header).await, 403, "{header}");
    }
    // By the name of another site.
    assert_eq!(server.get("/_api/v0/workers").await.status, 403);
    let site = Site::new();
    site.settings("panel = \"any\"")
        .wasm("index.wasm", &wat::answers("x"));
    let server = site.start().await;
    assert_eq!(server.get("/_api/v0/workers").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_sites_cannot_read_the_panel_s_interface() {
    let site = Site::new();
    site.settings("panel = \"loopback\"\ncors = \"*\"")
        .wasm("index.wasm", &wat::answers("x"));
    let server = site.start().await;
    let ask = async |path: &str, headers: &str| {
        let mut client = server.connect().await;
        let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
        client.send(head).await;
        client.response().await
    };
    let allowed = "access-control-allow-origin";
    let other = "origin: http://evil.example\r\n";
    assert_eq!(ask("/", other).await.header(allowed), Some("*"));
    for headers in [other, "sec-fetch-site: cross-site\r\n", "origin: null\r\n"] {
        let refused = ask("/_api/v1/status", headers).await;
        assert_eq!(
            (refused.status, refused.header(allowed)),
            (403, None),
            "{headers}"
        );
    }
    let own = ask("/_api/v1/status", "origin: http://localhost\r\n").await;
    assert_eq!((own.status, own.header(allowed)), (200, None));
    // Other paths are the project's.
    let unknown = ask("/_api/hello", other).await;
    assert_eq!((unknown.status, unknown.header(allowed)), (404, Some("*")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_logs_its_level_up_to_its_rate() {
    let site = site();
    site.wasm("quiet.wasm", &wat::logs_input())
        .file("quiet.toml", "version = \"1\"\n[log]\nlevel = \"warn\"\n")
        .wasm("noisy.wasm", &wat::logs_input())
        .file("noisy.toml", "version = \"1\"\n[log]\nrate = 3\n");
    let server = site.start().await;
    let mut client = server.connect().await;
    assert_eq!(client.get("/quiet?sight-level").await.status, 200);
    // What each call reads is one line of JSON.
    let left_out = "wws_log_lines_left_out_total{worker=\"/noisy\"}";
    let end = Instant::now() + PATIENCE;
    while metric(&server, left_out).await < 10.0 {
        assert!(Instant::now() < end, "no lines are left out");
        for _ in 0..20 {
            assert_eq!(client.get("/noisy?sight-rate").await.status, 200);
        }
    }
    // The access line has no query.
    assert!(crate::common::log::lines("quiet.wasm", "sight-level").is_empty());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    client.get("/noisy").await;
    crate::common::log::line("noisy.wasm", "more lines left out (`log.rate`)").await;
}
