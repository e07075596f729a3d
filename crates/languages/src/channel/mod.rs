//! The conversation of a kit that has nothing but WASI (Python's, Ruby's) with the host.
//!
//! A message is a line of JSON, and after it as many bytes as its `body` says; so is a reply. `message.rs` has the fields,
//! `answer.rs` what the host does. How the bytes travel is [`wws_engine::Channel`]'s.

mod answer;
mod derive;
mod message;
mod outgoing;

use std::path::Path;

use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use http::Response;
use wws_engine::{
    Call, Channel, Charge, Directories, Host, ProgramError,
    wasmtime::{self, Error, Result},
};
use wws_project::beneath::Root;

use message::{Incoming, Pairs};

/// The line of a message is not longer, in bytes: it holds headers, keys and values, but no bodies.
const LINE: u64 = 8 << 20;

/// What is always there for a call, in bytes.
const UNCHARGED: u64 = 16 << 10;

/// After so many messages of one write the server's others have a turn.
const PAUSE: u32 = 256;

/// Answers kits. What is known of a call lies in its host.
pub(crate) struct Kit;

/// Where a worker's files are read, and which of them are sources.
#[derive(Clone)]
pub(crate) struct Sources {
    /// The worker, relative to the project's root.
    pub(crate) worker: String,
    folders: Directories,
    /// Files of other extensions are not given: they may hold secrets.
    extension: &'static str,
    library: Library,
}

/// Files of a kit that it loads when they are needed: names and texts.
pub(crate) type Library = &'static [(&'static str, &'static str)];

impl Sources {
    pub(crate) fn new(
        root: &Root,
        worker: &Path,
        extension: &'static str,
        library: Library,
    ) -> Result<Self, wws_engine::LoadError> {
        let folder = root.folder(Path::new("")).map_err(|error| {
            wws_engine::LoadError::new(wws_engine::LoadErrorKind::Host, "cannot open the project")
                .caused_by(error)
        })?;
        Ok(Self {
            worker: worker.to_string_lossy().into_owned(),
            folders: Directories::new(vec![(folder.into(), "/".into())]),
            extension,
            library,
        })
    }
}

/// One call's side of the conversation, or that of loading a worker.
pub(crate) struct Session {
    sources: Sources,
    /// The head of the request as a reply's line, and the body; none while the worker is loaded.
    request: Option<(Vec<u8>, Bytes)>,
    incoming: Incoming,
    reply: Reply,
    /// For the messages, the reply and the answer that are kept, where they are more than [`UNCHARGED`].
    charge: Option<Charge>,
    outcome: Option<Outcome>,
    /// What the kit said when it was ready: pointers to a function of the guest's and to its arguments.
    ready: Option<(u32, u32)>,
}

/// What the kit reads: a line, then bytes. They are kept as they came.
#[derive(Default)]
struct Reply {
    line: Bytes,
    body: Bytes,
}

impl Reply {
    /// Gives its next bytes, of the line first.
    fn read(&mut self, to: &mut [u8]) -> usize {
        let mut done = 0;
        for part in [&mut self.line, &mut self.body] {
            let n = part.len().min(to.len() - done);
            part.copy_to_slice(&mut to[done..done + n]);
            done += n;
        }
        done
    }
}

/// What the kit gave in the end.
enum Outcome {
    Response(i64, Pairs, Bytes),
    /// In one line, for the operator. The lines for the log were written.
    Failed(String),
}

impl Session {
    /// Begins to load a worker.
    pub(crate) fn load(host: &mut Host, sources: Sources) {
        Self::begin(host, sources, None);
    }

    /// Begins a call.
    pub(crate) fn call(host: &mut Host, sources: Sources, call: Call) -> Result<()> {
        let (head, body) = message::request(call)?;
        Self::begin(host, sources, Some((head, body)));
        Ok(())
    }

