//! The conversation between the host and a kit that has only WASI (Python's and Ruby's).
//!
//! A message is a line of JSON, followed by as many bytes as its `body` says; a reply has the same
//! form. `message.rs` has the fields, `answer.rs` the operations. [`wws_engine::Channel`]
//! transports the bytes.

mod answer;
mod bodies;
mod derive;
mod message;
mod outgoing;
mod reply;
mod session;
mod socket;
mod sources;
mod store;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use wws_engine::{BodyStream, Call, Channel, Host, wasmtime::Result};

pub(crate) use session::{Answered, Session};
pub(crate) use sources::{Library, Sources};

/// The maximum length of a message's line, in bytes: it holds headers, keys and values, but no
/// body.
const MAX_LINE: u64 = 8 << 20;

/// After this many messages of one write, other calls get a turn.
const PAUSE: u32 = 256;

/// Answers kits. The state of a call lies in its host.
struct KitChannel;

/// Begins to load a worker.
pub(crate) fn begin_loading(host: &mut Host, sources: Sources) {
    Session::load(host, sources);
    host.set_channel(Arc::new(KitChannel));
}

/// Begins a call, whose body may be a stream.
pub(crate) fn begin_call(
    host: &mut Host,
    sources: Sources,
    call: Call,
    body: Option<BodyStream>,
) -> Result<()> {
    Session::call(host, sources, call, body)?;
    host.set_channel(Arc::new(KitChannel));
    Ok(())
}

impl Channel for KitChannel {
    fn written<'a>(&'a self, host: &'a mut Host, bytes: Vec<u8>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let limit = host.limits().output.saturating_add(MAX_LINE);
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
