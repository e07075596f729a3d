//! The framing reader against hyper: the same bytes have the same bounds of requests.
#![no_main]

// One file that needs nothing of its crate: neither is the engine compiled for it.
#[allow(dead_code)]
#[path = "../../crates/server/src/connection/framing.rs"]
mod framing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| framing::differential::compare(bytes));
