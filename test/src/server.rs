//! A `wws` that serves a project on this machine, without a container.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::process::Pid;

use crate::wait::{patience, until};
use crate::{port, workspace};

/// The longest time until the server listens: it compiles every worker.
const START: Duration = Duration::from_secs(300);

/// The longest wait for a line of the log.
const LOGGED: Duration = Duration::from_secs(30);

/// A running server. It is killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Server {
    /// Serves `project`, a directory or a `.wasm` file, with these environment variables. Its
    /// output goes to the file `log`.
    ///
    /// # Errors
    /// It ends, or does not listen in time.
    pub fn start(project: &Path, log: PathBuf, variables: &[(&str, &str)]) -> Result<Self> {
        let mut command = Command::new(workspace::programs()?.join("wws"));
        command.arg(project).envs(variables.iter().copied());
        Self::spawn(command, log)
    }

    /// Starts `wws` with these arguments, to which a port is added, in `directory`.
    ///
    /// # Errors
    /// As of [`Self::start`].
    pub fn start_with(arguments: &[&str], directory: &Path, log: PathBuf) -> Result<Self> {
        let mut command = Command::new(workspace::programs()?.join("wws"));
        command.args(arguments).current_dir(directory);
        Self::spawn(command, log)
    }

    fn spawn(mut command: Command, log: PathBuf) -> Result<Self> {
        let port = port::free()?;
        let child = command
            .args(["--port", &port.to_string()])
            // Workers are compiled once for all runs.
            .env("WWS_CODE_CACHE", workspace::code_cache())
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?)
            .spawn()?;
        let mut server = Self { child, port, log };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = fs::read_to_string(&server.log)?;
            ensure!(server.child.try_wait()?.is_none(), "wws ended: {log}");
            ensure!(
                started.elapsed() < patience(START),
                "wws does not listen: {log}"
            );
            thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The length of the log.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn log_length(&self) -> Result<usize> {
        Ok(usize::try_from(fs::metadata(&self.log)?.len())?)
    }

    /// Waits until the log says `text` after its first `skip` bytes: it is written beside the
    /// answers.
    ///
    /// # Errors
    /// It does not in time.
    pub fn logged(&self, skip: usize, text: &str) -> Result<()> {
        until(&format!("{text:?} in the log"), LOGGED, || {
            let log = fs::read(&self.log)?;
            let new = String::from_utf8_lossy(log.get(skip..).unwrap_or_default()).into_owned();
            Ok(new.contains(text).then_some(()))
        })
    }
}
