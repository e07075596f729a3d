//! WebSockets of a worker: the kit has a number for each.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{Request, StatusCode};
use wws_engine::{
    Host,
    wasmtime::Result,
    websocket::{Close, Event, Message, code},
};

use super::{
    exception::KitException,
    response::response_of,
    state::{CallState, OperationOutput, SocketSlot},
    streams::{NotBegun, OWN},
};

/// Accepts the socket that the client asks for, and sends the head of the response.
pub(super) fn accept(host: &mut Host, head: &str) -> Result<Result<(), NotBegun>> {
    // The status follows from the acceptance.
    let head = match head.split_once('\0') {
        Some((_, headers)) => format!("200\0{headers}"),
        None => "200".to_owned(),
    };
    let mut response = match response_of(&head, Bytes::new()) {
        Ok(response) => response.map(drop),
        Err(error) => return Ok(Err(error.into())),
    };
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let Some(end) = host.accept_socket(response) else {
        return Ok(Err(NotBegun::NoReader));
    };
    CallState::of(host)?
        .sockets
        .insert(OWN, Arc::new(end.into()));
    Ok(Ok(()))
}

/// Opens a socket to another server: its URL, and protocols. The result is the protocol that the
/// server chose.
pub(super) fn connect(
    host: &mut Host,
    id: u64,
    head: &str,
) -> Result<impl Future<Output = Result<OperationOutput, KitException>> + use<>, KitException> {
    let mut parts = head.split('\0');
    let mut request = Request::new(());
    *request.uri_mut() = parts
        .next()
        .and_then(|url| url.parse().ok())
        .ok_or_else(|| KitException::new("TypeError", "the URL is not valid"))?;
    let protocols = parts.map(str::to_owned).collect();
    let opening = host
        .open_socket(request, protocols)
        .map_err(|failure| KitException::http_failure(&failure))?;
    let slot = SocketSlot::default();
    let state = CallState::of(host).map_err(|_| KitException::new("Error", "no state"))?;
    state.sockets.insert(id, slot.clone());
    Ok(async move {
        let (protocol, end) = opening
            .await
            .map_err(|failure| KitException::http_failure(&failure))?;
        let _ = slot.set(end);
        Ok(OperationOutput {
            text: protocol,
            ..OperationOutput::default()
        })
    })
}

/// Closes a socket. The kit has checked the code and the reason; no code is 1005.
pub(super) fn close(host: &mut Host, id: u64, code: u16, reason: &str) -> Result<()> {
    let slot = CallState::of(host)?.sockets.get(&id);
    if let Some(end) = slot.and_then(|slot| slot.get()) {
        let given = (code != code::NONE).then_some(code);
        let close = Close::new(given, reason).unwrap_or_else(|_| Close::with(code::NORMAL, ""));
        end.sender.close(close, true);
    }
    Ok(())
}

/// The next event of a socket: a text, bytes with an empty text, or the close as a text with bytes:
/// its code, whether it is clean, and its reason.
pub(super) async fn receive(socket: Option<SocketSlot>) -> Result<OperationOutput, KitException> {
    let event = match socket.as_deref().and_then(OnceLock::get) {
        Some(end) => end.receiver.next().await,
        None => None,
    };
    let (text, bytes) = match event {
        Some(Event::Message(Message::Text(text))) => {
            (String::from_utf8_lossy(&text).into_owned(), None)
        }
        Some(Event::Message(Message::Binary(bytes))) => (String::new(), Some(bytes)),
        Some(Event::Close { close, clean }) => {
            let code = close.code.unwrap_or(code::NONE);
            let text = format!("{code}\0{}\0{}", u8::from(clean), close.reason);
            (text, Some(Bytes::new()))
        }
        None => (format!("{}\00\0", code::ABNORMAL), Some(Bytes::new())),
    };
    Ok(OperationOutput {
        text,
        bytes,
        learned: None,
    })
}
