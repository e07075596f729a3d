//! Opens the streams of a process without a terminal.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{Gid, Uid};

use super::config::StdioConfig;
use super::copying::OutputPipe;
use super::logger::{Logger, release_logger};
use super::sink::OutputSink;
use super::target::OutputTarget;
use crate::containerd::options::Options;
use crate::error::{Error, Result};
use crate::sys::reaper::{Child, Reaper};

/// The standard streams that the OCI runtime gets for a process. `None` is `/dev/null`.
#[derive(Debug, Default)]
pub(crate) struct ProcessStreams {
    /// Standard input.
    pub(crate) stdin: Option<OwnedFd>,
    /// Standard output.
    pub(crate) stdout: Option<OwnedFd>,
    /// Standard error.
    pub(crate) stderr: Option<OwnedFd>,
}

/// The streams of a process, with what connects them to its client.
#[derive(Debug, Default)]
pub(crate) struct OpenStreams {
    /// The ends that the process gets.
    pub(crate) streams: ProcessStreams,
    /// The log program that takes the output.
    pub(crate) logger: Option<Child>,
    /// The outputs to copy once the process is created.
    pub(crate) outputs: Vec<OutputPipe>,
}

impl OpenStreams {
    /// Opens an output that no log program takes.
    fn output(&mut self, target: &OutputTarget) -> Result<Option<OwnedFd>> {
        match target {
            OutputTarget::Null => return Ok(None),
            OutputTarget::Path(_) | OutputTarget::File(_) => {}
            OutputTarget::Program(..) => {
                return Err(Error::invalid_argument(
                    "binary:// takes standard output and standard error at once: pass it as \
                     the standard output",
                ));
            }
        }
        let (pipe, output) = OutputPipe::new(OutputSink::open(target, None)?)?;
        self.outputs.push(output);
        Ok(Some(pipe))
    }
}

/// Opens the outputs that `config` names for a process of the container `id`; `stdin` is its input.
///
/// # Errors
/// A file is missing, or a log program does not start.
pub(crate) async fn open(
    config: &StdioConfig,
    stdin: Option<OwnedFd>,
    options: &Options,
    reaper: &Arc<Reaper>,
    id: &str,
    namespace: &str,
) -> Result<OpenStreams> {
    let mut opened = OpenStreams::default();
    opened.streams.stdin = stdin;
    let stdout = OutputTarget::parse(&config.stdout)?;
    if let OutputTarget::Program(program, arguments) = &stdout {
        let logger = Logger::start(program, arguments, reaper, id, namespace).await?;
        opened.streams.stdout = Some(logger.stdout);
        opened.streams.stderr = Some(logger.stderr);
        opened.logger = Some(logger.child);
    } else {
        let stderr = OutputTarget::parse(&config.stderr)?;
        opened.streams.stdout = opened.output(&stdout)?;
        // One pipe for both keeps their order. With `file://`, clients name standard output only.
        let shared = stderr == stdout
            || (matches!(stdout, OutputTarget::File(_)) && stderr == OutputTarget::Null);
        opened.streams.stderr = match &opened.streams.stdout {
            Some(stdout) if shared => {
                let copy = stdout.try_clone();
                Some(copy.map_err(|error| Error::io("duplicate a stream", error))?)
            }
            _ => opened.output(&stderr)?,
        };
    }
    if let Err(error) = set_owner(&opened.streams, options) {
        // The log program's pipes close when the streams are dropped.
        if let Some(logger) = opened.logger {
            release_logger(logger);
        }
        return Err(error);
    }
    Ok(opened)
}

/// Gives the streams to the user that the options name.
fn set_owner(streams: &ProcessStreams, options: &Options) -> Result<()> {
    let owner = (options.io_uid, options.io_gid);
    if owner == (0, 0) {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
    let all = [&streams.stdin, &streams.stdout, &streams.stderr];
    for stream in all.into_iter().flatten() {
        rustix::fs::fchown(stream, Some(uid), Some(gid))
            .map_err(|error| Error::io("change the owner of a stream", error))?;
    }
    Ok(())
}
