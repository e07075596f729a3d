//! The task service, with which containerd controls containers.

mod error;
pub(crate) mod service;
