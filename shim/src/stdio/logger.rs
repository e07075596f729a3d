//! Programs that take a container's output, as the log drivers of nerdctl do.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use crate::error::{Error, Result};
use crate::sys::log;
use crate::sys::reaper::{Child, Reaper};
use crate::sys::thread::explain;

/// How long one may take to be ready.
const LOGGER_START: Duration = Duration::from_secs(10);

/// How long one may go on after the container's end.
const LOGGER_END: Duration = Duration::from_secs(12);

/// A program that takes a container's output (nerdctl's log drivers, for one): the streams are its descriptors 3 and 4, and it
/// closes 5 when it is ready.
pub(crate) struct Logger {
    /// The program.
    pub(crate) child: Child,
    /// For the container's output.
    pub(crate) stdout: OwnedFd,
    /// For its errors.
    pub(crate) stderr: OwnedFd,
}

impl Logger {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// It does not start or is not ready in time.
    pub(crate) async fn start(
        program: &str,
        arguments: &[String],
        reaper: &Arc<Reaper>,
        id: &str,
        namespace: &str,
    ) -> Result<Self> {
        let failed = |error: rustix::io::Errno| Error::io("make a pipe", error);
        let (out_read, stdout) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        let (err_read, stderr) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        let (ready, readiness) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs([("CONTAINER_ID", id), ("CONTAINER_NAMESPACE", namespace)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        hand_over(&mut command, [out_read, err_read, readiness]);
        let child = reaper.spawn(&mut command).map_err(|error| {
            Error::Other(format!(
                "start the log program {program}: {}",
                explain(&error)
            ))
        })?;
        // Its ends of the pipes are its alone from now on.
        drop(command);
        let ready = async { Receiver::from_owned_fd(ready)?.read(&mut [0]).await };
        match tokio::time::timeout(LOGGER_START, ready).await {
            Ok(Ok(_)) => Ok(Self {
                child,
                stdout,
                stderr,
            }),
            Ok(_) => Err(Error::Other(format!("the log program {program} failed"))),
            Err(_) => {
                child.kill();
                Err(Error::Other(format!(
                    "the log program {program} is not ready after {} s",
                    LOGGER_START.as_secs()
                )))
            }
        }
    }
}

/// Makes descriptors 3, 4 and 5 of a program out of ours.
fn hand_over(command: &mut Command, files: [OwnedFd; 3]) {
    use std::os::fd::AsRawFd;
    use std::os::unix::process::CommandExt;
    // SAFETY: system calls alone, without allocation or lock. All numbers are first moved out of the way of 3, 4 and 5.
    unsafe {
        command.pre_exec(move || {
            let mut high = [0; 3];
            for (to, file) in high.iter_mut().zip(&files) {
                *to = libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 10);
                if *to < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            for (number, from) in (3..).zip(high) {
                if libc::dup2(from, number) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}

/// Sees a log program off: it has read all when the container is gone, and ends by itself or is ended.
pub(crate) fn dismiss(mut logger: Child) {
    tokio::spawn(async move {
        let ended = tokio::time::timeout(LOGGER_END, logger.exit.ended()).await;
        if ended.is_err() {
            log::warning!("the log program {} does not end: killed", logger.pid);
            logger.kill();
        }
    });
}
