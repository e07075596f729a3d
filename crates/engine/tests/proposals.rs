//! Guests use what WebAssembly has gained since its first version: garbage-collected objects,
//! exceptions, tail calls and relaxed SIMD, in modules and in components.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[allow(dead_code, reason = "these components call no function of the host")]
#[path = "components/program.rs"]
mod program;

use std::time::Duration;

use bytes::Bytes;
use common::{engine, limits, spec};
use program::program;
use wws_engine::{Call, CallError, Engine, Guest, GuestLimits};

const MIB: u64 = 1 << 20;

/// A list of a thousand objects, an array, and numbers without a heap.
const OBJECTS: (&str, &str) = (
    r"(type $node (struct (field $value i32) (field $next (ref null $node))))
      (type $bytes (array (mut i8)))
      (func $sum (param $node (ref null $node)) (result i32) (local $sum i32)
        (loop $all
          (if (ref.is_null (local.get $node)) (then (return (local.get $sum))))
          (local.set $sum (i32.add (local.get $sum) (struct.get $node $value (local.get $node))))
          (local.set $node (struct.get $node $next (local.get $node)))
          (br $all))
        (unreachable))
      (func $proposal (result i32)
        (local $list (ref null $node)) (local $i i32) (local $bytes (ref $bytes))
        (loop $all
          (local.set $list (struct.new $node (local.get $i) (local.get $list)))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $all (i32.lt_u (local.get $i) (i32.const 1000))))
        (if (i32.ne (call $sum (local.get $list)) (i32.const 499500)) (then (return (i32.const 0))))
        ;; An array starts with zeros, whatever the memory starts with.
        (local.set $bytes (array.new_default $bytes (i32.const 100000)))
        (loop $zeros
          (local.set $i (i32.sub (local.get $i) (i32.const 1)))
          (if (array.get_u $bytes (local.get $bytes) (local.get $i)) (then (return (i32.const 0))))
          (array.set $bytes (local.get $bytes) (local.get $i) (i32.const 9))
          (br_if $zeros (local.get $i)))
        (i31.get_u (ref.cast (ref i31) (ref.i31 (i32.const 1)))))",
    "objects",
);

/// Thrown by a function, caught by its caller, with a number.
const EXCEPTIONS: (&str, &str) = (
    r"(tag $failed (param i32))
      (func $fails (param i32) (throw $failed (i32.sub (local.get 0) (i32.const 41))))
      (func $proposal (result i32)
        (block $caught (result i32)
          (try_table (catch $failed $caught) (call $fails (i32.const 42)))
          (i32.const 0)))",
    "exceptions",
);

/// As deep as no stack is.
const TAIL_CALLS: (&str, &str) = (
    r"(func $even (param i32) (result i32)
        (if (result i32) (local.get 0)
          (then (return_call $odd (i32.sub (local.get 0) (i32.const 1))))
          (else (i32.const 1))))
      (func $odd (param i32) (result i32)
        (if (result i32) (local.get 0)
          (then (return_call $even (i32.sub (local.get 0) (i32.const 1))))
          (else (i32.const 0))))
      (func $proposal (result i32) (call $even (i32.const 1000000)))",
    "tail calls",
);

/// Where these give the same on each CPU: 2 * 3 + 1 is 7, 7.5 is truncated to 7, and a lane within
/// the vector is chosen.
const RELAXED_SIMD: (&str, &str) = (
    r"(func $proposal (result i32)
        (i32.and
          (f32.eq (f32.const 7) (f32x4.extract_lane 3
            (f32x4.relaxed_madd (f32x4.splat (f32.const 2)) (f32x4.splat (f32.const 3))
              (f32x4.splat (f32.const 1)))))
          (i32.and
            (i32.eq (i32.const 7) (i32x4.extract_lane 0
              (i32x4.relaxed_trunc_f32x4_s (f32x4.splat (f32.const 7.5)))))
            (i32.eq (i32.const 5) (i8x16.extract_lane_u 0
              (i8x16.relaxed_swizzle (v128.const i8x16 1 5 1 1 1 1 1 1 1 1 1 1 1 1 1 1)
                (v128.const i8x16 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0)))))))",
    "relaxed SIMD",
);

const ALL: [(&str, &str); 4] = [OBJECTS, EXCEPTIONS, TAIL_CALLS, RELAXED_SIMD];

