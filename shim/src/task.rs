//! The task service of containerd.

mod error;
pub(crate) mod service;
