//! Operations that run while a worker waits: outgoing requests, timers, files, counters. The kit
//! numbers them.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt,
    future::{AbortHandle, Abortable, BoxFuture},
    stream::FuturesUnordered,
};
use http::{Request, response};
use tokio::time::{Instant, Sleep};
use wws_engine::{
    AnsweredBy, BodySender, Charge, Decode, Host, KeepRedirects, RequestBody, header_map,
};

use crate::incoming::{IncomingBody, SHORT};

use super::{
    exception::KitException,
    files::{self, FileCall},
    sockets,
    state::{CallState, FinishedOperation, Incoming, OperationOutput, PENDING},
    store::{self, StoreOperation},
    streams,
};

/// An operation that the kit starts.
pub(super) enum Operation {
    /// Method, URL, header names and values; and the body, or none if it is sent piece by piece.
    Fetch(String, Option<Bytes>),
    /// The next piece of a body.
    Read(u64),
    /// The rest of a body.
    ReadAll(u64),
    /// A piece of a body.
    Send(u64, Bytes),
    /// The end of a body.
    Finish(u64),
    /// A socket to another server: its URL, and protocols.
    Connect(String),
    /// The next event of a socket.
    Receive(u64),
    Store(StoreOperation),
    File(FileCall),
    /// It failed before it was started.
    Failed(KitException),
}

type OperationResult = Result<OperationOutput, KitException>;

/// Starts an operation. `Err`: it cannot be started now; the text is for the kit's exception.
///
/// `charge` covers what the operation keeps, except for contents with their own charges.
pub(super) fn start(
    host: &mut Host,
    id: u64,
    operation: Operation,
    charge: Charge,
) -> Result<(), &'static str> {
    let state = CallState::of(host).map_err(|_| "no state")?;
    if state.loading {
        return Err("only while a request is handled: not where the worker is loaded");
    }
    // Operations that were cancelled or have ended make room.
    while state.pending.len() + state.ended.len() >= PENDING {
        match state.pending.next().now_or_never() {
            Some(Some(done)) if done.result.is_none() => {}
            Some(Some(done)) => state.ended.push_back(done),
            _ => return Err("more than 10000 operations have not ended"),
        }
    }
    let (fetches, files) = (state.fetches.clone(), state.files.clone());
    let future: BoxFuture<'static, OperationResult> = match operation {
        Operation::Fetch(head, body) => match fetch(host, id, &head, body) {
            Ok(sending) => async move {
                let _place = fetches.acquire_owned().await;
                sending.await
            }
            .boxed(),
            Err(failure) => std::future::ready(Err(failure)).boxed(),
        },
        Operation::Read(body) => streams::read(incoming(host, body)).boxed(),
        Operation::ReadAll(body) => {
            let (max, rest) = (host.limits().buffers, host.hold(0));
            match rest {
                Ok(rest) => streams::read_all(incoming(host, body), max, rest).boxed(),
                Err(error) => {
                    let failure = KitException::new("RangeError", error.to_string());
                    std::future::ready(Err(failure)).boxed()
                }
            }
        }
        Operation::Send(body, piece) => {
            let sender = CallState::of(host)
                .ok()
                .and_then(|state| state.outgoing.get(&body));
            streams::send(sender.cloned(), piece).boxed()
        }
        Operation::Finish(body) => {
            let sender = CallState::of(host)
                .ok()
                .and_then(|state| state.outgoing.remove(&body));
            streams::finish(sender).boxed()
        }
        Operation::Receive(socket) => {
            let state = CallState::of(host).ok();
            let slot = state.and_then(|state| state.sockets.get(&socket).cloned());
            sockets::receive(slot).boxed()
        }
        Operation::Connect(head) => match sockets::connect(host, id, &head) {
            Ok(opening) => opening.boxed(),
            Err(failure) => std::future::ready(Err(failure)).boxed(),
        },
        Operation::Store(operation) => store::start(host, operation),
        Operation::File(call) => {
            let directories = host.directories().clone();
            async move {
                let _place = files.acquire_owned().await;
                tokio::task::spawn_blocking(move || files::run(&directories, call))
                    .await
                    .unwrap_or_else(|error| Err(KitException::new("EIO", error.to_string())))
                    .map(|(text, bytes)| OperationOutput {
                        text,
                        bytes,
                        learned: None,
                    })
            }
            .boxed()
        }
        Operation::Failed(failure) => std::future::ready(Err(failure)).boxed(),
    };
    let state = CallState::of(host).map_err(|_| "no state")?;
    let (handle, registration) = AbortHandle::new_pair();
    state.cancel.insert(id, handle);
    let future = Abortable::new(future, registration);
    let done = async move {
        FinishedOperation {
            id,
            result: future.await.ok(),
            _charge: charge,
        }
    };
    state.pending.push(done.boxed());
    Ok(())
}

