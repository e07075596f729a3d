//! The command line: what containerd runs the shim for, and the shim's own socket.

pub(crate) mod args;
pub(crate) mod delete;
pub(crate) mod info;
pub(crate) mod serve;
mod socket;
pub(crate) mod start;
