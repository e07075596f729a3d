//! The start of a process: its streams or its terminal, and the call of the OCI runtime that makes it.

use std::os::fd::OwnedFd;
use std::path::Path;

use super::Shared;
use crate::containerd::options::Options;
use crate::error::{Error, Result};
use crate::process::console::{Console, Socket};
use crate::process::{Process, Resources, Role};
use crate::runc::call::New;
use crate::stdio::config::Wanted;
use crate::stdio::copying::Outlet;
use crate::stdio::logger::{self, Logger};
use crate::stdio::sink::Sink;
use crate::stdio::streams::{self, Opened};
use crate::stdio::target::Target;

/// The folder of short paths for sockets.
const SOCKETS: &str = "/run/containerd/s";

/// A process about to be made: its streams are open, or the socket for its terminal is.
pub(super) struct Launch {
    opened: Opened,
    console: Option<(Socket, Sink, Option<OwnedFd>)>,
}

impl Launch {
    /// Opens the streams of `process`, of the container named `container`.
    ///
    /// # Errors
    /// A stream is not there.
    pub(super) async fn new(
        process: &Process,
        options: &Options,
        shared: &Shared,
        container: &str,
    ) -> Result<Self> {
        let (reaper, namespace) = (&shared.reaper, &shared.namespace);
        let Wanted {
            stdin,
            stdout,
            terminal,
            ..
        } = &process.wanted;
        let input = |open: &dyn Fn(&str) -> Result<OwnedFd>| {
            let wanted = Some(stdin.as_str()).filter(|path| !path.is_empty());
            wanted.map(open).transpose()
        };
        if !terminal {
            let stdin = input(&|path| {
                let pipe = process.input.connect(path)?;
                if process.role == Role::Exec {
                    // Its client can close it already.
                    process.input.hold(Path::new(path))?;
                }
                Ok(pipe)
            })?;
            let wanted = &process.wanted;
            let opened =
                streams::open(wanted, stdin, options, reaper, container, namespace).await?;
            return Ok(Self {
                opened,
                console: None,
            });
        }
        let mut opened = Opened::default();
        let target = Target::parse(stdout)?;
        let mut pipe = None;
        if let Target::Program(program, arguments) = &target {
            let logger = Logger::start(program, arguments, reaper, container, namespace).await?;
            opened.logger = Some(logger.child);
            pipe = Some(logger.stdout);
        }
        let sink = Sink::open(&target, pipe)?;
        let stdin = input(&|path| process.input.open(path))?;
        let socket = Socket::new(Path::new(SOCKETS))?;
        Ok(Self {
            opened,
            console: Some((socket, sink, stdin)),
        })
    }

    /// Calls the OCI runtime by `run`, and takes what then belongs to the process.
    ///
    /// # Errors
    /// As of `run`, or no terminal came.
    pub(super) async fn run(
        mut self,
        pid_file: &Path,
        run: impl AsyncFnOnce(New<'_>) -> Result<()>,
    ) -> Result<Resources> {
        let logger = self.opened.logger.take();
        let outlets = std::mem::take(&mut self.opened.outlets);
        match self.start(pid_file, run).await {
            Ok(console) => Ok(Resources {
                logger,
                // Not before: what the OCI runtime itself writes when it fails is not the container's, and is in the error.
                copying: outlets.into_iter().map(Outlet::start).collect(),
                console,
            }),
            Err(error) => {
                if let Some(logger) = logger {
                    logger::dismiss(logger);
                }
                // Its usage, the words of a wrapper: standard error is the last one.
                let said = outlets.last().and_then(Outlet::unread);
                Err(match (error, said) {
                    (Error::Unexplained(text), Some(said)) => {
                        Error::Other(format!("{text}; it wrote: {said}"))
                    }
                    (error, _) => error,
                })
            }
        }
    }

    async fn start(
        self,
        pid_file: &Path,
        run: impl AsyncFnOnce(New<'_>) -> Result<()>,
    ) -> Result<Option<Console>> {
        let console = self.console.as_ref();
        let new = New {
            pid_file,
            console: console.map(|(socket, ..)| socket.path.as_path()),
            streams: self.opened.streams,
        };
        run(new).await?;
        let Some((socket, sink, stdin)) = self.console else {
            return Ok(None);
        };
        let master = socket.receive().await?;
        Console::start(master, stdin, sink).map(Some)
    }
}
