//! No request of a JavaScript worker sees another, and what one does ends that one alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use common::{Project, get, spec};
use wws_engine::{CallError, Guest};

/// Long calls have a low priority: on a busy machine they take much longer than the CPU time which they use.
const WALL_TIME: Duration = Duration::from_secs(120);

fn worker(source: &str) -> (Project, Guest) {
    worker_with(source, Duration::from_secs(30))
}

fn worker_with(source: &str, cpu_time: Duration) -> (Project, Guest) {
    let project = Project::new(&[("w.js", source)]);
    let mut spec = spec();
    spec.limits.cpu_time = cpu_time;
    spec.limits.wall_time = WALL_TIME;
    let guest = project.guest("w.js", spec);
    (project, guest)
}

fn limited(source: &str) -> (Project, Guest) {
    worker_with(source, Duration::from_millis(200))
}

/// Calls with `/bad` fail as `why` says; calls with `/` go on being answered with "ok", during and after.
async fn ends_alone(source: &str, why: &str) {
    let make = if why.contains("cpu_time") {
        limited
    } else {
        worker
    };
    let (_project, guest) = make(&format!(
        "{source}\nexport default async (request) => {{ if (request.url.endsWith('/bad')) return bad(); return new Response('ok'); }}"
    ));
    let good = {
        let guest = guest.clone();
        tokio::spawn(async move {
            let until = Instant::now() + Duration::from_millis(600);
            while Instant::now() < until {
                assert_eq!(guest.call(get("/")).await.unwrap().body(), "ok");
                tokio::task::yield_now().await;
            }
        })
    };
    let error = guest.call(get("/bad")).await.expect_err(source);
    let error = error.to_string();
    assert!(
        why.split('|').any(|why| error.contains(why)),
        "{source}: {error}"
    );
    good.await.unwrap();
    assert_eq!(guest.call(get("/")).await.unwrap().body(), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_changed_is_not_seen_by_the_next() {
    let (_project, guest) = worker(
        r#"
        let count = 0; const list = []; globalThis.shared = { n: 0 };
        export default () => {
            list.push(1); Array.prototype.marked = (Array.prototype.marked ?? 0) + 1; Math.extra = (Math.extra ?? 0) + 1;
            const big = new Uint8Array(1 << 20).fill(7); globalThis.big = (globalThis.big ?? 0) + big.length;
            return new Response([++count, list.length, ++shared.n, [].marked, Math.extra, globalThis.big].join());
        }"#,
    );
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let guest = guest.clone();
            tokio::spawn(async move {
                for _ in 0..50 {
                    assert_eq!(
                        guest.call(get("/")).await.unwrap().body(),
                        "1,1,1,1,1,1048576"
                    );
                }
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_two_requests_draw_the_same_numbers() {
    let (_project, guest) = worker(
        r#"Math.random();
        export default () => new Response([Math.random(), Math.random(), crypto.randomUUID(), crypto.getRandomValues(new Uint32Array(2)).join("-"),
            new Date().getTime() > 1.7e12].join());"#,
    );
    let mut seen = HashSet::new();
    for _ in 0..200 {
        let body = guest.call(get("/")).await.unwrap().into_body();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(body.ends_with(",true"), "{body}");
        for part in body.trim_end_matches(",true").split(',') {
            assert!(seen.insert(part.to_owned()), "{part} was drawn twice");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_loop_ends() {
    ends_alone("const bad = () => { for (;;); }", "limits.cpu_time").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_chain_of_promises_ends() {
    ends_alone(
        "const bad = () => { const next = () => Promise.resolve().then(next); return next(); }",
        "limits.cpu_time",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_regular_expression_ends() {
    ends_alone(
        "const bad = () => /^(a+)+$/.test('a'.repeat(60) + 'b')",
        "limits.cpu_time",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_bomb_ends() {
    ends_alone(
        "const bad = () => { const all = []; for (;;) all.push(new Uint8Array(1 << 20).fill(1)); }",
        "memory",
    )
    .await;
    ends_alone("const bad = () => { let s = 'x'; for (;;) s = s + s; }", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_recursion_is_an_exception_that_can_be_caught() {
    ends_alone(
        "const bad = () => 1 + bad();",
        "RangeError: Maximum call stack size exceeded",
    )
    .await;
    ends_alone("const bad = () => { let a = []; for (let i = 0; i < 1e6; i++) a = [a]; return JSON.stringify(a); }", "").await;
    let (_project, guest) = worker(
        "const deep = (n) => n === 0 ? 0 : 1 + deep(n - 1);
         export default () => { let why; const f = () => f() + 1; try { f() } catch (e) { why = e.name } return new Response(why + deep(500)); }",
    );
    assert_eq!(guest.call(get("/")).await.unwrap().body(), "RangeError500");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_pending_promises_are_no_trouble() {
    let (_project, guest) = worker(
        "export default async () => { for (let i = 0; i < 100000; i++) new Promise(() => {}).then(() => {}); return new Response('ok'); }",
    );
    for _ in 0..3 {
        assert_eq!(guest.call(get("/")).await.unwrap().body(), "ok");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_timers_or_output_ends() {
    ends_alone(
        "const bad = async () => { for (let i = 0; i < 1e6; i++) setTimeout(() => {}, 1e6); await 1; }",
        // Whichever it meets first.
        "too many operations|limits.memory",
    )
    .await;
    ends_alone(
        "const bad = () => new Response(new Uint8Array(20 << 20))",
        "limits.output",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_at_the_wall_clock() {
    let project = Project::new(&[(
        "w.js",
        "export default () => new Promise((done) => setTimeout(done, 1e6))",
    )]);
    let mut spec = spec();
    spec.limits.wall_time = Duration::from_millis(200);
    let start = Instant::now();
    let error = project
        .guest("w.js", spec)
        .call(get("/"))
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::WallTime(_)), "{error}");
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn work_hidden_between_waits_is_counted() {
    let (_project, guest) = limited(
        "export default async () => {
           for (;;) { const end = performance.now() + 0.4; while (performance.now() < end); await new Promise((done) => setTimeout(done, 1)); }
         }",
    );
    let error = guest.call(get("/")).await.unwrap_err();
    assert!(matches!(error, CallError::CpuTime(_)), "{error}");
}
