//! What one guest makes the host hold or do is charged, bounded and cut, and seen by nobody else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../components/interfaces.rs"]
mod interfaces;
#[path = "../components/program.rs"]
mod program;

mod files;
mod resident;
mod waiting;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::limits;
use wws_engine::{
    Account, Call, CallError, Engine, EngineOptions, Guest, GuestLimits, GuestSpec,
    PreopenedDirectory,
};

/// The allocator of `wws`: what it keeps of freed memory counts.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

// SAFETY: the declaration is that of `mimalloc.h`.
unsafe extern "C" {
    safe fn mi_option_set(option: std::ffi::c_int, value: std::ffi::c_long);
}

/// As `wws` does: freed memory is returned to the system at once.
fn return_memory_at_once() {
    mi_option_set(15, 0);
}

const MIB: u64 = 1 << 20;

fn engine(memory: u64) -> Engine {
    Engine::new(&EngineOptions {
        memory,
        concurrency: 64,
        open_files: 100,
        ..EngineOptions::default()
    })
    .unwrap()
}

fn spec() -> GuestSpec {
    common::spec(GuestLimits {
        memory: 128 * MIB,
        table_elements: 100_000,
        cpu_time: Duration::from_secs(2),
        output: 16 * MIB,
        ..limits()
    })
}

fn guest_with(engine: &Engine, text: &str, spec: GuestSpec) -> Guest {
    let module = engine.compile(&wat::parse_str(text).unwrap()).unwrap();
    engine.guest(&module, spec).unwrap()
}

fn request(path: &str, body: impl Into<Bytes>) -> Call {
    Call {
        request: http::Request::post(format!("http://localhost{path}"))
            .body(body.into())
            .unwrap(),
        params: vec![],
        request_id: "r".into(),
    }
}

fn get(path: &str) -> Call {
    request(path, "")
}

/// Resident memory is the process's, so that tests take turns.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

/// The most resident memory that was seen while `run` ran.
async fn peak<T>(run: impl Future<Output = T>) -> (T, u64) {
    return_memory_at_once();
    let before = resident();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let watch = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let mut most = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                most = most.max(resident());
                std::thread::sleep(Duration::from_millis(1));
            }
            most
        }
    });
    let output = run.await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    (output, watch.join().unwrap().saturating_sub(before))
}

