//! Connections: accepted, bounded in time and memory, and drained. A request is only a hyper
//! service here.

pub(crate) mod activity;
pub(crate) mod body;
pub(crate) mod bounds;
pub(crate) mod clients;
pub(crate) mod driver;
mod frames;
mod framing;
pub(crate) mod headers;
pub(crate) mod http2;
mod http2_socket;
pub(crate) mod idle;
pub(crate) mod incoming;
pub(crate) mod listen;
mod socket;
pub(crate) mod upgrade;
pub(crate) mod watch;

#[cfg(test)]
mod tests;
