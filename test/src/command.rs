//! Running a program to its end, within a time limit.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::wait::patience;

/// Most of a program's output that is kept, in bytes.
const MAX_OUTPUT: u64 = 16 * 1024 * 1024;

/// The longest wait without a look at the clock.
const STEP: Duration = Duration::from_secs(1);

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Finished {
    /// Standard output of a program that succeeded.
    ///
    /// # Errors
    /// The exit status and standard error of one that did not.
    pub fn success(self) -> Result<String> {
        if !self.status.success() {
            bail!("{}\n{}{}", self.status, self.stdout, self.stderr);
        }
        Ok(self.stdout)
    }
}

/// Runs `command` and waits for its end, for `limit` at most (by this machine's [`patience`]); then
/// it is killed.
///
/// # Errors
/// The program could not be started, or did not end in time.
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished> {
    run_with(command, Stdio::null(), limit)
}

/// The same with `input` as its standard input.
///
/// # Errors
/// As of [`run`].
pub fn run_with(command: &mut Command, input: Stdio, limit: Duration) -> Result<Finished> {
    // Files, not pipes: a pipe that a grandchild keeps open would have no end.
    let (mut out, mut err) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let mut child = command
        .stdin(input)
        .stdout(out.try_clone()?)
        .stderr(err.try_clone()?)
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    let ended = wait(&mut child, limit)?;
    let (stdout, stderr) = (read(&mut out)?, read(&mut err)?);
    match ended {
        Some(status) => Ok(Finished {
            status,
            stdout,
            stderr,
        }),
        None => {
            child.kill()?;
            child.wait()?;
            bail!(
                "{command:?}: not ended within {:?}, killed\n{stdout}{stderr}",
                patience(limit)
            );
        }
    }
}

/// Waits for the end of `child`, for `limit` at most (by this machine's [`patience`]). `None` is a
/// child that still runs.
///
/// # Errors
/// The kernel refuses the wait.
pub fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let started = Instant::now();
    if let Some(status) = child.try_wait()? {
        return Ok(Some(status));
    }
    let pid = Pid::from_child(child);
    let fd = pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        // In steps, as the machine may become busy meanwhile.
        let left = patience(limit).saturating_sub(started.elapsed());
        let step = Timespec::try_from(left.min(STEP))?;
        if poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&step))? > 0 {
            return Ok(Some(child.wait()?));
        }
        if left.is_zero() {
            return Ok(None);
        }
    }
}

fn read(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(MAX_OUTPUT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
