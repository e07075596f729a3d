//! The state of a conversation, which lies in the host of its call.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use http::Response;
use wws_engine::{
    BodySender, BodyStream, Call, Charge, Host, ProgramError, ProgramFailure,
    wasmtime::{Error, Result},
    websocket::End,
};

use crate::channel::message::{self, HeaderPairs, IncomingMessages};
use crate::channel::sources::Sources;
use crate::incoming::IncomingBody;

/// The number of the request's body.
const REQUEST: u64 = 0;

/// Bytes of a call that are not charged.
const UNCHARGED: u64 = 16 << 10;

/// The state of one conversation: a call, or the loading of a worker.
pub(crate) struct Session {
    pub(super) sources: Sources,
    /// The head of the request as the line of a reply, and the body; `None` while the worker is
    /// loaded.
    pub(super) request: Option<(Vec<u8>, Bytes)>,
    pub(super) incoming: IncomingMessages,
    /// Bodies that the worker reads as they come, by the numbers that the kit knows.
    pub(super) bodies: HashMap<u64, IncomingBody>,
    /// The number of the last one.
    pub(super) last_body: u64,
    pub(super) reply: UnreadReply,
    /// Covers the messages, the reply and the response, if they exceed [`UNCHARGED`].
    charge: Option<Charge>,
    /// The body of a response that is sent while the worker runs, until its end.
    pub(super) body: Option<BodySender>,
    /// The worker's end of the WebSocket that it has accepted.
    pub(super) socket: Option<Arc<End>>,
    /// Whether such a response was begun.
    pub(super) is_streamed: bool,
    pub(super) outcome: Option<CallOutcome>,
    /// Set once the kit is ready: pointers to a function of the guest and to its arguments.
    pub(super) ready: Option<(u32, u32)>,
}

/// The reply that the kit reads: a line, then bytes.
#[derive(Default)]
pub(super) struct UnreadReply {
    pub(super) line: Bytes,
    pub(super) body: Bytes,
}

impl UnreadReply {
    /// Copies the next bytes, those of the line first.
    pub(super) fn read(&mut self, to: &mut [u8]) -> usize {
        let mut done = 0;
        for part in [&mut self.line, &mut self.body] {
            let n = part.len().min(to.len() - done);
            part.copy_to_slice(&mut to[done..done + n]);
            done += n;
        }
        done
    }
}

/// What a worker answered.
pub(crate) enum Answered {
    Whole(Response<Bytes>),
    /// The response was begun before.
    Streamed,
}

impl Answered {
    /// The response as [`wws_engine::Program::answer`] gives it.
    pub(crate) fn into_response(self) -> Option<Response<Bytes>> {
        match self {
            Self::Whole(response) => Some(response),
            Self::Streamed => None,
        }
    }
}

/// How a call or the loading of a worker ended.
pub(super) enum CallOutcome {
    Response(i64, HeaderPairs, Bytes),
    /// The lines for the log were written.
    Failed(ProgramFailure),
}

impl Session {
    /// Begins to load a worker.
    pub(crate) fn load(host: &mut Host, sources: Sources) {
        host.set_state(Self::new(sources, None));
    }

    /// Begins a call, whose body may be a stream.
    pub(crate) fn call(
        host: &mut Host,
        sources: Sources,
        call: Call,
        body: Option<BodyStream>,
    ) -> Result<()> {
        let request = message::request(call, body.as_ref().map(|_| REQUEST))?;
        let mut session = Self::new(sources, Some(request));
        if let Some(body) = body {
            let body = IncomingBody::Request(body);
            session.bodies.insert(REQUEST, body);
        }
        host.set_state(session);
        Ok(())
    }

    fn new(sources: Sources, request: Option<(Vec<u8>, Bytes)>) -> Self {
        Self {
            sources,
            request,
            incoming: IncomingMessages::default(),
            bodies: HashMap::new(),
            last_body: REQUEST,
            reply: UnreadReply::default(),
            charge: None,
            body: None,
            socket: None,
            is_streamed: false,
            outcome: None,
            ready: None,
        }
    }

    pub(super) fn of(host: &mut Host) -> Result<&mut Self> {
        host.state()
            .ok_or_else(|| Error::msg("the interpreter has no state"))
    }

    pub(super) fn is_loading(&self) -> bool {
        self.request.is_none()
    }

    /// Charges the bytes that are kept between messages.
    pub(super) fn charge_kept(host: &mut Host) -> Result<()> {
        let session = Self::of(host)?;
        let answer = match &session.outcome {
            Some(CallOutcome::Response(_, _, body)) => body.len(),
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

    /// Pointers to a function of the guest and to its arguments; or why the kit is not ready.
    pub(crate) fn ready(host: &mut Host) -> Result<(u32, u32), ProgramError> {
        if let Some(failure) = Self::failure(host) {
            return Err(failure);
        }
        Self::of(host)?.ready.ok_or_else(|| {
            ProgramError::failed("it exited while it was loaded: does it call exit?")
        })
    }

    /// The failure that the kit reported.
    pub(crate) fn failure(host: &mut Host) -> Option<ProgramError> {
        match Self::of(host).ok()?.outcome.take() {
            Some(CallOutcome::Failed(failure)) => Some(ProgramError::Failed(failure)),
            _ => None,
        }
    }

    /// What the worker answered, or how it failed. `Ok(None)`: the kit gave neither.
    pub(crate) fn outcome(host: &mut Host) -> Result<Option<Answered>, ProgramError> {
        let session = Self::of(host)?;
        // Who takes it charges it.
        session.charge = None;
        // What was not ended by now breaks off.
        session.body = None;
        session.socket = None;
        match session.outcome.take() {
            None => Ok(session.is_streamed.then_some(Answered::Streamed)),
            Some(CallOutcome::Failed(failure)) => Err(ProgramError::Failed(failure)),
            Some(CallOutcome::Response(status, headers, body)) => {
                let limit = host.limits().output;
                if body.len() as u64 > limit {
                    return Err(ProgramError::failed(format!(
                        "answered with more than {limit} bytes (`limits.output`)"
                    )));
                }
                let headers = headers.iter().map(|(name, value)| (&**name, &**value));
                wws_engine::build_response(status, headers, body)
                    .map(|response| Some(Answered::Whole(response)))
                    .map_err(|error| ProgramError::failed(error.to_string()))
            }
        }
    }
}
