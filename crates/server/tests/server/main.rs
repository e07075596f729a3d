//! The server over real sockets, with guests that are compiled here. One program: each would link
//! the compiler.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

mod admin;
mod admission;
mod assets;
mod autobahn;
mod clients;
mod compress;
mod cors;
mod drain;
mod guests;
mod http2;
mod limits;
mod memory;
mod old;
mod origin;
mod reload;
mod routing;
mod socket_workers;
mod sockets;
mod start;
mod stores;
mod streams;
mod toy_language;
