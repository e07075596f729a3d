//! A guest that was initialised once answers every request from that state, and keeps nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use common::limits;
use futures_util::future::BoxFuture;
use wws_engine::{
    Call, CallError, Engine, EngineOptions, Guest, GuestSpec, LoadError, Program, ProgramError,
    RequestBody, Vm,
};

/// Counts in a global, in memory it was born with, and in memory it grew.
const COUNTER: &str = r#"(module
  (memory (export "memory") 1)
  (global $n (mut i32) (i32.const 0))
  (data (i32.const 100) "\07")
  (func (export "setup") (param i32)
    (drop (memory.grow (i32.const 3)))
    (global.set $n (local.get 0))
    (i32.store (i32.const 100) (local.get 0))
    (i32.store (i32.const 200000) (local.get 0)))
  (func (export "count") (result i32)
    (global.set $n (i32.add (global.get $n) (i32.const 1)))
    (i32.store (i32.const 100) (i32.add (i32.load (i32.const 100)) (i32.const 1)))
    (i32.store (i32.const 200000) (i32.add (i32.load (i32.const 200000)) (i32.const 1)))
    (i32.add (i32.mul (memory.size) (i32.const 1000000))
      (i32.add (i32.mul (global.get $n) (i32.const 10000))
        (i32.add (i32.mul (i32.load (i32.const 100)) (i32.const 100)) (i32.load (i32.const 200000))))))
  (func (export "loop") (loop $l (br $l)))
  (func (export "grow") (result i32) (memory.grow (i32.const 10000))))"#;

struct Counter {
    setup: i32,
    export: &'static str,
}

impl Program for Counter {
    fn initialise<'a>(&'a self, vm: &'a mut Vm) -> BoxFuture<'a, Result<(), ProgramError>> {
        Box::pin(async move {
            let setup = vm.function::<i32, ()>("setup")?;
            Ok(vm.call(&setup, self.setup).await?)
        })
    }

    fn answer<'a>(
        &'a self,
        vm: &'a mut Vm,
        call: Call<RequestBody>,
    ) -> BoxFuture<'a, Result<Option<http::Response<Bytes>>, ProgramError>> {
        Box::pin(async move {
            match self.export {
                "loop" => {
                    let f = vm.function::<(), ()>("loop")?;
                    vm.call(&f, ()).await?;
                }
                "burn" => loop {
                    // Never long enough to be seen by a tick.
                    vm.counted(async |vm| {
                        let start = std::time::Instant::now();
                        while start.elapsed() < Duration::from_micros(300) {}
                        vm.host();
                        Ok(())
                    })
                    .await?;
                    vm.wait(tokio::task::yield_now()).await;
                },
                "fail" => return Err(ProgramError::failed("boom")),
                name => {
                    let f = vm.function::<(), i32>(name)?;
                    let n = vm.call(&f, ()).await?;
                    if let Some(kv) = vm.host().kv() {
                        let last = kv
                            .get("n")
                            .await
                            .map_err(wws_engine::wasmtime::Error::new)?;
                        assert!(kv.set("n".into(), Some(n.to_string()), None));
                        assert!(kv.set("last".into(), last, None));
                    }
                    assert_eq!(call.request.uri().path(), "/x");
                    return Ok(Some(http::Response::new(n.to_string().into())));
                }
            }
            Err(ProgramError::failed("came back"))
        })
    }
}

fn spec() -> GuestSpec {
    common::spec(limits())
}

async fn guest_of(export: &'static str, setup: i32, spec: GuestSpec) -> Result<Guest, LoadError> {
    let engine = common::engine(64 << 20);
    let wasm = wat::parse_str(COUNTER).unwrap();
    let interpreter = engine.interpreter(&wasm, None, |_, _| Ok(())).unwrap();
    interpreter
        .snapshot(spec, Arc::new(Counter { setup, export }))
        .await
}

async fn guest(export: &'static str) -> Guest {
    guest_of(export, 5, spec()).await.unwrap()
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

#[tokio::test(flavor = "multi_thread")]
async fn calls_start_with_globals_memory_and_size_of_the_snapshot() {
    let guest = guest("count").await;
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let guest = guest.clone();
            tokio::spawn(async move {
                for _ in 0..200 {
                    let response = guest.call(get()).await.unwrap();
                    assert_eq!(response.body().as_ref(), b"4060606");
                }
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_of_one_interpreter_have_separate_snapshots() {
    let engine = Engine::new(&EngineOptions {
        memory: 64 << 20,
        concurrency: 4,
        open_files: 1000,
        ..EngineOptions::default()
    })
    .unwrap();
    let wasm = wat::parse_str(COUNTER).unwrap();
    let interpreter = engine.interpreter(&wasm, None, |_, _| Ok(())).unwrap();
    let mut guests = Vec::new();
    for setup in 1..=3 {
        let program = Counter {
            setup,
            export: "count",
        };
        let guest = interpreter.snapshot(spec(), Arc::new(program)).await;
        guests.push((setup + 1, guest.unwrap()));
    }
    for _ in 0..50 {
        for (n, guest) in &guests {
            let body = guest.call(get()).await.unwrap().into_body();
            assert_eq!(body, format!("4{n:02}{n:02}{n:02}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_the_next_call_after_a_limit() {
    let endless = guest("loop").await.call(get()).await.unwrap_err();
    assert!(matches!(endless, CallError::CpuTime(_)), "{endless}");
    let burning = guest("burn").await.call(get()).await.unwrap_err();
    assert!(matches!(burning, CallError::CpuTime(_)), "{burning}");
    let grown = guest("grow").await.call(get()).await.unwrap();
    assert_eq!(grown.body().as_ref(), b"-1");
    let failed = guest("fail").await.call(get()).await.unwrap_err();
    assert_eq!(failed.to_string(), "boom");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_changes_to_the_store() {
    let store: Arc<dyn wws_kv::Store> = Arc::new(wws_kv::MemoryStore::default());
    let guest = guest_of(
        "count",
        5,
        GuestSpec {
            kv: Some(wws_engine::KvGrant::new(store.clone(), "ns")),
            ..spec()
        },
    )
    .await
    .unwrap();
    guest.call(get()).await.unwrap();
    assert_eq!(store.get("ns", "n").await.unwrap().unwrap(), "4060606");
    assert_eq!(store.get("ns", "last").await.unwrap(), None);
    guest.call(get()).await.unwrap();
    assert_eq!(store.get("ns", "last").await.unwrap().unwrap(), "4060606");
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_memory_beyond_the_limit_at_load() {
    let mut spec = spec();
    spec.limits.memory = 2 << 16;
    // The growth is refused, and the store into it traps.
    let error = guest_of("count", 5, spec).await.err().unwrap().to_string();
    assert!(error.contains("limits.memory"), "{error}");
}
