//! Readers of foreign bytes, each in one file, with their tests.

#![forbid(unsafe_code)]
#![allow(dead_code)]

#[path = "../../../crates/runtimes/src/archive.rs"]
mod archive;
#[path = "../../../crates/runtimes/src/edit.rs"]
mod edit;
#[path = "../../../crates/runtimes/src/entry.rs"]
mod entry;
#[path = "../../../crates/runtimes/src/error.rs"]
mod error;
#[path = "../../../crates/server/src/connection/framing.rs"]
mod framing;
#[path = "../../../crates/languages/src/javascript/mappings.rs"]
mod mappings;
