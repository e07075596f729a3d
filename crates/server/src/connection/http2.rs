//! Drives one connection of HTTP/2: h2 speaks it, each request is a task of its own, and the driver
//! bounds time and memory of the connection and of each of its streams.
//!
//! A response is handed to h2 only as far as the client lets it: what h2 holds for a stream is at
//! most [`SEND_BUFFER`], and how fast a client takes a response is seen for each stream.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    server::{Builder, Connection, SendResponse},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use wws_engine::Charge;

use crate::connection::activity::{Activity, AwaitedClient, RequestInProgress};
use crate::connection::body::Body;
use crate::connection::bounds::{Bounds, ConnectionSettings, RATE_CHECKS, bytes_in};
use crate::connection::headers;
use crate::connection::http2_socket::Http2Socket;
use crate::connection::incoming::{Http2Body, IncomingBody};
use crate::connection::socket::Socket;
use crate::connection::upgrade::{UpgradedConnection, UpgradedSocket};
use crate::connection::watch::{ConnectionEnd, Watch};

/// Bytes of a body that a client may send before a worker reads them, for a stream.
const STREAM_WINDOW: u32 = 64 << 10;

/// The same for all streams of a connection.
const CONNECTION_WINDOW: u32 = 256 << 10;

/// Bytes of a response that h2 holds for a stream.
const SEND_BUFFER: usize = 32 << 10;

/// Bytes of a response that are handed to h2 at once: the size of a frame.
const PIECE: usize = 16 << 10;

/// Bytes that a stream costs, without its headers and what the client sends: its task, and what h2
/// holds for it.
const STREAM_COST: u64 = 16 << 10;

/// Invalid streams of a connection until it is closed.
const MAX_INVALID_STREAMS: usize = 100;

/// Streams that a client may begin and reset at once.
const MAX_RESETS_AT_ONCE: usize = 20;

/// Time to tell a client that the connection closes.
const GOODBYE: Duration = Duration::from_secs(1);

