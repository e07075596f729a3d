//! Runtimes that a project of Wasm Workers Server 1.x brings along, with a real interpreter:
//! prestarted, each instance used once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    collections::HashSet,
    path::Path,
    sync::LazyLock,
    time::{Duration, Instant, SystemTime},
};

use common::{ENGINE, Project, code, get, post, spec, wasm};
use wws_engine::{Code, Guest};
use wws_languages::runtime_guest;
use wws_project::{LoadOptions, beneath::Root};

static MODULE: LazyLock<Code> = LazyLock::new(|| code(&wasm("python/python.wasm")));

/// What such a project's polyfill does, in short.
const POLY: &str = r#"
class Request:
    def __init__(self, json): self.__dict__.update(json)
class Response:
    def __init__(self, body): self.body, self.status_code, self.headers = body, 200, {}
class Cache:
    kv = {}
"#;

const WRAPPER: &str = r#"
from poly import *
import sys, json
{source}
request = json.loads(sys.stdin.read())
response = worker(Request(request))
print(json.dumps({"data": response.body, "status": response.status_code, "headers": response.headers, "kv": Cache.kv}))
"#;

fn guest(source: &str) -> (Project, Guest) {
    let directory = ".wws/runtimes/old/python/3.12.0";
    let project = Project::new(&[
        ("w.py", source),
        (
            ".wws.toml",
            "version = 1\n[[repositories]]\nname = 'old'\n[[repositories.runtimes]]\n\
             name = 'python'\nversion = '3.12.0'\n\
             extensions = ['py']\nargs = ['--', '/src/index.py']\n[repositories.runtimes.binary]\n\
             filename = 'python.wasm'\n\
             [repositories.runtimes.polyfill]\nfilename = 'poly.py'\n\
             [repositories.runtimes.wrapper]\nfilename = 'wrapper.txt'\n",
        ),
        (&format!("{directory}/poly.py"), POLY),
        (&format!("{directory}/wrapper.txt"), WRAPPER),
    ]);
    let wasm = wasm("python/python.wasm");
    std::fs::write(project.path().join(directory).join("python.wasm"), &wasm).unwrap();
    let loaded = wws_project::load(project.path(), &LoadOptions::default()).unwrap();
    let root = Root::open(project.path()).unwrap();
    let runtime = &loaded.runtimes()[0];
    let guest = runtime_guest(&ENGINE, &MODULE, &root, runtime, Path::new("w.py"), spec()).unwrap();
    (project, guest)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_has_a_prestarted_instance() {
    let (_project, guest) = guest(
        r#"
import random, os, time
count, started = 0, time.time()
def worker(request):
    global count
    count += 1
    if request.url.endswith("/loop"):
        while True: pass
    return Response(f"{count} {random.random()} {started} {request.method} {request.body}")
"#,
    );
    let mut seen = HashSet::new();
    let mut waited = 0;
    let start = Instant::now();
    while seen.len() < 12 || waited < 2 {
        assert!(start.elapsed() < Duration::from_secs(120), "none waited");
        let sent = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let response = guest.call(post("/", b"b".to_vec())).await.unwrap();
        let text = String::from_utf8(response.into_body().into()).unwrap();
        let answer: Vec<&str> = text.split(' ').collect();
        let [count, random, started, method, body] = answer[..] else {
            panic!("{text}");
        };
        assert_eq!((count, method, body), ("1", "POST", "b"));
        assert!(
            seen.insert(random.to_owned()),
            "random numbers were drawn twice"
        );
        if started.parse::<f64>().unwrap() < sent {
            waited += 1;
        }
        if seen.len() == 6 {
            let error = guest.call(get("/loop")).await.unwrap_err();
            assert!(error.to_string().contains("CPU time"), "{error}");
        }
        // Time to start the next.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Some go when nobody asks.
    guest.trim();
    ENGINE.trim();
    assert!(guest.call(get("/")).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_a_burst_of_requests() {
    let (_project, guest) = guest("def worker(request): return Response(request.url)");
    let calls: Vec<_> = (0..12)
        .map(|i| {
            let guest = guest.clone();
            tokio::spawn(async move { guest.call(get(&format!("/{i}"))).await })
        })
        .collect();
    for (i, call) in calls.into_iter().enumerate() {
        let response = call.await.unwrap().unwrap();
        assert_eq!(response.body(), format!("http://localhost/{i}").as_str());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_program_that_fails_before_it_reads() {
    let (_project, guest) = guest("raise ValueError('at start')\ndef worker(request): pass");
    for _ in 0..3 {
        let error = guest.call(get("/")).await.unwrap_err().to_string();
        assert!(error.contains("exited with code 1"), "{error}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
