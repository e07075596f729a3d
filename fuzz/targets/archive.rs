//! Packages of npm: a file is found in any archive, or it is refused.
#![no_main]

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use libfuzzer_sys::fuzz_target;

// Of the crate without what fetches: no TLS is compiled for it.
#[allow(dead_code)]
#[path = "../../crates/runtimes/src/archive.rs"]
mod archive;
#[allow(dead_code)]
#[path = "../../crates/runtimes/src/error.rs"]
mod error;

const MAX: u64 = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    let mut zipped = GzEncoder::new(Vec::new(), Compression::none());
    zipped.write_all(bytes).expect("memory");
    for archive in [bytes, &zipped.finish().expect("memory")] {
        if let Ok(found) = archive::file_of(archive, "a", MAX) {
            assert!(found.len() as u64 <= MAX);
        }
    }
});
