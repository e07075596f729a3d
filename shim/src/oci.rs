//! The bundle of a container: its files, its specification, its root file system, and the server in
//! it.

pub(crate) mod bundle;
pub(crate) mod entrypoint;
pub(crate) mod mount;
pub(crate) mod rootfs;
pub(crate) mod server;
pub(crate) mod shell;
pub(crate) mod spec;
pub(crate) mod view;
