//! Language runtimes of a project: what repositories have, how they come into the project's folder, and their entries in
//! `.wws.toml`.
//!
//! A [`Repository`] is an index of runtimes: built in, a folder, or a URL. A [`Folder`] is a project, into which a runtime is
//! installed; [`Fetch`] brings its files. A file is only ever there whole and with the checksum that its entry names: it is
//! fetched and checked in memory, written under another name, and renamed. `docs/configure/runtimes.md` is the manual.

mod archive;
mod edit;
mod entry;
mod error;
mod fetch;
mod folder;
mod npmrc;
mod package;
mod registry;
mod repository;
mod source;
mod tls;

pub use error::Error;
pub use fetch::{Fetch, FetchOptions, Progress};
pub use folder::{Folder, Installed};
pub use repository::Repository;
