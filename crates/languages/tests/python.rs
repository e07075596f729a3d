//! Python workers, with the real interpreter: what a worker's author relies on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::HashSet;

use common::{Project, get, post, spec};
use wws_engine::{CallError, Guest};

fn worker(source: &str) -> (Project, Guest) {
    let project = Project::new(&[("w.py", source)]);
    let mut spec = spec();
    spec.limits.wall_time = std::time::Duration::from_secs(60);
    let guest = project.guest("w.py", spec);
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

#[tokio::test(flavor = "multi_thread")]
async fn names_of_the_old_kit_are_there() {
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
async fn what_a_worker_returned_is_named_if_it_is_no_response() {
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
async fn what_does_not_load_says_where_and_why() {
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
            "a/w.py: it defines no function `worker`",
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
async fn modules_beside_the_worker_are_found_and_nothing_else_is() {
    let project = Project::new(&[
        (
            "a/w.py",
            "import near, _libs.pack.deep as deep, far\nfrom _libs.pack import first\n\
             def worker(request):\n    import late\n    try:\n        open('/a/w.toml')\n    except OSError: pass\n    else: raise\n\
             \n    return Response(near.x + deep.y + far.z + first + late.l + near.__file__)",
        ),
        ("a/near.py", "x = 'n'"),
        ("a/late.py", "l = 'l'"),
        ("a/w.toml", ""),
        ("far.py", "z = 'f'"),
        ("_libs/__init__.py", ""),
        (
            "_libs/pack/__init__.py",
            "from . import deep\nfirst = deep.y",
        ),
        ("_libs/pack/deep.py", "y = 'd'"),
    ]);
    let guest = project.guest("a/w.py", spec());
    assert_eq!(text(&guest, "/").await, "ndfdla/near.py");
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_hold_packages_and_data() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pure.py"), "def f(): return 'pure'").unwrap();
    let project = Project::new(&[(
        "w.py",
        "import sys, os\nsys.path.append('/lib')\nimport pure\n\
         def worker(request):\n    open('/lib/out', 'w').write(os.environ['A'])\n    return Response(pure.f() + open('/lib/out').read())",
    )]);
    let mut spec = spec();
    spec.env = vec![("A".into(), "é".into())];
    spec.folders = vec![wws_engine::PreopenedFolder {
        dir: std::fs::File::open(folder.path()).unwrap(),
        to: "/lib".into(),
    }];
    let guest = project.guest("w.py", spec);
    assert_eq!(text(&guest, "/").await, "pureé");
    assert_eq!(text(&guest, "/").await, "pureé");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_changed_is_not_seen_by_the_next() {
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
async fn two_requests_never_draw_the_same() {
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
async fn what_a_request_does_to_itself_ends_that_one_alone() {
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
            CallError::Failed(_) | CallError::Trap(_) | CallError::CpuTime(_) | CallError::Exit(_)
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
async fn the_standard_library_works_after_the_snapshot() {
    let (_project, guest) = worker(
        r#"
import asyncio, collections, dataclasses, datetime, decimal, hashlib, html, itertools, re, sqlite3, time, zlib
started = time.monotonic()
def worker(request):
    now = datetime.datetime.now(datetime.timezone.utc)
    assert abs(now.timestamp() - time.time()) < 5 and time.monotonic() >= started
    time.sleep(0.01)
    db = sqlite3.connect(":memory:")
    db.execute("create table t (a)"); db.execute("insert into t values (7)")
    assert zlib.decompress(zlib.compress(b"x" * 1000)) == b"x" * 1000
    return Response(f"{db.execute('select a from t').fetchone()[0]} {hashlib.sha256(b'').hexdigest()[:8]} {decimal.Decimal('0.1') * 3}")
"#,
    );
    assert_eq!(text(&guest, "/").await, "7 e3b0c442 0.3");
}

#[tokio::test(flavor = "multi_thread")]
async fn logging_is_there_with_its_handler() {
    let (_project, guest) = worker(
        r#"
import logging
logging.info("at load")
def worker(request):
    import logging.handlers
    logging.getLogger("a.b").warning("in %s", "request")
    root = logging.getLogger()
    return Response(f"{len(root.handlers)} {root.level}")
"#,
    );
    assert_eq!(text(&guest, "/").await, "1 20");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_worker_answers() {
    let (_project, guest) = worker(
        "async def part(): return 'ok'\nasync def worker(request): return Response(await part())",
    );
    assert_eq!(text(&guest, "/").await, "ok");
}