/// Answers the requests of a connection. The activity is that of one request.
pub(crate) trait Handle: Clone + Send + Sync + 'static {
    fn handle(
        &self,
        activity: Arc<Activity>,
        request: Request<IncomingBody>,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// h2's settings for all connections.
pub(crate) fn builder(max_header_bytes: u64, max_streams: u32) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(max_streams)
        .enable_connect_protocol()
        .max_header_list_size(u32::try_from(max_header_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .max_local_error_reset_streams(Some(MAX_INVALID_STREAMS))
        .max_pending_accept_reset_streams(MAX_RESETS_AT_ONCE);
    builder
}

/// Serves a connection until it ends.
pub(crate) async fn serve(
    socket: Socket,
    handle: impl Handle,
    activity: Arc<Activity>,
    settings: &ConnectionSettings,
) {
    let bounds = &settings.bounds;
    let handshake = settings.http2.handshake(socket);
    let Ok(Ok(connection)) = timeout(bounds.header, handshake).await else {
        return;
    };
    let mut driver = Driver {
        connection,
        streams: JoinSet::new(),
        watch: Watch::new(activity.clone(), bounds.clone()),
        handle,
        draining: settings.draining.clone(),
        drained: false,
    };
    let mut cancelled = pin!(settings.draining.cancelled());
    let mut registered = false;
    let end = poll_fn(|context| {
        if !registered {
            registered = cancelled.as_mut().poll(context).is_pending();
        }
        activity.waiting.register(context.waker());
        driver.poll(context, settings.draining.is_cancelled())
    })
    .await;
    let reason = match end {
        Http2End::Connection(ConnectionEnd::Closed) => Reason::NO_ERROR,
        Http2End::Connection(ConnectionEnd::HeadTimeout) => Reason::PROTOCOL_ERROR,
        Http2End::Connection(ConnectionEnd::NoRoom) | Http2End::Flood => Reason::ENHANCE_YOUR_CALM,
        // The client takes nothing.
        Http2End::Connection(ConnectionEnd::Timeout) if activity.sending.is_stalled() => return,
        Http2End::Connection(ConnectionEnd::Timeout) => Reason::NO_ERROR,
        Http2End::Connection(ConnectionEnd::Http2 | ConnectionEnd::Upgraded) | Http2End::Over => {
            return;
        }
    };
    driver.streams.abort_all();
    driver.connection.abrupt_shutdown(reason);
    let _ = timeout(
        GOODBYE,
        poll_fn(|context| driver.connection.poll_closed(context)),
    )
    .await;
}

/// How a connection ended.
#[derive(Debug)]
enum Http2End {
    /// h2 has closed it.
    Over,
    /// It is to be closed.
    Connection(ConnectionEnd),
    /// The client asks for too much work besides requests.
    Flood,
}

struct Driver<H> {
    connection: Connection<Socket, Bytes>,
    streams: JoinSet<()>,
    watch: Watch,
    handle: H,
    draining: CancellationToken,
    drained: bool,
}

impl<H: Handle> Driver<H> {
    fn poll(&mut self, context: &mut Context<'_>, draining: bool) -> Poll<Http2End> {
        if draining && !self.drained {
            self.drained = true;
            self.watch.activity.sending.stop();
            self.connection.graceful_shutdown();
        }
        loop {
            match self.connection.poll_accept(context) {
                Poll::Ready(Some(Ok((request, respond)))) => self.accept(request, respond),
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!("connection: {error}");
                    return Poll::Ready(Http2End::Over);
                }
                Poll::Ready(None) => return Poll::Ready(Http2End::Over),
                Poll::Pending => break,
            }
        }
        while let Poll::Ready(Some(_)) = self.streams.poll_join_next(context) {}
        if self.watch.activity.reading.is_flood() {
            return Poll::Ready(Http2End::Flood);
        }
        self.watch.poll(context).map(Http2End::Connection)
    }

    /// Begins a request.
    fn accept(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let parent = &self.watch.activity;
        let has_body = !request.body().is_end_stream();
        let mut cost = STREAM_COST + SEND_BUFFER as u64 + header_bytes(request.headers());
        if has_body {
            cost += u64::from(STREAM_WINDOW);
        }
        let bounds = &self.watch.bounds;
        let Some(charge) = bounds.memory.charge(cost) else {
            // The client may send it again.
            respond.send_reset(Reason::REFUSED_STREAM);
            return;
        };
        let stream = Stream {
            activity: Activity::of_stream(parent),
            parent: parent.clone(),
            bounds: bounds.clone(),
            draining: self.draining.clone(),
            respond,
            client: ClientWait::default(),
            held: Arc::new(StreamReservation {
                _charge: charge,
                _in_progress: parent.begin_request().in_progress,
            }),
            waited: Duration::ZERO,
            taken: 0,
        };
        let handle = self.handle.clone();
        self.streams.spawn(stream.run(request, handle));
    }
}

/// What is kept until a stream's last byte is handed to the socket.
struct StreamReservation {
    _charge: Charge,
    _in_progress: RequestInProgress,
}

/// A part of a response that h2 holds.
struct HeldPiece(
    Bytes,
    #[allow(dead_code, reason = "dropped with the bytes")] Arc<StreamReservation>,
);

impl AsRef<[u8]> for HeldPiece {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// One request and its response.
struct Stream {
    /// That of the request.
    activity: Arc<Activity>,
    /// That of the connection.
    parent: Arc<Activity>,
    bounds: Bounds,
    /// Cancelled when the server stops.
    draining: CancellationToken,
    respond: SendResponse<Bytes>,
    client: ClientWait,
    held: Arc<StreamReservation>,
    /// How long the response has waited for the client, and what the client took, since the rate
    /// was checked.
    waited: Duration,
    taken: u64,
}

/// Why a stream ends before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamEnd {
    /// The client has reset it, or the connection is gone.
    ByClient,
    /// The client is too slow, or its place is needed.
    TooSlow,
    /// The worker failed.
    Failed,
}

/// Whether a stream waits for its client.
#[derive(Default)]
struct ClientWait(Option<AwaitedClient>);

impl ClientWait {
    fn set(&mut self, waits: bool, stream: &Activity, parent: &Arc<Activity>, limit: Duration) {
        if waits != self.0.is_some() {
            self.0 = waits.then(|| parent.await_client());
            stream.waiting.begin(waits.then_some(limit));
        }
    }
}

impl Stream {
    async fn run(mut self, request: Request<RecvStream>, handle: impl Handle) {
        match self.answer(request, handle).await {
            Ok(()) => self.parent.reading.answered(),
            Err(StreamEnd::ByClient) => {
                self.parent.reading.cancelled();
                self.parent.waiting.wake();
            }
            Err(StreamEnd::TooSlow) => self.respond.send_reset(Reason::ENHANCE_YOUR_CALM),
            Err(StreamEnd::Failed) => self.respond.send_reset(Reason::INTERNAL_ERROR),
        }
    }

    async fn answer(
        &mut self,
        request: Request<RecvStream>,
        handle: impl Handle,
    ) -> Result<(), StreamEnd> {
        let (request, socket) = match ExtendedConnect::of(&request) {
            Some(asked) => {
                let (request, receive) = asked.accept(request);
                (request, Some(receive))
            }
            None => (self.incoming(request), None),
        };
        let method = request.method().clone();
        let mut response = {
            let mut handling = pin!(handle.handle(self.activity.clone(), request));
            poll_fn(|context| match handling.as_mut().poll(context) {
                Poll::Ready(response) => Poll::Ready(Ok(response)),
                Poll::Pending => self.poll_end(context).map(Err),
            })
            .await?
        };
        if let Some(upgrade) = response.body_mut().take_upgrade() {
            clean(response.headers_mut());
            let sent = self.respond.send_response(response.map(drop), false);
            let (Ok(send), Some(receive)) = (sent, socket) else {
                return Err(StreamEnd::Failed);
            };
            let (activity, parent) = (self.activity.clone(), self.parent.clone());
            let socket = Http2Socket::new(receive, send, activity.clone(), parent);
            let connection = UpgradedConnection {
                socket: UpgradedSocket::Http2(socket),
                read: Bytes::new(),
                activity,
                bounds: self.bounds.clone(),
                draining: self.draining.clone(),
            };
            Box::pin(upgrade.run(connection)).await;
            return Ok(());
        }
        let has_content = !headers::has_no_body(&method, response.status());
        let length = response.body().size_hint().exact();
        clean(response.headers_mut());
        if let Some(length) = length
            && (has_content || method == Method::HEAD && length > 0)
        {
            let headers = response.headers_mut();
            headers
                .entry(header::CONTENT_LENGTH)
                .or_insert_with(|| length.into());
        }
        let is_empty = !has_content || response.body().is_end_stream();
        let (head, body) = response.into_parts();
        let sent = self
            .respond
            .send_response(Response::from_parts(head, ()), is_empty);
        let send = sent.map_err(|error| {
            tracing::debug!("response: {error}");
            StreamEnd::Failed
        })?;
        if is_empty {
            return Ok(());
        }
        self.send(send, body).await
    }

    /// The request as the rest of the server knows it.
    fn incoming(&mut self, request: Request<RecvStream>) -> Request<IncomingBody> {
        let (mut head, body) = request.into_parts();
        join_cookies(&mut head.headers);
        let expects = head.headers.get(header::EXPECT);
        if expects.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
            let mut goes_on = Response::new(());
            *goes_on.status_mut() = StatusCode::CONTINUE;
            let _ = self.respond.send_informational(goes_on);
        }
        let body = Http2Body::new(body, &head.headers);
        Request::from_parts(head, IncomingBody::Http2(body))
    }

    /// Waits for what ends the stream while its worker is awaited.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<StreamEnd> {
        if self.respond.poll_reset(context).is_ready() {
            return Poll::Ready(StreamEnd::ByClient);
        }
        let uploads = self.activity.reading.is_uploading();
        self.poll_client(uploads, context)
    }

    /// Records whether the client is awaited. Ready if its place is needed.
    fn poll_client(&mut self, awaited: bool, context: &mut Context<'_>) -> Poll<StreamEnd> {
        let waiting = &self.activity.waiting;
        self.client
            .set(awaited, &self.activity, &self.parent, self.bounds.write);
        waiting.register(context.waker());
        if waiting.take_evicted() && waiting.used().is_some() {
            return Poll::Ready(StreamEnd::TooSlow);
        }
        Poll::Pending
    }

    /// Sends a body as far as the client takes it.
    async fn send(&mut self, mut send: SendStream<Bytes>, body: Body) -> Result<(), StreamEnd> {
        let mut body = pin!(body);
        loop {
            let frame = poll_fn(|context| {
                if send.poll_reset(context).is_ready() {
                    return Poll::Ready(Err(StreamEnd::ByClient));
                }
                match body.as_mut().poll_frame(context) {
                    Poll::Ready(frame) => Poll::Ready(Ok(frame)),
                    Poll::Pending => {
                        let uploads = self.activity.reading.is_uploading();
                        self.poll_client(uploads, context).map(Err)
                    }
                }
            })
            .await?;
            let failed = |_| StreamEnd::ByClient;
            let Some(frame) = frame else {
                return send.send_data(Bytes::new(), true).map_err(failed);
            };
            let frame = frame.map_err(|_| StreamEnd::Failed)?;
            let mut data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) => return send.send_trailers(trailers).map_err(failed),
                    Err(_) => continue,
                },
            };
            let is_last = body.is_end_stream();
            if data.is_empty() && is_last {
                return send.send_data(data, true).map_err(failed);
            }
            while !data.is_empty() {
                let room = self.room(&mut send, data.len().min(PIECE)).await?;
                let piece = data.split_to(room.min(data.len()));
                self.taken += piece.len() as u64;
                self.parent.reading.sent_piece();
                let ends = is_last && data.is_empty();
                let piece = Bytes::from_owner(HeldPiece(piece, self.held.clone()));
                send.send_data(piece, ends).map_err(failed)?;
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Waits until the client takes more, at most `wanted` bytes.
    async fn room(
        &mut self,
        send: &mut SendStream<Bytes>,
        wanted: usize,
    ) -> Result<usize, StreamEnd> {
        send.reserve_capacity(wanted);
        let room = send.capacity();
        if room > 0 {
            return Ok(room);
        }
        let mut since = Instant::now();
        let room = loop {
            let time = self.rate_time().saturating_sub(self.waited);
            let room = timeout(
                time,
                poll_fn(|context| {
                    loop {
                        match send.poll_capacity(context) {
                            // The next call waits.
                            Poll::Ready(Some(Ok(0))) => {}
                            Poll::Ready(Some(Ok(room))) => return Poll::Ready(Ok(room)),
                            Poll::Ready(None | Some(Err(_))) => {
                                return Poll::Ready(Err(StreamEnd::ByClient));
                            }
                            Poll::Pending => return self.poll_client(true, context).map(Err),
                        }
                    }
                }),
            )
            .await;
            self.waited += since.elapsed();
            since = Instant::now();
            if self.waited >= self.rate_time() && !self.is_fast_enough() {
                break Err(StreamEnd::TooSlow);
            }
            if let Ok(room) = room {
                break room;
            }
        };
        self.client
            .set(false, &self.activity, &self.parent, self.bounds.write);
        room
    }

    /// The time in which a client must have taken enough.
    fn rate_time(&self) -> Duration {
        if self.bounds.memory.is_short() {
            self.bounds.write / RATE_CHECKS
        } else {
            self.bounds.write
        }
    }

    /// Whether the client took enough while it was awaited. Begins the next average.
    fn is_fast_enough(&mut self) -> bool {
        let (bounds, waited) = (&self.bounds, self.waited);
        let mut minimum = bytes_in(bounds.min_rate, waited);
        if bounds.memory.is_short() {
            minimum = minimum.max(self.activity.sending.held() / u64::from(RATE_CHECKS));
        }
        let enough = self.taken >= minimum.max(1);
        (self.waited, self.taken) = (Duration::ZERO, 0);
        enough
    }
}

