//! A kit's WebSocket: the one that the client of its request asks for.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use serde_json::json;
use wws_engine::{
    Host,
    websocket::{Close, Event, Message, NotSent, code},
};

use crate::channel::message::{HeaderPairs, MessageLine};
use crate::channel::reply::{Refusal, Reply, internal, opened, to_line};
use crate::channel::session::Session;

/// Accepts the socket: the head of the response is sent.
pub(super) fn accept(host: &mut Host, headers: &HeaderPairs) -> Result<Reply, Refusal> {
    let headers = headers.iter().map(|(name, value)| (&**name, &**value));
    let mut head = wws_engine::build_response(200, headers, Bytes::new())
        .map_err(|error| ("invalid", error.to_string()))?
        .map(drop);
    *head.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let end = host.accept_socket(head).map(Arc::new);
    let is_open = end.is_some();
    let session = Session::of(host).map_err(internal)?;
    session.socket = end;
    session.is_streamed = true;
    opened(is_open)
}

/// The next event: a message or the close. `none` if the time is over; a time below 0 is none.
pub(super) async fn receive(host: &mut Host, milliseconds: i64) -> Result<Reply, Refusal> {
    // Others see what the worker stored while it waits.
    let committed = host.commit_kv().await;
    committed.map_err(|error| ("store", error.to_string()))?;
    let socket = Session::of(host).map_err(internal)?.socket.clone();
    let event = match (socket, u64::try_from(milliseconds)) {
        (None, _) => None,
        (Some(end), Err(_)) => end.receiver.next().await,
        (Some(end), Ok(limit)) => {
            let next = tokio::time::timeout(Duration::from_millis(limit), end.receiver.next());
            match next.await {
                Ok(event) => event,
                Err(_) => {
                    host.kv_may_have_changed();
                    return Ok((to_line(&json!({"kind": "none"}))?, Bytes::new()));
                }
            }
        }
    };
    host.kv_may_have_changed();
    let (kind, bytes) = match event {
        Some(Event::Message(Message::Text(bytes))) => ("text", bytes),
        Some(Event::Message(Message::Binary(bytes))) => ("binary", bytes),
        Some(Event::Close { close, clean }) => {
            let code = close.code.unwrap_or(code::NONE);
            let line =
                json!({"kind": "close", "code": code, "reason": close.reason, "clean": clean});
            return Ok((to_line(&line)?, Bytes::new()));
        }
        None => {
            let line =
                json!({"kind": "close", "code": code::ABNORMAL, "reason": "", "clean": false});
            return Ok((to_line(&line)?, Bytes::new()));
        }
    };
    Ok((to_line(&json!({"kind": kind, "body": bytes.len()}))?, bytes))
}

/// Sends a message once there is room for it.
pub(super) async fn send(
    host: &mut Host,
    line: &MessageLine,
    body: Bytes,
) -> Result<Reply, Refusal> {
    let limit = host.limits().stream.socket.message;
    if body.len() as u64 > limit {
        let text = format!("the message has more than {limit} bytes (`limits.socket_message`)");
        return Err(("invalid", text));
    }
    let Some(end) = Session::of(host).map_err(internal)?.socket.clone() else {
        return opened(false);
    };
    let message = match line.name.as_str() {
        "text" if std::str::from_utf8(&body).is_ok() => Message::Text(body),
        "text" => return Err(("invalid", "the text is not UTF-8".into())),
        _ => Message::Binary(body),
    };
    match end.sender.send(message).await {
        Ok(()) => opened(true),
        Err(NotSent::Closed) => opened(false),
        Err(error @ NotSent::NoMemory(_)) => Err(("memory", error.to_string())),
    }
}

/// Closes the socket; a code of 0 is none.
pub(super) fn close(host: &mut Host, line: &MessageLine) -> Result<Reply, Refusal> {
    let invalid = |text: String| ("invalid", text);
    let code = u16::try_from(line.status).map_err(|error| invalid(error.to_string()))?;
    let close = Close::new(Some(code).filter(|code| *code > 0), &line.message)
        .map_err(|error| invalid(error.to_string()))?;
    if let Some(end) = &Session::of(host).map_err(internal)?.socket {
        end.sender.close(close, true);
    }
    opened(false)
}
