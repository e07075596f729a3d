//! Languages: how a source file becomes a guest.
//!
//! The interpreter of a language is compiled once. Each worker has a snapshot of it in which the
//! kit and the user's program are loaded, and every request starts from a copy-on-write view of
//! that snapshot; see `docs/design/snapshots.md`. A language is one directory here and one line in
//! [`Languages::standard`].
//!
//! Interpreters of a project that know nothing of the server are started for each request
//! ([`runtime_guest`]).

#![forbid(unsafe_code)]

mod channel;
mod incoming;
mod javascript;
mod language;
mod load;
mod python;
mod registry;
mod ruby;
mod runtime;

pub use javascript::JavaScript;
pub use language::{BuiltInInterpreter, CompiledLanguage, Language};
pub use python::Python;
pub use registry::Languages;
pub use ruby::Ruby;
pub use runtime::runtime_guest;
