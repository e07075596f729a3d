//! Bodies of JavaScript that are read and sent as they come.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{Project, get, loopback, outgoing, slow_server, spec, upload};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};
use wws_engine::{Call, CallError, Guest, GuestSpec, RequestBody, ResponseBody, StreamedBody};
use wws_kv::Store;

const WORKER: &str = r#"
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const upper = () => new TransformStream({
  transform(piece, controller) {
    controller.enqueue(new TextEncoder().encode(new TextDecoder().decode(piece).toUpperCase()));
  },
});
const clock = (count) => {
  let n = 0;
  return new ReadableStream({
    async pull(controller) {
      if (n === count) { controller.close(); return; }
      if (n) await sleep(20);
      controller.enqueue(`data: ${n++}\n\n`);
    },
  });
};
const failing = () => new ReadableStream({
  async pull(controller) {
    if (this.sent) {
      await sleep(50);
      throw new Error("boom");
    }
    this.sent = true;
    controller.enqueue("a piece");
  },
});
const routes = {
  "/clock": () => new Response(clock(3), { headers: { "content-type": "text/event-stream" } }),
  "/endless": () => new Response(clock(Infinity)),
  "/iterator": () => new Response((async function* () { yield "a"; yield "b"; })()),
  "/whole": () => new Response("whole"),
  "/failing": () => new Response(failing()),
  "/number": () => new Response((async function* () { yield "a piece"; await sleep(50); yield 1; })()),
  "/stuck": () => new Response((async function* () {
    yield "a piece";
    await sleep(50);
    await new Promise(() => {});
  })()),
  "/at-once": () => new Response(new ReadableStream({ pull() { throw new Error("boom"); } })),
  "/echo": (request) => new Response(request.body),
  "/upper": (request) => new Response(request.body.pipeThrough(upper())),
  "/text": async (request) => new Response(`${(await request.text()).length}`),
  "/clone": async (request) => {
    const other = request.clone();
    return new Response(`${await request.text()}|${await other.text()}`);
  },
  "/ignored": () => new Response("done"),
  "/later": (request, env, ctx) => {
    ctx.waitUntil((async () => { await sleep(50); Cache.set("later", "yes"); })());
    return new Response("at once");
  },
  "/stored": (request, env, ctx) => {
    Cache.set("stored", "yes");
    ctx.waitUntil(sleep(100_000));
    return new Response("at once");
  },
  "/fetch": async (request, env) => {
    const answer = await fetch(env.TARGET);
    return new Response(answer.body, { headers: { "x-status": answer.status } });
  },
  "/fetch-text": async (request, env) => {
    try { return new Response(`${(await (await fetch(env.TARGET)).text()).length}`); }
    catch (error) { return new Response(`${error.message} ${error.code}`); }
  },
  "/upload": async (request, env) => {
    const answer = await fetch(env.TARGET, { method: "POST", body: clock(3), duplex: "half" });
    return new Response(await answer.text());
  },
  "/proxy": async (request, env) => fetch(env.TARGET, { method: "POST", body: request.body }),
  "/upload-fails": async (request, env) => {
    try { await fetch(env.TARGET, { method: "POST", body: failing() }); }
    catch (error) { return new Response(error.message); }
  },
  "/abort": async (request, env) => {
    const controller = new AbortController();
    const answer = await fetch(env.TARGET, { signal: controller.signal });
    const reader = answer.body.getReader();
    const first = (await reader.read()).value.length;
    setTimeout(() => controller.abort(new Error("enough")), 10);
    try { for (;;) await reader.read(); }
    catch (error) { return new Response(`${first > 0} ${error.message}`); }
  },
};
export default { fetch: (request, env, ctx) => routes[new URL(request.url).pathname](request, env, ctx) };
"#;

fn worker(spec: GuestSpec) -> (Project, Guest) {
    let project = Project::new(&[("w.js", WORKER)]);
    let guest = project.guest("w.js", spec);
    (project, guest)
}

async fn stream(guest: &Guest, call: Call<RequestBody>) -> Box<StreamedBody> {
    match guest.serve(call).await.unwrap().into_body() {
        ResponseBody::Stream(stream) => stream,
        ResponseBody::Collected(body) => panic!("not a stream: {body:?}"),
        ResponseBody::Socket(_) => panic!("not a stream"),
    }
}

