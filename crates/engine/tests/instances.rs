//! Instances live as long as a worker's author wants: for one request, or for several; and start as
//! new ones, or from the state after `_initialize`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::limits;
use wws_engine::{
    Call, CallError, Engine, EngineOptions, Guest, GuestLimits, GuestSpec, LoadError,
};

/// Initialises itself, then counts requests: a response is the count, which begins at 10, and two
/// digits that were drawn in `_initialize`. The path says what else a request does.
const HANDLER: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (global $n (mut i32) (i32.const 0))
  (data (i32.const 1024) "{\"data\":\"00 00\"}")
  (func $digits (param $at i32) (param $n i32)
    (i32.store8 (local.get $at)
      (i32.add (i32.const 48) (i32.div_u (local.get $n) (i32.const 10))))
    (i32.store8 (i32.add (local.get $at) (i32.const 1))
      (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10)))))
  (func $now (result i64)
    (drop (call $time (i32.const 1) (i64.const 1) (i32.const 16))) (i64.load (i32.const 16)))
  (func (export "_initialize")
    (drop (memory.grow (i32.const 1)))
    (drop (call $random (i32.const 70000) (i32.const 4)))
    (global.set $n (i32.add (global.get $n) (i32.const 10))))
  (func (export "wws_handle") (local $path i32) (local $start i64)
    (global.set $n (i32.add (global.get $n) (i32.const 1)))
    (call $digits (i32.const 1033) (global.get $n))
    (call $digits (i32.const 1036) (i32.rem_u (i32.load (i32.const 70000)) (i32.const 100)))
    ;; The input begins with {"url":"http://localhost/
    (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 26))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (local.set $path (i32.load8_u (i32.const 4121)))
    (if (i32.eq (local.get $path) (i32.const 116)) (then (unreachable)))
    (if (i32.eq (local.get $path) (i32.const 108)) (then (loop $forever (br $forever))))
    (if (i32.eq (local.get $path) (i32.const 98)) (then (return)))
    (if (i32.eq (local.get $path) (i32.const 119))
      (then
        (local.set $start (call $now))
        (loop $work
          (br_if $work (i64.lt_u (i64.sub (call $now) (local.get $start)) (i64.const 600000000))))))
    (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 16))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (if (i32.eq (local.get $path) (i32.const 101)) (then (call $exit (i32.const 0))))))"#;

fn spec() -> GuestSpec {
    common::spec(GuestLimits {
        cpu_time: Duration::from_secs(1),
        wall_time: Duration::from_secs(300),
        buffers: 1 << 20,
        open_files: 4,
        ..limits()
    })
}

fn guest(text: &str) -> Guest {
    let engine = Engine::new(&EngineOptions::default()).unwrap();
    let module = engine.compile(&wat::parse_str(text).unwrap()).unwrap();
    engine.guest(&module, spec()).unwrap()
}

/// Calls the guest. Returns the count, and what was drawn.
async fn call(guest: &Guest, path: &str) -> Result<(u32, String), CallError> {
    let uri = format!("http://localhost/{path}");
    let request = http::Request::get(uri).body(Bytes::new()).unwrap();
    let call = Call {
        request,
        params: vec![],
        request_id: "r".into(),
    };
    let response = guest.call(call).await?;
    let text = std::str::from_utf8(response.body()).unwrap();
    let (count, drawn) = text.split_once(' ').unwrap();
    Ok((count.parse().unwrap(), drawn.to_owned()))
}

async fn count(guest: &Guest, path: &str) -> u32 {
    call(guest, path).await.unwrap().0
}

