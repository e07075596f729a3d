//! The daemons that tests start: containerd, dockerd.

use std::process::Child;
use std::time::Duration;

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::command;

/// Ends a daemon called `name`. One that has ended is no error.
///
/// # Errors
/// It does not end by itself within `limit`: then it is killed.
pub(crate) fn stop(daemon: &mut Child, name: &str, limit: Duration) -> Result<()> {
    if daemon.try_wait()?.is_some() {
        return Ok(());
    }
    kill_process(Pid::from_child(daemon), Signal::TERM)?;
    if command::wait(daemon, limit)?.is_none() {
        daemon.kill()?;
        daemon.wait()?;
        bail!("{name} had to be killed");
    }
    Ok(())
}
