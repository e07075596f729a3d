//! Bodies of requests: collected ones, which can be sent again, and streams.

use std::{
    error::Error as StdError,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use tokio::time::Instant;

use crate::{
    error::{Error, ErrorKind, Reason, chain},
    headers::Framing,
    memory::Memory,
};

/// Why the body of a request ended early.
pub(crate) type Cause = Box<dyn StdError + Send + Sync>;

/// Bytes that are handed to the connection at a time: what is sent shows that the peer reads.
const PIECE: usize = 64 << 10;

/// How long the first piece of a body that may be none is awaited.
const FIRST_PIECE: Duration = Duration::from_millis(100);

/// The body of a request before it is sent.
pub(crate) enum Payload {
    Whole(Bytes),
    Stream(Stream),
    /// The stream was sent.
    Spent,
}

/// A body that is read while it is sent.
pub(crate) struct Stream {
    pub(crate) body: UnsyncBoxBody<Bytes, Cause>,
    /// Its length in bytes, where it is known.
    pub(crate) length: Option<u64>,
    /// The values of its `Trailer` headers.
    pub(crate) trailer: Vec<HeaderValue>,
}

impl Payload {
    /// A body before it is sent, and its length if the headers announce one.
    pub(crate) fn new<B>(framing: Framing, body: B) -> Result<Self, Error>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Cause>,
    {
        let known = body.size_hint().exact();
        if let (Some(announced), Some(known)) = (framing.length, known)
            && announced != known
        {
            let text =
                format!("the body of the request has {known} bytes, Content-Length {announced}");
            return Err(
                Error::new(ErrorKind::InvalidRequestBody, text).because(Reason::RequestBodySize)
            );
        }
        let length = known.or(framing.length);
        // A body without bytes can be sent again.
        if body.is_end_stream() && length.is_none_or(|length| length == 0) {
            return Ok(Self::Whole(Bytes::new()));
        }
        Ok(Self::Stream(Stream {
            body: body.map_err(Into::into).boxed_unsync(),
            length,
            trailer: framing.trailer,
        }))
    }

    /// The body as one connection sends it; sets the headers that frame it.
    pub(crate) fn begin(
        &mut self,
        headers: &mut HeaderMap,
        memory: &Memory,
        progress: Arc<Progress>,
    ) -> Result<RequestBody, Error> {
        Ok(match std::mem::replace(self, Self::Spent) {
            Self::Whole(body) => {
                *self = Self::Whole(body.clone());
                RequestBody::collected(body, progress)
            }
            Self::Stream(stream) => {
                if stream.length.is_none() {
                    // Said explicitly, or a GET request would have no body.
                    let chunked = HeaderValue::from_static("chunked");
                    headers.insert(header::TRANSFER_ENCODING, chunked);
                    for value in &stream.trailer {
                        headers.append(header::TRAILER, value.clone());
                    }
                }
                RequestBody::stream(stream, memory, progress)
            }
            Self::Spent => return Err(Error::internal("a streamed body was sent twice")),
        })
    }

    /// Waits for the first piece of a stream of unknown length, for a moment: one without a piece
    /// is no body.
    pub(crate) async fn settled(self) -> Self {
        let Self::Stream(mut stream) = self else {
            return self;
        };
        if stream.length.is_some() {
            return Self::Stream(stream);
        }
        let first = match tokio::time::timeout(FIRST_PIECE, stream.body.frame()).await {
            Ok(Some(first)) => first,
            Ok(None) => return Self::Whole(Bytes::new()),
            Err(_) => return Self::Stream(stream),
        };
        let body = Begun {
            first: Some(first),
            rest: stream.body,
        };
        stream.body = body.boxed_unsync();
        Self::Stream(stream)
    }
}

/// The body of a request, charged until it was sent.
pub(crate) fn charged(body: Bytes, memory: &Memory) -> Result<Bytes, Error> {
    let mut part = memory.part();
    if part.grow_to(body.len() as u64) {
        return Ok(part.hold(body));
    }
    let text = format!(
        "no memory left for a body of {} bytes: too many or too large requests at once",
        body.len()
    );
    Err(Error::new(ErrorKind::InvalidRequestBody, text).because(Reason::NoMemory))
}

/// A body whose first frame was read.
struct Begun {
    first: Option<Result<Frame<Bytes>, Cause>>,
    rest: UnsyncBoxBody<Bytes, Cause>,
}

impl Body for Begun {
    type Data = Bytes;
    type Error = Cause;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }
}

/// What a request's sender and its body know of each other.
pub(crate) struct Progress {
    start: Instant,
    /// Milliseconds from `start` to the last piece that was sent.
    last: AtomicU64,
    failure: Mutex<Option<Error>>,
}

