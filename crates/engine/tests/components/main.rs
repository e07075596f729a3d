//! What components are given, and what they cannot take.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bounds;
#[path = "../common/mod.rs"]
mod common;
mod interfaces;
mod nested;
mod program;
mod reuse;
mod state;

use std::time::Duration;

use bytes::Bytes;
use common::limits;
use wws_engine::{Call, CallError, Engine, EngineOptions, Guest, GuestLimits, GuestSpec};

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
    common::spec(GuestLimits {
        memory: 32 * MIB,
        cpu_time: Duration::from_secs(5),
        output: MIB,
        buffers: 16 * MIB,
        open_files: 8,
        ..limits()
    })
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
