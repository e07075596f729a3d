//! Bodies of requests and of responses: whole, or as they come.

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;

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
