//! Drives a socket after the handshake: between a connection and the worker's end.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::charge::MemoryCharge;
use crate::close::{Close, code};
use crate::deflate::{self, Deflate};
use crate::frames::{self, Decoder, Incoming, Role};
use crate::limits::Limits;
use crate::queue::{End, Event, Message, NotSent};

/// Bytes of a frame that is sent: longer messages are sent in several, so that no buffer is larger.
const PIECE: usize = 16 << 10;

/// Bytes that are read at once.
const READ: usize = 4 << 10;

/// So many bytes of one message show that the peer is there.
const PROGRESS: u64 = 4 << 10;

/// Messages after which other tasks get a turn.
const TURN: u32 = 64;

/// Time for the peer to answer a close, and to take the last bytes.
const CLOSING: Duration = Duration::from_secs(5);

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketOutcome {
    /// Both sides have sent a close.
    Clean,
    /// The connection was lost before.
    Lost,
    /// The peer did not answer a close, or a ping, or took nothing.
    Silent,
    /// The peer broke the protocol or a limit; this code was sent.
    Failed(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// A close was sent and is to be answered.
    Closing,
    /// The last frame is being sent; then this is the end.
    Leaving(SocketOutcome),
    Over(SocketOutcome),
}

/// A socket after the handshake.
pub struct Connection<S> {
    stream: S,
    role: Role,
    decoder: Decoder,
    /// What was read and is not decoded.
    read: Bytes,
    buffer: Box<[u8; READ]>,
    /// What is to be written, and what the stream may have to flush.
    out: Vec<u8>,
    written: usize,
    flushing: bool,
    /// The answer to the last ping.
    pong: Option<Bytes>,
    end: End,
    limits: Limits,
    phase: Phase,
    /// Whether messages are compressed.
    deflates: bool,
    /// What is left of a long message.
    sending: Option<MessageRest>,
    /// The close that is sent when the worker's messages are.
    last: Option<Close>,
    /// Bytes of messages that were sent.
    sent: u64,
    /// Something of the peer is awaited, since or last heard at this time.
    listening: bool,
    heard: Instant,
    /// Bytes of the message that was coming then.
    collected: u64,
    /// When a ping was sent, if nothing was heard since.
    pinged: Option<Instant>,
    /// When sending began to make no progress.
    stalled: Option<Instant>,
    opened: Instant,
    /// When a close must have been answered.
    closes: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
    armed: Option<Instant>,
}

/// What is left of a message that is sent.
struct MessageRest {
    /// The opcode of the next frame.
    opcode: u8,
    bytes: Bytes,
    is_compressed: bool,
}

/// A frame of a message.
struct Piece {
    opcode: u8,
    is_final: bool,
    content: Bytes,
    /// Bytes of the message.
    len: u64,
}

/// What a time limit asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Ping,
    Silence,
    Stall,
    TimeOver,
    NoAnswer,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// A socket on `stream`, from which `read` was read already. `charge` is for messages that have
    /// not come completely.
    pub fn new(
        stream: S,
        read: Bytes,
        role: Role,
        end: End,
        limits: Limits,
        charge: Box<dyn MemoryCharge>,
    ) -> Self {
        let now = Instant::now();
        Self {
            stream,
            role,
            decoder: Decoder::new(role, limits.frame, limits.message, charge),
            read,
            buffer: Box::new([0; READ]),
            out: Vec::new(),
            written: 0,
            flushing: false,
            pong: None,
            end,
            limits,
            phase: Phase::Open,
            deflates: false,
            sending: None,
            last: None,
            sent: 0,
            listening: true,
            heard: now,
            collected: 0,
            pinged: None,
            stalled: None,
            opened: now,
            closes: None,
            sleep: None,
            armed: None,
        }
    }

    /// Compresses messages as it was negotiated, and takes compressed ones.
    pub fn set_deflate(&mut self, deflate: Option<Deflate>) {
        self.deflates = deflate.is_some();
        self.decoder.set_deflate(deflate);
    }

    /// Bytes of messages that were sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// The stream, of a socket that has ended.
    pub fn into_stream(self) -> S {
        self.stream
    }

    /// Closes the socket now: messages that wait are not sent.
    pub fn close(&mut self, close: &Close) {
        if self.phase == Phase::Open {
            self.begin_close(close);
        }
    }

    /// Ends the socket without a close: the peer is of no use.
    pub fn abandon(&mut self) {
        self.end_with(SocketOutcome::Lost);
    }

    /// Closes the socket when the worker's messages are sent and the worker is gone.
    pub fn close_at_end(&mut self, close: Close) {
        self.last.get_or_insert(close);
    }

    /// Drives the socket until it has ended.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<SocketOutcome> {
        for _ in 0..TURN {
            let wrote = self.write(context);
            let read = self.read(context);
            if let Phase::Over(ended) = self.phase {
                return Poll::Ready(ended);
            }
            if wrote || read {
                continue;
            }
            match self.poll_due(context) {
                Poll::Ready(due) => self.act(due),
                Poll::Pending => return Poll::Pending,
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether the peer has not taken all that was to be sent.
    fn is_sending(&self) -> bool {
        self.flushing || self.written < self.out.len()
    }

    /// Sends what can be sent. Returns whether anything was.
    fn write(&mut self, context: &mut Context<'_>) -> bool {
        let mut progress = false;
        loop {
            while self.is_sending() {
                let (stream, unsent) = (Pin::new(&mut self.stream), &self.out[self.written..]);
                let polled = match unsent {
                    [] => stream.poll_flush(context).map_ok(|()| None),
                    unsent => stream.poll_write(context, unsent).map_ok(Some),
                };
                match polled {
                    Poll::Ready(Ok(None)) => self.flushing = false,
                    Poll::Ready(Ok(Some(bytes @ 1..))) => {
                        self.written += bytes;
                        self.flushing = true;
                    }
                    Poll::Ready(Ok(Some(0)) | Err(_)) => {
                        self.end_with(SocketOutcome::Lost);
                        return true;
                    }
                    Poll::Pending => {
                        self.stalled.get_or_insert_with(Instant::now);
                        return progress;
                    }
                }
                self.stalled = None;
                progress = true;
            }
            self.out.clear();
            self.written = 0;
            if self.sending.is_none() {
                self.end.receiver.release();
            }
            match self.phase {
                Phase::Open => {}
                Phase::Closing => {
                    self.discard(context);
                    return progress;
                }
                Phase::Leaving(ended) => {
                    self.phase = Phase::Over(ended);
                    return true;
                }
                Phase::Over(_) => return progress,
            }
            if let Some(pong) = self.pong.take() {
                self.encode(frames::PONG, true, &pong);
            }
            while self.out.len() < PIECE && self.phase == Phase::Open {
                let Some(piece) = self.next_piece(context) else {
                    break;
                };
                self.sent += piece.len;
                self.encode(piece.opcode, piece.is_final, &piece.content);
            }
            if self.out.is_empty() {
                // A socket that is idle holds no buffer of what it once sent.
                if self.out.capacity() > READ {
                    self.out = Vec::new();
                }
                return progress;
            }
        }
    }

    fn encode(&mut self, opcode: u8, is_final: bool, content: &[u8]) {
        // Without random numbers for a mask, nothing can be sent.
        if frames::encode(&mut self.out, self.role, opcode, is_final, content).is_err() {
            self.end_with(SocketOutcome::Lost);
        }
    }

    /// Takes messages that are not sent any more, so that no worker waits for room.
    fn discard(&mut self, context: &Context<'_>) {
        while let Poll::Ready(Some(_)) = self.end.receiver.poll_next(context) {}
        self.end.receiver.release();
    }

    /// The next frame of a message.
    fn next_piece(&mut self, context: &Context<'_>) -> Option<Piece> {
        let MessageRest {
            mut opcode,
            bytes: mut rest,
            mut is_compressed,
        } = match self.sending.take() {
            Some(sending) => sending,
            None => match self.end.receiver.poll_next(context) {
                Poll::Ready(Some(Event::Message(message))) => self.begin_message(message),
                Poll::Ready(Some(Event::Close { close, .. })) => {
                    self.begin_close(&close);
                    return None;
                }
                // The worker is gone.
                Poll::Ready(None) => {
                    if let Some(close) = self.last.take() {
                        self.begin_close(&close);
                    }
                    return None;
                }
                Poll::Pending => return None,
            },
        };
        let is_final = rest.len() <= PIECE;
        let mut content = rest.split_to(rest.len().min(PIECE));
        let len = content.len() as u64;
        if is_compressed {
            let Some(compressed) = deflate::compress(&content, is_final) else {
                self.end_with(SocketOutcome::Lost);
                return None;
            };
            let is_only = is_final && opcode != frames::CONTINUATION;
            if is_only && compressed.len() >= content.len() {
                is_compressed = false;
            } else {
                content = compressed.into();
            }
        }
        if is_compressed && opcode != frames::CONTINUATION {
            opcode |= frames::COMPRESSED;
        }
        if !is_final {
            self.sending = Some(MessageRest {
                opcode: frames::CONTINUATION,
                bytes: rest,
                is_compressed,
            });
        }
        Some(Piece {
            opcode,
            is_final,
            content,
            len,
        })
    }

    fn begin_message(&self, message: Message) -> MessageRest {
        let (opcode, bytes) = match message {
            Message::Text(bytes) => (frames::TEXT, bytes),
            Message::Binary(bytes) => (frames::BINARY, bytes),
        };
        let is_compressed = self.deflates && bytes.len() >= deflate::LEAST;
        MessageRest {
            opcode,
            bytes,
            is_compressed,
        }
    }

    /// Reads what has come, at most one message. Returns whether anything came.
    fn read(&mut self, context: &mut Context<'_>) -> bool {
        let reads = match self.phase {
            // Nothing is read while the peer takes nothing: each of its pings would be answered.
            Phase::Open | Phase::Closing => !self.is_sending() && self.pong.is_none(),
            Phase::Leaving(_) | Phase::Over(_) => false,
        };
        let has_room = reads
            && (self.phase == Phase::Closing
                || self.end.sender.poll_room(1, context) != Poll::Pending);
        if !has_room {
            self.listening = false;
            return false;
        }
        if !self.listening {
            // The time in which nothing was read is not the peer's.
            self.listening = true;
            self.heard = Instant::now();
            self.pinged = None;
        }
        while self.read.is_empty() {
            let mut buffer = ReadBuf::new(&mut self.buffer[..]);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.read = Bytes::copy_from_slice(buffer.filled());
                }
                Poll::Ready(_) => {
                    self.end_with(SocketOutcome::Lost);
                    return true;
                }
                Poll::Pending => return false,
            }
        }
        let incoming = match self.decoder.feed(&self.read) {
            Ok((used, incoming)) => {
                self.read.advance(used);
                incoming
            }
            Err(breach) => {
                self.fail(breach.0);
                return true;
            }
        };
        // A long frame that comes slowly comes: no ping can be answered within it.
        let collected = self.decoder.collected();
        if incoming.is_some() || collected >= self.collected + PROGRESS {
            self.collected = collected;
            self.heard = Instant::now();
            self.pinged = None;
        }
        if let Some(incoming) = incoming {
            match incoming {
                Incoming::Message(message) => self.pass(message),
                Incoming::Ping(content) if self.phase == Phase::Open => self.pong = Some(content),
                Incoming::Ping(_) | Incoming::Pong => {}
                Incoming::Close(close) => self.closed(close),
            }
        }
        true
    }

    /// Passes a message on to the worker.
    fn pass(&mut self, message: Message) {
        if self.phase == Phase::Open {
            match self.end.sender.push(message) {
                // A worker that is gone misses nothing.
                Ok(()) | Err(NotSent::Closed) => {}
                Err(NotSent::NoMemory(_)) => self.fail(code::TRY_AGAIN),
            }
        }
        self.decoder.release();
    }

    /// The peer has sent a close, which is answered if it is the first one.
    fn closed(&mut self, close: Close) {
        if self.phase == Phase::Open {
            let content = frames::close_content(&close);
            self.encode(frames::CLOSE, true, &content);
        }
        self.end.sender.close(close, true);
        self.leave(SocketOutcome::Clean);
    }

    /// Ends the connection once the last frame was sent.
    fn leave(&mut self, ended: SocketOutcome) {
        if !matches!(self.phase, Phase::Over(_)) {
            self.phase = Phase::Leaving(ended);
            self.closes.get_or_insert(Instant::now() + CLOSING);
            self.sending = None;
        }
    }

    /// Sends a close, which is to be answered.
    fn begin_close(&mut self, close: &Close) {
        self.sending = None;
        self.phase = Phase::Closing;
        self.closes = Some(Instant::now() + CLOSING);
        let content = frames::close_content(close);
        self.encode(frames::CLOSE, true, &content);
    }

    /// Closes the socket because of what the peer sent. Nothing more is read.
    fn fail(&mut self, code: u16) {
        let reason = match code {
            code::TOO_LARGE => "the message is too large",
            code::INVALID => "the text is not UTF-8",
            code::TRY_AGAIN => "no memory for the message",
            _ => "",
        };
        let close = Close::with(code, reason);
        if self.phase == Phase::Open {
            self.begin_close(&close);
        }
        self.end.sender.close(close, false);
        self.leave(SocketOutcome::Failed(code));
    }

    /// The connection is gone, or of no use.
    fn end_with(&mut self, ended: SocketOutcome) {
        // A close that came counts.
        self.end
            .sender
            .close(Close::with(code::ABNORMAL, ""), false);
        self.phase = Phase::Over(match self.phase {
            Phase::Leaving(known) | Phase::Over(known) => known,
            Phase::Open | Phase::Closing => ended,
        });
    }

    fn act(&mut self, due: Due) {
        match due {
            Due::Ping => {
                self.pinged = Some(Instant::now());
                self.encode(frames::PING, true, b"");
            }
            Due::Silence => {
                self.begin_close(&Close::with(code::GOING_AWAY, "nothing came for too long"));
                self.end
                    .sender
                    .close(Close::with(code::ABNORMAL, ""), false);
                self.leave(SocketOutcome::Silent);
            }
            Due::Stall | Due::NoAnswer => self.end_with(SocketOutcome::Silent),
            Due::TimeOver => self.begin_close(&Close::with(code::GOING_AWAY, "the time is over")),
        }
    }

    /// The next time limit.
    fn due(&self) -> Option<(Instant, Due)> {
        if let Some(closes) = self.closes {
            return Some((closes, Due::NoAnswer));
        }
        let idle = self.limits.idle;
        let next = match (self.stalled, self.pinged) {
            (Some(stalled), _) => (stalled + idle, Due::Stall),
            (None, Some(pinged)) if self.listening => (pinged + idle / 2, Due::Silence),
            // A peer that is gone is noticed also while nothing is read.
            (None, pinged) => (pinged.unwrap_or(self.heard) + idle / 2, Due::Ping),
        };
        match self.limits.time.map(|time| self.opened + time) {
            Some(end) if end < next.0 => Some((end, Due::TimeOver)),
            _ => Some(next),
        }
    }

    fn poll_due(&mut self, context: &mut Context<'_>) -> Poll<Due> {
        loop {
            let Some((at, due)) = self.due() else {
                return Poll::Pending;
            };
            // A timer that expires too early is set again then.
            if self.armed.is_none_or(|armed| armed > at) {
                match &mut self.sleep {
                    Some(sleep) => sleep.as_mut().reset(at),
                    None => self.sleep = Some(Box::pin(tokio::time::sleep_until(at))),
                }
                self.armed = Some(at);
            }
            let Some(sleep) = &mut self.sleep else {
                return Poll::Pending;
            };
            if sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.armed = None;
            if Instant::now() >= at {
                return Poll::Ready(due);
            }
        }
    }
}

#[cfg(test)]
mod tests;