/// Objects that stay reachable, until there is no memory left.
const ENDLESS: &str = r"
    (type $node (struct (field $next (ref null $node)) (field i64) (field i64)))
    (func $proposal (result i32) (local $list (ref null $node))
      (loop $ever
        (local.set $list (struct.new $node (local.get $list) (i64.const 1) (i64.const 2)))
        (br $ever))
      (unreachable))";

/// A module that answers `ok` if `$proposal` of `functions` returns 1. All of its first page is
/// data, and it traps if one of the bytes is not what it was.
fn module(functions: &str) -> String {
    format!(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 2)
          (data (i32.const 0) "\00\00\01\00\0d\00\00\00")
          (data (i32.const 1024) "{}")
          (data (i32.const 65536) "{{\22data\22:\22ok\22}}")
          {functions}
          (func $expect (param $at i32) (param $end i32)
            (loop $all
              (if (i32.ne (i32.load8_u (local.get $at)) (i32.const 120)) (then (unreachable)))
              (i32.store8 (local.get $at) (i32.const 0))
              (br_if $all
                (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (local.get $end)))))
          (func (export "_start")
            (call $expect (i32.const 1024) (i32.const 65536))
            (if (i32.ne (call $proposal) (i32.const 1)) (then (unreachable)))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
        "x".repeat(65536 - 1024)
    )
}

/// A component whose program ends well if `$proposal` of `functions` returns 1.
fn component(functions: &str) -> String {
    program(
        "",
        &[],
        &[],
        2,
        "",
        "(i32.ne (call $proposal) (i32.const 1))",
    )
    .replace("(func $check", &format!("{functions}\n(func $check"))
}

fn guest(engine: &Engine, text: &str) -> Guest {
    let code = engine.compile(&wat::parse_str(text).unwrap()).unwrap();
    let limits = GuestLimits {
        memory: 16 * MIB,
        cpu_time: Duration::from_secs(5),
        ..limits()
    };
    engine.guest(&code, spec(limits)).unwrap()
}

async fn call(guest: &Guest) -> Result<Bytes, CallError> {
    let request = http::Request::get("http://localhost/x");
    let response = guest.call(Call {
        request: request.body(Bytes::new()).unwrap(),
        params: vec![],
        request_id: "r".into(),
    });
    response.await.map(http::Response::into_body)
}

#[tokio::test(flavor = "multi_thread")]
async fn modules_use_all_of_them() {
    let engine = engine(64 * MIB);
    for (functions, name) in ALL {
        let guest = guest(&engine, &module(functions));
        // What objects an earlier call had is never seen, nor taken for the module's data.
        for number in 0..20 {
            let body = call(&guest)
                .await
                .unwrap_or_else(|error| panic!("{name}, {number}: {error}"));
            assert_eq!(body.as_ref(), b"ok", "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn components_use_all_of_them() {
    let engine = engine(64 * MIB);
    for (functions, name) in ALL {
        let guest = guest(&engine, &component(functions));
        for number in 0..20 {
            // The program prints nothing; one that fails is another error.
            let error = call(&guest).await.unwrap_err();
            let ended = matches!(error, CallError::BadResponse(_));
            assert!(ended, "{name}, {number}: {error}");
        }
        let wrong = functions.replace("(func $proposal (result i32)", "(func $right (result i32)");
        let wrong = format!("{wrong} (func $proposal (result i32) (i32.const 0))");
        let error = call(&self::guest(&engine, &component(&wrong)))
            .await
            .unwrap_err();
        assert!(!matches!(error, CallError::BadResponse(_)), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_memory_of_the_call() {
    let engine = engine(64 * MIB);
    let free = engine.free_memory();
    for text in [module(ENDLESS), component(ENDLESS)] {
        let guest = guest(&engine, &text);
        for _ in 0..3 {
            let error = call(&guest).await.unwrap_err();
            assert!(matches!(error, CallError::Trap { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains("limits.memory"), "{text}");
        }
    }
    assert_eq!(engine.free_memory(), free);
}

#[tokio::test(flavor = "multi_thread")]
async fn uncaught_exceptions_end_the_call() {
    let engine = engine(64 * MIB);
    let throws = "(tag $failed) (func $proposal (result i32) (throw $failed))";
    for text in [module(throws), component(throws)] {
        let guest = guest(&engine, &text);
        let error = call(&guest).await.unwrap_err();
        assert!(matches!(error, CallError::Trap { .. }), "{error}");
    }
}
