//! The streams of a process without a terminal, opened.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{Gid, Uid};

use super::config::Wanted;
use super::copying::Outlet;
use super::logger::{Logger, dismiss};
use super::sink::Sink;
use super::target::Target;
use crate::containerd::options::Options;
use crate::error::{Error, Result};
use crate::sys::reaper::{Child, Reaper};

/// The standard streams of a process of the container. `None` is `/dev/null`.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Standard input.
    pub(crate) stdin: Option<OwnedFd>,
    /// Standard output.
    pub(crate) stdout: Option<OwnedFd>,
    /// Standard error.
    pub(crate) stderr: Option<OwnedFd>,
}

/// Opened streams.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// What the process gets.
    pub(crate) streams: Streams,
    /// The program that takes its output.
    pub(crate) logger: Option<Child>,
    /// What takes it elsewhere, once the process is made.
    pub(crate) outlets: Vec<Outlet>,
}

impl Opened {
    /// Opens an output that is no program's.
    fn output(&mut self, target: &Target) -> Result<Option<OwnedFd>> {
        match target {
            Target::Null => return Ok(None),
            Target::Path(_) | Target::File(_) => {}
            Target::Program(..) => {
                return Err(Error::InvalidArgument(
                    "binary:// takes standard output and error at once: name it for the output"
                        .to_owned(),
                ));
            }
        }
        let (pipe, outlet) = Outlet::new(Sink::open(target, None)?)?;
        self.outlets.push(outlet);
        Ok(Some(pipe))
    }
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
        let stderr = Target::parse(&wanted.stderr)?;
        opened.streams.stdout = opened.output(&stdout)?;
        // One for both: with `file://` clients name it for the one alone. One pipe keeps their order.
        let shared =
            stderr == stdout || (matches!(stdout, Target::File(_)) && stderr == Target::Null);
        opened.streams.stderr = match &opened.streams.stdout {
            Some(stdout) if shared => {
                let copy = stdout.try_clone();
                Some(copy.map_err(|error| Error::io("copy a stream", error))?)
            }
            _ => opened.output(&stderr)?,
        };
    }
    if let Err(error) = give(&opened.streams, options) {
        // Its ends of the pipes close with the rest of what is open here.
        if let Some(logger) = opened.logger {
            dismiss(logger);
        }
        return Err(error);
    }
    Ok(opened)
}

/// Makes the streams those of the user that the options name.
fn give(streams: &Streams, options: &Options) -> Result<()> {
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
