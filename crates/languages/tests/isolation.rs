//! No request of a JavaScript worker sees another, and a bad request fails alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::{
    Project, get,
    isolation::{self, all_answer, draws_no_part_twice},
    spec,
};
use wws_engine::{CallError, Guest};

fn worker(source: &str) -> (Project, Guest) {
    isolation::guest("w.js", source, Duration::from_secs(30))
}

fn limited(source: &str) -> (Project, Guest) {
    isolation::guest("w.js", source, Duration::from_millis(200))
}

/// Calls of `bad` fail for one of the reasons in `why`, and others do not.
async fn fails_alone(source: &str, why: &str) {
    let source = format!(
        "{source}\nexport default async (request) => {{ if (request.url.endsWith('/bad')) return \
         bad(); return new Response('ok'); }}"
    );
    isolation::fails_alone("w.js", &source, why).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_do_not_see_changes_of_earlier_ones() {
    let (_project, guest) = worker(
        r#"
        let count = 0; const list = []; globalThis.shared = { n: 0 };
        export default () => {
            list.push(1); Array.prototype.marked = (Array.prototype.marked ?? 0) + 1; Math.extra = (Math.extra ?? 0) + 1;
            const big = new Uint8Array(1 << 20).fill(7); globalThis.big = (globalThis.big ?? 0) + big.length;
            return new Response([++count, list.length, ++shared.n, [].marked, Math.extra, globalThis.big].join());
        }"#,
    );
    all_answer(&guest, 8, 50, "1,1,1,1,1,1048576").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_have_different_random_numbers() {
    let (_project, guest) = worker(
        r#"Math.random();
        export default () => new Response([Math.random(), Math.random(), crypto.randomUUID(), crypto.getRandomValues(new Uint32Array(2)).join("-"),
            new Date().getTime() > 1.7e12].join());"#,
    );
    draws_no_part_twice(&guest, 200, 4, ",true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_loop_ends() {
    fails_alone("const bad = () => { for (;;); }", "limits.cpu_time").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_chain_of_promises_ends() {
    fails_alone(
        "const bad = () => { const next = () => Promise.resolve().then(next); return next(); }",
        "limits.cpu_time",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_regular_expression_ends() {
    fails_alone(
        "const bad = () => /^(a+)+$/.test('a'.repeat(60) + 'b')",
        "limits.cpu_time",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_bomb_ends() {
    fails_alone(
        "const bad = () => { const all = []; for (;;) all.push(new Uint8Array(1 << 20).fill(1)); }",
        "memory",
    )
    .await;
    fails_alone("const bad = () => { let s = 'x'; for (;;) s = s + s; }", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_recursion_is_an_exception_that_can_be_caught() {
    fails_alone(
        "const bad = () => 1 + bad();",
        "RangeError: Maximum call stack size exceeded",
    )
    .await;
    fails_alone(
        "const bad = () => { let a = []; for (let i = 0; i < 1e6; i++) a = [a]; return \
        JSON.stringify(a); }",
        "",
    )
    .await;
    let (_project, guest) = worker(
        "const deep = (n) => n === 0 ? 0 : 1 + deep(n - 1);
         export default () => { let why; const f = () => f() + 1; try { f() } catch (e) { why = \
         e.name } return new Response(why + deep(500)); }",
    );
    assert_eq!(guest.call(get("/")).await.unwrap().body(), "RangeError500");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_pending_promises_are_no_trouble() {
    let (_project, guest) = worker(
        "export default async () => { for (let i = 0; i < 100000; i++) new Promise(() => \
         {}).then(() => {}); return new Response('ok'); }",
    );
    for _ in 0..3 {
        assert_eq!(guest.call(get("/")).await.unwrap().body(), "ok");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_timers_or_output_ends() {
    fails_alone(
        // With something large in each, so that room is left for the exception: one that finds none
        // is lost, and the call ends at its `wall_time` only.
        "const bad = async () => { for (let i = 0; i < 1e6; i++) setTimeout(() => {}, 1e6, \
         'x'.repeat(1 << 12) + i); await 1; }",
        "limits.memory",
    )
    .await;
    fails_alone(
        "const bad = () => new Response(new Uint8Array(20 << 20))",
        "limits.output",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_at_the_wall_clock() {
    let project = Project::new(&[(
        "w.js",
        "export default () => new Promise((done) => setTimeout(done, 1e9))",
    )]);
    let mut spec = spec();
    spec.limits.wall_time = Duration::from_millis(200);
    let error = project
        .guest("w.js", spec)
        .call(get("/"))
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::WallTime(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_work_between_waits() {
    let (_project, guest) = limited(
        "export default async () => {
           for (;;) { const end = performance.now() + 0.4; while (performance.now() < end); await \
           new Promise((done) => setTimeout(done, 1)); }
         }",
    );
    let error = guest.call(get("/")).await.unwrap_err();
    assert!(matches!(error, CallError::CpuTime(_)), "{error}");
}
