//! One call of the OCI runtime, and the error that it means.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::stdio::streams::Streams;
use crate::sys::child::die_with_parent;
use crate::sys::log;
use crate::sys::reaper::Reaper;
use crate::sys::thread::explain;

/// The most that is read of the OCI runtime's log, in bytes.
const MAX_LOG: usize = 64 * 1024;

/// A new process of the container, for `create` and `exec`.
#[derive(Debug)]
pub(crate) struct New<'a> {
    /// Where the OCI runtime writes the process's number.
    pub(crate) pid_file: &'a Path,
    /// The socket that takes the terminal, where there is one.
    pub(crate) console: Option<&'a Path>,
    /// The streams, where there is none.
    pub(crate) streams: Streams,
}

/// One call.
#[derive(Debug)]
pub(super) struct Call {
    /// What the OCI runtime is to do.
    pub(super) verb: String,
    /// The OCI runtime.
    pub(super) program: String,
    /// The command line.
    pub(super) command: Command,
    /// Where it logs.
    pub(super) log: Log,
}

impl Call {
    /// Adds what a new process needs.
    pub(super) fn process(&mut self, new: New<'_>) {
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

    /// Makes the call.
    ///
    /// # Errors
    /// The OCI runtime is missing, or as it says.
    pub(super) async fn run(mut self, reaper: &Arc<Reaper>) -> Result<()> {
        // Not outlived by a call under way: containerd clears up after a shim that was killed, and this would come after it.
        die_with_parent(&mut self.command);
        let child = reaper
            .spawn(&mut self.command)
            .map_err(|error| self.missing(&error))?;
        // Our copies of the container's streams end here, so that their readers see the container's end.
        self.command = Command::new("");
        let code = child.exit.wait().await.code;
        self.result(code)
    }

    /// Makes the call, with all else waiting.
    ///
    /// # Errors
    /// As of [`Self::run`].
    pub(super) fn run_now(mut self) -> Result<()> {
        let status = self
            .command
            .status()
            .map_err(|error| self.missing(&error))?;
        self.result(status.code().unwrap_or(-1).cast_unsigned())
    }

    fn result(&self, code: u32) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let text = self.log.error();
        log::debug!("{} {}: {code}: {text:?}", self.program, self.verb);
        Err(match text {
            Some(text) => prefixed(&self.verb, classify(&self.verb, text)),
            None if code > 128 => Error::Unexplained(format!(
                "{} {} was ended by signal {}: the host is out of processes or memory, or somebody killed it",
                self.program,
                self.verb,
                code - 128
            )),
            None => Error::Unexplained(format!(
                "{} {} ended with {code} and no message: the host is out of processes or memory, or it is older than runc 1.0",
                self.program, self.verb
            )),
        })
    }

    fn missing(&self, error: &std::io::Error) -> Error {
        use std::io::ErrorKind;
        let program = &self.program;
        match error.kind() {
            // Or its working directory is gone.
            ErrorKind::NotFound
                if self
                    .command
                    .get_current_dir()
                    .is_some_and(|bundle| !bundle.exists()) =>
            {
                Error::Other(format!(
                    "call the OCI runtime {program:?}: the container's bundle is gone"
                ))
            }
            ErrorKind::NotFound if program.contains('/') => Error::NoRuntime(format!(
                "the OCI runtime {program:?} is not installed: there is no such file"
            )),
            ErrorKind::NotFound => Error::NoRuntime(format!(
                "the OCI runtime {program:?} is not installed: it is not on the PATH of containerd"
            )),
            ErrorKind::PermissionDenied => Error::NoRuntime(format!(
                "the OCI runtime {program:?} does not start: {error}"
            )),
            _ => Error::Other(format!(
                "the OCI runtime {program:?} does not start: {}",
                explain(error)
            )),
        }
    }
}

/// The OCI runtime's log of one call; the file ends with it.
#[derive(Debug)]
pub(super) struct Log(pub(super) PathBuf);

