//! Responses that a worker makes while they are sent.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, Method, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use wws_engine::{CallError, StreamedBody};
use wws_telemetry::{Failure as FailureLabel, WorkerSeries};

use crate::connection::activity::Activity;
use crate::connection::headers;
use crate::request::access::{AbortedBy, StreamRecord};
use crate::request::compress::Encoder;

/// A body that a guest makes while it is read.
pub(crate) trait GuestBody: Body<Data = Bytes, Error = CallError> + Send + Unpin {}

impl<B: Body<Data = Bytes, Error = CallError> + Send + Unpin> GuestBody for B {}

/// The body of a worker's response. It checks the length that the worker announced, logs a failure
/// and, when it is dropped, the request.
pub(crate) struct WorkerStream<B: GuestBody + 'static> {
    /// `None` once it has ended or failed.
    body: Option<B>,
    /// `None` if the response is not compressed.
    encoder: Option<Encoder>,
    /// Bytes that are missing, if the worker announced a length.
    left: Option<u64>,
    complete: bool,
    /// Trailers were sent: nothing follows, although the worker may not have ended.
    trailers: bool,
    /// Time for what the worker does when its response is sent.
    after: Duration,
    activity: Arc<Activity>,
    record: StreamRecord,
}

/// Why a response is not what the worker announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum LengthError {
    #[error("the response has fewer bytes than its Content-Length: {0} are missing")]
    Short(u64),
    #[error("the response has more bytes than its Content-Length")]
    Long,
}

impl<B: GuestBody + 'static> WorkerStream<B> {
    /// A response with these headers.
    pub(crate) fn new(
        body: B,
        headers: &HeaderMap,
        after: Duration,
        activity: Arc<Activity>,
        record: StreamRecord,
    ) -> Self {
        activity.sending.set_streaming(true);
        Self {
            body: Some(body),
            encoder: None,
            left: announced_length(headers),
            complete: false,
            trailers: false,
            after,
            activity,
            record,
        }
    }

    /// Compresses the response.
    pub(crate) fn encoded(mut self, encoder: Option<Encoder>) -> Self {
        self.encoder = encoder;
        self
    }

    /// The next frame of the worker.
    fn poll_worker(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = match ready!(Pin::new(body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(Failure::Call(error)))),
            None => {
                self.body = None;
                return Poll::Ready(match self.left {
                    Some(left @ 1..) => Some(Err(Failure::Length(LengthError::Short(left)))),
                    _ => None,
                });
            }
        };
        if let (Some(left), Some(piece)) = (&mut self.left, frame.data_ref()) {
            match left.checked_sub(piece.len() as u64) {
                Some(less) => *left = less,
                None => return Poll::Ready(Some(Err(Failure::Length(LengthError::Long)))),
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    /// The next frame to be sent.
    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        loop {
            if let Some(encoder) = &mut self.encoder
                && let Some(frame) = encoder.take()
            {
                return Poll::Ready(Some(Ok(frame)));
            }
            let polled = self.poll_worker(context);
            let Some(encoder) = &mut self.encoder else {
                return polled;
            };
            match polled {
                Poll::Ready(Some(Ok(frame))) => encoder.add(frame),
                Poll::Ready(None) if encoder.finish() => {}
                Poll::Pending if encoder.flush() => {}
                end => return end,
            }
        }
    }

    fn fail(&mut self, failure: &Failure) -> io::Error {
        self.body = None;
        self.encoder = None;
        self.record.aborted(AbortedBy::Worker);
        match failure {
            Failure::Call(error) => report_failure(error, &self.record.series),
            Failure::Length(_) => self.record.series.failed(FailureLabel::Response),
        }
        tracing::error!(
            worker = self.record.worker,
            request_id = self.record.request_id,
            trace_id = self.record.trace().trace_id(),
            span_id = self.record.trace().span_id(),
            "after the head of the response: {failure}"
        );
        io::Error::other("the worker failed")
    }

    fn has_ended(&self) -> bool {
        if self.trailers {
            return true;
        }
        let worker = match &self.body {
            Some(body) => self.left.is_none_or(|left| left == 0) && body.is_end_stream(),
            None => true,
        };
        worker && self.encoder.as_ref().is_none_or(Encoder::has_ended)
    }
}

/// How a worker failed after the head of its response.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Call(CallError),
    #[error(transparent)]
    Length(LengthError),
}

