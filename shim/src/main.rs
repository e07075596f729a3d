//! The containerd runtime shim `io.containerd.wws.v1`.
#![allow(dead_code, unused)] // until the task service stands
mod args;
mod entry;
mod error;
mod log;
mod mount;
mod options;
mod rootfs;
mod spec;
mod time;
fn main() {}