/// Marks a request that asks for a WebSocket by an extended CONNECT (RFC 8441).
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExtendedConnect;

impl ExtendedConnect {
    fn of(request: &Request<RecvStream>) -> Option<Self> {
        let protocol = request.extensions().get::<h2::ext::Protocol>()?;
        let asks = request.method() == Method::CONNECT && protocol.as_str() == "websocket";
        asks.then_some(Self)
    }

    /// The request as workers know it from HTTP/1.1, and what the client sends on the socket.
    fn accept(self, request: Request<RecvStream>) -> (Request<IncomingBody>, RecvStream) {
        let (mut head, receive) = request.into_parts();
        head.method = Method::GET;
        head.extensions.insert(self);
        join_cookies(&mut head.headers);
        let headers = &mut head.headers;
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        (Request::from_parts(head, IncomingBody::Empty), receive)
    }
}

/// Bytes of headers, as HTTP/2 counts them.
fn header_bytes(headers: &HeaderMap) -> u64 {
    let sizes = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32);
    sizes.sum::<usize>() as u64
}

/// HTTP/2 may split cookies; workers know one header (RFC 9113, 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(_)) = (cookies.next(), cookies.next()) else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for cookie in headers.get_all(header::COOKIE).iter().skip(1) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(cookie.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Removes headers of the connection, which HTTP/2 does not have, and adds the date.
fn clean(headers: &mut HeaderMap) {
    if let Some(connection) = headers.remove(header::CONNECTION) {
        let names = connection.to_str().unwrap_or_default().split(',');
        for name in names.filter_map(|name| name.trim().parse::<HeaderName>().ok()) {
            headers.remove(name);
        }
    }
    headers::remove_hop_headers(headers);
    let date = || HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now()));
    if !headers.contains_key(header::DATE)
        && let Ok(date) = date()
    {
        headers.insert(header::DATE, date);
    }
}
