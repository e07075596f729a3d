//! Pipes, and files that are opened again.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::{Error, Result};

/// A pipe of ours, of which no other process inherits an end.
pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|error| Error::io("make a pipe", error))
}

/// Whether all writers of a FIFO have come and gone.
pub(super) fn is_abandoned(fifo: impl AsFd) -> bool {
    let mut ready = [PollFd::new(&fifo, PollFlags::IN)];
    poll(&mut ready, Some(&Timespec::default())).is_ok()
        && ready[0].revents().contains(PollFlags::HUP)
}

/// The path by which an open file can be opened again.
pub(super) fn path_of(file: impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}
