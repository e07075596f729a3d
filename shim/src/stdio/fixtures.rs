//! What several tests of the streams need.
#![allow(clippy::unwrap_used)]

use rustix::fs::{CWD, FileType, Mode};

/// A FIFO, and the directory that it is in.
pub(crate) fn fifo() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    // Without a program: between its fork and its start it has all that other tests have open.
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from(0o600), 0).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (directory, path)
}