impl Log {
    /// The last error in it.
    fn error(&self) -> Option<String> {
        let text = fs::read(&self.0).ok()?;
        let end = &text[text.len().saturating_sub(MAX_LOG)..];
        last_error(&String::from_utf8_lossy(end))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // There is none unless something went wrong.
        let _ = fs::remove_file(&self.0);
    }
}

fn last_error(log: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let lines = || log.lines().rev();
    let parsed = lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let mut errors = parsed.filter(|line| line.level == "error" || line.level == "fatal");
    let plain = || lines().find(|line| !line.trim().is_empty() && !line.starts_with('{'));
    errors
        .next()
        .map(|line| line.msg)
        .or_else(|| plain().map(str::to_owned))
}

/// The error with the words before it that users of containerd know, where the container is one that they start.
fn prefixed(verb: &str, error: Error) -> Error {
    match verb {
        "create" | "start" | "exec" | "pause" | "resume" => {
            error.context(format_args!("OCI runtime {verb} failed"))
        }
        _ => error,
    }
}

/// The error that a text of the OCI runtime's means which was to do `verb`.
fn classify(verb: &str, text: String) -> Error {
    const GONE: [&str; 4] = [
        "does not exist",
        "process already finished",
        "container not running",
        "container is not running",
    ];
    const TAKEN: [&str; 3] = [
        "container with given ID already exists",
        "container with given id already exists",
        "container with id exists",
    ];
    let sentence = text.rsplit(" failed: ").next().unwrap_or_default();
    match verb {
        // Much of these texts is the user's: the entry point and what it may be called.
        "create" if TAKEN.contains(&text.trim_start_matches("runc create failed: ")) => {
            Error::AlreadyExists(text)
        }
        "create" => Error::Other(text),
        "start" | "exec"
            if GONE[1..].contains(&sentence) || sentence == "container does not exist" =>
        {
            Error::NotFound(text)
        }
        "start" | "exec" => Error::Other(text),
        _ if GONE.iter().any(|words| text.contains(words)) => Error::NotFound(text),
        _ => Error::Other(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_the_log_is_the_message() {
        let log = concat!(
            r#"{"level":"warning","msg":"cgroup","time":"t"}"#,
            "\n",
            r#"{"level":"error","msg":"first","time":"t"}"#,
            "\n",
            r#"{"level":"error","msg":"runc create failed: no such file","time":"t"}"#,
            "\n",
            r#"{"level":"debug","msg":"bye","time":"t"}"#,
            "\n",
        );
        assert_eq!(
            last_error(log).as_deref(),
            Some("runc create failed: no such file")
        );
        assert_eq!(last_error("panic: oh\n").as_deref(), Some("panic: oh"));
        assert_eq!(last_error(""), None);
    }

    #[test]
    fn containerd_is_told_what_is_gone_and_what_is_taken() {
        let of = |verb: &str, text: &str| classify(verb, text.to_owned());
        for (verb, text) in [
            ("kill", "container does not exist"),
            (
                "kill",
                "unable to signal init: os: process already finished",
            ),
            ("start", "container does not exist"),
            ("exec", "exec failed: container not running"),
        ] {
            assert!(matches!(of(verb, text), Error::NotFound(_)), "{text}");
        }
        for text in [
            "container with given ID already exists",
            "runc create failed: container with given ID already exists",
        ] {
            assert!(
                matches!(of("create", text), Error::AlreadyExists(_)),
                "{text}"
            );
        }
    }

    #[test]
    fn words_of_the_user_mean_nothing() {
        for verb in ["create", "start", "exec"] {
            for words in [
                "container with given ID already exists",
                "container does not exist",
                "x failed: container not running",
            ] {
                let text = format!(
                    "runc {verb} failed: unable to start container process: exec: \"{words}\": stat {words}: no such file or directory"
                );
                let error = classify(verb, text.clone());
                assert_eq!(error, Error::Other(text));
            }
        }
    }
}
