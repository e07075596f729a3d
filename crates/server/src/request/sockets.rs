//! WebSockets: a worker's acceptance, and the connection from then on.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll};

use futures_util::FutureExt;
use http::{Response, StatusCode, Version, header, response::Parts};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use wws_engine::{Account, CallError, Charge, GuestSocket};
use wws_project::Worker;
use wws_websocket::{BadOffer, Close, Connection, Deflate, Offer, Role, SocketOutcome, code};

use crate::connection::body::Body;
use crate::connection::upgrade::UpgradedConnection;
use crate::connection::watch::Watch;
use crate::request::access::{AbortedBy, StreamRecord};
use crate::request::context::RequestContext;
use crate::request::page::{BUSY_TEXT, INTERNAL_ERROR_TEXT};
use crate::request::stream;

/// The sockets that may be open at once.
pub(crate) struct Sockets {
    places: Arc<Semaphore>,
    /// How many places there are.
    limit: usize,
    /// What the guests of all sockets may begin with, three quarters of the memory: the rest is for
    /// other calls.
    memory: Account,
    /// What incomplete messages are charged to.
    account: Account,
}

/// Divisor: so much of the connections may be sockets.
const CONNECTIONS_PART: u64 = 2;

/// The right to have a socket open, until it is dropped.
struct SocketPlace {
    _permit: OwnedSemaphorePermit,
    _memory: Charge,
}

/// What a client asks for.
#[derive(Clone, Debug)]
pub(crate) struct SocketRequest {
    pub(crate) version: Version,
    pub(crate) offer: Result<Offer, BadOffer>,
    /// Whether it is an extended CONNECT of HTTP/2.
    pub(crate) is_extended_connect: bool,
    /// Whether messages may be compressed (`server.compression`).
    pub(crate) compression: bool,
}

impl Sockets {
    /// At most `max` sockets, of so many connections.
    pub(crate) fn new(max: u32, connections: u64, memory: u64, account: &Account) -> Self {
        let limit = u64::from(max).min(connections / CONNECTIONS_PART);
        let limit = usize::try_from(limit).unwrap_or(0);
        Self {
            places: Arc::new(Semaphore::new(limit)),
            limit,
            memory: Account::new(memory / 4 * 3),
            account: account.clone(),
        }
    }

    /// The sockets that are open, and how many may be as far as memory allows.
    pub(crate) fn count(&self) -> (usize, usize) {
        let free = self.places.available_permits();
        (self.limit.saturating_sub(free), self.limit)
    }

    fn enter(&self, cost: u64) -> Option<SocketPlace> {
        Some(SocketPlace {
            _permit: self.places.clone().try_acquire_owned().ok()?,
            _memory: self.memory.charge(cost)?,
        })
    }

    /// The response to a client whose socket a worker has accepted. `cost` is what the worker's
    /// call began with.
    pub(crate) fn accept(
        &self,
        context: &mut RequestContext<'_>,
        worker: &Worker,
        request: &SocketRequest,
        mut head: Parts,
        guest: Box<GuestSocket>,
        cost: u64,
    ) -> Response<Body> {
        if request.version == Version::HTTP_2 && !request.is_extended_connect {
            let text = "A WebSocket begins with HTTP/1.1, or with an extended CONNECT of HTTP/2.";
            return context.page(StatusCode::NOT_IMPLEMENTED, text);
        }
        let offer = match &request.offer {
            Ok(offer) => offer,
            Err(bad) => {
                let mut page = context.page(bad.status(), &format!("{}.", sentence(*bad)));
                page.headers_mut().extend(bad.headers());
                return page;
            }
        };
        stream::clean(&mut head.headers);
        let mut protocols = head.headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
        if let Some(protocol) = protocols.next()
            && (protocols.next().is_some()
                || !protocol.to_str().is_ok_and(|protocol| offer.has(protocol)))
        {
            tracing::error!(
                worker = worker.name,
                request_id = context.id,
                "the worker chose {protocol:?}, a protocol that the client did not offer"
            );
            return context.page(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL_ERROR_TEXT);
        }
        let Some(place) = self.enter(cost) else {
            tracing::warn!(
                worker = worker.name,
                request_id = context.id,
                "no place for another WebSocket (`server.max_sockets`)"
            );
            return context.page(StatusCode::SERVICE_UNAVAILABLE, BUSY_TEXT);
        };
        for name in [
            header::CONNECTION,
            header::CONTENT_LENGTH,
            header::CONTENT_TYPE,
            header::SEC_WEBSOCKET_EXTENSIONS,
            header::SEC_WEBSOCKET_VERSION,
        ] {
            head.headers.remove(name);
        }
        head.headers.extend(offer.accept());
        let deflate = offer.deflate().filter(|_| request.compression);
        if let Some(deflate) = deflate {
            let extensions = header::SEC_WEBSOCKET_EXTENSIONS;
            head.headers.insert(extensions, deflate.header());
        }
        head.status = match request.is_extended_connect {
            true => StatusCode::OK,
            false => StatusCode::SWITCHING_PROTOCOLS,
        };
        let mut record = StreamRecord::new(
            &mut context.access,
            context.series.clone(),
            head.status,
            &context.id,
            &worker.name,
        );
        // Until it has ended.
        record.aborted(AbortedBy::Client);
        let open = OpenSocket {
            guest,
            deflate,
            record,
            memory: self.account.clone(),
            place,
        };
        let takeover = Box::new(move |connection| open.run(connection).boxed());
        Response::from_parts(head, Body::upgrade(takeover))
    }
}

