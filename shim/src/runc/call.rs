//! One call of the OCI runtime, and the error that it stands for.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::failure::{classify, last_error, with_client_prefix};
use crate::error::{Error, ErrorCode, Result};
use crate::stdio::streams::ProcessStreams;
use crate::sys::child::die_with_parent;
use crate::sys::log;
use crate::sys::reaper::Reaper;
use crate::sys::thread::spawn_error;

/// The most that is read of the OCI runtime's log, in bytes.
const MAX_LOG: usize = 64 * 1024;

/// A new process of the container, for `create` and `exec`.
#[derive(Debug)]
pub(crate) struct NewProcess<'a> {
    /// The file to which the OCI runtime writes the PID.
    pub(crate) pid_file: &'a Path,
    /// The socket that receives the terminal, if there is one.
    pub(crate) console: Option<&'a Path>,
    /// The streams, if there is no terminal.
    pub(crate) streams: ProcessStreams,
}

/// One call.
#[derive(Debug)]
pub(super) struct RuntimeCall {
    /// The command of the OCI runtime.
    pub(super) verb: String,
    /// The OCI runtime.
    pub(super) program: String,
    /// The command line.
    pub(super) command: Command,
    /// The log of the call.
    pub(super) log: CallLog,
}

impl RuntimeCall {
    /// Passes the files and streams of a new process.
    pub(super) fn set_process(&mut self, new: NewProcess<'_>) {
        self.command.arg("--pid-file").arg(new.pid_file);
        if let Some(console) = new.console {
            self.command.arg("--console-socket").arg(console);
        }
        let or_null = |stream: Option<OwnedFd>| stream.map_or_else(Stdio::null, Stdio::from);
        self.command
            .stdin(or_null(new.streams.stdin))
            .stdout(or_null(new.streams.stdout))
            .stderr(or_null(new.streams.stderr));
    }

    /// Runs the OCI runtime.
    ///
    /// # Errors
    /// The OCI runtime is missing or fails.
    pub(super) async fn run(mut self, reaper: &Arc<Reaper>) -> Result<()> {
        // containerd cleans up after a shim that was killed: nothing may be created after that.
        die_with_parent(&mut self.command);
        let child = reaper
            .spawn(&mut self.command)
            .map_err(|error| self.spawn_failure(error))?;
        // Closes the shim's copies of the container's streams, so that their readers see the end.
        self.command = Command::new("");
        let code = child.exit.wait().await.code;
        self.result(code)
    }

    /// Runs the OCI runtime, and blocks the thread.
    ///
    /// # Errors
    /// That of [`Self::run`].
    pub(super) fn run_blocking(mut self) -> Result<()> {
        let status = self
            .command
            .status()
            .map_err(|error| self.spawn_failure(error))?;
        self.result(status.code().unwrap_or(-1).cast_unsigned())
    }

    fn result(&self, code: u32) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let message = self.log.last_error();
        let (program, verb) = (&self.program, &self.verb);
        log::debug!("{program} {verb}: {code}: {message:?}");
        Err(match message {
            Some(message) => with_client_prefix(verb, classify(verb, message)),
            None => Error::new(
                ErrorCode::RuntimeSilent,
                if code > 128 {
                    format!(
                        "{program} {verb} was killed by signal {}: the host is out of processes or \
                         memory, or somebody killed it",
                        code - 128
                    )
                } else {
                    format!(
                        "{program} {verb} exited with {code} and no message: the host is out of \
                         processes or memory, or {program} is older than runc 1.0"
                    )
                },
            ),
        })
    }

    fn spawn_failure(&self, error: io::Error) -> Error {
        let program = &self.program;
        let bundle = self.command.get_current_dir();
        let missing = |text: String| Error::new(ErrorCode::RuntimeMissing, text);
        match error.kind() {
            // Or the working directory does not exist.
            io::ErrorKind::NotFound if bundle.is_some_and(|bundle| !bundle.exists()) => {
                Error::unknown(format!(
                    "call the OCI runtime {program:?}: the container's bundle is removed"
                ))
            }
            io::ErrorKind::NotFound if program.contains('/') => missing(format!(
                "the OCI runtime {program:?} is not installed: there is no such file"
            )),
            io::ErrorKind::NotFound => missing(format!(
                "the OCI runtime {program:?} is not installed: it is not on the PATH of containerd"
            )),
            io::ErrorKind::PermissionDenied => {
                missing(format!("the OCI runtime {program:?} does not start")).with_source(error)
            }
            _ => spawn_error(
                format_args!("the OCI runtime {program:?} does not start"),
                error,
            ),
        }
    }
}

/// The log of one call. The file is removed when this is dropped.
#[derive(Debug)]
pub(super) struct CallLog(pub(super) PathBuf);

impl CallLog {
    fn last_error(&self) -> Option<String> {
        let text = fs::read(&self.0).ok()?;
        let end = &text[text.len().saturating_sub(MAX_LOG)..];
        last_error(&String::from_utf8_lossy(end))
    }
}

impl Drop for CallLog {
    fn drop(&mut self) {
        // The OCI runtime creates the file only when it logs.
        let _ = fs::remove_file(&self.0);
    }
}