/// A body that the kit reads piece by piece.
fn incoming(host: &mut Host, body: u64) -> Option<Incoming> {
    CallState::of(host).ok()?.incoming.get(&body).cloned()
}

/// Sends a request. The body of its response is read by the kit, unless it is short.
fn fetch(
    host: &mut Host,
    id: u64,
    head: &str,
    body: Option<Bytes>,
) -> Result<BoxFuture<'static, OperationResult>, KitException> {
    let no_state = |_| KitException::new("Error", "no state");
    let body = match body {
        Some(bytes) => RequestBody::Collected(bytes),
        None => {
            let (sender, stream) = BodySender::new();
            let state = CallState::of(host).map_err(no_state)?;
            state.outgoing.insert(id, Arc::new(sender));
            RequestBody::Stream(stream)
        }
    };
    let sending = request(head, body).and_then(|request| {
        let sending = host.stream_http(request);
        sending.map_err(|failure| KitException::http_failure(&failure))
    });
    let state = CallState::of(host).map_err(no_state)?;
    let sending = sending.inspect_err(|_| drop(state.outgoing.remove(&id)))?;
    // There before the response is: the kit knows its number.
    let slot: Incoming = Arc::default();
    state.incoming.insert(id, slot.clone());
    Ok(async move {
        let response = sending
            .await
            .map_err(|failure| KitException::http_failure(&failure))?;
        let (head, body) = response.into_parts();
        let size = body.known_size();
        let bytes = match size {
            Some(size) if size <= SHORT => {
                let read = body.read_all().await;
                Some(read.map_err(|error| KitException::http_failure(&error.into()))?)
            }
            _ => {
                *slot.lock().await = Some(IncomingBody::Response(Box::new(body)));
                None
            }
        };
        Ok(respond(&head, bytes))
    }
    .boxed())
}

/// Cancels an operation. Its permit and its connection are freed at the next event.
pub(super) fn cancel(host: &mut Host, id: u64) {
    if let Ok(state) = CallState::of(host)
        && let Some(handle) = state.cancel.remove(&id)
    {
        handle.abort();
    }
}

/// An event that a call waits for.
pub(super) enum Event {
    Done(FinishedOperation),
    /// The kit's first timer is due.
    Timer,
    /// No event can come.
    Never,
}

/// The part of a call's state that its next event depends on. It is taken from the state while the
/// call waits: nothing of the guest runs then.
pub(super) struct Waiting {
    pending: FuturesUnordered<BoxFuture<'static, FinishedOperation>>,
    timer: Option<(Instant, Pin<Box<Sleep>>)>,
    timer_first: bool,
}

