//! Response bodies: bytes, a file that is read while it is sent, or pieces that are made while they
//! are sent.

use std::{
    fs::File,
    future::Future,
    io,
    os::unix::fs::FileExt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
};
use tokio_util::sync::PollSemaphore;
use wws_engine::Account;

use crate::connection::activity::RequestInProgress;
use crate::connection::upgrade::{Takeover, Upgrade};

/// Bytes of a file that are read at a time while there is memory for them.
const PART: u64 = 128 << 10;

/// A part of up to this many bytes is read on the serving thread: it is most likely in the page
/// cache.
const INLINE_READ: u64 = 64 << 10;

/// Bytes of a file that are read at a time without memory, each part once the previous one is sent.
const SMALL_PART: u64 = 16 << 10;

/// A piece of a stream of up to this many bytes is not charged: it is copied to the connection's
/// own buffer.
const UNCHARGED_PIECE: usize = 4 << 10;

/// Pieces of a body that are made when they are asked for. They may end with trailers.
pub(crate) type Pieces = Pin<Box<dyn http_body::Body<Data = Bytes, Error = io::Error> + Send>>;

/// The body of a response.
#[derive(Default)]
pub(crate) struct Body {
    source: BodySource,
    /// Dropped with the body, which ends the request.
    in_progress: Option<RequestInProgress>,
    /// What follows the head, instead of a body.
    takeover: Option<Takeover>,
}

#[derive(Default)]
enum BodySource {
    #[default]
    Empty,
    Bytes(Bytes),
    File(FileStream),
    Pieces(PieceStream),
}

/// What is still to be made and sent.
struct PieceStream {
    pieces: Pieces,
    /// The account that pieces are charged to; `None` until the body is being sent.
    memory: Option<Account>,
    /// A piece that waits until the previous one is sent.
    waiting: Option<Bytes>,
    uncharged: OnePiece,
}

/// Lets one piece at a time be sent without memory. Made when it is needed.
#[derive(Default)]
struct OnePiece(Option<PollSemaphore>);

impl OnePiece {
    /// Waits until the previous piece is sent.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<OwnedSemaphorePermit>> {
        let permits = self
            .0
            .get_or_insert_with(|| PollSemaphore::new(Arc::new(Semaphore::new(1))));
        let permit = ready!(permits.poll_acquire(context));
        Poll::Ready(permit.ok_or_else(|| io::Error::other("closed")))
    }
}

/// The part of a file that is still to be sent.
struct FileStream {
    file: Arc<File>,
    at: u64,
    left: u64,
    /// The account that parts are charged to; `None` until the body is being sent.
    memory: Option<Account>,
    small: OnePiece,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Body {
    /// `length` bytes of the file, starting at `at`.
    pub(crate) fn file(file: File, at: u64, length: u64) -> Self {
        let source = match length {
            0 => BodySource::Empty,
            _ => BodySource::File(FileStream {
                file: Arc::new(file),
                at,
                left: length,
                memory: None,
                small: OnePiece::default(),
                reading: None,
            }),
        };
        Self {
            source,
            ..Self::default()
        }
    }

    /// No body: `takeover` has the connection after the head.
    pub(crate) fn upgrade(takeover: Takeover) -> Self {
        Self {
            takeover: Some(takeover),
            ..Self::default()
        }
    }

    /// Takes what follows the head of a response that ends HTTP on its connection.
    pub(crate) fn take_upgrade(&mut self) -> Option<Upgrade> {
        let takeover = self.takeover.take()?;
        Some(Upgrade {
            takeover,
            in_progress: self.in_progress.take(),
        })
    }

    /// Pieces that are made while they are sent.
    pub(crate) fn pieces(pieces: Pieces) -> Self {
        Self {
            source: BodySource::Pieces(PieceStream {
                pieces,
                memory: None,
                waiting: None,
                uncharged: OnePiece::default(),
            }),
            ..Self::default()
        }
    }

    /// Keeps the request in progress until the body is dropped, and charges what is read of a file
    /// or made meanwhile to `memory`.
    pub(crate) fn until_sent(mut self, in_progress: RequestInProgress, memory: &Account) -> Self {
        self.in_progress = Some(in_progress);
        match &mut self.source {
            BodySource::File(stream) => stream.memory = Some(memory.clone()),
            BodySource::Pieces(stream) => stream.memory = Some(memory.clone()),
            BodySource::Empty | BodySource::Bytes(_) => {}
        }
        self
    }

    /// Whether its pieces are made while they are sent.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.source, BodySource::Pieces(_))
    }