impl<B: GuestBody + 'static> Body for WorkerStream<B> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        Poll::Ready(match ready!(this.poll_next(context)) {
            Some(Ok(frame)) => {
                if let Some(piece) = frame.data_ref() {
                    this.record.sent(piece.len());
                }
                this.trailers = frame.is_trailers();
                this.complete = this.has_ended();
                Some(Ok(frame))
            }
            Some(Err(failure)) => Some(Err(this.fail(&failure))),
            None => {
                this.complete = true;
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.encoder, self.left, &self.body) {
            (Some(_), ..) | (None, None, None) => SizeHint::default(),
            (None, Some(left), _) => SizeHint::with_exact(left),
            (None, None, Some(body)) => body.size_hint(),
        }
    }
}

impl<B: GuestBody + 'static> Drop for WorkerStream<B> {
    fn drop(&mut self) {
        self.activity.sending.set_streaming(false);
        let Some(body) = self.body.take() else {
            return;
        };
        // What was announced is sent, or trailers are: nobody asks for more, nor for a body that is
        // known to be empty.
        let left = self.left.or_else(|| body.size_hint().exact());
        if self.trailers || left == Some(0) && self.encoder.is_none() {
            finish(
                body,
                self.after,
                self.record.series.clone(),
                self.record.worker.clone(),
                self.record.request_id.clone(),
            );
        } else if !self.complete {
            self.record.aborted(if self.activity.is_stopping() {
                AbortedBy::Shutdown
            } else {
                AbortedBy::Client
            });
        }
    }
}

/// Removes what the connection decides from the headers of a streamed response, and a length that
/// cannot be trusted.
pub(crate) fn clean(headers: &mut HeaderMap) {
    headers::remove_hop_headers(headers);
    match announced_length(headers) {
        Some(length) => {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        None => {
            headers.remove(header::CONTENT_LENGTH);
        }
    }
}

/// The body of a streamed response that is complete before anything of it is sent, and as long as
/// its head announces. The head is [`clean`] then.
///
/// For a `HEAD` as well: its response has the headers that one to a `GET` has. An empty body is
/// none then, as its worker may have made none because of the method.
pub(crate) fn whole(stream: &StreamedBody, method: &Method, head: &mut Parts) -> Option<Bytes> {
    let body = stream.whole()?;
    clean(&mut head.headers);
    let announced = announced_length(&head.headers);
    if announced.is_some_and(|length| length != body.len() as u64)
        || headers::status_has_no_body(head.status)
        || (*method == Method::HEAD && body.is_empty())
    {
        return None;
    }
    Some(body)
}

/// The length that a worker announces. `None` if it announces none, several or something else.
fn announced_length(headers: &HeaderMap) -> Option<u64> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let first = lengths.next()?;
    if !first.as_bytes().iter().all(u8::is_ascii_digit) || lengths.any(|other| other != first) {
        return None;
    }
    first.to_str().ok()?.parse().ok()
}

/// Lets a worker end whose body is not sent. Its failure is logged.
pub(crate) fn finish<B: GuestBody + 'static>(
    mut body: B,
    within: Duration,
    series: Arc<WorkerSeries>,
    worker: String,
    request_id: String,
) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return;
    };
    runtime.spawn(async move {
        let rest = async {
            while let Some(frame) = body.frame().await {
                frame?;
            }
            Ok::<_, CallError>(())
        };
        let failure = match tokio::time::timeout(within, rest).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => CallError::WallTime(within),
        };
        report_failure(&failure, &series);
        tracing::error!(worker, request_id, "after the response: {failure}");
    });
}

