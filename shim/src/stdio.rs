//! Standard streams of a process without a terminal. The container gets the very FIFOs that containerd's client made: nothing is
//! copied, nothing passes through the shim.
//!
//! Output FIFOs are opened for reading too, so that neither the absence of a reader nor its end (a restart of Docker) fails or
//! ends the container; a reader sees the end of the stream when the container's last process closes it. The input stays open as
//! long as we hold its writing end, whoever comes and goes, until [`Input::close`].

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use percent_encoding::percent_decode_str;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Gid, OFlags, Uid, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::{Error, OnPath, Result};
use crate::log;
use crate::options::Options;
use crate::reaper::{Child, Reaper};
use crate::runc::Streams;

/// How long a program that takes the log may take to be ready.
const LOGGER_START: Duration = Duration::from_secs(10);

/// How long it may go on after the container's end.
const LOGGER_END: Duration = Duration::from_secs(12);

/// What a client wants the streams to be: paths of FIFOs, or URIs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Standard input; empty for none.
    pub(crate) stdin: String,
    /// Standard output; empty for none.
    pub(crate) stdout: String,
    /// Standard error; empty for none.
    pub(crate) stderr: String,
    /// Whether the process has a terminal.
    pub(crate) terminal: bool,
}

/// Where output goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Nowhere.
    Null,
    /// To a FIFO or a file that is there.
    Path(String),
    /// To a file that may have to be made.
    File(String),
    /// To the input of a program, with these arguments.
    Program(String, Vec<String>),
}

impl Target {
    /// Reads a path or URI.
    ///
    /// # Errors
    /// A scheme that we do not serve.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::Null);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self::Path(text.to_owned()));
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = decode(path);
        match scheme {
            "fifo" => Ok(Self::Path(path)),
            "file" => Ok(Self::File(path)),
            "binary" => {
                let pairs = query.split('&').filter(|pair| !pair.is_empty());
                let arguments = pairs.flat_map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    [decode(name), decode(value)]
                });
                Ok(Self::Program(path, arguments.collect()))
            }
            _ => Err(Error::InvalidArgument(format!(
                "{scheme}:// is no stream of a container that is known: expected a FIFO's path, file:// or binary://"
            ))),
        }
    }
}