    /// Size in bytes, as far as it is known.
    pub(crate) fn size(&self) -> u64 {
        match &self.source {
            BodySource::Empty | BodySource::Pieces(_) => 0,
            BodySource::Bytes(bytes) => bytes.len() as u64,
            BodySource::File(stream) => stream.left,
        }
    }

    /// Bytes of the body that are in memory.
    pub(crate) fn held(&self) -> u64 {
        match &self.source {
            BodySource::Bytes(bytes) => bytes.len() as u64,
            BodySource::Empty | BodySource::File(_) | BodySource::Pieces(_) => 0,
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        let source = if bytes.is_empty() {
            BodySource::Empty
        } else {
            BodySource::Bytes(bytes)
        };
        Self {
            source,
            ..Self::default()
        }
    }
}

/// Reads `length` bytes; fails if the file has become shorter.
pub(crate) fn read_at(file: &File, at: u64, length: usize) -> io::Result<Bytes> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes.into())
}

/// A piece that is sent without memory; the next one is read once this is dropped.
struct UnchargedPiece(
    Bytes,
    #[allow(dead_code, reason = "dropped with the bytes")] OwnedSemaphorePermit,
);

impl AsRef<[u8]> for UnchargedPiece {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl PieceStream {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = match self.waiting.take() {
            Some(piece) => piece,
            None => match ready!(self.pieces.as_mut().poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => piece,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            },
        };
        if piece.len() <= UNCHARGED_PIECE {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let memory = self.memory.as_ref();
        if let Some(charge) = memory.and_then(|memory| memory.charge(piece.len() as u64)) {
            return Poll::Ready(Some(Ok(Frame::data(charge.hold(piece)))));
        }
        let Poll::Ready(permit) = self.uncharged.poll(context) else {
            self.waiting = Some(piece);
            return Poll::Pending;
        };
        Poll::Ready(Some(permit.map(|permit| {
            Frame::data(Bytes::from_owner(UnchargedPiece(piece, permit)))
        })))
    }
}

impl FileStream {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let bytes = match &mut self.reading {
            Some(reading) => {
                let read = ready!(Pin::new(reading).poll(context));
                self.reading = None;
                read.map_err(io::Error::other)??
            }
            None => ready!(self.begin(context))?,
        };
        self.at += bytes.len() as u64;
        self.left -= bytes.len() as u64;
        Poll::Ready(Ok(bytes))
    }

