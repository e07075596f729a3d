//! The launch of a process: opens its streams or its terminal, and calls the OCI runtime.

use std::os::fd::OwnedFd;
use std::path::Path;

use super::ShimContext;
use crate::containerd::options::Options;
use crate::error::{Error, ErrorCode, Result};
use crate::process::console::{Console, Socket};
use crate::process::{Process, ProcessResources, ProcessRole};
use crate::runc::call::NewProcess;
use crate::stdio::config::StdioConfig;
use crate::stdio::copying::OutputPipe;
use crate::stdio::logger::{self, Logger};
use crate::stdio::sink::OutputSink;
use crate::stdio::streams::{self, OpenStreams};
use crate::stdio::target::OutputTarget;

/// A process about to be created: its streams are open, or the socket for its terminal is.
pub(super) struct Launch {
    opened: OpenStreams,
    console: Option<(Socket, OutputSink, Option<OwnedFd>)>,
}

impl Launch {
    /// Opens the streams of `process` in the container `id`.
    ///
    /// # Errors
    /// A stream cannot be opened.
    pub(super) async fn new(
        process: &Process,
        options: &Options,
        context: &ShimContext,
        id: &str,
    ) -> Result<Self> {
        let (reaper, namespace) = (&context.reaper, &context.namespace);
        let StdioConfig {
            stdin,
            stdout,
            terminal,
            ..
        } = &process.stdio;
        let input = |open: &dyn Fn(&str) -> Result<OwnedFd>| {
            let path = Some(stdin.as_str()).filter(|path| !path.is_empty());
            path.map(open).transpose()
        };
        if !terminal {
            let stdin = input(&|path| {
                let pipe = process.input.connect(path)?;
                if process.role == ProcessRole::Exec {
                    // The client may close the input before the start.
                    process.input.hold(Path::new(path))?;
                }
                Ok(pipe)
            })?;
            let opened =
                streams::open(&process.stdio, stdin, options, reaper, id, namespace).await?;
            return Ok(Self {
                opened,
                console: None,
            });
        }
        let mut opened = OpenStreams::default();
        let target = OutputTarget::parse(stdout)?;
        let mut pipe = None;
        if let OutputTarget::Program(program, arguments) = &target {
            let logger = Logger::start(program, arguments, reaper, id, namespace).await?;
            opened.logger = Some(logger.child);
            pipe = Some(logger.stdout);
        }
        let sink = OutputSink::open(&target, pipe)?;
        let stdin = input(&|path| process.input.open(path))?;
        let socket = Socket::new(&context.sockets)?;
        Ok(Self {
            opened,
            console: Some((socket, sink, stdin)),
        })
    }

    /// Calls the OCI runtime with `run`, and returns what belongs to the process then.
    ///
    /// # Errors
    /// That of `run`, or no terminal came.
    pub(super) async fn run(
        mut self,
        pid_file: &Path,
        run: impl AsyncFnOnce(NewProcess<'_>) -> Result<()>,
    ) -> Result<ProcessResources> {
        let logger = self.opened.logger.take();
        let outputs = std::mem::take(&mut self.opened.outputs);
        match self.start(pid_file, run).await {
            Ok(console) => Ok(ProcessResources {
                logger,
                // Started now, as the OCI runtime's own output of a failure is in the error and
                // does not belong into the container's log.
                copying: outputs.into_iter().map(OutputPipe::start).collect(),
                console,
            }),
            Err(error) => {
                if let Some(logger) = logger {
                    logger::release_logger(logger);
                }
                // Standard error is the last one: the usage text, or the message of a wrapper.
                let output = outputs.last().and_then(OutputPipe::unread);
                Err(match output {
                    Some(output) if error.code() == ErrorCode::RuntimeSilent => {
                        Error::unknown(format!("{error}; it wrote: {output}"))
                    }
                    _ => error,
                })
            }
        }
    }

    async fn start(
        self,
        pid_file: &Path,
        run: impl AsyncFnOnce(NewProcess<'_>) -> Result<()>,
    ) -> Result<Option<Console>> {
        let console = self.console.as_ref();
        let new = NewProcess {
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
