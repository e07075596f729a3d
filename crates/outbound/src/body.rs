//! Bodies of responses, read as they come, within their limits and the available memory.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use url::Host;

use crate::{
    coding::Coding,
    decode::{DecodeStep, Decoder, Problem},
    error::{Error, ErrorKind, Reason, chain},
    exchange::Exchange,
    headers,
    memory::{Buffer, Memory},
    sending::Progress,
};

/// Bytes of a redirect's body that are read so that its connection can be used again.
const MAX_REDIRECT_BODY: u64 = 16 << 10;

/// Bytes after the end of decoded data that are read so that the connection can be used again.
const MAX_GARBAGE: usize = 64 << 10;

/// Limits of a response's body.
#[derive(Clone, Copy)]
pub(crate) struct BodyLimits {
    /// The maximum number of bytes, before and after decoding.
    pub(crate) bytes: Option<u64>,
    /// How long it waits for the next piece.
    pub(crate) idle: Option<Duration>,
    /// The number of decoded bytes above which the ratio of decoded to received bytes is limited.
    pub(crate) expanded: u64,
}

/// The body of a response, read as it comes.
///
/// Nothing is read ahead of the reader, apart from the connection's buffer. Dropping the body
/// before its end closes the connection, and with it the body of a request that is still being
/// sent.
pub struct ResponseBody {
    wire: Wire,
    decoder: Option<Decoder>,
    memory: Memory,
    /// Other tasks run between two large pieces of decoded data.
    yields: bool,
    /// Bytes after the end of decoded data.
    garbage: usize,
}

/// The body as the connection has it.
struct Wire {
    host: Host,
    body: Incoming,
    received: u64,
    limits: BodyLimits,
    progress: Arc<Progress>,
    exchange: Option<Exchange>,
    has_ended: bool,
    /// Since when the reader waits.
    waits: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    fn wrong(&self, what: impl std::fmt::Display) -> Error {
        Error::new(
            ErrorKind::InvalidResponseBody,
            format!("the answer of `{}` {what}", self.host),
        )
    }

    fn too_large(&self) -> Error {
        let limit = self.limits.bytes.unwrap_or(0);
        self.wrong(format_args!("is larger than {limit} bytes"))
            .because(Reason::TooLarge)
    }

    fn no_memory(&self) -> Error {
        let text = format!(
            "no memory left for the answer of `{}`: too many or too large answers at once",
            self.host
        );
        Error::new(ErrorKind::InvalidResponseBody, text).because(Reason::NoMemory)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.waits = None;
                if let Some(data) = frame.data_ref() {
                    self.received += data.len() as u64;
                    if self.limits.bytes.is_some_and(|limit| self.received > limit) {
                        return self.fail(self.too_large());
                    }
                }
                if self.body.is_end_stream() {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let broken = || {
                    self.wrong(format_args!("broke off: {}", chain(&error)))
                        .because(Reason::of_hyper(&error))
                };
                let error = self.progress.failure().unwrap_or_else(broken);
                self.fail(error)
            }
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
            Poll::Pending => {
                let Some(idle) = self.limits.idle else {
                    return Poll::Pending;
                };
                ready!(self.poll_idle(idle, cx));
                let text = format!("`{}` sent nothing for {idle:?}", self.host);
                self.fail(Error::new(ErrorKind::Timeout, text).because(Reason::IdleTimeout))
            }
        }
    }

    /// Ready once the reader has waited for so long, and no piece of the request was sent either.
    fn poll_idle(&mut self, idle: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waits.get_or_insert_with(Instant::now);
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(since + idle)));
        loop {
            // It is not reset for every piece: it fires early, and is set again.
            ready!(timer.as_mut().poll(cx));
            let deadline = since.max(self.progress.last()) + idle;
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }

    fn fail<T>(&mut self, error: Error) -> Poll<Option<Result<T, Error>>> {
        self.has_ended = true;
        self.exchange = None;
        Poll::Ready(Some(Err(error)))
    }

    fn end(&mut self) {
        self.has_ended = true;
        if let Some(exchange) = &mut self.exchange {
            exchange.is_answered = true;
            if exchange.is_over() {
                self.exchange = None;
            }
        }
    }
}

impl ResponseBody {
    pub(crate) fn new(
        host: Host,
        body: Incoming,
        limits: BodyLimits,
        codings: &[Coding],
        memory: Memory,
        progress: Arc<Progress>,
        exchange: Exchange,
    ) -> Result<Self, Error> {
        let mut wire = Wire {
            host,
            limits,
            received: 0,
            progress,
            exchange: Some(exchange),
            has_ended: false,
            waits: None,
            timer: None,
            body,
        };
        let least = wire.body.size_hint().lower();
        if limits.bytes.is_some_and(|limit| least > limit) {
            return Err(wire.too_large());
        }
        if wire.body.is_end_stream() {
            wire.end();
        }
        let decoder = match codings {
            [] => None,
            codings => Some(
                Decoder::new(codings, limits.bytes, &memory)
                    .map_err(|problem| undecoded(&wire, codings, problem))?,
            ),
        };
        Ok(Self {
            wire,
            decoder,
            memory,
            yields: false,
            garbage: 0,
        })
    }

