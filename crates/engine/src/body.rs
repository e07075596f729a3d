//! Bodies of requests and of responses: whole, or as they come.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// A body that is read piece by piece: the next piece is made when it is asked for. It may end with
/// trailers.
pub type BodyStream = UnsyncBoxBody<Bytes, BodyError>;

/// Why a body ended before its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The other side is gone.
    #[error("the connection ended before the body")]
    Disconnected,
    /// The body is larger than it may be.
    #[error("the body has more than {0} bytes (`limits.stream_bytes`)")]
    TooLarge(u64),
    /// The body makes no progress.
    #[error("nothing of the body came for too long")]
    TooSlow,
    /// The body does not keep to its framing or to its length.
    #[error("the body is broken: {0}")]
    Malformed(String),
}

/// Pieces of a body that wait to be read.
const PIECES: usize = 1;

/// The writing end of a body. A body whose sender is dropped before [`Self::finish`] ends with an
/// error.
#[derive(Debug)]
pub struct BodySender(mpsc::Sender<Piece>);

#[derive(Debug)]
enum Piece {
    Frame(Frame<Bytes>),
    End,
}

/// The reader of the body is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody reads the body")]
pub struct BodyClosed;

impl BodySender {
    /// A body and its writing end.
    #[must_use]
    pub fn new() -> (Self, BodyStream) {
        let (sender, pieces) = mpsc::channel(PIECES);
        let body = ReceivedBody {
            pieces,
            ended: false,
        };
        (Self(sender), body.boxed_unsync())
    }

    /// Adds a piece, once there is room for it.
    ///
    /// # Errors
    /// The reader of the body is gone.
    pub async fn send(&self, piece: Bytes) -> Result<(), BodyClosed> {
        let piece = Piece::Frame(Frame::data(piece));
        self.0.send(piece).await.map_err(|_| BodyClosed)
    }

    /// Adds trailers, after the last piece.
    ///
    /// # Errors
    /// The reader of the body is gone.
    pub async fn send_trailers(&self, trailers: HeaderMap) -> Result<(), BodyClosed> {
        let piece = Piece::Frame(Frame::trailers(trailers));
        self.0.send(piece).await.map_err(|_| BodyClosed)
    }

    /// Waits until the next piece has room.
    ///
    /// # Errors
    /// The reader of the body is gone.
    pub async fn ready(&self) -> Result<(), BodyClosed> {
        self.0.reserve().await.map(drop).map_err(|_| BodyClosed)
    }

    /// Waits until the reader of the body is gone.
    pub async fn closed(&self) {
        self.0.closed().await;
    }

    /// Ends the body.
    ///
    /// # Errors
    /// The reader of the body is gone.
    pub async fn finish(self) -> Result<(), BodyClosed> {
        self.0.send(Piece::End).await.map_err(|_| BodyClosed)
    }
}

/// The reading end of a [`BodySender`].
struct ReceivedBody {
    pieces: mpsc::Receiver<Piece>,
    ended: bool,
}

impl Body for ReceivedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match ready!(self.pieces.poll_recv(context)) {
            Some(Piece::Frame(frame)) => Poll::Ready(Some(Ok(frame))),
            Some(Piece::End) => {
                self.ended = true;
                Poll::Ready(None)
            }
            None => {
                self.ended = true;
                Poll::Ready(Some(Err(BodyError::Disconnected)))
            }
        }
    }
}

/// What follows the head of a response while its guest runs.
pub(crate) enum BegunBody {
    Stream(BodyStream),
    /// The connection's end of a WebSocket.
    Socket(wws_websocket::End),
}

/// The body of a request.
#[derive(Debug)]
pub enum RequestBody {
    /// The whole body.
    Collected(Bytes),
    /// The body as it comes, for guests that take it so ([`Guest::takes_streams`]).
    ///
    /// [`Guest::takes_streams`]: crate::Guest::takes_streams
    Stream(BodyStream),
}

impl From<Bytes> for RequestBody {
    fn from(bytes: Bytes) -> Self {
        Self::Collected(bytes)
    }
}

impl RequestBody {
    /// The whole body, of at most `max` bytes.
    ///
    /// # Errors
    /// The body is larger, or ended early.
    pub async fn collect(self, max: u64) -> Result<Bytes, BodyError> {
        match self {
            Self::Collected(bytes) if bytes.len() as u64 > max => Err(BodyError::TooLarge(max)),
            Self::Collected(bytes) => Ok(bytes),
            Self::Stream(stream) => collect(stream, max, BodyError::TooLarge).await,
        }
    }
}

/// How long a guest has waited for the body of its request: that time is its client's.
#[derive(Clone, Default)]
pub(crate) struct ClientWaits(Arc<Mutex<WaitState>>);

#[derive(Default)]
struct WaitState {
    /// Waits that are over.
    total: Duration,
    /// When the current one began.
    since: Option<Instant>,
}

impl ClientWaits {
    /// All waits so far.
    fn total(&self) -> Duration {
        let waits = self.lock();
        let current = waits.since.map(|since| since.elapsed());
        waits.total + current.unwrap_or_default()
    }

    fn set_waiting(&self, waiting: bool) {
        let mut waits = self.lock();
        match (waits.since, waiting) {
            (None, true) => waits.since = Some(Instant::now()),
            (Some(since), false) => {
                waits.total += since.elapsed();
                waits.since = None;
            }
            (None, false) | (Some(_), true) => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, WaitState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Measures the waits for a body.
    pub(crate) fn measure(&self, body: RequestBody) -> RequestBody {
        match body {
            RequestBody::Collected(bytes) => RequestBody::Collected(bytes),
            RequestBody::Stream(body) => {
                let waits = self.clone();
                RequestBody::Stream(MeasuredBody { body, waits }.boxed_unsync())
            }
        }
    }

    /// Runs a future for at most `limit`, without the waits. Returns `None` if it takes longer.
    pub(crate) async fn timeout<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let start = Instant::now();
        let mut end = start + limit;
        loop {
            if let Ok(output) = tokio::time::timeout_at(end, future.as_mut()).await {
                return Some(output);
            }
            let now = Instant::now();
            let later = start + limit + self.total();
            if later <= now {
                return None;
            }
            end = later.max(now + LEAST_EXTENSION);
        }
    }
}

/// A time limit that a wait has extended is looked at again no sooner than this.
const LEAST_EXTENSION: Duration = Duration::from_millis(100);

/// A body whose waits are measured.
struct MeasuredBody {
    body: BodyStream,
    waits: ClientWaits,
}

impl Body for MeasuredBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.waits.set_waiting(polled.is_pending());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for MeasuredBody {
    fn drop(&mut self) {
        self.waits.set_waiting(false);
    }
}

/// Reads a body of at most `max` bytes to its end. Trailers are left out.
pub(crate) async fn collect<B>(
    mut body: B,
    max: u64,
    too_large: impl FnOnce(u64) -> B::Error,
) -> Result<Bytes, B::Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame?.into_data() {
            if (all.len() + piece.len()) as u64 > max {
                return Err(too_large(max));
            }
            all.extend_from_slice(&piece);
        }
    }
    Ok(all.into())
}
