//! Models of concurrency: files of the engine and the server whose `crate::sync` names shuttle's
//! types, and scenarios in which their threads run in every order that a scheduler can choose.
//!
//! shuttle treats each atomic access as sequentially consistent, so that a weaker ordering that
//! should be a stronger one is not found.

#![forbid(unsafe_code)]

pub mod admission_model;
pub mod idle_model;
mod sync;
pub mod ticker_model;

#[allow(dead_code)]
#[path = "../../../crates/server/src/request/admission.rs"]
mod admission;
#[allow(dead_code)]
#[path = "../../../crates/engine/src/memory/idle.rs"]
mod idle;
#[allow(dead_code)]
#[path = "../../../crates/engine/src/schedule/ticker.rs"]
mod ticker;

/// Runs a scenario under random schedules, and under schedules with few preemptions (PCT), which
/// find what takes a rare order.
fn check(scenario: impl Fn() + Send + Sync + Copy + 'static) {
    let runs = std::env::var("WWS_MODEL_RUNS").ok();
    let runs = runs.and_then(|runs| runs.parse().ok()).unwrap_or(2_000);
    shuttle::check_random(scenario, runs);
    shuttle::check_pct(scenario, runs, 3);
}