/// What is wrong, as a sentence of a page.
fn sentence(bad: BadOffer) -> String {
    let text = bad.to_string();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => text,
    }
}

/// A socket and its guest.
struct OpenSocket {
    guest: Box<GuestSocket>,
    deflate: Option<Deflate>,
    record: StreamRecord,
    memory: Account,
    place: SocketPlace,
}

impl OpenSocket {
    /// Drives the socket to its end, and then the guest to its own.
    async fn run(mut self, upgraded: UpgradedConnection) {
        let UpgradedConnection {
            socket,
            read,
            activity,
            bounds,
            draining,
        } = upgraded;
        let Some(end) = self.guest.take_end() else {
            return;
        };
        let limits = self.guest.limits().clone();
        let charge = Box::new(self.memory.nothing());
        let mut connection = Connection::new(socket, read, Role::Server, end, limits, charge);
        connection.set_deflate(self.deflate);
        if self.guest.has_ended() {
            connection.close_at_end(Close::with(code::NORMAL, ""));
        }
        let mut watch = Watch::new(activity.clone(), bounds);
        let mut cancelled = pin!(draining.cancelled());
        let mut has_failed = false;
        let ended = poll_fn(|context| {
            activity.waiting.register(context.waker());
            if draining.is_cancelled() || cancelled.as_mut().poll(context).is_ready() {
                connection.close(&Close::with(code::GOING_AWAY, "the server stops"));
            }
            if let Poll::Ready(result) = self.guest.poll_guest(context) {
                connection.close_at_end(match result {
                    Ok(()) => Close::with(code::NORMAL, ""),
                    Err(error) => {
                        has_failed = true;
                        log_failure(&self.record, &error);
                        Close::with(code::INTERNAL, "the worker failed")
                    }
                });
            }
            match connection.poll(context) {
                Poll::Ready(ended) => Poll::Ready(Some(ended)),
                // A client that is too slow.
                Poll::Pending => watch.poll(context).map(|_| None),
            }
        })
        .await;
        if ended.is_none() {
            connection.abandon();
        }
        let sent = usize::try_from(connection.sent()).unwrap_or(usize::MAX);
        self.record.sent(sent);
        if has_failed {
            self.record.aborted(AbortedBy::Worker);
        } else if draining.is_cancelled() {
            self.record.aborted(AbortedBy::Shutdown);
        } else if ended == Some(SocketOutcome::Clean) {
            self.record.completed();
        }
        let Self {
            guest,
            record,
            place,
            ..
        } = self;
        let (worker, request_id) = (record.worker.clone(), record.request_id.clone());
        // The access log has the socket's end, not the guest's.
        drop(record);
        let takes = matches!(ended, Some(SocketOutcome::Clean | SocketOutcome::Failed(_)));
        let closing = connection.into_stream().finish(takes);
        tokio::join!(closing, finish(guest, &worker, &request_id));
        drop(place);
    }
}

/// Lets the guest of a socket that is closed end, within its time.
async fn finish(mut guest: Box<GuestSocket>, worker: &str, request_id: &str) {
    if guest.has_ended() {
        return;
    }
    let after = guest.after();
    let failure = match timeout(after, poll_fn(|context| guest.poll_guest(context))).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(_) => CallError::WallTime(after),
    };
    tracing::error!(
        worker,
        request_id,
        "after the WebSocket was closed: {failure}"
    );
}

fn log_failure(record: &StreamRecord, error: &CallError) {
    tracing::error!(
        worker = record.worker,
        request_id = record.request_id,
        trace_id = record.trace().trace_id(),
        span_id = record.trace().span_id(),
        "in a WebSocket: {error}"
    );
}
