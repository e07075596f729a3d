//! The source files that a worker may load.

use std::path::Path;

use wws_engine::{Directories, LoadError, LoadErrorKind};
use wws_project::beneath::Root;

/// Where the files of a worker are read, and which of them are sources.
#[derive(Clone)]
pub(crate) struct Sources {
    /// The worker, relative to the project's root.
    pub(crate) worker: String,
    pub(super) directories: Directories,
    /// Files with other extensions are not readable: they may hold secrets.
    pub(super) extension: &'static str,
    pub(super) library: Library,
}

/// Files of a kit that are loaded on demand: names and texts.
pub(crate) type Library = &'static [(&'static str, &'static str)];

impl Sources {
    pub(crate) fn new(
        root: &Root,
        worker: &Path,
        extension: &'static str,
        library: Library,
    ) -> Result<Self, LoadError> {
        let directory = root.directory(Path::new("")).map_err(|error| {
            LoadError::new(
                LoadErrorKind::Host,
                format!("cannot open the project: {error}"),
            )
        })?;
        Ok(Self {
            worker: worker.to_string_lossy().into_owned(),
            directories: Directories::new(vec![(directory.into(), "/".into())]).traced(),
            extension,
            library,
        })
    }

    /// The directories in which they are read.
    pub(crate) fn directories(&self) -> &Directories {
        &self.directories
    }
}
