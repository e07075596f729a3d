//! What components are given, and what they cannot take.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bounds;
mod interfaces;
mod program;
mod reuse;
mod state;

use std::time::Duration;

use bytes::Bytes;
use wws_engine::{
    Call, CallError, Engine, EngineOptions, Guest, GuestLimits, GuestSpec, StreamLimits,
};

const MIB: u64 = 1 << 20;

fn engine() -> Engine {
    Engine::new(&EngineOptions {
        memory: 128 * MIB,
        concurrency: 16,
        open_files: 100,
        ..EngineOptions::default()
    })
    .unwrap()
}

fn spec() -> GuestSpec {
    GuestSpec {
        name: "test".into(),
        env: vec![],
        args: vec!["test".into()],
        directories: vec![],
        kv: None,
        http: None,
        limits: GuestLimits {
            memory: 32 * MIB,
            table_elements: 1000,
            cpu_time: Duration::from_secs(5),
            wall_time: Duration::from_secs(120),
            output: MIB,
            log: 16 << 10,
            http_calls: 5,
            buffers: 16 * MIB,
            open_files: 8,
            stream: StreamLimits::default(),
        },
    }
}

fn guest(engine: &Engine, text: &str, spec: GuestSpec) -> Guest {
    let code = engine.compile(&wat::parse_str(text).unwrap()).unwrap();
    engine.guest(&code, spec).unwrap()
}

fn request() -> Call {
    Call {
        request: http::Request::get("http://localhost/x")
            .body(Bytes::new())
            .unwrap(),
        params: vec![],
        request_id: "r".into(),
    }
}

/// How the run of a program ended: it prints nothing, so that one that returned gives no response.
async fn run(guest: &Guest) -> Result<(), CallError> {
    match guest.call(request()).await {
        Err(CallError::BadResponse(_)) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => panic!("a response of a program that prints nothing"),
    }
}
