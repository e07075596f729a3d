//! Bodies of requests and of responses: whole, or as they come.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::mpsc;

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

/// Nobody reads the body any longer.
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
    /// Nobody reads the body any longer.
    pub async fn send(&self, piece: Bytes) -> Result<(), BodyClosed> {
        let piece = Piece::Frame(Frame::data(piece));
        self.0.send(piece).await.map_err(|_| BodyClosed)
    }

    /// Waits until the next piece has room.
    ///
    /// # Errors
    /// Nobody reads the body any longer.
    pub async fn ready(&self) -> Result<(), BodyClosed> {
        self.0.reserve().await.map(drop).map_err(|_| BodyClosed)
    }

    /// Waits until nobody reads the body any longer.
    pub async fn closed(&self) {
        self.0.closed().await;
    }

    /// Ends the body.
    ///
    /// # Errors
    /// Nobody reads the body any longer.
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
            Self::Stream(stream) => collect(stream, max).await,
        }
    }
}

/// Reads a stream of at most `max` bytes to its end. Trailers are left out.
pub(crate) async fn collect(mut stream: BodyStream, max: u64) -> Result<Bytes, BodyError> {
    let mut all = Vec::new();
    while let Some(frame) = stream.frame().await {
        if let Ok(piece) = frame?.into_data() {
            if (all.len() + piece.len()) as u64 > max {
                return Err(BodyError::TooLarge(max));
            }
            all.extend_from_slice(&piece);
        }
    }
    Ok(all.into())
}