impl Waiting {
    /// `Err`: the next event has come.
    pub(super) fn of(state: &mut CallState) -> Result<Self, Box<Event>> {
        while let Some(done) = state.ended.pop_front() {
            if done.result.is_some() && state.cancel.remove(&done.id).is_some() {
                return Err(Box::new(Event::Done(done)));
            }
        }
        let timer_first = !state.was_timer || state.pending.is_empty();
        match state.wake {
            // Without a timer of the runtime.
            Some(at) if timer_first && at <= Instant::now() => {
                state.was_timer = true;
                state.wake = None;
                Err(Box::new(Event::Timer))
            }
            None if state.pending.is_empty() => Err(Box::new(Event::Never)),
            wake => Ok(Self {
                pending: std::mem::take(&mut state.pending),
                timer: wake.map(|at| (at, Box::pin(tokio::time::sleep_until(at)))),
                timer_first,
            }),
        }
    }

    /// Waits for the next event. A timer and operations take turns if both are ready.
    pub(super) async fn next(&mut self) -> Event {
        poll_fn(|context| {
            if self.timer_first && self.poll_timer(context) {
                return Poll::Ready(Event::Timer);
            }
            while let Poll::Ready(Some(done)) = self.pending.poll_next_unpin(context) {
                if done.result.is_some() {
                    return Poll::Ready(Event::Done(done));
                }
            }
            if self.poll_timer(context) {
                return Poll::Ready(Event::Timer);
            }
            match self.timer {
                None if self.pending.is_empty() => Poll::Ready(Event::Never),
                _ => Poll::Pending,
            }
        })
        .await
    }

    fn poll_timer(&mut self, context: &mut Context<'_>) -> bool {
        // The runtime's timers have a precision of a millisecond.
        self.timer.as_mut().is_some_and(|(at, timer)| {
            *at <= Instant::now() || timer.as_mut().poll(context).is_ready()
        })
    }

    /// Returns what was taken to the state.
    pub(super) fn back(self, state: &mut CallState, event: &Event) {
        state.pending = self.pending;
        state.was_timer = matches!(event, Event::Timer);
        match event {
            Event::Timer => state.wake = None,
            Event::Done(done) => drop(state.cancel.remove(&done.id)),
            Event::Never => {}
        }
    }
}

fn request(head: &str, body: RequestBody) -> Result<Request<RequestBody>, KitException> {
    let bad = |what: &str| KitException::new("TypeError", format!("fetch failed: {what}"));
    let mut parts = head.split('\0');
    let (method, url) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let mut request = Request::new(body);
    request.extensions_mut().insert(Decode::Always);
    let method = match method.strip_suffix(" manual") {
        Some(method) => {
            request.extensions_mut().insert(KeepRedirects);
            method
        }
        None => method,
    };
    *request.method_mut() = method.parse().map_err(|_| bad("the method is not valid"))?;
    // A fragment is not sent.
    let sent = url.split('#').next().unwrap_or(url);
    *request.uri_mut() = sent.parse().map_err(|_| bad("the URL is not valid"))?;
    let lines = std::iter::from_fn(|| Some((parts.next()?.as_bytes(), parts.next()?.as_bytes())));
    *request.headers_mut() = header_map(lines).map_err(|error| bad(&error.message))?;
    Ok(request)
}

/// The response as the kit reads it: status, URL, whether the URL differs from the request's,
/// reason, names and values of headers; and the body, if it is short.
fn respond(response: &response::Parts, bytes: Option<Bytes>) -> OperationOutput {
    let by = response.extensions.get::<AnsweredBy>();
    let url = by.map_or("", |by| &by.url);
    let redirected = u8::from(by.is_some_and(|by| by.redirects > 0));
    let status = response.status;
    let reason = status.canonical_reason().unwrap_or_default();
    let mut head = format!("{}\0{url}\0{redirected}\0{reason}", status.as_u16());
    for (name, value) in &response.headers {
        head.push('\0');
        head.push_str(name.as_str());
        head.push('\0');
        match std::str::from_utf8(value.as_bytes()) {
            Ok(value) => head.push_str(value),
            // Latin-1, as in the worker protocol.
            Err(_) => head.extend(value.as_bytes().iter().map(|byte| *byte as char)),
        }
    }
    OperationOutput {
        text: head,
        bytes,
        learned: None,
    }
}
