//! How a source file becomes a guest.
//!
//! A language's interpreter is compiled once; each worker has a snapshot of it in which the kit and the user's program are
//! loaded, and every request starts from a copy-on-write view of that. `docs/design/snapshots.md` says how. Interpreters that a
//! project brings along are started for each request.

mod channel;
mod error;
mod javascript;
mod load;
mod python;
mod ruby;
mod runtime;

pub use error::GuestError;
pub use javascript::JavaScript;
pub use python::Python;
pub use ruby::Ruby;
pub use runtime::runtime_guest;
