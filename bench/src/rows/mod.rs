//! One file a capability that has figures.

mod density;
mod languages;
mod noisy;
mod routes;
mod start;
mod throughput;

use anyhow::Result;

use crate::report::Report;

/// Measures and adds figures.
type Measure = fn(&mut Report) -> Result<()>;

/// All of them.
pub(crate) const ALL: [(&str, Measure); 10] = [
    ("routes", routes::measure),
    ("throughput", throughput::beside_hyper),
    ("wasmtime-serve", throughput::beside_wasmtime_serve),
    ("noisy", noisy::measure),
    ("start", start::measure),
    ("density", density::measure),
    ("javascript", languages::javascript),
    ("python", languages::python),
    ("ruby", languages::ruby),
    ("go", languages::go),
];
