//! Language runtimes of a project: repositories, installation, and the entries in `.wws.toml`.
//!
//! A [`Repository`] is an index of runtimes: built in, a directory, or a URL. A [`LockedProject`]
//! is a project into which a runtime is installed; [`Fetch`] fetches the runtime's files. A file is
//! fetched and verified in memory, written under another name and renamed, so that it exists only
//! completely and with the checksum of its entry. `docs/configure/runtimes.md` is the manual.

#![forbid(unsafe_code)]

mod archive;
mod edit;
mod entry;
mod error;
mod fetch;
mod locked_project;
mod npmrc;
mod package;
mod registry;
mod repository;
mod source;
mod tls;

pub use error::{Error, FailureKind};
pub use fetch::{Fetch, FetchOptions, Progress, agent};
pub use locked_project::{InstallOutcome, LockedProject};
pub use repository::Repository;