/// Prints `json` after `before`.
fn prints(pages: u32, json: &str, before: &str) -> String {
    let escaped = json.replace('\\', "\\5c").replace('"', "\\22");
    format!(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
          (import "http" "send-http-request" (func $send (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
          (memory (export "memory") {pages})
          (data (i32.const 64) "http://example.com/")
          (data (i32.const 128) "x")
          (data (i32.const 1024) "{escaped}")
          (global $heap (mut i32) (i32.const 40000))
          (func (export "canonical_abi_realloc") (param i32 i32 i32 i32) (result i32)
            (global.set $heap (i32.add (global.get $heap) (local.get 3)))
            (i32.sub (global.get $heap) (local.get 3)))
          (func $put (param $fd i32) (param $at i32) (param $len i32)
            (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $len))
            (drop (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
          (func (export "_start") (local $i i32) {before}
            (call $put (i32.const 1) (i32.const 1024) (i32.const {}))))"#,
        json.len()
    )
}

const OK: &str = r#"{"data":"ok"}"#;

/// 1024 pairs at 65536, each of which names the same 100 MiB.
const PAIRS: &str = r#"
    (memory.fill (i32.const 1048576) (i32.const 97) (i32.const 104857600))
    (loop $l
      (i32.store (i32.add (i32.const 65536) (i32.mul (local.get $i) (i32.const 16))) (i32.const 128))
      (i32.store (i32.add (i32.const 65540) (i32.mul (local.get $i) (i32.const 16))) (i32.const 1))
      (i32.store (i32.add (i32.const 65544) (i32.mul (local.get $i) (i32.const 16))) (i32.const 1048576))
      (i32.store (i32.add (i32.const 65548) (i32.mul (local.get $i) (i32.const 16))) (i32.const 104857600))
      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1024))))"#;

/// Answers with the message of the error that `send-http-request` gave: the return area is at 512.
const PRINT_FAILURE: &str = r#"
    (if (i32.ne (i32.load8_u (i32.const 512)) (i32.const 1)) (then (unreachable)))
    (call $put (i32.const 2) (i32.load (i32.const 520)) (i32.load (i32.const 524)))"#;

fn http_allowed() -> GuestSpec {
    let policy = wws_outbound::Policy::new(
        &["example.com".to_owned()],
        &[http::Method::GET],
        true,
        wws_outbound::PolicyLimits {
            redirects: 3,
            response: MIB,
            timeout: Duration::from_secs(1),
            ..wws_outbound::PolicyLimits::default()
        },
    )
    .unwrap();
    let client = wws_outbound::Client::new(wws_outbound::ClientOptions::default()).unwrap();
    GuestSpec {
        http: Some((policy, client)),
        ..spec()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn does_not_copy_headers_that_name_the_same_memory() {
    let _turn = TURN.lock().await;
    let engine = engine(512 * MIB);
    let headers =
        "(call $send (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 65536) (i32.const 1024)
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 64) (i32.const 19) (i32.const 512))";
    let params = "(call $send (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
        (i32.const 0) (i32.const 65536) (i32.const 1024) (i32.const 64) (i32.const 19) (i32.const \
        512))";
    for send in [headers, params] {
        let text = prints(1700, OK, &format!("{PAIRS} {send} {PRINT_FAILURE}"));
        for spec in [spec(), http_allowed()] {
            let guest = guest_with(&engine, &text, spec);
            let (answer, peak) = peak(guest.call(get("/"))).await;
            assert_eq!(answer.unwrap().body(), "ok");
            assert!(peak < 140 * MIB, "{} MiB", peak / MIB);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn import_called_by_the_guests_allocator_traps() {
    let _turn = TURN.lock().await;
    let text = prints(
        2,
        OK,
        "(call $send (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
          (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 64) (i32.const 19) (i32.const 512))",
    )
    .replace(
        "(global.set $heap (i32.add",
        "(call $send (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
          (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 64) (i32.const 19) (i32.const 512))
         (global.set $heap (i32.add",
    );
    let guest = guest_with(&engine(512 * MIB), &text, spec());
    let error = guest.call(get("/")).await.unwrap_err().to_string();
    assert!(error.contains("called by canonical_abi_realloc"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_random_bytes_stop_at_cpu_time_and_yield() {
    let _turn = TURN.lock().await;
    let engine = engine(1024 * MIB);
    let greedy = prints(
        1900,
        OK,
        "(loop $l (drop (call $random (i32.const 65536) (i32.const 120000000))) (br $l))",
    );
    let limits = GuestLimits {
        cpu_time: Duration::from_millis(700),
        ..spec().limits
    };
    let greedy = guest_with(&engine, &greedy, GuestSpec { limits, ..spec() });
    let good = guest_with(&engine, &prints(1, OK, ""), spec());
    good.call(get("/")).await.unwrap();
    let attacks: Vec<_> = (0..6)
        .map(|_| {
            let greedy = greedy.clone();
            tokio::spawn(async move { greedy.call(get("/")).await.map(drop) })
        })
        .collect();
    let mut answered = 0;
    while !attacks.iter().all(tokio::task::JoinHandle::is_finished) {
        let good = good.clone();
        tokio::spawn(async move { good.call(get("/")).await.unwrap() })
            .await
            .unwrap();
        answered += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for attack in attacks {
        let error = attack.await.unwrap().unwrap_err();
        assert!(matches!(error, CallError::CpuTime(_)), "{error}");
    }
    // Without pieces, one call of the import holds a thread for a quarter of a second, so that a
    // few others would be answered within the four seconds of CPU time of all.
    assert!(answered > 20, "{answered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn charges_a_body_at_its_encoded_size() {
    let _turn = TURN.lock().await;
    // Each byte becomes \u0001: of six times 60 MiB only two fit at once, and the others wait for
    // them.
    let engine = engine(150 * MIB);
    let guest = guest_with(&engine, &prints(1, OK, ""), spec());
    let body = Bytes::from(vec![1; 10 << 20]);
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let (guest, body) = (guest.clone(), body.clone());
            tokio::spawn(async move { guest.call(request("/", body)).await.map(drop) })
        })
        .collect();
    let all = async {
        for call in calls {
            call.await.unwrap().unwrap();
        }
    };
    let ((), peak) = peak(all).await;
    // Six at once would be 360 MiB; the allocator keeps one that another thread freed.
    assert!(peak < 240 * MIB, "{} MiB", peak / MIB);
    assert_eq!(engine.account().free(), engine.account().total());
}

#[tokio::test(flavor = "multi_thread")]
async fn charges_a_response_until_it_is_dropped() {
    let _turn = TURN.lock().await;
    let engine = engine(64 * MIB);
    // 4 MiB of spaces before the object.
    let text = prints(
        100,
        OK,
        "(memory.fill (i32.const 65536) (i32.const 32) (i32.const 4194304))
         (i32.store8 (i32.const 65536) (i32.const 123))
         (memory.fill (i32.const 65544) (i32.const 97) (i32.const 4194000))
         (i64.store (i32.const 65537) (i64.const 0x223a226174616422))
         (i32.store16 (i32.const 4259840) (i32.const 0x7d22))
         (memory.fill (i32.const 65545) (i32.const 97) (i32.const 4194295))
         (call $put (i32.const 1) (i32.const 65536) (i32.const 4194306)) (return)",
    );
    let guest = guest_with(&engine, &text, spec());
    let answer = guest.call(get("/")).await.unwrap();
    assert_eq!(answer.body().len(), 4_194_295);
    let held = engine.account().total() - engine.account().free();
    assert_eq!(held, 4_194_295u64.next_multiple_of(4096));
    let body = answer.into_body().slice(..10);
    assert!(engine.account().free() < engine.account().total());
    drop(body);
    assert_eq!(engine.account().free(), engine.account().total());
}

#[tokio::test(flavor = "multi_thread")]
async fn output_without_memory_stops_the_call() {
    let _turn = TURN.lock().await;
    let engine = engine(32 * MIB);
    let limits = GuestLimits {
        output: 512 * MIB,
        buffers: 8 * MIB,
        ..spec().limits
    };
    let text = prints(
        40,
        OK,
        "(loop $l (call $put (i32.const 1) (i32.const 65536) (i32.const 1048576)) (br $l))",
    );
    let guest = guest_with(&engine, &text, GuestSpec { limits, ..spec() });
    let (answer, peak) = peak(guest.call(get("/"))).await;
    let error = answer.unwrap_err();
    assert!(matches!(error, CallError::NoMemory { .. }), "{error}");
    assert!(peak < 40 * MIB, "{} MiB", peak / MIB);
    assert_eq!(engine.account().free(), engine.account().total());
}

#[tokio::test(flavor = "multi_thread")]
async fn charges_tables_and_globals() {
    let _turn = TURN.lock().await;
    let engine = engine(64 * MIB);
    let tables = "(table 100000 funcref)".repeat(16);
    let globals = "(global (mut i64) (i64.const 1))".repeat(100_000);
    for (more, least) in [(tables, 16 * 800_000), (globals, 1_600_000)] {
        let text = format!(
            r#"(module
              (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
              (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
              (memory (export "memory") 1) {more}
              (func (export "_start")
                (i32.store (i32.const 4112) (i32.const 1)) (i64.store (i32.const 4120) (i64.const 1000000000))
                (drop (call $poll (i32.const 4096) (i32.const 4200) (i32.const 1) (i32.const 4300)))))"#
        );
        let guest = guest_with(&engine, &text, spec());
        let call = tokio::spawn(async move { guest.call(get("/")).await.map(drop) });
        let mut most = 0;
        while !call.is_finished() {
            most = most.max(engine.account().total() - engine.account().free());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(most > least + MIB, "{most}");
        assert!(call.await.unwrap().is_err(), "it printed nothing");
    }
}

/// `?g` grows, writes far out and ends; `?p` reads there, `?s` writes there and grows, `?n` does
/// nothing.
const BEYOND: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 1024) "{\"data\":\"ok\"}")
  (func $mode (result i32) (local $i i32)
    (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 8192))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (local.set $i (i32.const 4096))
    (loop $l
      (if (i32.eq (i32.load8_u (local.get $i)) (i32.const 63)) (then (return (i32.load8_u offset=1 (local.get $i)))))
      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 8000))))
    (i32.const 0))
  (func (export "_start") (local $m i32) (local $i i32)
    (local.set $m (call $mode))
    (if (i32.eq (local.get $m) (i32.const 103)) (then
      (if (i32.ne (memory.grow (i32.const 100)) (i32.const 2)) (then (unreachable)))
      (local.set $i (i32.const 131072))
      (loop $l
        (if (i32.load (local.get $i)) (then (unreachable)))
        (i32.store (local.get $i) (i32.const 9))
        (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 4096))) (i32.const 6684672))))))
    (if (i32.eq (local.get $m) (i32.const 112)) (then (drop (i32.load8_u (i32.const 3276800)))))
    (if (i32.eq (local.get $m) (i32.const 113)) (then (drop (i32.load8_u (i32.const 131072)))))
    (if (i32.eq (local.get $m) (i32.const 115)) (then
      (i32.store8 (i32.const 3276800) (i32.const 7))
      (drop (memory.grow (i32.const 100)))))
    (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 13))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

