//! Python workers, with the real interpreter: what a worker's author relies on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

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
async fn imports_modules_beside_the_worker_only() {
    let project = Project::new(&[
        (
            "a/w.py",
            "import near, _libs.pack.deep as deep, far\nfrom _libs.pack import first\n\
             def worker(request):\n    import late\n    try:\n        open('/a/w.toml')\n    \
             except OSError: pass\n    else: raise\n\
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
async fn directories_hold_packages_and_data() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("pure.py"), "def f(): return 'pure'").unwrap();
    let project = Project::new(&[(
        "w.py",
        "import sys, os\nsys.path.append('/lib')\nimport pure\n\
         def worker(request):\n    open('/lib/out', 'w').write(os.environ['A'])\n    return \
         Response(pure.f() + open('/lib/out').read())",
    )]);
    let mut spec = spec();
    spec.env = vec![("A".into(), "é".into())];
    spec.directories = vec![wws_engine::PreopenedDirectory {
        dir: std::fs::File::open(directory.path()).unwrap(),
        to: "/lib".into(),
    }];
    let guest = project.guest("w.py", spec);
    assert_eq!(text(&guest, "/").await, "pureé");
    assert_eq!(text(&guest, "/").await, "pureé");
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
async fn logging_has_a_handler() {
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

#[tokio::test(flavor = "multi_thread")]
async fn sleeps_for_the_requested_time() {
    let (_project, guest) = worker(
        r#"
import time, threading, select
start, begun = time.monotonic(), time.process_time()
def worker(request):
    before, used = time.time(), time.process_time()
    assert time.monotonic() - start > 1.5
    assert begun <= used < begun + 1, (begun, used)
    time.sleep(0.3)
    time.sleep(0)
    threading.Event().wait(0.01)
    select.select([], [], [], 0.01)
    slept = time.time() - before
    assert time.process_time() - used < 0.25
    end = time.perf_counter() + 0.05
    while time.perf_counter() < end: pass
    worked = time.process_time() - used
    return Response(f"{slept} {worked} {time.process_time_ns() / 1e9 - used}")
"#,
    );
    tokio::time::sleep(std::time::Duration::from_millis(1600)).await;
    let times = common::waits_less_than_a_second(&guest).await;
    assert!(times[0] >= 0.32, "slept {times:?}");
    assert!(times[1] >= 0.045 && times[1] < 2.0, "worked {times:?}");
    assert!(times[2] >= times[1] && times[2] < 2.0, "worked {times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_packages_without_an_init_file() {
    let project = Project::new(&[
        (
            "a/w.py",
            "from _libs import util\nimport _libs.deep.one, json\n\
             def worker(request):\n    from _libs import late\n    try:\n        import _none\n    \
             except ModuleNotFoundError: pass\n\
             \n    return Response(util.u + _libs.deep.one.o + late.l + json.dumps([1]))",
        ),
        ("_libs/util.py", "u = 'u'"),
        ("a/_libs/deep/one.py", "o = 'o'"),
        ("_libs/late.py", "l = 'l'"),
        // A directory of that name is no reason to lose a module of the library.
        ("json/x.py", ""),
    ]);
    let guest = project.guest("a/w.py", spec());
    assert_eq!(text(&guest, "/").await, "uol[1]");
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_an_event_loop() {
    let (_project, guest) = worker(
        r#"
import asyncio, time
async def part(n):
    await asyncio.sleep(0.02)
    return n
async def refused(call):
    try:
        await call()
    except Exception as error:
        return type(error).__name__ + ": " + str(error)
async def all_of_it():
    before = time.monotonic()
    got = await asyncio.gather(*(part(n) for n in range(5)))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(part(5))
    got.append(task.result())
    try:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(1000)
    except TimeoutError:
        got.append("timeout")
    queue = asyncio.Queue()
    asyncio.get_running_loop().call_later(0.01, queue.put_nowait, "queued")
    got.append(await queue.get())
    asyncio.create_task(part(6))
    assert time.monotonic() - before < 900
    return got
async def worker(request):
    if request.path == "/thread": return Response(await refused(lambda: asyncio.to_thread(print)))
    if request.path == "/socket": return Response(await refused(lambda: asyncio.open_connection("a.b", 80)))
    if request.path == "/process": return Response(await refused(lambda: asyncio.create_subprocess_exec("ls")))
    if request.path == "/never": await asyncio.Event().wait()
    if request.path == "/raise": raise KeyError("x")
    if request.path == "/parts":
        async def parts():
            for n in "abc":
                await asyncio.sleep(0)
                yield n
        return Response(parts())
    return Response(str(await all_of_it()))
"#,
    );
    for _ in 0..2 {
        assert_eq!(
            text(&guest, "/").await,
            "[0, 1, 2, 3, 4, 5, 'timeout', 'queued']"
        );
    }
    assert_eq!(text(&guest, "/parts").await, "abc");
    for (path, why) in [
        (
            "/thread",
            "RuntimeError: can't start new thread: a worker has one",
        ),
        ("/socket", "a worker has no sockets: use fetch()"),
        (
            "/process",
            "NotImplementedError: a worker starts no processes",
        ),
    ] {
        let answer = text(&guest, path).await;
        assert!(answer.contains(why), "{path}: {answer}");
    }
    for (path, why) in [
        ("/never", "all tasks wait for something that never comes"),
        ("/raise", "w.py:33:34: KeyError: 'x'"),
    ] {
        let error = guest.call(get(path)).await.unwrap_err().to_string();
        assert!(error.contains(why), "{path}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_the_event_loop_of_an_ordinary_worker() {
    let (_project, guest) = worker(
        r#"
import asyncio
async def part(n):
    await asyncio.sleep(0.001)
    return str(n)
print(asyncio.run(part(1)))
def worker(request):
    if request.path == "/returned": return later()
    return Response(asyncio.run(part(2)) + asyncio.run(part(3)))
async def later(): return Response(await part(4))
"#,
    );
    assert_eq!(text(&guest, "/").await, "23");
    assert_eq!(text(&guest, "/returned").await, "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_modules_that_are_unavailable_in_a_worker() {
    let (_project, guest) = worker(
        r#"
import ssl, ctypes, ctypes.util, multiprocessing, multiprocessing.pool, concurrent.futures, socket, http.client, urllib.request
from concurrent.futures import ThreadPoolExecutor, ProcessPoolExecutor
from multiprocessing.managers import BaseManager
from ssl import SSLContext, OP_NO_SSLv2, PROTOCOL_TLS_CLIENT, TLSVersion
context = ssl.create_default_context()
context.minimum_version = TLSVersion.TLSv1_2
context.options |= ssl.OP_NO_COMPRESSION
context.load_verify_locations("none")
def why(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
def worker(request):
    assert ctypes.sizeof(ctypes.c_long) == 4 and ctypes.util.find_library("c") is None and multiprocessing.cpu_count() == 1
    assert not hasattr(ctypes, "windll")
    return Response("\n".join([
        why(lambda: urllib.request.urlopen("http://example.com/")),
        why(lambda: urllib.request.urlopen("https://example.com/")),
        why(lambda: socket.getaddrinfo("example.com", 80)),
        why(lambda: socket.create_connection(("10.0.0.1", 80))),
        why(lambda: socket.socket()),
        why(lambda: context.wrap_socket(None)),
        why(lambda: ThreadPoolExecutor().submit(print)),
        why(lambda: ProcessPoolExecutor().submit(print)),
        why(lambda: multiprocessing.Process(target=print).start()),
        why(lambda: multiprocessing.Pool()),
        why(lambda: ctypes.CDLL("libc.so")),
        why(lambda: __import__("threading").Thread(target=print).start()),
    ]))
"#,
    );
    let answer = text(&guest, "/").await;
    let lines: Vec<_> = answer.lines().collect();
    for (index, why) in [
        "use fetch()",
        "use fetch()",
        "gaierror: [Errno -4] a worker has no sockets: use fetch()",
        "use fetch()",
        "use fetch()",
        "SSLError: ",
        "can't start new thread: a worker has one",
        "a worker starts no processes",
        "a worker starts no processes",
        "a worker starts no processes",
        "OSError: a worker cannot call native code",
        "can't start new thread",
    ]
    .into_iter()
    .enumerate()
    {
        assert!(lines[index].contains(why), "{why}: {}", lines[index]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn derives_keys_from_passwords() {
    let (_project, guest) = worker(
        r#"
import hashlib, hmac
def worker(request):
    if request.path == "/long": hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**12)
    keys = [
        hashlib.pbkdf2_hmac("sha256", b"passwd", b"salt", 1, 64),
        hashlib.pbkdf2_hmac("SHA-1", b"password", b"salt", 4096, 25),
        hashlib.pbkdf2_hmac("sha512", bytearray(b"p" * 300), b"", 5000),
        hashlib.scrypt(b"", salt=b"", n=16, r=1, p=1, dklen=64),
        hashlib.scrypt(b"pleaseletmein", salt=b"SodiumChloride", n=16384, r=8, p=1, dklen=64),
    ]
    for call in [lambda: hashlib.pbkdf2_hmac("md9", b"", b"", 1), lambda: hashlib.pbkdf2_hmac("sha1", b"", b"", 0),
                 lambda: hashlib.scrypt(b"", salt=b"", n=15, r=1, p=1), lambda: hashlib.scrypt(b"", salt=b"", n=1 << 20, r=8, p=1),
                 lambda: hashlib.scrypt(b"", salt=b"", n=1 << 20, r=8, p=1, maxmem=1 << 40)]:
        try:
            call()
        except ValueError:
            continue
        raise AssertionError
    return Response("\n".join(key.hex() for key in keys))
"#,
    );
    assert_eq!(
        text(&guest, "/").await.lines().collect::<Vec<_>>(),
        [
            "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc\
             49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783",
            "4b007901b765489abead49d926f721d065a429c12e463f6c4c",
            "88d034918b6177f42c2e376aee6f07947081ece53860fe867748140d2fd839d8\
             5953405752d33e205c4d6e80d5a97f1fcd24f91c50d82397565082d9f1514d12",
            "77d6576238657b203b19ca42c18a0497f16b4844e3074ae8dfdffa3fede21442\
             fcd0069ded0948f8326a753a0fc81f17e8d3e0fb2e0d3628cf35e20c38d18906",
            "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2\
             d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887",
        ]
    );
    let error = guest.call(get("/long")).await.unwrap_err();
    assert!(matches!(error, CallError::CpuTime(_)), "{error}");
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
async fn random_values_at_load_are_refused_unless_allowed() {
    let source = "import uuid, os\nID = uuid.uuid4()\n\
                  def worker(request):\n    return Response(f'{ID} {uuid.uuid4()} {os.environ}')";
    let project = Project::new(&[("w.py", source)]);
    let error = project.load("w.py", spec()).err().unwrap().to_string();
    assert!(
        error.contains("w.py:2:6: RuntimeError") && error.contains("WWS_RANDOM_AT_LOAD"),
        "{error}"
    );
    let mut allowed = spec();
    allowed.env = vec![("WWS_RANDOM_AT_LOAD".into(), "allow".into())];
    let guest = project.guest("w.py", allowed);
    let (one, two) = (text(&guest, "/").await, text(&guest, "/").await);
    let (one, two): (Vec<_>, Vec<_>) = (one.split(' ').collect(), two.split(' ').collect());
    assert_eq!(one[0], two[0]);
    assert_ne!(one[1], two[1]);
    assert!(!one.join(" ").contains("WWS_RANDOM"), "{one:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_files_are_in_memory_or_in_a_directory_that_is_given() {
    let source = r#"
import tempfile
def worker(request):
    with tempfile.TemporaryFile() as file:
        file.write(b"bytes"); file.seek(0); out = file.read().decode()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        file.write("text"); file.seek(0); out += file.read()
    with tempfile.SpooledTemporaryFile(max_size=3) as file:
        file.write(b"spooled"); file.seek(0); out += file.read().decode()
    try:
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"named"); file.flush(); out += open(file.name).read()
        with tempfile.TemporaryDirectory() as path:
            open(path + "/a", "w").write("x"); out += path[:5]
    except FileNotFoundError as error:
        out += str(error)
    return Response(out)
"#;
    let (_project, guest) = worker(source);
    let answer = text(&guest, "/").await;
    assert!(
        answer
            .starts_with("bytestextspooled[Errno 2] a worker has no directory for temporary files")
            && answer.contains("to = \"/tmp\""),
        "{answer}"
    );
    let directory = tempfile::tempdir().unwrap();
    let project = Project::new(&[("w.py", source)]);
    let mut spec = spec();
    spec.directories = vec![wws_engine::PreopenedDirectory {
        dir: std::fs::File::open(directory.path()).unwrap(),
        to: "/tmp".into(),
    }];
    let guest = project.guest("w.py", spec);
    assert_eq!(text(&guest, "/").await, "bytestextspoolednamed/tmp/");
}

#[tokio::test(flavor = "multi_thread")]
async fn load_error_in_a_library_names_both_positions() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(
        directory.path().join("pure.py"),
        "\ndef f(): raise KeyError('x')",
    )
    .unwrap();
    let project = Project::new(&[(
        "w.py",
        "import sys\nsys.path.append('/lib')\nimport pure\npure.f()",
    )]);
    let mut spec = spec();
    spec.directories = vec![wws_engine::PreopenedDirectory {
        dir: std::fs::File::open(directory.path()).unwrap(),
        to: "/lib".into(),
    }];
    let error = project.load("w.py", spec).err().unwrap().to_string();
    assert!(
        error.contains("w.py:4:1: KeyError: 'x', raised at /lib/pure.py:2"),
        "{error}"
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
