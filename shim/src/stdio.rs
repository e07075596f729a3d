//! Standard streams of a process without a terminal. The process gets pipes of its own, and what passes through them is copied from
//! and to the FIFOs that containerd's client made: it never has the client's FIFOs, which have names on the host, can be opened
//! both ways and block whoever opens them when the other side is away.
//!
//! Output FIFOs are opened for reading too, so that neither the absence of a reader nor its end (a restart of Docker) fails or
//! ends the container; a reader sees the end of the stream when the container's last process closes it, or when the process is
//! deleted. The input stays open as long as we hold its writing end, whoever comes and goes, until [`Input::close`].

mod copying;
mod input;
mod logger;
mod sink;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use rustix::fs::{Gid, Uid};

pub(crate) use self::copying::{Copying, Outlet};
pub(crate) use self::input::Input;
pub(crate) use self::logger::{Logger, dismiss};
pub(crate) use self::sink::Sink;
use crate::containerd::options::Options;
use crate::error::{Error, Result};
use crate::runc::Streams;
use crate::sys::reaper::{Child, Reaper};

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
                    // Here alone a plus sign is a space.
                    [name, value].map(|text| decode(&text.replace('+', "%20")))
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
    percent_decode_str(text).decode_utf8_lossy().into_owned()
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::fs::{CWD, FileType, Mode};

    #[test]
    fn paths_and_uris_are_told_apart() {
        let parse = |text| Target::parse(text).unwrap();
        assert_eq!(parse(""), Target::Null);
        assert_eq!(parse("/run/f"), Target::Path("/run/f".to_owned()));
        assert_eq!(parse("fifo:///run/f"), Target::Path("/run/f".to_owned()));
        assert_eq!(parse("file:///a%20b"), Target::File("/a b".to_owned()));
        assert_eq!(parse("file:///c++/l"), Target::File("/c++/l".to_owned()));
        assert_eq!(
            parse("binary:///usr/bin/n++?_LOGGING=%2Fvar+lib&x"),
            Target::Program(
                "/usr/bin/n++".to_owned(),
                ["_LOGGING", "/var lib", "x", ""]
                    .map(str::to_owned)
                    .to_vec()
            )
        );
        let error = Target::parse("npipe://x").unwrap_err().to_string();
        assert!(error.starts_with("npipe://"), "{error}");
    }

    /// A FIFO, and the directory that it is in.
    pub(super) fn fifo() -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        // Without a program: between its fork and its start it has all that other tests have open.
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from(0o600), 0).unwrap();
        let path = path.to_str().unwrap().to_owned();
        (directory, path)
    }
}
