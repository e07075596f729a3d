//! The task service of containerd.

pub(crate) mod service;