    /// The next frame, whose data is not charged yet.
    fn poll_uncharged(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(decoder) = &mut self.decoder else {
            return self.wire.poll_frame(cx);
        };
        if std::mem::take(&mut self.yields) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            match decoder.step() {
                Ok(DecodeStep::Piece(piece)) => {
                    self.yields = piece.len() >= Decoder::PIECE / 2;
                    if decoder.expands_beyond(self.wire.limits.expanded) {
                        let what = "expands too much when it is decoded";
                        let error = self.wire.wrong(what).because(Reason::TooLarge);
                        return self.wire.fail(error);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                Ok(step) => match ready!(self.wire.poll_frame(cx)) {
                    Some(Ok(frame)) => match (frame.into_data(), step) {
                        (Ok(data), DecodeStep::End) => {
                            self.garbage += data.len();
                            if self.garbage > MAX_GARBAGE {
                                self.wire.has_ended = true;
                                self.wire.exchange = None;
                            }
                        }
                        (Ok(data), _) => decoder.feed(data),
                        // Trailers may come only after the last piece.
                        (Err(trailers), DecodeStep::End) => return Poll::Ready(Some(Ok(trailers))),
                        (Err(trailers), _) => decoder.feed_end(Some(trailers)),
                    },
                    Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                    None if matches!(step, DecodeStep::End) => {
                        return Poll::Ready(decoder.trailers().map(Ok));
                    }
                    None => decoder.feed_end(None),
                },
                Err(problem) => {
                    let error = undecoded(&self.wire, decoder.codings(), problem);
                    return self.wire.fail(error);
                }
            }
        }
    }

    /// The number of bytes that are left, if it is known.
    #[must_use]
    pub fn known_size(&self) -> Option<u64> {
        self.size_hint().exact()
    }

    /// Reads the rest of the body, if it is not larger than the policy lets a collected response
    /// be. The bytes stay charged until they are dropped.
    ///
    /// # Errors
    /// The body is larger, or ended early.
    pub async fn read_all(mut self) -> Result<Bytes, Error> {
        let most = self.wire.limits.expanded;
        let limit = self.wire.limits.bytes.map_or(most, |limit| limit.min(most));
        self.wire.limits.bytes = Some(limit);
        if self.wire.body.size_hint().lower() > limit {
            return Err(self.wire.too_large());
        }
        if let Some(decoder) = &mut self.decoder {
            decoder.limit_to(limit);
        }
        self.collect().await
    }

    /// Reads the whole body. The bytes stay charged until they are dropped.
    pub(crate) async fn collect(mut self) -> Result<Bytes, Error> {
        let limit = self.wire.limits.bytes.unwrap_or(u64::MAX);
        // The declared length is not reserved in advance, but it bounds the buffer.
        let most = match self.decoder {
            None => self.wire.body.size_hint().upper().unwrap_or(limit),
            Some(_) => limit,
        };
        let mut first = Bytes::new();
        let mut part = self.memory.part();
        let mut all = Buffer::new(&self.memory);
        while let Some(frame) = std::future::poll_fn(|cx| self.poll_uncharged(cx)).await {
            // The guest's interface has no trailers.
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            if first.is_empty() && all.len() == 0 {
                // Most responses are one frame, which is not copied.
                if !part.grow_to(data.len() as u64) {
                    return Err(self.wire.no_memory());
                }
                first = data;
                continue;
            }
            part.shrink_to(0);
            if !all.reserve(first.len() + data.len(), most.min(limit)) {
                return Err(self.wire.no_memory());
            }
            all.extend(&std::mem::take(&mut first));
            all.extend(&data);
        }
        Ok(if all.len() == 0 {
            part.hold(first)
        } else {
            all.freeze()
        })
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let frame = match ready!(this.poll_uncharged(cx)) {
            Some(Ok(frame)) => frame,
            other => return Poll::Ready(other),
        };
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                return Poll::Ready(frame.into_trailers().ok().map(|mut trailers| {
                    headers::strip_connection(&mut trailers);
                    Ok(Frame::trailers(trailers))
                }));
            }
        };
        let mut part = this.memory.part();
        if !part.grow_to(data.len() as u64) {
            let error = this.wire.no_memory();
            return this.wire.fail(error);
        }
        Poll::Ready(Some(Ok(Frame::data(part.hold(data)))))
    }

    fn is_end_stream(&self) -> bool {
        self.decoder.is_none() && self.wire.has_ended
    }

    fn size_hint(&self) -> SizeHint {
        match self.decoder {
            None => self.wire.body.size_hint(),
            Some(_) => SizeHint::new(),
        }
    }
}

fn undecoded(wire: &Wire, codings: &[Coding], problem: Problem) -> Error {
    match problem {
        Problem::TooLarge => wire.too_large(),
        Problem::NoMemory => wire.no_memory(),
        Problem::Broken(what) => {
            let names = codings.iter().map(|coding| match coding {
                Coding::Gzip => "gzip",
                Coding::Deflate => "deflate",
                Coding::Brotli => "br",
            });
            let names = names.collect::<Vec<_>>().join(", ");
            wire.wrong(format_args!("cannot be decoded as {names}: {what}"))
                .because(Reason::Coding)
        }
    }
}

/// Reads the rest of a redirect if it is short: an unread body costs the connection.
pub(crate) async fn discard(body: Incoming, mut exchange: Exchange) {
    let size = body.size_hint().upper();
    if size.is_none_or(|size| size > MAX_REDIRECT_BODY) {
        return;
    }
    // A failure does not matter: the next hop does.
    let read = tokio::time::timeout(Duration::from_millis(100), body.collect()).await;
    exchange.is_answered = matches!(read, Ok(Ok(_)));
}