async fn piece(body: &mut StreamedBody) -> Bytes {
    let frame = body.frame().await.expect("a piece").expect("no error");
    frame.into_data().unwrap()
}

/// The pieces of a body, and how it ended.
async fn pieces(mut body: Box<StreamedBody>) -> (Vec<Bytes>, Result<(), CallError>) {
    let mut pieces = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => pieces.push(frame.into_data().unwrap()),
            Err(error) => return (pieces, Err(error)),
        }
    }
    (pieces, Ok(()))
}

fn reaching(address: SocketAddr) -> GuestSpec {
    let mut spec = spec();
    spec.env = vec![("TARGET".into(), format!("http://{address}"))];
    spec.http = Some(outgoing(address, &[http::Method::GET, http::Method::POST]));
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_a_stream_as_it_is_produced() {
    let (_project, guest) = worker(spec());
    assert!(guest.takes_streams());
    let response = guest.serve(get("/clock").into()).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let ResponseBody::Stream(mut body) = response.into_body() else {
        panic!("not a stream");
    };
    let start = Instant::now();
    assert_eq!(piece(&mut body).await, "data: 0\n\n");
    let (rest, end) = pieces(body).await;
    assert_eq!(rest, ["data: 1\n\n", "data: 2\n\n"]);
    end.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(40));
    let (all, end) = pieces(stream(&guest, get("/iterator").into()).await).await;
    assert_eq!(all, ["a", "b"]);
    end.unwrap();
    let whole = guest.serve(get("/whole").into()).await.unwrap().into_body();
    assert!(matches!(whole, ResponseBody::Collected(body) if body == "whole"));
    let mut body = stream(&guest, get("/endless").into()).await;
    for n in 0..20 {
        assert_eq!(piece(&mut body).await, format!("data: {n}\n\n"));
    }
    drop(body);
    assert_eq!(guest.call(get("/whole")).await.unwrap().body(), "whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_after_the_head_breaks_the_body() {
    let (_project, guest) = worker(spec());
    for (path, sent, part) in [
        ("/failing", 1, "boom"),
        ("/number", 1, "a part of a stream that is a body"),
        ("/stuck", 1, "its promise was never fulfilled"),
    ] {
        let (pieces, end) = pieces(stream(&guest, get(path).into()).await).await;
        assert_eq!(pieces.len(), sent, "{path}");
        let error = end.expect_err(path).to_string();
        assert!(error.contains(part), "{path}: {error}");
    }
    // Nothing was sent yet.
    let error = guest.serve(get("/at-once").into()).await.err();
    assert!(error.expect("an error").to_string().contains("boom"));
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_a_request_as_it_arrives() {
    let (_project, guest) = worker(spec());
    for (path, sent, expected) in [("/echo", "one", "one"), ("/upper", "one", "ONE")] {
        let (call, sender) = upload(path);
        let mut body = stream(&guest, call).await;
        for _ in 0..3 {
            sender.send(sent.into()).await.unwrap();
            assert_eq!(piece(&mut body).await, expected, "{path}");
        }
        sender.finish().await.unwrap();
        let (rest, end) = pieces(body).await;
        assert!(rest.is_empty(), "{path}");
        end.unwrap();
    }
    for (path, expected) in [("/text", "2000"), ("/clone", "xx|xx"), ("/ignored", "done")] {
        let (call, sender) = upload(path);
        let text = if path == "/text" {
            "x".repeat(1000)
        } else {
            "x".into()
        };
        let sending = tokio::spawn(async move {
            for _ in 0..2 {
                if sender.send(text.clone().into()).await.is_err() {
                    return;
                }
            }
            let _ = sender.finish().await;
        });
        let body = guest.serve(call).await.unwrap().into_body();
        assert_eq!(body.collect(1 << 20).await.unwrap(), expected, "{path}");
        sending.await.unwrap();
    }
    // A client that goes away: the body has no end.
    let (call, sender) = upload("/text");
    sender.send("x".into()).await.unwrap();
    drop(sender);
    let error = guest.serve(call).await.err().expect("no end").to_string();
    assert!(error.contains("the body of the request"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_until_does_not_delay_the_response() {
    let store = Arc::new(wws_kv::MemoryStore::default());
    let mut spec = spec();
    let kv: Arc<dyn Store> = store.clone();
    spec.kv = Some(wws_engine::KvGrant::new(kv, "ns"));
    let (_project, guest) = worker(spec);
    let body = timeout(Duration::from_secs(60), guest.call(get("/stored"))).await;
    let body = body.expect("an answer before the end").unwrap().into_body();
    assert_eq!(body, "at once");
    let stored = store.get("ns", "stored").await.unwrap();
    assert_eq!(stored.as_deref(), Some("yes"), "stored before the end");
    let body = guest.call(get("/later")).await.unwrap().into_body();
    assert_eq!(body, "at once");
    let goes_on = async {
        while store.get("ns", "later").await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let goes_on = timeout(Duration::from_secs(60), goes_on).await;
    goes_on.expect("it goes on after the answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_a_fetched_body_as_it_arrives() {
    let address = slow_server(1000, Duration::from_millis(20)).await;
    let (_project, guest) = worker(reaching(address));
    let response = guest.serve(get("/fetch").into()).await.unwrap();
    assert_eq!(response.headers()["x-status"], "200");
    let ResponseBody::Stream(mut body) = response.into_body() else {
        panic!("not a stream");
    };
    for _ in 0..5 {
        assert!(piece(&mut body).await.iter().all(|byte| *byte == b'x'));
    }
    drop(body);
    let text = guest.call(get("/abort")).await.unwrap().into_body();
    assert_eq!(text, "true enough");

    // More than a collected answer may have: 10 MiB.
    let address = slow_server(11_000, Duration::ZERO).await;
    let (_project, guest) = worker(reaching(address));
    let text = guest.call(get("/fetch-text")).await.unwrap().into_body();
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(text.contains("larger than 10485760 bytes"), "{text}");
    assert!(text.contains("invalid-response-body"), "{text}");
    let mut body = stream(&guest, get("/fetch").into()).await;
    let mut size = 0;
    while size < 11_000_000 {
        size += piece(&mut body).await.len();
    }
    assert!(body.frame().await.is_none());
    let address = slow_server(200, Duration::ZERO).await;
    let (_project, guest) = worker(reaching(address));
    assert_eq!(
        guest.call(get("/fetch-text")).await.unwrap().body(),
        "200000"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn passes_a_fetched_body_on_as_it_arrives() {
    // Answers with what it was sent after the head, once that has ended.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
                while !all.ends_with(b"0\r\n\r\n") {
                    match stream.read(&mut buffer).await {
                        Ok(n) if n > 0 => all.extend_from_slice(&buffer[..n]),
                        _ => return,
                    }
                }
                let body = all
                    .split(|byte| *byte == b'\n')
                    .skip_while(|line| *line != b"\r");
                let body = body.skip(1).collect::<Vec<_>>().join(&b'\n');
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(&body).await;
            });
        }
    });
    let (_project, guest) = worker(reaching(address));
    let body = guest.call(get("/upload")).await.unwrap().into_body();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let expected: String = (0..3).map(|n| format!("9\r\ndata: {n}\n\n\r\n")).collect();
    assert_eq!(text, format!("{expected}0\r\n\r\n"));
    let (call, sender) = upload("/proxy");
    sender.send("ab".into()).await.unwrap();
    tokio::spawn(async move {
        sender.send("cd".into()).await.unwrap();
        sender.finish().await.unwrap();
    });
    let body = guest.serve(call).await.unwrap().into_body();
    let body = body.collect(1 << 20).await.unwrap();
    assert_eq!(body, "2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n");
    let body = guest.call(get("/upload-fails")).await.unwrap().into_body();
    assert_eq!(body, "boom");
    // A server that answers early.
    let address = loopback(Duration::ZERO, |_| {
        b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno".to_vec()
    });
    let (_project, guest) = worker(reaching(address.await));
    assert_eq!(guest.call(get("/upload")).await.unwrap().body(), "no");
}

#[tokio::test]
async fn frees_bytes_of_requests() {
    let source = r#"
const text = "x".repeat(65536);
export default () => {
  const encoder = new TextEncoder();
  let sum = 0;
  for (let n = 0; n < 800; n++) sum += encoder.encode(text).length;
  return new Response(`${sum}`);
};
"#;
    let mut spec = spec();
    // Less than all of them have.
    spec.limits.memory = 32 << 20;
    spec.limits.cpu_time = Duration::from_secs(20);
    let guest = Project::new(&[("w.js", source)]).guest("w.js", spec);
    assert_eq!(guest.call(get("/")).await.unwrap().body(), "52428800");
}