impl Progress {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            last: AtomicU64::new(0),
            failure: Mutex::new(None),
        })
    }

    fn advance(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    /// When the last piece was sent, or the request began.
    pub(crate) fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }

    /// Why the body failed, if it did.
    pub(crate) fn failure(&self) -> Option<Error> {
        let failure = self.failure.lock();
        failure.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, error: &Error) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        *failure = Some(error.clone());
    }
}

/// The body of a request as the connection reads it.
pub(crate) struct RequestBody {
    source: Source,
    progress: Arc<Progress>,
    /// Dropped with the body, which the connection drops when it has all of it.
    running: Arc<()>,
}

enum Source {
    Whole(Full<Bytes>),
    Stream {
        body: UnsyncBoxBody<Bytes, Cause>,
        /// Bytes that are left of a known length.
        left: Option<u64>,
        /// The rest of a large piece.
        rest: Bytes,
        memory: Memory,
    },
}

impl RequestBody {
    pub(crate) fn collected(body: Bytes, progress: Arc<Progress>) -> Self {
        Self::new(Source::Whole(Full::new(body)), progress)
    }

    pub(crate) fn stream(stream: Stream, memory: &Memory, progress: Arc<Progress>) -> Self {
        let source = Source::Stream {
            body: stream.body,
            left: stream.length,
            rest: Bytes::new(),
            memory: memory.clone(),
        };
        Self::new(source, progress)
    }

    fn new(source: Source, progress: Arc<Progress>) -> Self {
        Self {
            source,
            progress,
            running: Arc::new(()),
        }
    }

    /// Has no strong count as soon as the connection has all of the body.
    pub(crate) fn running(&self) -> Weak<()> {
        Arc::downgrade(&self.running)
    }
}

/// The next frame of a stream, and whether it keeps to its announced length.
fn poll_stream(
    body: &mut UnsyncBoxBody<Bytes, Cause>,
    left: &mut Option<u64>,
    rest: &mut Bytes,
    memory: &Memory,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
    let wrong = |reason, text: String| {
        let error = Error::new(ErrorKind::InvalidRequestBody, text).because(reason);
        Poll::Ready(Some(Err(error)))
    };
    let mut data = std::mem::take(rest);
    while data.is_empty() {
        let frame = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                let text = format!("the body of the request broke off: {}", chain(&*error));
                return wrong(Reason::RequestBody, text);
            }
            None if left.is_some_and(|left| left > 0) => {
                let text = "the body of the request is shorter than its Content-Length";
                return wrong(Reason::RequestBodySize, text.to_owned());
            }
            None => return Poll::Ready(None),
        };
        data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return Poll::Ready(Some(Ok(frame))),
        };
        if let Some(left) = left {
            let Some(less) = left.checked_sub(data.len() as u64) else {
                let text = "the body of the request is longer than its Content-Length";
                return wrong(Reason::RequestBodySize, text.to_owned());
            };
            *left = less;
        }
    }
    if data.len() > PIECE {
        *rest = data.split_off(PIECE);
    }
    let mut part = memory.part();
    if !part.grow_to(data.len() as u64) {
        let text = "no memory left for the body of the request: too many requests at once";
        return wrong(Reason::NoMemory, text.to_owned());
    }
    Poll::Ready(Some(Ok(Frame::data(part.hold(data)))))
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Cause;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        let this = &mut *self;
        match &mut this.source {
            Source::Whole(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            Source::Stream {
                body,
                left,
                rest,
                memory,
            } => {
                let frame = ready!(poll_stream(body, left, rest, memory, cx));
                this.progress.advance();
                Poll::Ready(frame.map(|frame| {
                    frame.map_err(|error| {
                        this.progress.fail(&error);
                        error.into()
                    })
                }))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Whole(body) => body.is_end_stream(),
            Source::Stream {
                body, left, rest, ..
            } => rest.is_empty() && body.is_end_stream() && left.is_none_or(|left| left == 0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(body) => body.size_hint(),
            Source::Stream { left, rest, .. } => match left {
                Some(left) => SizeHint::with_exact(left + rest.len() as u64),
                None => SizeHint::new(),
            },
        }
    }
}

/// Waits for `future` until `limit` has passed since the wait began and since the last piece of the
/// request was sent.
pub(crate) async fn within<F: Future>(
    limit: Duration,
    progress: &Progress,
    future: F,
) -> Option<F::Output> {
    let start = Instant::now();
    let mut future = std::pin::pin!(future);
    let mut timer = std::pin::pin!(tokio::time::sleep(limit));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            let deadline = start.max(progress.last()) + limit;
            if deadline <= Instant::now() {
                return Poll::Ready(None);
            }
            timer.as_mut().reset(deadline);
        }
    })
    .await
}
