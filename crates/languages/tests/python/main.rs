//! Python workers, with the real interpreter: what a worker's author relies on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

mod asynchronous;
mod libraries;

use std::collections::HashSet;

use common::{Project, get, post, spec};
use wws_engine::{CallError, Guest};

fn worker(source: &str) -> (Project, Guest) {
    let project = Project::new(&[("w.py", source)]);
    let guest = project.guest("w.py", spec());
    (project, guest)
}

async fn text(guest: &Guest, path: &str) -> String {
    let response = guest.call(get(path)).await.unwrap();
    String::from_utf8(response.into_body().into()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_answers() {
    let (_project, guest) = worker(
        r#"
def worker(request):
    response = Response(f"hello {request.method} {request.path} {request.query['c']} {request.headers['X-A']}", 201)
    response.headers["x-generated-by"] = "wws"
    return response
"#,
    );
    for _ in 0..20 {
        let mut call = get("/a/b?c=d%20e");
        call.request
            .headers_mut()
            .insert("x-a", "1".parse().unwrap());
        let response = guest.call(call).await.unwrap();
        assert_eq!(response.status(), 201);
        assert_eq!(response.headers()["x-generated-by"], "wws");
        assert_eq!(response.headers()["content-type"], "text/html");
        assert_eq!(response.body().as_ref(), b"hello GET /a/b d e 1");
    }
}

/// The headers of the request that is answered are made when somebody asks for them.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_an_ordinary_object() {
    let (_project, guest) = worker(
        r#"
import copy
def worker(request):
    try:
        request.nothing
    except AttributeError as error:
        missing = str(error)
    other = copy.deepcopy(request)
    request.headers["x-a"] = "2"
    own = Request("GET", "http://a/", [("X-B", "3"), ("x-b", "4")])
    return Response(f"{missing}, {other.headers['X-A']}{request.headers['x-a']} {own.headers['x-b']} {hasattr(own, 'headers')}")
"#,
    );
    let mut call = get("/");
    let headers = call.request.headers_mut();
    headers.insert("x-a", "1".parse().unwrap());
    let response = guest.call(call).await.unwrap();
    let body = String::from_utf8_lossy(response.body());
    assert_eq!(
        body,
        "'Request' object has no attribute 'nothing', 12 3, 4 True"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn has_the_names_of_the_old_kit() {
    let (_project, guest) = worker(
        r#"
import json
from poly import Request as R
def worker(request):
    Cache.set("a", "b")
    assert isinstance(request, R) and Cache.get("a") is None
    response = Response(json.dumps({"body": request.body, "params": request.params, "url": request.url}))
    response.status_code = 202
    response.headers = {"a": "b"}
    return response
"#,
    );
    let mut call = post("/x", "é".into());
    call.params = vec![("id".into(), "7".into())];
    let response = guest.call(call).await;
    // Without a store, setting fails.
    assert!(
        response
            .unwrap_err()
            .to_string()
            .contains("w.py:5:5: wws.StoreError: this worker has no key/value store"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_text_bytes_or_parts() {
    let (_project, guest) = worker(
        r#"
def parts():
    yield "a"
    yield b"\xff"
def worker(request):
    if request.path == "/parts": return Response(parts())
    if request.path == "/json": return Response.json({"a": [1, "é"]})
    if request.path == "/text": return "plain"
    if request.path == "/none": return Response(None, 204)
    assert (request.body == request.bytes) == isinstance(request.body, bytes)
    return Response(request.bytes, headers=[("x-a", "1"), ("x-a", "2")])
async def unused(): pass
"#,
    );
    let body: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let response = guest.call(post("/", body.clone())).await.unwrap();
    assert_eq!(response.body().as_ref(), body);
    assert_eq!(
        guest.call(get("/parts")).await.unwrap().body().as_ref(),
        b"a\xff"
    );
    let response = guest.call(get("/json")).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.body(), r#"{"a": [1, "\u00e9"]}"#);
    assert_eq!(text(&guest, "/text").await, "plain");
    assert_eq!(guest.call(get("/none")).await.unwrap().status(), 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_a_return_value_that_is_not_a_response() {
    for (body, why) in [
        ("pass", "worker() returns a Response, not None"),
        ("return 7", "not int"),
        (
            "return Response({})",
            "the body is text, bytes or parts of either, not dict",
        ),
        ("return Response('', 99)", "status 99"),
        (
            "return Response('', headers={'a b': 'c'})",
            "not the name of a header",
        ),
        ("return Response('', headers={'a': 'b\\nc'})", "line break"),
        ("raise KeyError('x')", "w.py:2:5: KeyError: 'x'"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import os; os._exit(3)", "exited with code 3"),
        (
            "import nothing",
            "ModuleNotFoundError: No module named 'nothing'",
        ),
    ] {
        let (_project, guest) = worker(&format!("def worker(request):\n    {body}\n"));
        let error = guest.call(get("/")).await.unwrap_err().to_string();
        assert!(error.contains(why), "{body}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_position_and_cause_of_load_errors() {
    for (source, why) in [
        (
            "def worker(request:\n    pass",
            "a/w.py:1:11: SyntaxError: '(' was never closed",
        ),
        (
            "x = 1\n  y = 2",
            "a/w.py:2:2: IndentationError: unexpected indent",
        ),
        (
            "import os\nraise ValueError('no')",
            "a/w.py:2:1: ValueError: no",
        ),
        (
            "def handler(request): pass",
            "it defines no function `worker`",
        ),
        (
            "import lib.bad\n",
            "a/lib/bad.py:2:1: NameError: name 'x' is not defined",
        ),
        (
            "import secrets\nT = secrets.token_hex()\n",
            "a/w.py:2:5: RuntimeError: random bytes are drawn where the worker is loaded",
        ),
        (
            "fetch('http://a.b/')\n",
            "a/w.py:1:1: wws.FetchError: loading: only while a request is handled",
        ),
        ("import sys\nsys.exit(1)", "a/w.py:2:1: SystemExit: 1"),
        ("while True: pass", "CPU time|did not end loading"),
    ] {
        let project = Project::new(&[
            ("a/w.py", source),
            ("a/lib/__init__.py", ""),
            ("a/lib/bad.py", "\nx\n"),
        ]);
        let error = project.load("a/w.py", spec()).err().expect(source);
        let error = error.to_string();
        assert!(
            why.split('|').any(|why| error.contains(why)),
            "{source}: {error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_do_not_see_changes_of_earlier_ones() {
    let (_project, guest) = worker(
        r#"
import os, json
count = 0; items = []
def worker(request):
    global count
    count += 1; items.append(1); json.marked = getattr(json, "marked", 0) + 1
    os.environ["N"] = os.environ.get("N", "") + "x"
    big = bytearray(1 << 22)
    return Response(f"{count},{len(items)},{json.marked},{os.environ['N']},{len(big)}")
"#,
    );
    let calls: Vec<_> = (0..16)
        .map(|_| {
            let guest = guest.clone();
            tokio::spawn(async move { text(&guest, "/").await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), "1,1,1,x,4194304");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_have_different_random_numbers() {
    let (_project, guest) = worker(
        r#"
import random, secrets, uuid, tempfile, os
own = random.Random()
seeded = random.Random(7)
def worker(request):
    drawn = [random.random(), own.random(), secrets.token_hex(), uuid.uuid4(), uuid.uuid1(), os.urandom(8).hex(),
        random.Random().random(), random.SystemRandom().random(), next(tempfile._get_candidate_names())]
    return Response("\n".join(map(str, drawn)) + f"|{seeded.random()}")
"#,
    );
    let mut seen = HashSet::new();
    let mut same = HashSet::new();
    for _ in 0..20 {
        let all = text(&guest, "/").await;
        let (drawn, seeded) = all.split_once('|').unwrap();
        for one in drawn.lines() {
            assert!(seen.insert(one.to_owned()), "{one} was drawn twice");
        }
        same.insert(seeded.to_owned());
    }
    assert_eq!(same.len(), 1, "a generator with a seed of its own keeps it");
}

#[tokio::test(flavor = "multi_thread")]
async fn request_that_fails_does_not_affect_others() {
    let (_project, guest) = worker(
        r#"
import sys, gc
def recurse(n): return recurse(n + 1) + 1
def deep(): return [deep()]
def worker(request):
    path = request.path
    if path == "/loop":
        while True: pass
    if path == "/bomb":
        held = []
        while True: held.append(bytearray(1 << 20))
    if path == "/recurse": recurse(0)
    if path == "/native":
        sys.setrecursionlimit(1 << 30); recurse(0)
    if path == "/crash":
        code = recurse.__code__.replace(co_code=b"\x7c\xff" * 100, co_nlocals=1, co_varnames=("n",))
        exec("def f(): pass"); f = lambda n: n; f.__code__ = code; f(1)
    if path == "/promises":
        held = [object() for _ in range(100000)]
    return Response("ok")
"#,
    );
    for (path, why) in [
        ("/loop", "CPU time"),
        ("/bomb", "memory"),
        ("/recurse", "RecursionError"),
        ("/native", "trapped|Recursion|memory|CPU time"),
        ("/crash", "trapped|Error"),
    ] {
        let error = guest.call(get(path)).await.expect_err(path);
        let is_call = matches!(
            error,
            CallError::Program { .. }
                | CallError::Trap { .. }
                | CallError::CpuTime(_)
                | CallError::Exit { .. }
        );
        let text = error.to_string();
        assert!(
            is_call && why.split('|').any(|why| text.contains(why)),
            "{path}: {text}"
        );
        assert_eq!(self::text(&guest, "/").await, "ok");
    }
    assert_eq!(text(&guest, "/promises").await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_may_be_pairs() {
    let (_project, guest) = worker(
        r#"
import wsgiref.headers
def worker(request):
    if request.path == "/wsgi": return Response("x", headers=wsgiref.headers.Headers([("set-cookie", "a=1"), ("Set-Cookie", "b=2")]))
    if request.path == "/bad": return Response("x", headers=["a: b"])
    if request.path == "/same":
        request.headers["X-New"] = "n"; del request.headers["x-old"]
        return Response("x", headers=request.headers)
    if request.path == "/json": return Response.json(1, headers=[("Content-Type", "a/b"), ("set-cookie", "a=1"), ("set-cookie", "b=2")])
    response = Response("x", headers=[("set-cookie", "a=1"), ("X-Other", 7), ("Set-Cookie", "b=2"), ("x-none", None)])
    response.headers["x-more"] = ["1", "2"]
    return response
"#,
    );
    async fn lines(guest: &Guest, path: &str, name: &str) -> String {
        let mut call = get(path);
        for (name, value) in [
            ("set-cookie", "a=1, x"),
            ("set-cookie", "b=2"),
            ("x-old", "1"),
        ] {
            call.request
                .headers_mut()
                .append(name, value.parse().unwrap());
        }
        let response = guest.call(call).await.unwrap();
        let values = response.headers().get_all(name);
        let values: Vec<_> = values.iter().map(|value| value.to_str().unwrap()).collect();
        values.join("|")
    }
    for (path, name, values) in [
        ("/", "set-cookie", "a=1|b=2"),
        ("/", "x-other", "7"),
        ("/", "x-none", ""),
        ("/", "x-more", "1|2"),
        ("/wsgi", "set-cookie", "a=1|b=2"),
        ("/json", "set-cookie", "a=1|b=2"),
        ("/json", "content-type", "a/b"),
        ("/same", "set-cookie", "a=1, x|b=2"),
        ("/same", "x-new", "n"),
        ("/same", "x-old", ""),
    ] {
        assert_eq!(lines(&guest, path, name).await, values, "{path} {name}");
    }
    let error = guest.call(get("/bad")).await.unwrap_err().to_string();
    assert!(
        error.contains("TypeError: headers are a dictionary or pairs"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn has_the_names_of_the_polyfill() {
    let project = Project::new(&[
        (
            "w.py",
            "from helper import dumped\nX = Cache.get('a')\n\
             def worker(request):\n    return Response(json.dumps([X, sys.argv, json.loads('1'), \
             dumped]))",
        ),
        (
            "helper.py",
            "from poly import *\ndumped = json.dumps([sys.argv, Response('').status])",
        ),
    ]);
    let guest = project.guest("w.py", spec());
    assert_eq!(
        text(&guest, "/").await,
        r#"[null, ["w.py"], 1, "[[\"w.py\"], 200]"]"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_messages_in_one_write_ends_at_the_cpu_limit() {
    let project = Project::new(&[(
        "w.py",
        "import os\ndef worker(request):\n    line = b'{\"op\":\"log\"}\\n' * 600000\n    while \
         True: os.pwrite(1, line, 0)",
    )]);
    let mut spec = spec();
    spec.limits.cpu_time = std::time::Duration::from_millis(500);
    let guest = project.guest("w.py", spec);
    let error = guest.call(get("/")).await.unwrap_err();
    assert!(matches!(error, CallError::CpuTime(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_have_their_url() {
    let address = common::redirecting("/moved", "/end", "end").await;
    let http = common::outgoing(address, &[http::Method::GET]);
    let mut spec = spec();
    spec.env = vec![("TARGET".into(), format!("http://{address}"))];
    spec.http = Some(http);
    let project = Project::new(&[(
        "w.py",
        "import os\ndef worker(request):\n    at = os.environ['TARGET']\n    \
         answers = [fetch(at + '/moved'), fetch(at + '/end')]\n    \
         return Response.json([[a.url.removeprefix(at), a.redirected, a.text()] for a in answers])",
    )]);
    let guest = project.guest("w.py", spec);
    assert_eq!(
        text(&guest, "/").await,
        r#"[["/end", true, "end"], ["/end", false, "end"]]"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn store_lists_compares_and_expires_keys() {
    common::store_operations(
        "w.py",
        r#"
def worker(request):
    found = []
    Cache.set("a:3", "new")
    Cache.delete("a:1")
    found += [Cache.list("a:"), Cache.list(limit=2), Cache.list("a:", after="a:2")]
    found += [Cache.compare_and_set("k", None, "1"), Cache.compare_and_set("k", None, "2"), Cache.get("k")]
    found += [Cache.compare_and_set("k", "1", "3", ttl=3600), Cache.get("k")]
    Cache.set("short", 1, ttl=0.01)
    try:
        Cache.set("w", 1, ttl=0)
    except ValueError as error:
        found.append(type(error).__name__)
    return Response.json(found)
"#,
        r#"["ValueError"]"#,
    )
    .await;
}