#[tokio::test(flavor = "multi_thread")]
async fn memory_beyond_its_size_traps_after_larger_calls() {
    let _turn = TURN.lock().await;
    let engine = engine(256 * MIB);
    // Two workers of one file: they share the module.
    let module = engine.compile(&wat::parse_str(BEYOND).unwrap()).unwrap();
    let small = GuestLimits {
        memory: MIB,
        ..spec().limits
    };
    let big = engine.guest(&module, spec()).unwrap();
    let small = engine
        .guest(
            &module,
            GuestSpec {
                limits: small,
                ..spec()
            },
        )
        .unwrap();
    for round in 0..20 {
        for guest in [&big, &small] {
            for mode in ["/?p", "/?q", "/?s"] {
                let error = guest.call(get(mode)).await.unwrap_err();
                assert!(
                    error.to_string().contains("out of bounds"),
                    "{mode} in round {round}: {error}"
                );
            }
            guest.call(get("/?n")).await.unwrap();
        }
        // Grown pages are zero each time, which the guest looks at itself.
        big.call(get("/?g")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_module_with_padded_segment_index() {
    let _turn = TURN.lock().await;
    let wasm = wat::parse_str(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 1)
          (data (i32.const 4096) "active")
          (data $passive "{\"data\":\"ok\"}")
          (func (export "_start")
            (memory.init $passive (i32.const 1024) (i32.const 0) (i32.const 13))
            (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 13))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
    )
    .unwrap();
    // `memory.init` is FC 08; 88 00 is the same number. Sizes of section and function grow by one.
    let at = wasm.windows(2).rposition(|w| w == [0xfc, 0x08]).unwrap();
    let mut padded = Vec::new();
    let mut offset = 8;
    padded.extend_from_slice(&wasm[..8]);
    while offset < wasm.len() {
        let (id, size) = (wasm[offset], usize::from(wasm[offset + 1]));
        let mut body = wasm[offset + 2..offset + 2 + size].to_vec();
        assert!(size < 127);
        if id == 10 {
            let inside = at - (offset + 2);
            body.splice(inside..inside + 2, [0xfc, 0x88, 0x00]);
            body[1] += 1;
        }
        padded.extend_from_slice(&[id, u8::try_from(body.len()).unwrap()]);
        padded.extend_from_slice(&body);
        offset += 2 + size;
    }
    let engine = engine(64 * MIB);
    for wasm in [wasm, padded] {
        let module = engine.compile(&wasm).unwrap();
        let guest = engine.guest(&module, spec()).unwrap();
        assert_eq!(guest.call(get("/")).await.unwrap().body(), "ok");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn charges_a_namespace_for_each_call() {
    let _turn = TURN.lock().await;
    use wws_kv::Store;
    let engine = engine(64 * MIB);
    let store = Arc::new(wws_kv::MemoryStore::default());
    for key in 0..15 {
        let value = "v".repeat(1 << 20);
        store.set("n", key.to_string(), value).await.unwrap();
    }
    let kv = Some(wws_engine::KvGrant::new(store, "n"));
    let guest = guest_with(&engine, &prints(1, OK, ""), GuestSpec { kv, ..spec() });
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let guest = guest.clone();
            tokio::spawn(async move { guest.call(get("/")).await.map(drop) })
        })
        .collect();
    let all = async {
        for call in calls {
            call.await.unwrap().unwrap();
        }
    };
    let ((), peak) = peak(all).await;
    assert!(peak < 80 * MIB, "{} MiB", peak / MIB);
}
