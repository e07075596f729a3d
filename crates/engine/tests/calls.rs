//! Guests are called, and kept within their bounds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use common::limits;
use wws_engine::{Call, CallError, Engine, Guest, GuestSpec, PreopenedDirectory};
use wws_kv::Store;

fn engine() -> Engine {
    common::engine(256 << 20)
}

fn spec(name: &str) -> GuestSpec {
    GuestSpec {
        name: name.into(),
        args: vec![name.into()],
        ..common::spec(limits())
    }
}

fn guest_with(engine: &Engine, text: &str, spec: GuestSpec) -> Guest {
    let module = engine.compile(&wat::parse_str(text).unwrap()).unwrap();
    engine.guest(&module, spec).unwrap()
}

fn guest(text: &str) -> Guest {
    guest_with(&engine(), text, spec("test"))
}

fn get() -> Call {
    Call {
        request: http::Request::get("http://localhost/x")
            .body(Bytes::new())
            .unwrap(),
        params: vec![],
        request_id: "r".into(),
    }
}

/// A module which prints `json` after running `before`.
fn prints(json: &str, before: &str) -> String {
    let escaped = json.replace('\\', "\\5c").replace('"', "\\22");
    format!(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (memory (export "memory") 2)
          (data (i32.const 1024) "{escaped}")
          (func $put (param $fd i32) (param $at i32) (param $len i32)
            (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $len))
            (drop (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
          (func (export "_start") {before}
            (call $put (i32.const 1) (i32.const 1024) (i32.const {}))))"#,
        json.len()
    )
}

const HELLO: &str = r#"{"data":"hello","status":200}"#;

#[tokio::test(flavor = "multi_thread")]
async fn answers_repeatedly() {
    let guest = guest(&prints(HELLO, ""));
    for _ in 0..100 {
        let response = guest.call(get()).await.unwrap();
        assert_eq!(response.body().as_ref(), b"hello");
    }
}

/// Zig's kit for Wasm Workers Server 1.x builds such modules.
#[tokio::test(flavor = "multi_thread")]
async fn calls_a_reactor_without_start_at_initialize() {
    let reactor = prints(HELLO, "").replace("_start", "_initialize");
    let response = guest(&reactor).call(get()).await.unwrap();
    assert_eq!(response.body().as_ref(), b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_do_not_see_memory_of_earlier_ones() {
    // Fails (prints nothing) when any of the marks of an earlier call is still there: stack, data,
    // grown memory.
    let marks = r#"
      (if (i32.ne (memory.grow (i32.const 20)) (i32.const 2)) (then (unreachable)))
      (if (i32.load8_u (i32.const 512)) (then (unreachable)))
      (if (i32.ne (i32.load8_u (i32.const 1024)) (i32.const 123)) (then (unreachable)))
      (if (i32.load (i32.const 131072)) (then (unreachable)))
      (if (i32.load (i32.const 1400000)) (then (unreachable)))
      (i32.store8 (i32.const 512) (i32.const 7))
      (i32.store (i32.const 131072) (i32.const 7))
      (i32.store (i32.const 1400000) (i32.const 7))
      (memory.fill (i32.const 600000) (i32.const 9) (i32.const 500000))"#;
    let text = prints(HELLO, marks).replace(
        "(call $put (i32.const 1)",
        "(i32.store8 (i32.const 1024) (i32.const 123)) (call $put (i32.const 1)",
    );
    let guest = guest(&text);
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let guest = guest.clone();
            tokio::spawn(async move {
                for _ in 0..200 {
                    guest.call(get()).await.unwrap();
                }
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_loop_stops_at_cpu_time_while_others_are_served() {
    let engine = engine();
    let bad = guest_with(&engine, &prints(HELLO, "(loop (br 0))"), spec("loops"));
    let good = guest_with(&engine, &prints(HELLO, ""), spec("good"));
    let loops: Vec<_> = (0..4)
        .map(|_| {
            let bad = bad.clone();
            tokio::spawn(async move { bad.call(get()).await })
        })
        .collect();
    for _ in 0..50 {
        good.call(get()).await.unwrap();
    }
    for result in loops {
        let error = result.await.unwrap().unwrap_err();
        assert!(matches!(error, CallError::CpuTime(_)), "{error}");
        assert!(error.is_timeout());
    }
    assert!(!engine.lanes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn sleeping_guest_stops_at_wall_time() {
    let text = r#"(module
      (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "_start")
        (i32.store (i32.const 16) (i32.const 1)) (i64.store (i32.const 24) (i64.const 60000000000))
        (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"#;
    let mut spec = spec("sleeps");
    spec.limits.wall_time = Duration::from_millis(100);
    let error = guest_with(&engine(), text, spec)
        .call(get())
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::WallTime(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_memory_beyond_the_limit_and_logs_it() {
    let grow =
        "(loop (br_if 0 (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)";
    let error = guest(&prints(HELLO, grow))
        .call(get())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("limits.memory") && error.contains("unreachable"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_output_stops_the_call() {
    let flood = "(loop (call $put (i32.const 1) (i32.const 0) (i32.const 65536)) (br 0))";
    let error = guest(&prints(HELLO, flood)).call(get()).await.unwrap_err();
    assert!(matches!(error, CallError::TooMuchOutput(65536)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_log_is_dropped_and_the_guest_answers() {
    let flood = "(local $i i32) (loop (call $put (i32.const 2) (i32.const 0) (i32.const 65536))
        (local.set $i (i32.add (local.get $i) (i32.const 1))) (br_if 0 (i32.lt_u (local.get $i) \
        (i32.const 1000))))";
    let response = guest(&prints(HELLO, flood)).call(get()).await.unwrap();
    assert_eq!(response.body().as_ref(), b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn distinguishes_traps_exit_codes_and_bad_pointers() {
    for (before, why) in [
        ("(unreachable)", "unreachable"),
        ("(call $exit (i32.const 3))", "code 3"),
        ("(drop (i32.load (i32.const -1)))", "out of bounds"),
        (
            "(call $put (i32.const 1) (i32.const -8) (i32.const 100)) (unreachable)",
            "unreachable",
        ),
        (
            "(drop (call $read (i32.const 0) (i32.const -4) (i32.const 5) (i32.const 0))) \
             (unreachable)",
            "unreachable",
        ),
        (
            "(drop (call $read (i32.const 0) (i32.const 0) (i32.const -1) (i32.const 0))) \
             (unreachable)",
            "unreachable",
        ),
    ] {
        let error = guest(&prints(HELLO, before))
            .call(get())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(why), "{before}: {error}");
    }
    let response = guest(&prints(HELLO, "")).call(get()).await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_code_0_is_a_success() {
    let text = prints(HELLO, "").replace(
        "(i32.const 29))))",
        "(i32.const 29)) (call $exit (i32.const 0))))",
    );
    assert!(text.contains("(call $exit"));
    assert_eq!(
        guest(&text).call(get()).await.unwrap().body().as_ref(),
        b"hello"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn merges_changes_into_the_namespace() {
    let store = Arc::new(wws_kv::MemoryStore::default());
    store.set("n", "other".into(), "1".into()).await.unwrap();
    let mut spec = spec("kv");
    spec.kv = Some(wws_engine::KvGrant::new(store.clone(), "n"));
    let json = r#"{"data":"","kv":{"other":"1","mine":"2"}}"#;
    guest_with(&engine(), &prints(json, ""), spec)
        .call(get())
        .await
        .unwrap();
    assert_eq!(store.get("n", "mine").await.unwrap().unwrap(), "2");
    assert_eq!(store.get("n", "other").await.unwrap().unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_files_and_cannot_leave_its_directory() {
    let directory = std::env::temp_dir().join(format!("wws-engine-{}", std::process::id()));
    std::fs::create_dir_all(directory.join("in")).unwrap();
    std::fs::write(directory.join("in/file.txt"), HELLO).unwrap();
    std::fs::write(directory.join("secret.txt"), HELLO).unwrap();
    std::os::unix::fs::symlink(directory.join("secret.txt"), directory.join("in/link")).ok();
    let text = |path: &str| {
        format!(
            r#"(module
          (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 1) (data (i32.const 100) "{path}")
          (func (export "_start")
            (if (call $open (i32.const 3) (i32.const 1) (i32.const 100) (i32.const {}) (i32.const 0) (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 60))
              (then (unreachable)))
            (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 1000))
            (if (call $read (i32.load (i32.const 60)) (i32.const 0) (i32.const 1) (i32.const 8)) (then (unreachable)))
            (i32.store (i32.const 4) (i32.load (i32.const 8)))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
            path.len()
        )
    };
    let engine = engine();
    for (path, allowed) in [
        ("file.txt", true),
        ("../secret.txt", false),
        ("link", false),
        ("/etc/passwd", false),
    ] {
        let mut spec = spec("files");
        spec.directories.push(PreopenedDirectory {
            dir: std::fs::File::open(directory.join("in")).unwrap(),
            to: "/tmp".into(),
        });
        let result = guest_with(&engine, &text(path), spec).call(get()).await;
        assert_eq!(result.is_ok(), allowed, "{path}: {result:?}");
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_is_far_apart_is_copied_to_each_instance() {
    let marks = r#"
      (if (i32.ne (i32.load8_u (i32.const 7000000)) (i32.const 120)) (then (unreachable)))
      (if (i32.ne (i32.load8_u (i32.const 33554431)) (i32.const 121)) (then (unreachable)))
      (i32.store8 (i32.const 7000000) (i32.const 0))
      (i32.store8 (i32.const 33554431) (i32.const 0))"#;
    let text = prints(HELLO, marks).replace(
        "(memory (export \"memory\") 2)",
        r#"(memory (export "memory") 512)
           (data (i32.const 7000000) "x") (data (i32.const 33554431) "y")"#,
    );
    let mut spec = spec("sparse");
    spec.limits.memory = 32 << 20;
    let guest = guest_with(&engine(), &text, spec);
    for _ in 0..3 {
        let response = guest.call(get()).await.unwrap();
        assert_eq!(response.body().as_ref(), b"hello");
    }
}

#[test]
fn reports_what_cannot_be_a_worker() {
    let engine = engine();
    let module = |text: &str| wat::parse_str(text).unwrap();
    for (wasm, why) in [
        (b"not wasm".to_vec(), "not WebAssembly"),
        (vec![], "empty file"),
        (b"\0asm\x0d\0\x01\0".to_vec(), "component"),
        (
            module(
                r#"(component (core module $m (func (export "f"))) (core instance $i (instantiate $m))
                     (func $f (canon lift (core func $i "f"))) (export "add" (func $f)))"#,
            ),
            "it exports `add`; a worker exports `wasi:http/incoming-handler@0.2.x`",
        ),
        (
            b"\0asm\x01\0\0\0\xff".to_vec(),
            "not a valid WebAssembly module",
        ),
        (module(r#"(module (memory (export "memory") 1))"#), "_start"),
        (module(r#"(module (func (export "_start")))"#), "no memory"),
        (
            module(r#"(module (memory (export "memory") 1) (func (export "_start") (param i32)))"#),
            "parameters",
        ),
    ] {
        let error = engine.compile(&wasm).err().expect(why).to_string();
        assert!(error.contains(why), "{error}");
    }
    let odd = module(
        r#"(module (import "env" "fancy" (func)) (memory (export "memory") 1) (func (export "_start")))"#,
    );
    let error = engine
        .guest(&engine.compile(&odd).unwrap(), spec("odd"))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("env") && error.contains("fancy"), "{error}");
    let large = module(r#"(module (memory (export "memory") 1000) (func (export "_start")))"#);
    let error = engine
        .guest(&engine.compile(&large).unwrap(), spec("large"))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("limits.memory"), "{error}");
}
