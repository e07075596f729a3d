//! Bodies that a kit reads as they come: `read` asks for the next piece, `read_all` for the rest,
//! and `close` wants no more.

use bytes::Bytes;
use wws_engine::{Host, HttpFailure};

use crate::channel::message::Body;
use crate::channel::reply::{Refusal, Reply, internal, to_line};
use crate::channel::session::Session;
use crate::incoming::{IncomingBody, IncomingError};

/// The next piece of a body; an empty one at its end.
pub(super) async fn read(host: &mut Host, id: u64) -> Result<Reply, Refusal> {
    let Some(mut body) = take(host, id)? else {
        return reply(Bytes::new());
    };
    let Some(piece) = body.piece().await.map_err(failed)? else {
        return reply(Bytes::new());
    };
    let session = Session::of(host).map_err(internal)?;
    session.bodies.insert(id, body);
    reply(piece)
}

/// The rest of a body.
pub(super) async fn read_all(host: &mut Host, id: u64) -> Result<Reply, Refusal> {
    let Some(body) = take(host, id)? else {
        return reply(Bytes::new());
    };
    let max = host.limits().buffers;
    let charge = host
        .hold(0)
        .map_err(|error| ("memory", error.to_string()))?;
    reply(body.read_all(max, charge).await.map_err(failed)?)
}

/// Takes a body out of the session.
fn take(host: &mut Host, id: u64) -> Result<Option<IncomingBody>, Refusal> {
    let session = Session::of(host).map_err(internal)?;
    Ok(session.bodies.remove(&id))
}

fn reply(bytes: Bytes) -> Result<Reply, Refusal> {
    Ok((to_line(&Body { body: bytes.len() })?, bytes))
}

fn failed(error: IncomingError) -> Refusal {
    match error {
        IncomingError::Response(error) => {
            let failure = HttpFailure::from(error);
            (failure.kind.name(), failure.message)
        }
        IncomingError::Memory(_) => ("memory", error.to_string()),
        IncomingError::TooLarge(_) => ("too-large", error.to_string()),
        IncomingError::Request(_) => ("body", error.to_string()),
    }
}
