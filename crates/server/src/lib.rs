//! HTTP that guests receive: accept, route, call, answer, drain.
//!
//! [`prepare`] makes a [`Server`] of a loaded project: it opens the folders, compiles the modules, and reports every problem at once.
//! [`Server::bind`] listens, and [`Bound::run`] serves until it is told to stop. The server knows neither containers nor the command line.
//!
//! What it logs has one of these targets: `access` (one line a request), `guest` (what workers write to standard error, from the engine),
//! or this crate's name.

mod access;
mod activity;
mod admission;
mod app;
mod asset;
mod body;
mod clients;
mod compiling;
mod compress;
mod connection;
mod forwarded;
mod framing;
mod guests;
mod idle;
mod listen;
mod memory;
mod no_worker;
mod outgoing;
mod page;
mod precompile;
mod prepare;
mod range;
mod request_id;
mod socket;
mod target;
mod upload;

pub use compiling::Compiling;
pub use listen::{Bound, Drained, Server};
pub use precompile::{
    COMPILER_MEMORY, Job, Kind, Precompile, Precompiled, compile, compile_here, hashed,
};
pub use prepare::{PrepareOptions, prepare};

/// Compiled code that was made before.
pub use wws_engine::CodeCache;
