//! Calls that wait for memory.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_for_memory_hold_none() {
    let _turn = TURN.lock().await;
    return_memory_at_once();
    let engine = Engine::new(&EngineOptions {
        memory: 35 * MIB,
        // One after another, on a machine that does other things as well.
        queue_timeout: Duration::from_secs(120),
        ..EngineOptions::default()
    })
    .unwrap();
    let text = prints(
        200,
        OK,
        "(loop $l (drop (call $random (i32.const 65536) (i32.const 12000000))) (br $l))",
    );
    let limits = GuestLimits {
        cpu_time: Duration::from_millis(200),
        ..spec().limits
    };
    let guest = guest_with(&engine, &text, GuestSpec { limits, ..spec() });
    let all = async {
        let calls: Vec<_> = (0..12)
            .map(|_| {
                let guest = guest.clone();
                tokio::spawn(async move { guest.call(get("/")).await.map(drop) })
            })
            .collect();
        for call in calls {
            let error = call.await.unwrap().unwrap_err();
            assert!(matches!(error, CallError::CpuTime(_)), "{error}");
        }
    };
    let ((), peak) = peak(all).await;
    assert!(peak < 40 * MIB, "{} MiB", peak / MIB);
}

/// Sleeps for so many milliseconds after `before`, and prints nothing.
fn sleeps(milliseconds: u64, before: &str) -> String {
    format!(
        r#"(module
          (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 1)
          (func (export "_start") {before}
            (i32.store (i32.const 4112) (i32.const 1)) (i64.store (i32.const 4120) (i64.const {}))
            (drop (call $poll (i32.const 4096) (i32.const 4200) (i32.const 1) (i32.const 4300)))))"#,
        milliseconds * 1_000_000
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_memory_is_bounded_by_the_queue_time() {
    let _turn = TURN.lock().await;
    let engine = Engine::new(&EngineOptions {
        memory: 8 * MIB,
        queue_timeout: Duration::from_millis(200),
        ..EngineOptions::default()
    })
    .unwrap();
    let guest = guest_with(&engine, &sleeps(100_000, ""), spec());
    let first = tokio::spawn({
        let guest = guest.clone();
        async move { guest.call(get("/")).await.map(drop) }
    });
    while engine.account().free() == engine.account().total() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let start = Instant::now();
    let error = guest.call(get("/")).await.unwrap_err();
    assert!(error.is_overload(), "{error}");
    assert!(start.elapsed() < Duration::from_secs(60), "{error}");
    first.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_that_grow_leave_memory_to_calls_that_begin() {
    let _turn = TURN.lock().await;
    let engine = Engine::new(&EngineOptions {
        memory: 48 * MIB,
        kept_for_calls: 12 * MIB,
        queue_timeout: Duration::from_millis(200),
        ..EngineOptions::default()
    })
    .unwrap();
    let grows = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))";
    let large = guest_with(&engine, &sleeps(100_000, grows), spec());
    let small = prints(1, OK, "(drop (memory.grow (i32.const 4)))");
    let small = guest_with(&engine, &small, spec());
    let growing = tokio::spawn(async move { large.call(get("/")).await.map(drop) });
    let start = Instant::now();
    while engine.account().free() > MIB {
        assert!(start.elapsed() < Duration::from_secs(60), "it grows");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..3 {
        assert_eq!(small.call(get("/")).await.unwrap().body(), "ok");
    }
    assert!(!growing.is_finished());
    growing.abort();
}