    /// Reads the next part, or starts to read it.
    fn begin(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let at = self.at;
        let length = self.left.min(PART);
        let charge = self
            .memory
            .as_ref()
            .and_then(|memory| memory.charge(length));
        let Some(charge) = charge else {
            let permit = ready!(self.small.poll(context))?;
            let bytes = read_at(&self.file, at, self.left.min(SMALL_PART) as usize)?;
            return Poll::Ready(Ok(Bytes::from_owner(UnchargedPiece(bytes, permit))));
        };
        if length <= INLINE_READ {
            let bytes = read_at(&self.file, at, length as usize)?;
            return Poll::Ready(Ok(charge.hold(bytes)));
        }
        let file = self.file.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let bytes = read_at(&file, at, length as usize)?;
            Ok(charge.hold(bytes))
        });
        let reading = self.reading.insert(reading);
        let read = ready!(Pin::new(reading).poll(context));
        self.reading = None;
        Poll::Ready(read.map_err(io::Error::other)?)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.source {
            BodySource::Empty => Poll::Ready(None),
            BodySource::Bytes(bytes) => {
                let bytes = std::mem::take(bytes);
                self.source = BodySource::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            BodySource::File(stream) => {
                let result = ready!(stream.poll(context));
                if stream.left == 0 || result.is_err() {
                    self.source = BodySource::Empty;
                }
                Poll::Ready(Some(result.map(Frame::data)))
            }
            BodySource::Pieces(stream) => {
                let frame = ready!(stream.poll(context));
                if !matches!(frame, Some(Ok(_))) {
                    self.source = BodySource::Empty;
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            BodySource::Empty => true,
            BodySource::Bytes(_) | BodySource::File(_) => false,
            BodySource::Pieces(stream) => stream.waiting.is_none() && stream.pieces.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            BodySource::Pieces(stream) if stream.waiting.is_none() => stream.pieces.size_hint(),
            BodySource::Pieces(_) => SizeHint::default(),
            _ => SizeHint::with_exact(self.size()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http_body::Body as _;
    use http_body_util::BodyExt;

    fn body(size: usize, memory: &Account) -> (Body, Vec<u8>) {
        let content: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&content, 0).unwrap();
        let in_progress = crate::connection::activity::Activity::new()
            .begin_request()
            .in_progress;
        let body = Body::file(file, 0, size as u64).until_sent(in_progress, memory);
        (body, content)
    }

    #[tokio::test]
    async fn charges_parts_of_a_file_until_they_are_sent() {
        let memory = Account::new(1 << 20);
        let (mut body, content) = body(300_000, &memory);
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(memory.total() - memory.free(), PART);
        let mut read = first.to_vec();
        drop(first);
        assert_eq!(memory.free(), memory.total());
        read.extend_from_slice(&body.collect().await.unwrap().to_bytes());
        assert_eq!(read, content);
    }

    #[tokio::test]
    async fn charges_pieces_until_they_are_sent_or_sends_one_at_a_time() {
        let memory = Account::new(1 << 20);
        let stream = || {
            let pieces = (0..3).map(|_| Ok(Frame::data(Bytes::from(vec![7; 100_000]))));
            let pieces = futures_util::stream::iter(pieces);
            let in_progress = crate::connection::activity::Activity::new()
                .begin_request()
                .in_progress;
            Body::pieces(Box::pin(http_body_util::StreamBody::new(pieces)))
                .until_sent(in_progress, &memory)
        };
        let mut body = stream();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(memory.total() - memory.free() >= 100_000);
        drop(first);
        assert_eq!(memory.free(), memory.total());
        drop(body);
        let _all = memory.charge(1 << 20).unwrap();
        let mut body = stream();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first.len(), 100_000);
        let second = std::future::poll_fn(|context| {
            Poll::Ready(Pin::new(&mut body).poll_frame(context).is_pending())
        });
        assert!(second.await, "the first was not sent");
        assert!(!body.is_end_stream());
        drop(first);
        let mut rest = 0;
        while let Some(frame) = body.frame().await {
            rest += frame.unwrap().data_ref().unwrap().len();
        }
        assert_eq!(rest, 200_000);
    }

    #[tokio::test]
    async fn sends_one_small_part_at_a_time_without_memory() {
        let memory = Account::new(1 << 20);
        let _all = memory.charge(1 << 20).unwrap();
        let (mut body, content) = body(100_000, &memory);
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first.len() as u64, SMALL_PART);
        let second = std::future::poll_fn(|context| {
            Poll::Ready(Pin::new(&mut body).poll_frame(context).is_pending())
        });
        assert!(second.await, "the first was not sent");
        let mut read = first.to_vec();
        drop(first);
        while let Some(frame) = body.frame().await {
            read.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        assert_eq!(read, content);
    }
}
