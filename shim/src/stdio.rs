//! Standard streams of a process without a terminal.
//!
//! The process gets anonymous pipes, and the shim copies between them and the FIFOs of containerd's
//! client. The process never gets the client's FIFOs: they have names on the host, can be opened in
//! both directions, and block whoever opens them while the other side is closed.
//!
//! Output FIFOs are opened for reading too, so that neither a missing nor a vanished reader (a
//! restart of Docker) makes the container fail. A reader sees the end of the stream when the
//! container's last process closes it, or when the process is deleted. The input stays open as long
//! as the shim holds its writing end, until [`input::Input::close`].

pub(crate) mod config;
pub(crate) mod copying;
pub(crate) mod input;
pub(crate) mod logger;
mod pipe;
pub(crate) mod sink;
pub(crate) mod streams;
pub(crate) mod target;

#[cfg(test)]
mod fixtures;
