//! One file a capability that has figures.

mod components;
mod density;
mod languages;
mod noisy;
mod operate;
mod redis;
mod routes;
mod start;
mod stores;
mod throughput;

use anyhow::Result;

use crate::report::Report;

/// Measures and adds figures.
type Measure = fn(&mut Report) -> Result<()>;

/// All of them.
pub(crate) const ALL: [(&str, Measure); 19] = [
    ("routes", routes::measure),
    ("throughput", throughput::beside_hyper),
    ("wasmtime-serve", throughput::beside_wasmtime_serve),
    ("components-rust", components::rust),
    ("components-rust-wasi-0.3", components::rust_wasi_3),
    ("components-javascript", components::javascript),
    ("components-python", components::python),
    ("components-echo", components::echo),
    ("noisy", noisy::measure),
    ("operate-telemetry", operate::telemetry),
    ("operate-reload", operate::reload),
    ("operate-redis", redis::measure),
    ("start", start::measure),
    ("density", density::measure),
    ("javascript", languages::javascript),
    ("python", languages::python),
    ("ruby", languages::ruby),
    ("go", languages::go),
    ("kv-file", stores::file),
];