fn refused(result: Result<Guest, LoadError>) -> String {
    let error = result.err().expect("refused");
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

#[tokio::test]
async fn each_request_has_its_own_instance_by_default() {
    let guest = guest(HANDLER);
    let mut drawn = std::collections::HashSet::new();
    for _ in 0..20 {
        let (count, digits) = call(&guest, "c").await.unwrap();
        assert_eq!(count, 11);
        drawn.insert(digits);
    }
    assert!(drawn.len() > 1, "{drawn:?}");
}

#[tokio::test]
async fn instance_answers_the_configured_number_of_requests() {
    let guest = guest(HANDLER).reusing(3).unwrap();
    let mut counts = Vec::new();
    for _ in 0..7 {
        counts.push(count(&guest, "c").await);
    }
    assert_eq!(counts, [11, 12, 13, 11, 12, 13, 11]);
    // Those that wait are given up.
    guest.trim();
    assert_eq!(count(&guest, "c").await, 11);
}

#[tokio::test]
async fn concurrent_requests_have_instances_of_their_own() {
    let guest = guest(HANDLER).reusing(10).unwrap();
    let calls = (0..4).map(|_| {
        let guest = guest.clone();
        tokio::spawn(async move { count(&guest, "w").await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap(), 11);
    }
}

#[tokio::test]
async fn discards_an_instance_that_failed() {
    let guest = guest(HANDLER).reusing(100).unwrap();
    for path in ["trap", "loop", "bad"] {
        assert_eq!(count(&guest, "c").await, 11);
        assert_eq!(count(&guest, "c").await, 12);
        let error = call(&guest, path).await.expect_err(path);
        let is_expected = match path {
            "trap" => matches!(error, CallError::Trap { .. }),
            "loop" => matches!(error, CallError::CpuTime(_)),
            _ => matches!(error, CallError::BadResponse(_)),
        };
        assert!(is_expected, "{path}: {error}");
    }
    // A program that exits has succeeded, and its instance has ended.
    assert_eq!(count(&guest, "c").await, 11);
    assert_eq!(count(&guest, "exit").await, 12);
    assert_eq!(count(&guest, "c").await, 11);
}

#[tokio::test]
async fn limits_hold_for_each_request() {
    let guest = guest(HANDLER).reusing(100).unwrap();
    // More than half of the CPU time.
    for n in 1..=3 {
        assert_eq!(count(&guest, "work").await, 10 + n);
    }
}

#[tokio::test]
async fn requests_start_from_the_state_after_initialize() {
    let guest = guest(HANDLER).initialised().await.unwrap();
    let first = call(&guest, "c").await.unwrap();
    assert_eq!(first.0, 11);
    for _ in 0..5 {
        assert_eq!(call(&guest, "c").await.unwrap(), first);
    }
    assert!(call(&guest, "trap").await.is_err());
    assert_eq!(call(&guest, "c").await.unwrap(), first);
    let guest = guest.clone();
    assert_eq!(call(&guest, "c").await.unwrap(), first);
}

#[tokio::test]
async fn an_instance_may_start_from_a_snapshot_and_be_reused() {
    let guest = guest(HANDLER).initialised().await.unwrap();
    let guest = guest.reusing(2).unwrap();
    let (count, drawn) = call(&guest, "c").await.unwrap();
    assert_eq!(count, 11);
    assert_eq!(call(&guest, "c").await.unwrap(), (12, drawn.clone()));
    assert_eq!(call(&guest, "c").await.unwrap(), (11, drawn));
}

#[tokio::test]
async fn rejects_components_that_cannot_be_reused() {
    let command = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
    let why = refused(guest(command).reusing(2));
    assert!(
        why.contains("instances.reuse") && why.contains("a program ends"),
        "{why}"
    );
    let why = refused(guest(command).initialised().await);
    assert!(
        why.contains("instances.snapshot") && why.contains("wws_handle"),
        "{why}"
    );
    let reactor = |initialize: &str| {
        format!(
            r#"(module (memory (export "memory") 1) (table 2 funcref)
                 (func (export "_initialize") {initialize}) (func (export "wws_handle")))"#
        )
    };
    let tables = reactor("(table.set (i32.const 0) (ref.null func))");
    let why = refused(guest(&tables).initialised().await);
    assert!(why.contains("it changes its tables"), "{why}");
    let empty = reactor("(drop (memory.grow (i32.const 1)))").replace(") 1)", ") 0)");
    let why = refused(guest(&empty).initialised().await);
    assert!(why.contains("starts without a page"), "{why}");
    // A snapshot would have the object as it was before.
    let object = reactor("(struct.set $t 0 (global.get $o) (i32.const 2))").replace(
        "(module",
        "(module (type $t (struct (field (mut i32))))
           (global $o (ref $t) (struct.new $t (i32.const 1)))",
    );
    let why = refused(guest(&object).initialised().await);
    assert!(why.contains("garbage-collected objects"), "{why}");
    // Without a snapshot it is a worker all the same.
    let error = call(&guest(&tables), "c").await.unwrap_err();
    assert!(matches!(error, CallError::BadResponse(_)), "{error}");
    for (initialize, expected) in [
        ("(unreachable)", "unreachable"),
        (
            "(drop (memory.grow (i32.const 1000))) (loop $l (br $l))",
            "CPU time",
        ),
    ] {
        let why = refused(guest(&reactor(initialize)).initialised().await);
        assert!(why.contains("while it was initialised"), "{why}");
        assert!(why.contains(expected), "{why}");
    }
    let used = guest(HANDLER);
    let _clone = used.clone();
    assert!(refused(used.reusing(2)).contains("in use"));
}

/// Reads its environment in `_initialize`. A response is how often the memory has the text
/// `s3cr3t-1`, which the code has as a number only.
const READS_ENVIRONMENT: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 1024) "{\"data\":\"00 00\"}")
  (func (export "_initialize") (drop (call $environ (i32.const 2048) (i32.const 70000))))
  (func (export "wws_handle") (local $at i32) (local $count i32)
    (loop $next
      (local.set $count (i32.add (local.get $count)
        (i64.eq (i64.load (local.get $at)) (i64.const 0x312d743372633373))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $at) (i32.const 131064))))
    (i32.store8 (i32.const 1034) (i32.add (i32.const 48) (local.get $count)))
    (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 16))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

#[tokio::test]
async fn a_secret_of_one_worker_is_in_no_memory_of_another() {
    let engine = Engine::new(&EngineOptions::default()).unwrap();
    let wasm = wat::parse_str(READS_ENVIRONMENT).unwrap();
    let module = engine.compile(&wasm).unwrap();
    let guest = |env: Vec<(String, String)>| {
        let spec = GuestSpec { env, ..spec() };
        engine.guest(&module, spec).unwrap()
    };
    let with = || guest(vec![("TOKEN".into(), "s3cr3t-1".into())]);
    let without = || guest(vec![]);
    let pairs = [
        (with(), without()),
        (
            with().initialised().await.unwrap(),
            without().initialised().await.unwrap(),
        ),
        (with().reusing(3).unwrap(), without().reusing(3).unwrap()),
    ];
    // Each call may get the slot that the one before has left.
    for (with, without) in pairs {
        for _ in 0..8 {
            assert_eq!(count(&with, "").await, 1);
            assert_eq!(count(&without, "").await, 0);
        }
    }
}