fn decode(text: &str) -> String {
    let text = text.replace('+', "%20");
    percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

/// What holds an input open.
#[derive(Debug, Default)]
pub(crate) struct Input(Mutex<Hold>);

#[derive(Debug, Default)]
enum Hold {
    /// There is no input, or not yet.
    #[default]
    None,
    /// Open for reading; to be held when the process starts.
    Later(OwnedFd, PathBuf),
    /// Held by its writing end.
    Now(#[allow(dead_code, reason = "what counts is that it is open")] OwnedFd),
    /// To end with its clients.
    Closed,
}

impl Input {
    /// Opens the FIFO at `path` and holds it open from now on.
    ///
    /// # Errors
    /// It is not there.
    pub(crate) fn open(&self, path: &str) -> Result<OwnedFd> {
        let read = open_input(Path::new(path))?;
        let mut hold = self.state();
        if !matches!(*hold, Hold::Closed) {
            *hold = Hold::Now(open_writing(Path::new(path))?);
        }
        Ok(read)
    }

    /// Opens the FIFO at `path`, to be held open from [`Self::hold`] on.
    ///
    /// # Errors
    /// It is not there.
    pub(crate) fn open_before_start(&self, path: &str) -> Result<OwnedFd> {
        let path = Path::new(path);
        let read = open_input(path)?;
        let copy = read.try_clone().on("open", path)?;
        *self.state() = Hold::Later(copy, path.to_path_buf());
        Ok(read)
    }

    /// Holds it open, unless its client has come and gone already: that one has said all there is to say, but cannot tell us,
    /// as it learns only now that there is a process.
    pub(crate) fn hold(&self) {
        let mut hold = self.state();
        let Hold::Later(read, path) = &*hold else {
            return;
        };
        let mut ready = [PollFd::new(read, PollFlags::IN)];
        let gone = poll(&mut ready, Some(&Timespec::default())).is_ok()
            && ready[0].revents().contains(PollFlags::HUP);
        let write = if gone { None } else { open_writing(path).ok() };
        *hold = write.map_or(Hold::Closed, Hold::Now);
    }

    /// Lets the reader see the end, once its other writers are gone.
    pub(crate) fn close(&self) {
        *self.state() = Hold::Closed;
    }

    fn state(&self) -> MutexGuard<'_, Hold> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opened streams.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// What the process gets.
    pub(crate) streams: Streams,
    /// The program that takes its output.
    pub(crate) logger: Option<Child>,
}

/// Opens the outputs that are wanted for a process of the container `id`; `stdin` is its input.
///
/// # Errors
/// A file that is not there, a program that does not start.
pub(crate) async fn open(
    wanted: &Wanted,
    stdin: Option<OwnedFd>,
    options: &Options,
    reaper: &Arc<Reaper>,
    id: &str,
    namespace: &str,
) -> Result<Opened> {
    let mut opened = Opened::default();
    opened.streams.stdin = stdin;
    let stdout = Target::parse(&wanted.stdout)?;
    if let Target::Program(program, arguments) = &stdout {
        let logger = Logger::start(program, arguments, reaper, id, namespace).await?;
        opened.streams.stdout = Some(logger.stdout);
        opened.streams.stderr = Some(logger.stderr);
        opened.logger = Some(logger.child);
    } else {
        opened.streams.stdout = open_output(&stdout)?;
        opened.streams.stderr = match Target::parse(&wanted.stderr)? {
            // One file for both: with `file://` clients name it for the one alone.
            Target::Null if matches!(stdout, Target::File(_)) => open_output(&stdout)?,
            stderr => open_output(&stderr)?,
        };
    }
    let owner = (options.io_uid, options.io_gid);
    if owner != (0, 0) {
        let streams = &opened.streams;
        let all = [&streams.stdin, &streams.stdout, &streams.stderr];
        for stream in all.into_iter().flatten() {
            let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
            rustix::fs::fchown(stream, Some(uid), Some(gid))
                .map_err(|error| Error::io("change the owner of a stream", error))?;
        }
    }
    Ok(opened)
}

fn open_input(path: &Path) -> Result<OwnedFd> {
    // Without waiting for a writer, there or not.
    let read = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .on("open", path)?;
    block(&read).on("set up", path)?;
    Ok(read.into())
}

/// Does not wait: the reading end is open.
fn open_writing(path: &Path) -> Result<OwnedFd> {
    let file = OpenOptions::new().write(true).open(path).on("open", path)?;
    Ok(file.into())
}

fn open_output(target: &Target) -> Result<Option<OwnedFd>> {
    let file = match target {
        Target::Null => return Ok(None),
        Target::File(path) => open_file(path)?,
        Target::Path(path) => {
            let path = Path::new(path);
            let is_fifo = fs::metadata(path).on("open", path)?.file_type().is_fifo();
            let mut how = OpenOptions::new();
            if is_fifo {
                how.read(true).write(true);
            } else {
                how.append(true);
            }
            how.open(path).on("open", path)?
        }
        Target::Program(..) => {
            return Err(Error::InvalidArgument(
                "binary:// takes standard output and error at once: name it for the output"
                    .to_owned(),
            ));
        }
    };
    Ok(Some(file.into()))
}

/// Opens a log file, making it and its folder where they are missing.
pub(crate) fn open_file(path: &str) -> Result<File> {
    let path = Path::new(path);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).on("create", folder)?;
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .open(path)
        .on("open", path)
}

fn block(file: impl AsFd) -> rustix::io::Result<()> {
    let flags = fcntl_getfl(&file)?;
    fcntl_setfl(&file, flags - OFlags::NONBLOCK)
}

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
        let child = reaper
            .spawn(&mut command)
            .map_err(|error| Error::io(format_args!("start the log program {program}"), error))?;
        // Its ends of the pipes are its alone from now on.
        drop(command);
        let ready = tokio::task::spawn_blocking(move || File::from(ready).read(&mut [0]));
        match tokio::time::timeout(LOGGER_START, ready).await {
            Ok(Ok(Ok(_))) => Ok(Self {
                child,
                stdout,
                stderr,
            }),
            Ok(_) => Err(Error::Other(format!("the log program {program} failed"))),
            Err(_) => {
                kill(child.pid);
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
pub(crate) fn dismiss(logger: Child) {
    tokio::spawn(async move {
        let pid = logger.pid;
        if tokio::time::timeout(LOGGER_END, logger.exit.wait())
            .await
            .is_err()
        {
            log::warning!("the log program {pid} does not end: killed");
            kill(pid);
        }
    });
}

fn kill(pid: u32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
        // It may be gone.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use std::io::Write;

    #[test]
    fn paths_and_uris_are_told_apart() {
        let parse = |text| Target::parse(text).unwrap();
        assert_eq!(parse(""), Target::Null);
        assert_eq!(parse("/run/f"), Target::Path("/run/f".to_owned()));
        assert_eq!(parse("fifo:///run/f"), Target::Path("/run/f".to_owned()));
        assert_eq!(parse("file:///a%20b"), Target::File("/a b".to_owned()));
        assert_eq!(
            parse("binary:///usr/bin/n?_LOGGING=%2Fvar%2Flib&x"),
            Target::Program(
                "/usr/bin/n".to_owned(),
                ["_LOGGING", "/var/lib", "x", ""]
                    .map(str::to_owned)
                    .to_vec()
            )
        );
        let error = Target::parse("npipe://x").unwrap_err().to_string();
        assert!(error.starts_with("npipe://"), "{error}");
    }

    fn fifo() -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let path = path.to_str().unwrap().to_owned();
        (folder, path)
    }

    #[test]
    fn an_output_without_a_reader_neither_waits_nor_fails() {
        let (_folder, path) = fifo();
        let output = open_output(&Target::Path(path)).unwrap().unwrap();
        File::from(output).write_all(b"line\n").unwrap();
    }

    /// What a reader of the FIFO finds next, without waiting: `None` is nothing yet, 0 the end.
    fn read_now(read: &OwnedFd) -> Option<usize> {
        fcntl_setfl(read, OFlags::NONBLOCK).unwrap();
        match rustix::io::read(read, &mut [0; 8]) {
            Ok(count) => Some(count),
            Err(rustix::io::Errno::AGAIN) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn client(path: &str) -> File {
        OpenOptions::new().write(true).open(path).unwrap()
    }

    #[test]
    fn an_input_stays_open_until_it_is_closed() {
        let (_folder, path) = fifo();
        let input = Input::default();
        let read = input.open(&path).unwrap();
        client(&path).write_all(b"one").unwrap();
        assert_eq!(read_now(&read), Some(3));
        assert_eq!(read_now(&read), None);
        input.close();
        assert_eq!(read_now(&read), Some(0));
    }

    #[test]
    fn an_input_whose_client_was_done_before_the_start_ends() {
        let (_folder, path) = fifo();
        let input = Input::default();
        let read = input.open_before_start(&path).unwrap();
        client(&path).write_all(b"one").unwrap();
        input.hold();
        assert_eq!(read_now(&read), Some(3));
        assert_eq!(read_now(&read), Some(0));
    }

    #[test]
    fn an_input_whose_client_is_to_come_stays_open() {
        let (_folder, path) = fifo();
        let input = Input::default();
        let read = input.open_before_start(&path).unwrap();
        input.hold();
        assert_eq!(read_now(&read), None);
        drop(client(&path));
        assert_eq!(read_now(&read), None);
    }

    #[test]
    fn an_input_that_is_closed_before_it_is_open_ends_with_its_client() {
        let (_folder, path) = fifo();
        let input = Input::default();
        input.close();
        let read = input.open(&path).unwrap();
        drop(client(&path));
        assert_eq!(read_now(&read), Some(0));
    }
}
