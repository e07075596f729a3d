//! Standard streams of a process without a terminal. The process gets pipes of its own, and what passes through them is copied from
//! and to the FIFOs that containerd's client made: it never has the client's FIFOs, which have names on the host, can be opened
//! both ways and block whoever opens them when the other side is away.
//!
//! Output FIFOs are opened for reading too, so that neither the absence of a reader nor its end (a restart of Docker) fails or
//! ends the container; a reader sees the end of the stream when the container's last process closes it, or when the process is
//! deleted. The input stays open as long as we hold its writing end, whoever comes and goes, until [`Input::close`].

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
