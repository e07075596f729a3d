//! A request's way from its head to its response.

pub(crate) mod access;
pub(crate) mod admission;
pub(crate) mod app;
pub(crate) mod authority;
mod call;
pub(crate) mod compress;
pub(crate) mod context;
pub(crate) mod cors;
mod failed;
pub(crate) mod forwarded;
pub(crate) mod generation;
pub(crate) mod loaded_memory;
mod page;
pub(crate) mod request_id;
pub(crate) mod sockets;
mod stream;
mod target;
mod trace;
mod transfer_encoding;
pub(crate) mod upload;
mod upload_stream;
