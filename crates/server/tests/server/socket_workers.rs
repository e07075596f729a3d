//! Workers in JavaScript that have WebSockets: the chat example, and sockets to other servers.

use std::sync::LazyLock;

use sha2::{Digest, Sha256};
use wws_engine::{CodeCache, Engine, EngineOptions, interpreter_module};
use wws_languages::{JavaScript, Language, Languages};
use wws_project::LoadOptions;
use wws_server::PrepareOptions;

use crate::admin::metric;
use crate::common::Site;
use crate::common::socket::{Socket, TEXT};

pub(crate) const ECHO: &str = r#"
export default (request) => {
  const [client, server] = Object.values(new WebSocketPair());
  server.accept();
  server.addEventListener("message", ({ data }) => server.send(data));
  return new Response(null, { status: 101, webSocket: client });
};
"#;

/// The interpreter, compiled once for all runs of the tests.
static JAVASCRIPT: LazyLock<CodeCache> = LazyLock::new(javascript_code);

fn javascript_code() -> CodeCache {
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("javascript");
    let cache = CodeCache::open(&directory, 1 << 30).unwrap();
    let engine = Engine::new(&EngineOptions::default()).unwrap();
    let wasm = JavaScript.built_in().unwrap().wasm;
    let key = engine.interpreter_key(&Sha256::digest(wasm).into());
    if !cache.has(&key) {
        let module = interpreter_module(wasm).unwrap();
        let code = engine.precompile(&module).unwrap();
        cache.store(&key, &code).unwrap();
    }
    cache
}

/// A server of workers in JavaScript.
pub(crate) fn with_javascript() -> PrepareOptions {
    PrepareOptions {
        code: Some(JAVASCRIPT.clone()),
        languages: Languages::standard(),
        ..PrepareOptions::default()
    }
}

/// The next message of the chat as JSON text without its time.
async fn said(socket: &mut Socket) -> String {
    loop {
        let (kind, content) = socket.message().await.expect("a message");
        if kind == TEXT {
            let text = String::from_utf8(content).unwrap();
            return text.split(",\"at\"").next().unwrap().to_owned();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chat_example_passes_messages_on() {
    let example = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images/chat/root");
    let read = |name: &str| std::fs::read(example.join(name)).unwrap();
    let site = Site::new();
    for name in ["room.js", "room.toml", "public/index.html"] {
        site.file(name, read(name));
    }
    let server = site
        .start_prepared(&LoadOptions::default(), &with_javascript())
        .await;
    assert_eq!(server.get("/").await.status, 200);
    let mut ada = Socket::open(server.address, "/room?name=Ada", "").await;
    ada.send(TEXT, b"hello").await;
    assert_eq!(said(&mut ada).await, r#"{"name":"Ada","text":"hello""#);
    // Who comes later sees what was said.
    let mut bob = Socket::open(server.address, "/room?name=Bob", "").await;
    assert_eq!(said(&mut bob).await, r#"{"name":"Ada","text":"hello""#);
    bob.send(TEXT, b"hi").await;
    assert_eq!(said(&mut ada).await, r#"{"name":"Bob","text":"hi""#);
    drop(bob);
    assert_eq!(said(&mut ada).await, r#"{"name":"Bob","text":"has left""#);
    ada.send(TEXT, &[b'x'; 1001]).await;
    assert_eq!(ada.closed().await, 1009);
    let foreign = format!(
        "{}origin: http://other.example\r\n",
        crate::common::socket::UPGRADE
    );
    let refused = Socket::ask(server.address, "/room", &foreign).await;
    assert!(
        refused.head.starts_with("HTTP/1.1 403 "),
        "{}",
        refused.head
    );
}

/// Says through a socket to another worker what it is asked to say.
const RELAY: &str = r#"
export default (request) => new Promise((resolve) => {
  const { host, searchParams } = new URL(request.url);
  const socket = new WebSocket(`ws://${host}/${searchParams.get("to")}`);
  socket.onopen = () => socket.send("hi");
  socket.onerror = ({ message }) => resolve(new Response(message));
  socket.onmessage = ({ data }) => { resolve(new Response(data)); socket.close(); };
});
"#;

#[tokio::test(flavor = "multi_thread")]
async fn sockets_to_other_servers_are_counted_as_outgoing_requests() {
    let site = Site::new();
    site.settings("admin = \"127.0.0.1:0\"");
    site.file("echo.js", ECHO).file("relay.js", RELAY).file(
        "relay.toml",
        "version = \"1\"\n[features.http_requests]\nallowed_hosts = [\"127.0.0.1\"]\n\
         allow_http = true\n",
    );
    let server = site
        .start_prepared(&LoadOptions::default(), &with_javascript())
        .await;
    let mut client = server.connect().await;
    let mut ask = async |path: &str| {
        let host = server.address;
        client
            .send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n"))
            .await;
        client.response().await.text()
    };
    assert_eq!(ask("/relay?to=echo").await, "hi");
    let refused = ask("/relay?to=nobody").await;
    assert!(refused.contains("404"), "{refused}");
    for outcome in ["answered", "failed"] {
        let series =
            format!("wws_outgoing_requests_total{{worker=\"/relay\",outcome=\"{outcome}\"}}");
        assert_eq!(metric(&server, &series).await, 1.0, "{outcome}");
    }
}
