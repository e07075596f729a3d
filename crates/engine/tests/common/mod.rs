//! What the tests of the engine share: an engine, and a guest without grants.
#![allow(dead_code, unreachable_pub, reason = "not all tests use all of it")]

use std::time::Duration;

use wws_engine::{Engine, EngineOptions, GuestLimits, GuestSpec, StreamLimits};

/// An engine of `memory` bytes.
pub fn engine(memory: u64) -> Engine {
    Engine::new(&EngineOptions {
        memory,
        concurrency: 16,
        open_files: 1000,
        ..EngineOptions::default()
    })
    .unwrap()
}

/// A guest that was given nothing.
pub fn spec(limits: GuestLimits) -> GuestSpec {
    GuestSpec {
        name: "test".into(),
        env: vec![],
        args: vec!["test".into()],
        directories: vec![],
        kv: None,
        http: None,
        limits,
    }
}

/// Small limits.
pub fn limits() -> GuestLimits {
    GuestLimits {
        memory: 8 << 20,
        table_elements: 1000,
        cpu_time: Duration::from_millis(100),
        // Other programs may want the CPUs as well.
        wall_time: Duration::from_secs(120),
        output: 64 << 10,
        log: 16 << 10,
        http_calls: 5,
        buffers: 64 << 20,
        open_files: 64,
        stream: StreamLimits::default(),
    }
}
