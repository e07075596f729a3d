//! Child processes that end with the shim.

use std::process::Command;

/// Has the kernel end the program with this process.
pub(crate) fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: one system call without allocation or lock, in the child before it becomes another program.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
                .map_err(std::io::Error::from)
        });
    }
}
