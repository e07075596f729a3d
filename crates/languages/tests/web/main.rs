//! What the web's interfaces promise, and what workers of Wasm Workers Server 1.x and Node's `fs`
//! rely on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]

#[path = "../common/mod.rs"]
mod common;

mod differential;
mod memory;
mod turns;

use std::{
    path::Path,
    process::Command,
    sync::{LazyLock, Mutex, Once},
    time::Duration,
};

use common::{Project, get, post, reaching, spec};
use wws_engine::{Call, Guest, GuestSpec, PreopenedDirectory};

fn worker_with(body: &str, spec: GuestSpec) -> (Project, Guest) {
    let source = format!(
        "import * as fs from 'node:fs/promises';\nexport default async (request, env, ctx) => {{ \
         {body} }}"
    );
    let project = Project::new(&[("w.js", &source)]);
    let guest = project.guest("w.js", spec);
    (project, guest)
}

/// The text that a handler of `body` answers `call` with.
async fn answer(body: &str, call: Call) -> String {
    let (_project, guest) = worker_with(body, spec());
    let response = guest.call(call).await.expect(body);
    String::from_utf8_lossy(response.body()).into_owned()
}

/// Expressions that a worker evaluates, and the JSON that each must give; what one throws is the
/// error's name.
async fn expressions(cases: &[(&str, &str)]) {
    let list: Vec<String> = cases
        .iter()
        .map(|(expression, _)| format!("async () => ({expression})"))
        .collect();
    let body = format!(
        "const out = []; for (const f of [{}]) {{ try {{ out.push(await f()); }} catch (e) {{ \
         out.push(e.name); }} }} return Response.json(out);",
        list.join(",\n")
    );
    let given: Vec<serde_json::Value> =
        serde_json::from_str(&answer(&body, get("/")).await).unwrap();
    for ((expression, wanted), given) in cases.iter().zip(given) {
        let wanted: serde_json::Value = serde_json::from_str(wanted).unwrap();
        assert_eq!(given, wanted, "{expression}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_a_body_that_was_partly_read() {
    let body = "if (request.body) console.log(await request.clone().text());
        const copy = new Request(request.clone(), { headers: { a: 'b' } });
        return new Response(`${await copy.text()} ${await request.text()}`)";
    assert_eq!(answer(body, post("/", "hello".into())).await, "hello hello");
    expressions(&[
        (
            "(() => { const r = new Response('abc'); r.body; const c = r.clone(); return \
             Promise.all([c.text(), r.text()]) })()",
            r#"["abc", "abc"]"#,
        ),
        (
            "(async () => { const r = new Response('abc'); await r.text(); return r.clone() })()",
            r#""TypeError""#,
        ),
        (
            "(async () => { const r = new Request('http://a/', { method: 'POST', body: 'x' }); \
             await r.text(); return new Request(r, { headers: {} }) })()",
            r#""TypeError""#,
        ),
        (
            "(async () => { const r = new Request('http://a/', { method: 'POST', body: 'x' }); \
             const n = new Request(r); return [r.bodyUsed, await n.text()] })()",
            r#"[true, "x"]"#,
        ),
        (
            "(async () => { const s = new ReadableStream(); s.getReader(); return new Response(s) \
             })()",
            r#""TypeError""#,
        ),
        (
            "(async () => { const r = new Response(new Blob(['ab', 'cd']).stream()); const reader \
             = r.body.getReader(); await reader.read(); reader.releaseLock(); return [r.bodyUsed, \
             await r.text().catch((e) => e.name)] })()",
            r#"[true, "TypeError"]"#,
        ),
    ])
    .await;
    // What was used cannot be sent again.
    let body = "await request.text(); return new Response(await fetch(request).catch((e) => e.name \
        + e.message))";
    let text = answer(body, post("/", "hello".into())).await;
    assert!(
        text.starts_with("TypeErrorThe body was already read"),
        "{text}"
    );
}

/// As the examples and pages of Wasm Workers Server 1.x use them.
#[tokio::test(flavor = "multi_thread")]
async fn supports_objects_of_wws_1_x() {
    for (body, sent, wanted) in [
        (
            "return new Response(`Payload: ${request.body || '-'}`)",
            "hello",
            "Payload: hello",
        ),
        (
            "return new Response(`Payload: ${request.body || '-'}`)",
            "",
            "Payload: -",
        ),
        (
            "return new Response(JSON.parse(request.body).n + 1)",
            r#"{"n": 1}"#,
            "2",
        ),
        (
            "const text = String(request.body); return new Response(text + await request.text())",
            "é",
            "éé",
        ),
        (
            "return new Response(JSON.stringify({ body: request.body, headers: request.headers }))",
            "x",
            r#"{"body":"x","headers":{"x-in":"1"}}"#,
        ),
        (
            "const r = new Response('gone'); r.status = 410; return new Response(r.status)",
            "x",
            "410",
        ),
        (
            "const r = new Response('a'); r.body = 'b'; r.headers.set('x', 'y'); return r",
            "x",
            "b",
        ),
        (
            "return new Response(String(Cache.get('none') === undefined))",
            "x",
            "true",
        ),
    ] {
        let mut call = post("/", sent.into());
        call.request
            .headers_mut()
            .insert("x-in", "1".parse().unwrap());
        assert_eq!(answer(body, call).await, wanted, "{body}");
    }
    let project = Project::new(&[(
        "w.js",
        "addEventListener('request', (event) => event.respondWith(new \
         Response(event.request.body)))",
    )]);
    let guest = project.guest("w.js", spec());
    let response = guest.call(post("/", "hi".into())).await.unwrap();
    assert_eq!(response.body(), "hi");
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_a_content_type_only_if_known() {
    for (body, wanted) in [
        ("new Response('text')", Some("text/html")),
        ("new Response('')", Some("text/html")),
        (
            "new Response('x', { headers: { 'content-type': 'a/b' } })",
            Some("a/b"),
        ),
        ("Response.json(1)", Some("application/json")),
        (
            "new Response(new URLSearchParams())",
            Some("application/x-www-form-urlencoded;charset=UTF-8"),
        ),
        ("new Response()", None),
        ("new Response(null, { status: 204 })", None),
        ("Response.redirect('http://a/')", None),
        ("new Response(Uint8Array.of(60, 98, 62))", None),
        ("new Response(new Blob(['x']).stream())", None),
        (
            "new Response(new Blob(['x'], { type: 'image/png' }))",
            Some("image/png"),
        ),
    ] {
        let (_project, guest) = worker_with(&format!("return {body}"), spec());
        let response = guest.call(get("/")).await.unwrap();
        let given = response.headers().get("content-type");
        assert_eq!(given.map(|value| value.to_str().unwrap()), wanted, "{body}");
    }
}

fn with_directory(project: &Project) -> GuestSpec {
    std::fs::create_dir_all(project.path().join("data")).unwrap();
    let mut spec = spec();
    spec.directories = vec![PreopenedDirectory {
        dir: std::fs::File::open(project.path().join("data")).unwrap(),
        to: "/data".into(),
    }];
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn honours_or_rejects_file_options() {
    let source = r#"import * as fs from "node:fs/promises";
      const code = (promise) => promise.then(() => "done", (error) => error.code);
      export default async () => {
        const out = [];
        out.push(await code(fs.writeFile("/data/lock", "first", { flag: "wx" })), await code(fs.writeFile("/data/lock", "second", { flag: "wx" })));
        out.push(await fs.readFile("/data/lock", "utf8"), await fs.readFile("/data/lock", "base64"), await fs.readFile("/data/lock", { encoding: "hex" }));
        await fs.writeFile("/data/latin", "é", "latin1");
        out.push((await fs.readFile("/data/latin")).length, await fs.readFile("/data/latin", "latin1"));
        await fs.writeFile("/data/64", "aGk=", { encoding: "base64" });
        out.push(await fs.readFile("/data/64", "utf8"));
        out.push(await code(fs.mkdir("/data")), await code(fs.mkdir("/data", { recursive: true })), await fs.mkdir("/data/d/e/f", { recursive: true }));
        out.push(await code(fs.mkdir("/data/lock", { recursive: true })), await code(fs.mkdir("/data/lock/x", { recursive: true })));
        out.push((await fs.readdir("/data", { withFileTypes: true })).map((entry) => entry.name + (entry.isDirectory() ? "/" : "")).join());
        out.push((await fs.readdir("/data/d", { recursive: true })).join());
        out.push(await code(fs.rm("/data/d/e/f")), await code(fs.unlink("/data/d")), await code(fs.rmdir("/data/lock")), await code(fs.rmdir("/data/d")), await code(fs.rm("/data", { recursive: true })));
        out.push(await code(fs.rm("/data/d", { recursive: true })), await code(fs.rm("/data/d", { force: true })));
        out.push(await code(fs.readFile("/data/lock", { encoding: "no" })), await code(fs.writeFile("/data/x", "", { flags: "wx" })), await code(fs.rm("/data/x", { recusive: true })));
        const error = await fs.readFile("/data/no").catch((error) => error);
        out.push([error.code, error.path, error.syscall].join(" "));
        return Response.json(out);
      };"#;
    let project = Project::new(&[("w.js", source)]);
    let guest = project.guest("w.js", with_directory(&project));
    let response = guest.call(get("/")).await.unwrap();
    let given: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(
        given,
        serde_json::json!([
            "done",
            "EEXIST",
            "first",
            "Zmlyc3Q=",
            "6669727374",
            1,
            "é",
            "hi",
            "EEXIST",
            "done",
            "/data/d",
            "EEXIST",
            "ENOTDIR",
            "64,d/,latin,lock",
            "e,e/f",
            "ERR_FS_EISDIR",
            "EISDIR",
            "ENOTDIR",
            "ENOTEMPTY",
            "EBUSY",
            "ENOENT",
            "done",
            "ERR_INVALID_ARG_VALUE",
            "ERR_INVALID_ARG_VALUE",
            "ERR_INVALID_ARG_VALUE",
            "ENOENT /data/no open"
        ])
    );
}

/// A link is removed, what it leads to is not.
#[tokio::test(flavor = "multi_thread")]
async fn removing_a_directory_does_not_follow_links() {
    let project = Project::new(&[
        (
            "w.js",
            "import { rm } from 'node:fs/promises'; export default async () => { await \
             rm('/data/gone', { recursive: true }); return new Response('ok') }",
        ),
        ("data/kept/file", "content"),
        ("data/gone/x", ""),
    ]);
    std::os::unix::fs::symlink("../kept", project.path().join("data/gone/link")).unwrap();
    let guest = project.guest("w.js", with_directory(&project));
    assert_eq!(guest.call(get("/")).await.unwrap().body(), "ok");
    assert!(project.path().join("data/kept/file").exists());
    assert!(!project.path().join("data/gone").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_are_read_by_their_grammar() {
    for (part, wanted) in [
        (
            "Content-Type: text/plain; charset=utf-8\r\n\
             Content-Disposition: form-data; name=test\r\n\r\nabc",
            r#"[["test","abc"]]"#,
        ),
        (
            "Content-Type: image/png; name=\"photo.png\"\r\n\
             Content-Disposition: form-data; name=\"file\"; filename=\"photo.png\"\r\n\r\n123",
            r#"[["file","photo.png image/png; name=\"photo.png\" 3"]]"#,
        ),
    ] {
        let mut call = post("/", format!("--BB\r\n{part}\r\n--BB--\r\n").into());
        let kind = "multipart/form-data; boundary=\"BB\"".parse().unwrap();
        call.request.headers_mut().insert("content-type", kind);
        let body = "const form = await request.formData();
            return Response.json([...form].map(([k, v]) => [k, typeof v === 'string' ? v : \
            `${v.name} ${v.type} ${v.size}`]))";
        assert_eq!(answer(body, call).await, wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_do_not_replace_globals() {
    let (_project, guest) = {
        let mut spec = spec();
        for name in ["URL", "Headers", "Response", "fetch", "OWN", "__proto__"] {
            spec.env.push((name.into(), "value".into()));
        }
        worker_with(
            "return new Response([new URL(request.url).pathname, new Headers({ a: 'b' }).get('a'), \
             env.URL, env.fetch, OWN, typeof fetch].join())",
            spec,
        )
    };
    let response = guest.call(get("/x")).await.unwrap();
    assert_eq!(response.body(), "/x,b,value,value,value,function");
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_timers_in_order_and_skips_cleared_ones() {
    let body = "const seen = [];
        for (let i = 0; i < 20000; i++) clearTimeout(setTimeout(() => seen.push('never'), 1e9));
        for (const delay of [30, 10, 20, 10, 0]) setTimeout(() => { seen.push(delay); for (let \
        until = performance.now() + 3; performance.now() < until;); }, delay);
        setTimeout(() => seen.push('at once'), 2 ** 32);
        for (let until = performance.now() + 50; performance.now() < until;);
        let n = 0; await new Promise((done) => { const id = setInterval(() => { if (++n === 3) { \
        clearInterval(id); done(); } }, 1); });
        await new Promise((done) => setTimeout(done, 5));
        return new Response(seen.join())";
    assert_eq!(answer(body, get("/")).await, "0,at once,10,10,20,30");
    // Polling for something does not keep it from happening.
    let body = "let done = false; fetch('http://127.0.0.1/').catch(() => { done = true; });
        let turns = 0; while (!done) { await new Promise((next) => setTimeout(next, 0)); turns++; }
        return new Response(String(turns < 1000))";
    assert_eq!(answer(body, get("/")).await, "true");
    let (_project, guest) = worker_with(
        "clearTimeout(setTimeout(() => {}, 1e9)); await new Promise(() => {})",
        spec(),
    );
    let error = guest.call(get("/")).await.unwrap_err().to_string();
    assert!(error.contains("never fulfilled"), "{error}");
}

fn fetching(target: std::net::SocketAddr) -> GuestSpec {
    reaching(target, &[http::Method::GET, http::Method::POST])
}

/// A server on loopback: `/slow` is never answered, `/redirect` leads to `/end`, others are
/// answered with the status of their path.
async fn server() -> std::net::SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let n = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..n]).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default();
                let answer = match path {
                    "/slow" => {
                        // Until the client gives up.
                        let _ = stream.read(&mut [0; 16]).await;
                        return;
                    }
                    "/redirect" => "HTTP/1.1 302 Found\r\nlocation: /end\r\ncontent-length: 0\r\n\
                        connection: close\r\n\r\n"
                        .into(),
                    _ => format!(
                        "HTTP/1.1 {} x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n\
                        ok",
                        path.trim_start_matches("/status").parse().unwrap_or(200)
                    ),
                };
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_requests_free_their_place() {
    let address = server().await;
    let body = "const why = [];
        for (let i = 0; i < 4; i++) {
          await Promise.all(Array.from({ length: 6 }, () => fetch(`${TARGET}/slow`, { signal: \
          AbortSignal.timeout(30) }).catch((error) => why.push(error.name))));
        }
        const controller = new AbortController();
        setTimeout(() => controller.abort('own'), 1);
        const own = await fetch(`${TARGET}/slow`, { signal: controller.signal }).catch((error) => \
        error);
        const start = performance.now();
        const text = await (await fetch(`${TARGET}/`)).text();
        return new Response([why.length, new Set(why).size, why[0], own, text, performance.now() - \
        start < 20000].join())";
    let (_project, guest) = worker_with(body, fetching(address));
    let response = guest.call(get("/")).await.unwrap();
    assert_eq!(response.body(), "24,1,TimeoutError,own,ok,true");
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_have_their_url() {
    let address = server().await;
    let body = "const r = await fetch(`${TARGET}/redirect#x`), s = await \
        fetch(`${TARGET}/status418`);
        const d = await fetch('data:text/plain;base64,aGk=');
        const none = await fetch(`${TARGET}/status799`);
        return new Response([r.redirected, new URL(r.url).pathname, r.statusText, s.redirected, \
        s.status, s.statusText, await d.text(), d.headers.get('content-type'), none.status, \
        none.ok].join())";
    let (_project, guest) = worker_with(body, fetching(address));
    let response = guest.call(get("/")).await.unwrap();
    assert_eq!(
        response.body(),
        "true,/end,OK,false,418,I'm a teapot,hi,text/plain,799,false"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_parsed_and_not_run() {
    for (json, wanted) in [
        (
            r#"{"__proto__": {"x": 1}, "n": [1, "\u2028"]}"#,
            Ok(",1,true"),
        ),
        ("(() => 1)()", Err("d.json:1:1: not JSON")),
        ("{\"a\": 1,\n}", Err("d.json:2:1: not JSON")),
        ("\u{feff}{\"n\": [2]}", Ok(",2,false")),
    ] {
        let project = Project::new(&[
            (
                "w.js",
                "import d from './d.json'; export default () => new Response([d.x, d.n[0], \
                 Object.hasOwn(d, '__proto__')].join())",
            ),
            ("d.json", json),
        ]);
        match (project.load("w.js", spec()), wanted) {
            (Ok(guest), Ok(wanted)) => {
                assert_eq!(guest.call(get("/")).await.unwrap().body(), wanted, "{json}");
            }
            (Err(error), Err(why)) => assert!(error.to_string().contains(why), "{error}"),
            (given, _) => panic!("{json}: {:?}", given.err()),
        }
    }
}

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Collect;

impl std::io::Write for Collect {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_unhandled_errors() {
    static START: Once = Once::new();
    START.call_once(|| {
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(|| Collect)
            .init()
    });
    let body = "Promise.reject(new Error('lost-1', { cause: new TypeError('lost-2') }));
        const handled = Promise.reject(new Error('handled-1')); handled.catch(() => {});
        new EventTarget().dispatchEvent(new Event('x'));
        const target = new EventTarget(); target.addEventListener('x', () => { throw new \
        Error('lost-3'); }); target.dispatchEvent(new Event('x'));
        setTimeout(() => { throw new Error('lost-4'); }, 0); await new Promise((done) => \
        setTimeout(done, 5));
        throw new AggregateError([new Error('lost-5'), 'lost-6'], 'lost-7', { cause: { why: \
        'lost-8' } })";
    let (_project, guest) = worker_with(body, spec());
    guest.call(get("/")).await.unwrap_err();
    let log = String::from_utf8(LOG.lock().unwrap().clone()).unwrap();
    for n in 1..=8 {
        assert!(
            log.contains(&format!("lost-{n}")),
            "lost-{n} is not in:\n{log}"
        );
    }
    assert!(!log.contains("handled-1"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_details_of_the_standards() {
    expressions(&[
        ("[...new TextEncoder().encode('\\ud800x')]", "[239, 191, 189, 120]"),
        ("new Response('\\ud800').text()", "\"\u{fffd}\""),
        ("new Blob(['\\udc00']).size", "3"),
        ("new Request('http://a/', { method: 'patch' }).method", "\"patch\""),
        ("new Request('http://a/', { method: 'a b' })", "\"TypeError\""),
        ("Response.json(undefined)", "\"TypeError\""),
        ("new Headers(null)", "\"TypeError\""),
        ("new Response('', { statusText: 'a\\r\\nb' })", "\"TypeError\""),
        ("new Blob([], null).size", "0"),
        ("new TextDecoder('\\u00a0utf-8')", "\"RangeError\""),
        (
            "(() => { const d = new TextDecoder(); return d.decode(Uint8Array.of(0x61), { stream: \
             true }) + d.decode(Uint8Array.of(0xef, 0xbb, 0xbf, 0x62)) })()",
            "\"a\u{feff}b\"",
        ),
        (
            "(() => { const p = new URLSearchParams('a=1&b=2&c=3'); for (const [k] of p) \
             p.delete(k); return String(p) })()",
            "\"b=2\"",
        ),
        (
            "new Blob(['hi']).stream().getReader({ mode: 'byob' }).read(new \
             Uint8Array(9)).then((read) => [...read.value])",
            "[104, 105]",
        ),
        ("new TextDecoder('replacement')", "\"RangeError\""),
        ("[URL.canParse('http://a/', ''), URL.canParse('http://a/', undefined)]", "[false, true]"),
        ("new URL('///b.example/p', 'http://a/').href", "\"http://b.example/p\""),
        ("structuredClone(JSON.parse('{\"__proto__\": 1}')).__proto__ === 1", "true"),
        ("structuredClone()", "\"TypeError\""),
        ("String(new Headers().entries())", "\"[object Headers Iterator]\""),
        ("[String(console), String(performance), String(crypto), \
            String(crypto.subtle)]", "[\"[object console]\", \"[object Performance]\", \"[object \
                Crypto]\", \"[object SubtleCrypto]\"]"),
        (
            "(async () => { const k = await crypto.subtle.generateKey({ name: 'HMAC', hash: \
             'SHA-256' }, true, ['verify']); const j = await crypto.subtle.exportKey('jwk', k); \
             return [j.alg, j.k.length, await crypto.subtle.sign('HMAC', k, new \
             Uint8Array()).catch((e) => e.name)] })()",
            "[\"HS256\", 86, \"InvalidAccessError\"]",
        ),
        ("crypto.subtle.encrypt({}, {}, new Uint8Array()).catch((e) => `${e.name} \
            ${e.message}`)", "\"NotSupportedError crypto.subtle.encrypt is not there: digest, and \
                HMAC with sign and verify, are\""),
        (
            "(async () => { const s = new Blob(['✓'.repeat(3)]).stream().pipeThrough(new \
             TextDecoderStream()).pipeThrough(new TextEncoderStream()); return (await new \
             Response(s).bytes()).length })()",
            "9",
        ),
        ("(() => { performance.mark('a'); return performance.measure('b', 'a').duration >= 0 \
            })()", "true"),
        ("new FormData({})", "\"TypeError\""),
        ("(() => { const f = new FormData(); f.set('a', new File(['x'], 'n', { lastModified: 123 \
            }), 'o'); return [f.get('a').lastModified, f.get('a').name] })()", "[123, \"o\"]"),
        ("fetch('ftp://a/')", "\"TypeError\""),
        (
            "(() => { const d = Array.from({ length: 1001 }, () => new TextDecoder('shift_jis')); \
             let n = 0; try { for (const one of d) { one.decode(Uint8Array.of(0x82), { stream: \
             true }); n++; } } catch (e) { return [n, e.name] } })()",
            "[1000, \"RangeError\"]",
        ),
    ])
    .await;
}
