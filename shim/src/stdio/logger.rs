//! Log programs: programs that take a container's output, such as nerdctl's log drivers.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use super::pipe::pipe;
use crate::error::{Error, Result};
use crate::sys::log;
use crate::sys::reaper::{Child, Reaper};
use crate::sys::thread::spawn_error;

/// How long a log program may take until it is ready.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// How long a log program may run after the exit of the container.
const EXIT_LIMIT: Duration = Duration::from_secs(12);

/// The number that `F_DUPFD_CLOEXEC` starts from: above the descriptors that a log program expects.
const FREE_DESCRIPTORS: i32 = 10;

/// A running log program. It reads the streams as descriptors 3 and 4, and closes 5 when it is
/// ready.
pub(crate) struct Logger {
    /// The program.
    pub(crate) child: Child,
    /// Takes the container's standard output.
    pub(crate) stdout: OwnedFd,
    /// Takes the container's standard error.
    pub(crate) stderr: OwnedFd,
}

impl Logger {
    /// Starts a log program and waits until it is ready.
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
        let (out_read, stdout) = pipe()?;
        let (err_read, stderr) = pipe()?;
        let (ready, readiness) = pipe()?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs([("CONTAINER_ID", id), ("CONTAINER_NAMESPACE", namespace)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        pass_descriptors(&mut command, [out_read, err_read, readiness]);
        let child = reaper
            .spawn(&mut command)
            .map_err(|error| spawn_error(format_args!("start the log program {program}"), error))?;
        // Only the program holds its ends of the pipes from here on.
        drop(command);
        let ready = async { Receiver::from_owned_fd(ready)?.read(&mut [0]).await };
        match tokio::time::timeout(READY_LIMIT, ready).await {
            Ok(Ok(_)) => Ok(Self {
                child,
                stdout,
                stderr,
            }),
            Ok(Err(error)) => Err(Error::io(
                format_args!("the log program {program} failed"),
                error,
            )),
            Err(_) => {
                child.kill();
                Err(Error::unknown(format!(
                    "the log program {program} is not ready after {} s",
                    READY_LIMIT.as_secs()
                )))
            }
        }
    }
}

/// Makes `files` the descriptors 3, 4 and 5 of a program.
fn pass_descriptors(command: &mut Command, files: [OwnedFd; 3]) {
    let duplicate = move || {
        let mut high = [0; 3];
        for (to, file) in high.iter_mut().zip(&files) {
            // SAFETY: `fcntl` requires an open descriptor for F_DUPFD_CLOEXEC: `files` owns it.
            *to = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, FREE_DESCRIPTORS) };
            if *to < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        for (number, from) in (3..).zip(high) {
            // SAFETY: `dup2` closes what was open as `number`. After the fork nothing uses 3, 4 and
            // 5 any more: the descriptors that are still needed were moved to 10 and above.
            if unsafe { libc::dup2(from, number) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: `pre_exec` requires a closure that is async-signal-safe, as it runs between fork and
    // exec: this one makes system calls only, and neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(duplicate);
    }
}

/// Waits for the exit of a log program in the background, and kills it if it runs too long. It has
/// read everything once the container's streams are closed.
pub(crate) fn release_logger(mut logger: Child) {
    tokio::spawn(async move {
        let exited = tokio::time::timeout(EXIT_LIMIT, logger.exit.exited()).await;
        if exited.is_err() {
            log::warning!(
                "the log program {} still runs {} s after the container's exit: killed",
                logger.pid,
                EXIT_LIMIT.as_secs()
            );
            logger.kill();
        }
    });
}
