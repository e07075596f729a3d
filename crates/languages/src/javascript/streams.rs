//! Bodies that are passed on as they come: the kit reads and sends them piece by piece.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Mutex;
use wws_engine::{BodySender, Charge, Host, ResponseError, wasmtime::Result};

use crate::incoming::{IncomingBody, IncomingError};

use super::{
    exception::KitException,
    response::response_of,
    state::{CallState, Incoming, OperationOutput},
};

/// The number of the request's body, and of the response's.
pub(super) const OWN: u64 = 0;

pub(super) fn shared(body: IncomingBody) -> Incoming {
    Arc::new(Mutex::new(Some(body)))
}

fn broken(error: IncomingError) -> KitException {
    match error {
        IncomingError::Response(error) => KitException::http_failure(&error.into()),
        error => KitException::new("TypeError", error.to_string()),
    }
}

/// The next piece of a body; none at its end.
pub(super) async fn read(body: Option<Incoming>) -> Result<OperationOutput, KitException> {
    let bytes = match body {
        Some(body) => match &mut *body.lock().await {
            Some(body) => body.piece().await.map_err(broken)?,
            None => None,
        },
        None => None,
    };
    Ok(OperationOutput {
        bytes,
        ..OperationOutput::default()
    })
}

/// The rest of a body, of at most `max` bytes if it is the request's, charged to `charge`.
pub(super) async fn read_all(
    body: Option<Incoming>,
    max: u64,
    charge: Charge,
) -> Result<OperationOutput, KitException> {
    let body = match body {
        Some(body) => body.lock().await.take(),
        None => None,
    };
    let bytes = match body {
        None => Bytes::new(),
        Some(body) => body.read_all(max, charge).await.map_err(broken)?,
    };
    Ok(OperationOutput {
        bytes: Some(bytes),
        ..OperationOutput::default()
    })
}

/// Why the head of a response cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotBegun {
    #[error(transparent)]
    Invalid(#[from] ResponseError),
    #[error("nobody waits for the response")]
    NoReader,
}

/// Sends the head of the response.
pub(super) fn begin(host: &mut Host, head: &str) -> Result<Result<(), NotBegun>> {
    let response = match response_of(head, Bytes::new()) {
        Ok(response) => response.map(drop),
        Err(error) => return Ok(Err(error.into())),
    };
    let Some(sender) = host.start_response(response) else {
        return Ok(Err(NotBegun::NoReader));
    };
    CallState::of(host)?.outgoing.insert(OWN, Arc::new(sender));
    Ok(Ok(()))
}

/// Sends a piece of a body, once there is room for it.
pub(super) async fn send(
    sender: Option<Arc<BodySender>>,
    piece: Bytes,
) -> Result<OperationOutput, KitException> {
    let sent = match sender {
        Some(_) if piece.is_empty() => Ok(()),
        Some(sender) => sender.send(piece).await.map_err(drop),
        None => Err(()),
    };
    match sent {
        Ok(()) => Ok(OperationOutput::default()),
        Err(()) => Err(KitException::new("TypeError", "nobody reads the body")),
    }
}

/// Ends a body.
pub(super) async fn finish(
    sender: Option<Arc<BodySender>>,
) -> Result<OperationOutput, KitException> {
    // A reader that is gone needs no end.
    if let Some(sender) = sender.and_then(Arc::into_inner) {
        let _ = sender.finish().await;
    }
    Ok(OperationOutput::default())
}
