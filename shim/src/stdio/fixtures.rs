//! Fixtures that several tests of the streams share.
#![allow(clippy::unwrap_used)]

use rustix::fs::{CWD, FileType, Mode};

/// Creates a FIFO in a new directory.
pub(crate) fn fifo() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    // Without `mkfifo`: between its fork and its exec it holds the descriptors of other tests.
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from(0o600), 0).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (directory, path)
}
