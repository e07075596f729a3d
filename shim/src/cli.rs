//! The command line: the commands with which containerd runs the shim, and the shim's socket.

pub(crate) mod args;
pub(crate) mod delete;
pub(crate) mod info;
pub(crate) mod serve;
mod socket;
pub(crate) mod start;
