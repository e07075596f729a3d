//! Language runtimes of a project: repositories, installation, and the entries in `.wws.toml`.
//!
//! A [`Repository`] is an index of runtimes: built in, a directory, or a URL. A [`Folder`] is a
//! project into which a runtime is installed; [`Fetch`] fetches its files. A file exists only
//! completely and with the checksum of its entry: it is fetched and verified in memory, written
//! under another name and renamed. `docs/configure/runtimes.md` is the manual.

#![forbid(unsafe_code)]

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

pub use error::{Error, FailureKind};
pub use fetch::{Fetch, FetchOptions, Progress, agent};
pub use folder::{Folder, InstallOutcome};
pub use repository::Repository;