    fn begin(host: &mut Host, sources: Sources, request: Option<(Vec<u8>, Bytes)>) {
        host.set_state(Self {
            sources,
            request,
            incoming: Incoming::default(),
            reply: Reply::default(),
            charge: None,
            outcome: None,
            ready: None,
        });
        host.set_channel(std::sync::Arc::new(Kit));
    }

    fn of(host: &mut Host) -> Result<&mut Self> {
        host.state()
            .ok_or_else(|| Error::msg("the interpreter has no state"))
    }

    fn is_loading(&self) -> bool {
        self.request.is_none()
    }

    /// Charges what is kept from one message to the next.
    fn charge_kept(host: &mut Host) -> Result<()> {
        let session = Self::of(host)?;
        let answer = match &session.outcome {
            Some(Outcome::Response(_, _, body)) => body.len(),
            _ => 0,
        };
        let kept = (session.incoming.len() + session.reply.body.len() + answer) as u64;
        if kept <= UNCHARGED {
            session.charge = None;
            return Ok(());
        }
        let charge = match session.charge.take() {
            Some(mut charge) => {
                charge.shrink_to(kept);
                charge.grow_to(kept).then_some(charge)
            }
            None => None,
        };
        let charge = match charge {
            Some(charge) => charge,
            None => host.hold(kept).map_err(Error::new)?,
        };
        Self::of(host)?.charge = Some(charge);
        Ok(())
    }

    /// Pointers to a function of the guest's, and to its arguments; what kept the kit from getting ready.
    pub(crate) fn ready(host: &mut Host) -> Result<(u32, u32), ProgramError> {
        if let Some(failure) = Self::failure(host) {
            return Err(failure);
        }
        Self::of(host)?
            .ready
            .ok_or_else(|| ProgramError::failed("it ended while it was loaded: does it call exit?"))
    }

    /// What the kit said of a failure.
    pub(crate) fn failure(host: &mut Host) -> Option<ProgramError> {
        match Self::of(host).ok()?.outcome.take() {
            Some(Outcome::Failed(text)) => Some(ProgramError::failed(text)),
            _ => None,
        }
    }

    /// The response, or how the worker failed. `Ok(None)`: the kit gave neither.
    pub(crate) fn outcome(host: &mut Host) -> Result<Option<Response<Bytes>>, ProgramError> {
        let session = Self::of(host)?;
        // Who takes it charges it.
        session.charge = None;
        match session.outcome.take() {
            None => Ok(None),
            Some(Outcome::Failed(text)) => Err(ProgramError::failed(text)),
            Some(Outcome::Response(status, headers, body)) => {
                let limit = host.limits().output;
                if body.len() as u64 > limit {
                    return Err(ProgramError::failed(format!(
                        "answered with more than {limit} bytes (`limits.output`)"
                    )));
                }
                let headers = headers.iter().map(|(name, value)| (&**name, &**value));
                wws_engine::build_response(status, headers, body)
                    .map(Some)
                    .map_err(|error| ProgramError::failed(error.to_string()))
            }
        }
    }
}

impl Channel for Kit {
    fn written<'a>(&'a self, host: &'a mut Host, bytes: Vec<u8>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let limit = host.limits().output.saturating_add(LINE);
            let mut incoming = std::mem::take(&mut Session::of(host)?.incoming);
            if (incoming.len() + bytes.len()) as u64 > limit {
                return Err(Host::too_much_output());
            }
            incoming.push(bytes);
            let mut taken = 0u32;
            while let Some(message) = incoming.take()? {
                answer::answer(host, message).await?;
                taken += 1;
                if taken.is_multiple_of(PAUSE) {
                    host.give_way().await?;
                }
            }
            Session::of(host)?.incoming = incoming;
            Session::charge_kept(host)
        })
    }

    fn read(&self, host: &mut Host, to: &mut [u8]) -> usize {
        Session::of(host).map_or(0, |session| session.reply.read(to))
    }
}

/// A failure of the kit's own.
fn broken(what: impl std::fmt::Display) -> wasmtime::Error {
    Error::msg(format!("the kit's message cannot be read: {what}"))
}