/// Counts a call that failed, and the limit that it met.
pub(crate) fn report_failure(error: &CallError, series: &WorkerSeries) {
    series.failed(error.failure());
    if let Some(limit) = error.limit() {
        series.limit_met(limit);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use futures_util::stream;
    use http::{HeaderValue, StatusCode};
    use http_body_util::StreamBody;

    use wws_telemetry::Telemetry;

    use super::*;
    use crate::request::access::AccessRecord;

    type Frames = Vec<Result<Frame<Bytes>, CallError>>;

    fn guest(frames: Frames) -> impl GuestBody + 'static {
        StreamBody::new(Box::pin(stream::iter(frames)))
    }

    fn data(text: &'static str) -> Result<Frame<Bytes>, CallError> {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    fn record() -> StreamRecord {
        let mut record = AccessRecord::new(false, &Method::GET, &"/".parse().unwrap());
        let series = Telemetry::default().worker("/w");
        StreamRecord::new(&mut record, series, StatusCode::OK, "1", "w")
    }

    fn announcing(lengths: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for length in lengths {
            headers.append(
                header::CONTENT_LENGTH,
                HeaderValue::from_str(length).unwrap(),
            );
        }
        headers
    }

    fn stream_of<B: GuestBody + 'static>(body: B, headers: &HeaderMap) -> WorkerStream<B> {
        let second = Duration::from_secs(1);
        WorkerStream::new(body, headers, second, Activity::new(), record())
    }

    /// All that is sent, and whether it ended well.
    async fn sent<B: GuestBody + 'static>(mut stream: WorkerStream<B>) -> (String, bool) {
        let mut all = Vec::new();
        while let Some(frame) = stream.frame().await {
            match frame {
                Ok(frame) => all.extend_from_slice(frame.data_ref().unwrap()),
                Err(_) => return (String::from_utf8(all).unwrap(), false),
            }
        }
        (String::from_utf8(all).unwrap(), true)
    }

    #[tokio::test]
    async fn checks_the_announced_length() {
        for (lengths, frames, expected, well) in [
            (&[][..], vec![data("ab"), data("c")], "abc", true),
            (&["3"], vec![data("ab"), data("c")], "abc", true),
            (&["4"], vec![data("ab"), data("c")], "abc", false),
            (&["4"], vec![], "", false),
            (&["2"], vec![data("ab"), data("c")], "ab", false),
            (&["1"], vec![data("ab"), data("c")], "", false),
            (&["0"], vec![], "", true),
        ] {
            let stream = stream_of(guest(frames), &announcing(lengths));
            assert_eq!(
                sent(stream).await,
                (expected.to_owned(), well),
                "{lengths:?}"
            );
        }
        let stream = stream_of(guest(vec![]), &announcing(&["4"]));
        assert!(!stream.is_end_stream(), "four bytes are missing");
    }

    #[test]
    fn lengths_that_cannot_be_trusted_are_removed() {
        for (lengths, kept) in [
            (&["5"][..], Some("5")),
            (&["5", "5"], Some("5")),
            (&["5", "6"], None),
            (&["+5"], None),
            (&["5, 5"], None),
            (&["-1"], None),
            (&["99999999999999999999"], None),
        ] {
            let mut headers = announcing(lengths);
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("gzip"));
            clean(&mut headers);
            let values: Vec<_> = headers.values().collect();
            let expected: Vec<_> = kept.into_iter().collect();
            assert_eq!(values, expected, "{lengths:?}");
        }
    }

    #[tokio::test]
    async fn a_failure_ends_the_stream_with_an_error() {
        let frames = vec![data("ab"), Err(CallError::NoResponse), data("c")];
        let stream = stream_of(guest(frames), &HeaderMap::new());
        assert_eq!(sent(stream).await, ("ab".to_owned(), false));
    }

    /// A guest that sends its text, then counts what it does.
    fn busy(count: &Arc<AtomicU32>) -> impl GuestBody + 'static {
        let count = count.clone();
        let frames = stream::unfold(0, move |step| {
            let count = count.clone();
            async move {
                match step {
                    0 => Some((data("abc"), 1)),
                    1..5 => {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        count.fetch_add(1, Relaxed);
                        Some((data(""), step + 1))
                    }
                    _ => None,
                }
            }
        });
        StreamBody::new(Box::pin(frames))
    }

    #[tokio::test]
    async fn trailers_end_a_response_and_not_the_guest() {
        let count = Arc::new(AtomicU32::new(0));
        let counted = count.clone();
        let frames = stream::iter([Ok(Frame::trailers(HeaderMap::new()))]);
        let rest = stream::once(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            counted.fetch_add(1, Relaxed);
            data("")
        });
        let body = StreamBody::new(Box::pin(futures_util::StreamExt::chain(frames, rest)));
        let mut stream = stream_of(body, &HeaderMap::new());
        assert!(stream.frame().await.unwrap().unwrap().is_trailers());
        assert!(stream.is_end_stream());
        drop(stream);
        for _ in 0..1000 {
            if count.load(Relaxed) == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(count.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn guest_ends_without_a_reader() {
        for drops_early in [false, true] {
            let count = Arc::default();
            if drops_early {
                // As hyper does when all announced bytes are sent.
                let mut stream = stream_of(busy(&count), &announcing(&["3"]));
                stream.frame().await.unwrap().unwrap();
            } else {
                let series = Telemetry::default().worker("/w");
                let within = Duration::from_secs(5);
                finish(busy(&count), within, series, "w".into(), "1".into());
            }
            for _ in 0..1000 {
                if count.load(Relaxed) == 4 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(count.load(Relaxed), 4);
        }
        // A client that goes away ends it.
        let count = Arc::default();
        let mut stream = stream_of(busy(&count), &HeaderMap::new());
        stream.frame().await.unwrap().unwrap();
        drop(stream);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(count.load(Relaxed), 0);
        // Nor does it go on for ever.
        let count = Arc::default();
        finish(
            busy(&count),
            Duration::from_millis(8),
            Telemetry::default().worker("/w"),
            "w".into(),
            "1".into(),
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(count.load(Relaxed) < 4);
    }
}
