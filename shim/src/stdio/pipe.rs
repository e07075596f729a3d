//! Pipes, and descriptors that are opened again.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::{Error, Result};

/// Creates a pipe of which no other process inherits an end: first the reading, then the writing
/// one.
pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|error| Error::io("create a pipe", error))
}

/// Returns whether a FIFO had writers and has none any more.
pub(super) fn has_lost_writers(fifo: impl AsFd) -> bool {
    let mut ready = [PollFd::new(&fifo, PollFlags::IN)];
    poll(&mut ready, Some(&Timespec::default())).is_ok()
        && ready[0].revents().contains(PollFlags::HUP)
}

/// Returns the path by which an open file can be opened again.
pub(super) fn descriptor_path(file: impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}
