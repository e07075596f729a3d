//! Child processes that die with the shim.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};

/// Makes the kernel kill the program when this process dies.
pub(crate) fn die_with_parent(command: &mut Command) {
    let set = || set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from);
    // SAFETY: `pre_exec` requires a closure that is async-signal-safe, as it runs between fork and
    // exec: this one makes one system call and neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(set);
    }
}
