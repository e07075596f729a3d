//! The HTTP server: it accepts connections, routes requests, calls workers and drains.
//!
//! [`prepare`] turns a loaded project into a [`Server`]: it opens directories, compiles modules and
//! reports all problems at once. [`Server::bind`] listens, and [`Bound::run`] serves until its
//! shutdown future completes. The server knows neither containers nor the command line.
//!
//! [`Server::reloader`] exchanges the project while it is served.
//!
//! Layers, from the top: `prepare`, `server` and `reload` put the parts together; `load` makes a
//! generation of a project; `admin` listens for
//! operators, who read `status`; `export` sends to collectors what `telemetry` counts; `request`
//! answers a request with `assets` or a worker; `connection` handles sockets and hyper; `workers`
//! compiles what the project has; `stores` are its key/value stores.
//!
//! Log targets: `access` (one line per request), `guest` (what workers write to standard error,
//! from the engine), and this crate's name.

mod admin;
mod assets;
mod connection;
mod export;
mod load;
mod memory;
mod options;
mod prepare;
mod reload;
mod request;
mod server;
mod status;
mod stores;
mod sync;
mod workers;

pub use memory::available as available_memory;
pub use options::PrepareOptions;
pub use prepare::prepare;
pub use reload::{Reloaded, Reloader};
pub use request::access::access_event;
pub use server::{Bound, Drained, Server};
pub use stores::{NotReadable, OpenStoreError, OpenedStores, store_contents};
pub use workers::compiling::Compiling;
pub use workers::precompile::{
    COMPILER_MEMORY, CompileFailure, Job, ModuleKind, Precompile, Precompiled, compile,
    compile_here, hashed,
};

pub use wws_engine::{CodeCache, give_way};
pub use wws_languages::Languages;
pub use wws_telemetry::Telemetry;
