//! JavaScript workers, with the real interpreter: what a worker's author relies on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Project, answers_in_time, echo, get, loopback, post, reaching, redirecting, spec};

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_answers() {
    let project = Project::new(&[(
        "index.js",
        r#"
        const reply = async (request) => new Response(`hello ${request.method} ${new URL(request.url).pathname}`,
            { status: 201, headers: { "x-generated-by": "wws" } });
        addEventListener("fetch", event => { return event.respondWith(reply(event.request)); });
        "#,
    )]);
    let guest = project.guest("index.js", spec());
    for _ in 0..20 {
        let response = guest.call(get("/a/b?c=d")).await.unwrap();
        assert_eq!(response.status(), 201);
        assert_eq!(response.headers()["x-generated-by"], "wws");
        assert_eq!(response.headers()["content-type"], "text/html");
        assert_eq!(response.body().as_ref(), b"hello GET /a/b");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_forms_of_workers_answer() {
    for (name, source) in [
        (
            "object",
            "export default { fetch(request) { return new Response('ok'); } }",
        ),
        (
            "named",
            "class App { constructor() { this.x = 'ok' } async fetch(r) { return new \
             Response(this.x) } }\nconst app = new App();\nexport { app as default };",
        ),
        (
            "function",
            "export default async (request) => new Response('ok')",
        ),
        (
            "top-level await",
            "const x = await Promise.resolve('ok'); export default () => new Response(x)",
        ),
        (
            "sloppy script",
            "x = 'ok'; addEventListener('fetch', e => e.respondWith(new Response(x)))",
        ),
        (
            "asynchronous listener",
            "addEventListener('fetch', async e => { await null; e.respondWith(new Response('ok')) \
             })",
        ),
        (
            "module with a listener",
            "import './lib.js'; addEventListener('fetch', e => e.respondWith(new Response('ok')))",
        ),
    ] {
        let project = Project::new(&[("w.js", source), ("lib.js", "export const a = 1")]);
        let response = project.guest("w.js", spec()).call(get("/")).await;
        assert_eq!(response.unwrap().body().as_ref(), b"ok", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_project_are_imported() {
    let project = Project::new(&[
        (
            "api/w.js",
            "import { a } from './lib.js'; import b from '../_libs/b'; import data from \
             '../data.json' with { type: 'json' };\n\
          export default async () => new Response([a, b, data.n, (await \
          import('../late.mjs')).c].join())",
        ),
        (
            "api/lib.js",
            "import b from '/_libs/b.js'; export const a = 'a' + b",
        ),
        ("_libs/b.js", "export default 'b'"),
        ("data.json", r#"{"n": 3}"#),
        ("late.mjs", "export const c = 'late'"),
    ]);
    let response = project.guest("api/w.js", spec()).call(get("/")).await;
    assert_eq!(response.unwrap().body().as_ref(), b"ab,b,3,late");
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_load_errors_with_their_position() {
    for (source, why) in [
        ("const a = ;", "w.js:1:11: SyntaxError"),
        (
            "\nimport './no.js'",
            "w.js imports './no.js': there is no file no.js",
        ),
        ("import '../../etc/passwd'", "outside of the project"),
        ("import 'hono'", "bundle packages"),
        (
            "function f() {\n  throw new Error('boom') }\nf()\nexport default 1",
            "w.js:2",
        ),
        ("const a = 1", "it has no handler"),
        ("export default 7", "its default export is 7"),
        (
            "export default { get() {} }",
            "it must be a function or have a function `fetch`",
        ),
        (
            "await new Promise(() => {}); export default () => {}",
            "waits for a promise",
        ),
        ("crypto.randomUUID()", "only while a request is handled"),
        ("import './bad.js'", "bad.js:2:"),
        (
            "await fetch('http://a/'); export default () => {}",
            "only while a request is handled",
        ),
    ] {
        let project = Project::new(&[("w.js", source), ("bad.js", "\nlet 1")]);
        let error = project
            .load("w.js", spec())
            .err()
            .expect(source)
            .to_string();
        assert!(error.contains(why), "{source}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_fail_the_call_and_name_the_line() {
    for (source, why) in [
        ("export default () => {\n  null.x }", "w.js:2:"),
        (
            "export default async () => {\n\n  await null; throw new TypeError('boom') }",
            "w.js:3:",
        ),
        ("export default () => 'text'", "it answered with \"text\""),
        ("export default () => {}", "it answered with undefined"),
        (
            "addEventListener('fetch', () => {})",
            "did not call event.respondWith",
        ),
        (
            "export default () => new Promise(() => {})",
            "never fulfilled",
        ),
        (
            "export default () => new Response('', { status: 99 })",
            "not a status",
        ),
        (
            "export default () => new Response('', { headers: { 'a b': 'c' } })",
            "not the name of a header",
        ),
        (
            "export default () => new Response('', { headers: { a: 'b\\r\\nc: d' } })",
            "line break",
        ),
        ("export default () => { throw 'text' }", "text"),
        (
            "const lib = {};\nexport default () => lib.connect()",
            "w.js:2:26: TypeError: not a function: lib.connect",
        ),
        ("export default () => JSON.parse('{')", "w.js:1:"),
    ] {
        let project = Project::new(&[("w.js", source)]);
        let guest = project.guest("w.js", spec());
        let error = guest.call(get("/")).await.expect_err(source).to_string();
        assert!(error.contains(why), "{source}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_are_globals_and_parameters_belong_to_the_request() {
    let project = Project::new(&[(
        "w.js",
        "export default { fetch(request, env) { return new Response([MESSAGE, env.MESSAGE, \
         request.params.id].join()) } }",
    )]);
    let mut spec = spec();
    spec.env = vec![("MESSAGE".into(), "hé".into())];
    let mut call = get("/");
    call.params = vec![("id".into(), "a\0\"b".into())];
    let response = project.guest("w.js", spec).call(call).await.unwrap();
    assert_eq!(response.body(), "hé,hé,a\0\"b");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_repeated_headers_survive_both_ways() {
    let project = Project::new(&[(
        "w.js",
        r#"export default async (request) => {
            const bytes = await request.clone().bytes();
            const kind = request.headers.get("x-kind");
            if (kind === "text") return new Response(await request.text());
            if (kind === "stream") return new Response(request.body);
            if (kind === "through") return new Response(request.body.pipeThrough(new TransformStream()));
            const headers = new Headers([["set-cookie", "a=1"], ["set-cookie", "b=2"]]);
            headers.set("x-all", request.headers.getAll("x-a").join("|") + request.headers.get("x-a"));
            return new Response(bytes.reverse(), { headers });
        }"#,
    )]);
    let guest = project.guest("w.js", spec());
    let binary: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let mut call = post("/", binary.clone());
    call.request
        .headers_mut()
        .append("x-a", "1".parse().unwrap());
    call.request
        .headers_mut()
        .append("x-a", "2".parse().unwrap());
    let response = guest.call(call).await.unwrap();
    let reversed: Vec<u8> = binary.iter().rev().copied().collect();
    assert_eq!(response.body(), &reversed);
    assert_eq!(response.headers()["x-all"], "1|21, 2");
    let cookies: Vec<_> = response.headers().get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    for kind in ["stream", "through", "text"] {
        let body: Vec<u8> = if kind == "text" {
            "ünïcode ✓ \u{0}".repeat(20_000).into()
        } else {
            binary.clone()
        };
        let mut call = post("/", body.clone());
        call.request
            .headers_mut()
            .insert("x-kind", kind.parse().unwrap());
        let response = guest.call(call).await.unwrap();
        assert_eq!(response.body(), &body, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn has_web_globals() {
    let source = include_str!("globals.js");
    let project = Project::new(&[("w.js", source)]);
    let guest = project.guest("w.js", spec());
    let response = guest
        .call(post("/x?q=1", "a=1&b=%C3%A9".into()))
        .await
        .unwrap();
    assert_eq!(response.body(), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_and_changes_the_store() {
    let store: std::sync::Arc<dyn wws_kv::Store> =
        std::sync::Arc::new(wws_kv::MemoryStore::default());
    let project = Project::new(&[(
        "w.js",
        r#"export default async () => {
            const n = Number(Cache.get("n") ?? 0) + 1;
            Cache.set("n", n);
            Cache.set("gone", 1); Cache.delete("gone");
            const sum = await Cache.increment("sum", 5);
            return new Response([n, Cache.get("n"), Cache.get("gone"), sum, Cache.get("sum")].join());
        }"#,
    )]);
    let mut spec = spec();
    spec.kv = Some(wws_engine::KvGrant::new(store.clone(), "ns"));
    let guest = project.guest("w.js", spec);
    for n in 1..4 {
        let response = guest.call(get("/")).await.unwrap();
        assert_eq!(response.body(), &format!("{n},{n},,{0},{0}", n * 5));
    }
    assert_eq!(store.get("ns", "n").await.unwrap().unwrap(), "3");
    assert_eq!(store.get("ns", "gone").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn store_lists_compares_and_expires_keys() {
    common::store_operations(
        "w.js",
        r#"export default async () => {
            const found = [];
            Cache.set("a:3", "new"); Cache.delete("a:1");
            found.push(await Cache.list("a:"), await Cache.list("", { limit: 2 }), await Cache.list("a:", { after: "a:2" }));
            found.push(await Cache.compareAndSet("k", undefined, "1"), await Cache.compareAndSet("k", null, "2"), Cache.get("k"));
            found.push(await Cache.compareAndSet("k", "1", "3", { ttl: 3600 }), Cache.get("k"));
            Cache.set("short", 1, { ttl: 0.01 });
            for (const wrong of [{ ttl: 0 }, { ttl: "x" }]) {
              try { Cache.set("w", 1, wrong) } catch (error) { found.push(error.name) }
            }
            return Response.json(found);
        }"#,
        r#"["TypeError","TypeError"]"#,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_and_writes_directories_without_leaving_them() {
    let project = Project::new(&[
        (
            "w.js",
            r#"import { readFile, writeFile, readdir, stat, rm, mkdir } from "node:fs/promises";
          export default async () => {
            const text = await readFile("/tmp/file.txt", "utf8");
            await mkdir("/tmp/a/b", { recursive: true });
            await writeFile("/tmp/a/b/new", new Uint8Array([1, 255]));
            const bytes = await readFile("/tmp/a/b/new");
            const names = await readdir("/tmp");
            const size = (await stat("/tmp/a/b/new")).size;
            await rm("/tmp/a", { recursive: true });
            const codes = [];
            for (const path of ["/etc/passwd", "/tmp/../w.js", "/tmp/no"]) {
              try { await readFile(path) } catch (error) { codes.push(error.code) }
            }
            return new Response([text, bytes[1], names, size, codes].join());
          }"#,
        ),
        ("tmp/file.txt", "Some content"),
    ]);
    let mut spec = spec();
    spec.directories = vec![wws_engine::PreopenedDirectory {
        dir: std::fs::File::open(project.path().join("tmp")).unwrap(),
        to: "/tmp".into(),
    }];
    let response = project.guest("w.js", spec).call(get("/")).await.unwrap();
    assert_eq!(
        response.body(),
        "Some content,255,a,file.txt,2,ENOENT,EACCES,ENOENT"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_run_at_once_and_fetch_needs_permission() {
    let project = Project::new(&[(
        "w.js",
        r#"export default async (request, env, ctx) => {
            const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
            const start = performance.now();
            await Promise.all(Array.from({ length: 20 }, () => sleep(50)));
            const took = performance.now() - start;
            const why = await fetch("http://127.0.0.1/").catch((error) => error);
            ctx.waitUntil(sleep(1));
            if (request.url.endsWith("/why")) return new Response(why.message);
            return new Response(`${took >= 45 && took < 500} ${why.name}`);
        }"#,
    )]);
    let guest = project.guest("w.js", spec());
    answers_in_time(&guest, "true TypeError").await;
    let body = guest.call(get("/why")).await.unwrap().into_body();
    let body = String::from_utf8_lossy(&body).into_owned();
    assert!(
        body.starts_with("fetch failed: this worker may not send"),
        "{body}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_a_mebibyte_goes_through() {
    let project = Project::new(&[(
        "w.js",
        "export default async (r) => new Response(await r.text())",
    )]);
    let body = "é".repeat(1 << 19);
    let response = project
        .guest("w.js", spec())
        .call(post("/", body.clone().into()))
        .await;
    assert_eq!(response.unwrap().body(), &Bytes::from(body));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_to_others_run_side_by_side_within_the_allow_list() {
    let address = loopback(Duration::from_millis(200), echo).await;
    let project = Project::new(&[(
        "w.js",
        r#"export default async () => {
            const start = performance.now();
            const answers = await Promise.all([1, 2, 3, 4].map((n) => fetch(`${TARGET}/${n}?q=é#no`, { headers: { "x-n": n } })));
            const took = performance.now() - start;
            const text = await answers[2].text();
            const refused = await fetch("http://10.0.0.1/").catch((error) => error.name);
            return new Response([took < 700, answers[0].status, answers[0].headers.getSetCookie().length,
                text.startsWith("GET /3?q=%C3%A9 HTTP/1.1"), text.includes("x-n: 3"), refused].join());
        }"#,
    )]);
    let spec = reaching(address, &[http::Method::GET]);
    let guest = project.guest("w.js", spec);
    answers_in_time(&guest, "true,201,2,true,true,TypeError").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_returns_or_rejects_redirects() {
    let address = redirecting("/a", "/b", "b").await;
    let project = Project::new(&[(
        "w.js",
        r#"export default async () => {
            const followed = await fetch(`${TARGET}/a`);
            const manual = await fetch(`${TARGET}/a`, { redirect: "manual" });
            const refused = await fetch(`${TARGET}/a`, { redirect: "error" }).catch((error) => error.name);
            const paths = [followed, manual].map((response) => new URL(response.url).pathname);
            return new Response([followed.status, await followed.text(), manual.status, manual.headers.get("location"), refused, ...paths].join());
        }"#,
    )]);
    let spec = reaching(address, &[http::Method::GET]);
    let response = project.guest("w.js", spec).call(get("/")).await.unwrap();
    assert_eq!(response.body(), "200,b,302,/b,TypeError,/b,/a");
}

/// A response in gzip.
fn zipped(_: &[u8]) -> Vec<u8> {
    const ZIPPED: &[u8] =
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xca\x2c\x28\x48\x4d\x01\x00\
        \x57\x68\xc2\xe2\x06\x00\x00\x00";
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\nconnection: close\r\n\
         \r\n",
        ZIPPED.len()
    );
    [head.as_bytes(), ZIPPED].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn decodes_responses_of_any_coding() {
    let address = loopback(Duration::ZERO, zipped).await;
    let project = Project::new(&[(
        "w.js",
        r#"export default async (request) => {
            const headers = request.url.endsWith("/browser") ? { "accept-encoding": "gzip, br" } : {};
            return fetch(TARGET, { headers });
        }"#,
    )]);
    let mut spec = reaching(address, &[http::Method::GET]);
    spec.env = vec![("TARGET".into(), format!("http://{address}/"))];
    let guest = project.guest("w.js", spec);
    for path in ["/", "/browser"] {
        let response = guest.call(get(path)).await.unwrap();
        assert_eq!(response.body(), "zipped");
        assert!(!response.headers().contains_key("content-encoding"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_too_many_headers_is_refused() {
    let address = redirecting("/a", "/b", "b").await;
    let project = Project::new(&[(
        "w.js",
        r#"export default async () => {
            const lines = (count) => Array.from({ length: count }, (_, n) => [`x-${n}`, "y"]);
            const send = (headers) => fetch(`${TARGET}/b`, { headers }).then((answer) => answer.text(), (error) => error.message);
            return new Response([await send(lines(40)), await send(lines(40000)), await send({ x: "y".repeat(1 << 16) })].join("; "));
        }"#,
    )]);
    let spec = reaching(address, &[http::Method::GET]);
    let response = project.guest("w.js", spec).call(get("/")).await.unwrap();
    assert_eq!(
        response.body(),
        "b; fetch failed: the request has more than 1024 headers; \
         fetch failed: the headers of the request have more than 65536 bytes"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn maps_positions_to_the_sources_of_a_bundle() {
    // What esbuild writes of the two lines of TypeScript below.
    let source = "export default (request: Request) => {\n  throw new Error('on line 2');\n};\n";
    let map = r#"{"version":3,"sources":["../src/w.ts"],"mappings":"AAAA,eAAe,CAAC,YAAqB;AACnC,QAAM,IAAI,MAAM,WAAW;AAC7B"}"#;
    let project = Project::new(&[
        (
            "w.js",
            "export default (request) => {\n  throw new Error('on line 2');\n};\n\
             //# sourceMappingURL=maps/w.js.map\n",
        ),
        ("maps/w.js.map", map),
        ("src/w.ts", source),
    ]);
    let error = project
        .guest("w.js", spec())
        .call(get("/"))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("src/w.ts:2:"), "{text}");
}
