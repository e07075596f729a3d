//! The body of a request as a connection passes it on.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use wws_engine::BodyError;

/// The body of a request.
pub(crate) enum IncomingBody {
    Http1(Incoming),
    Http2(Http2Body),
    /// Of a request that asks for a WebSocket over HTTP/2.
    Empty,
}

/// The body of a request of HTTP/2.
pub(crate) struct Http2Body {
    stream: RecvStream,
    /// Bytes that are missing, if the client has announced a length; h2 checks it.
    left: Option<u64>,
    data_ended: bool,
}

impl Http2Body {
    pub(crate) fn new(stream: RecvStream, headers: &HeaderMap) -> Self {
        let length = headers.get(header::CONTENT_LENGTH);
        Self {
            stream,
            left: length.and_then(|length| length.to_str().ok()?.parse().ok()),
            data_ended: false,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_ended {
            match ready!(self.stream.poll_data(context)) {
                Some(Ok(piece)) => {
                    // The client may send as much again.
                    let _ = self.stream.flow_control().release_capacity(piece.len());
                    self.left = self
                        .left
                        .map(|left| left.saturating_sub(piece.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_ended = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(context));
        Poll::Ready(match trailers {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(error)),
        })
    }
}

impl Body for IncomingBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Http1(body) => {
                let frame = ready!(Pin::new(body).poll_frame(context));
                Poll::Ready(frame.map(|frame| frame.map_err(|error| failure(&error))))
            }
            Self::Http2(body) => {
                let frame = ready!(body.poll(context));
                Poll::Ready(frame.map(|frame| {
                    frame.map_err(|error| {
                        if error.is_library() && error.reason() == Some(h2::Reason::PROTOCOL_ERROR)
                        {
                            BodyError::Malformed(error.to_string())
                        } else {
                            BodyError::Disconnected
                        }
                    })
                }))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => match body.left {
                Some(left) => SizeHint::with_exact(left),
                None if body.stream.is_end_stream() => SizeHint::with_exact(0),
                None => SizeHint::default(),
            },
        }
    }
}

/// Why hyper passes on no more of a body.
fn failure(error: &hyper::Error) -> BodyError {
    use std::error::Error;
    let cause = error.source();
    // hyper reports a chunk that is not valid as an error of its own making.
    let is_invalid = cause
        .and_then(|cause| cause.downcast_ref::<std::io::Error>())
        .is_some_and(|cause| {
            matches!(
                cause.kind(),
                std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData
            )
        });
    if is_invalid {
        BodyError::Malformed(cause.map_or_else(String::new, ToString::to_string))
    } else {
        BodyError::Disconnected
    }
}
