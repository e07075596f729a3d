//! Responses: their head as soon as it is known, and a body that runs the guest while it is read.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use crate::body::{self, BegunBody, BodyError, BodyStream, ClientWaits};
use crate::error::CallError;
use crate::guest::run::RunEnd;
use crate::guest::socket::GuestSocket;
use crate::schedule::lane::LanedCall;
use crate::spec::{GuestLimits, StreamLimits};

/// Tells the reader of a body that the guest has failed, before the guest drops what it held: a
/// body whose writer is gone looks as if it had ended.
#[derive(Clone, Default)]
pub(crate) struct FailureFlag(Arc<AtomicBool>);

impl FailureFlag {
    /// Raises the flag when it is dropped, unless the guest has succeeded.
    pub(crate) fn until_success(self) -> RaisedOnDrop {
        RaisedOnDrop(Some(self))
    }

    fn is_raised(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Raises a flag when it is dropped. To be declared after what the guest holds.
pub(crate) struct RaisedOnDrop(Option<FailureFlag>);

impl RaisedOnDrop {
    /// The guest has succeeded.
    pub(crate) fn succeeded(mut self) {
        self.0 = None;
    }
}

impl Drop for RaisedOnDrop {
    fn drop(&mut self) {
        if let Some(flag) = &self.0 {
            flag.0.store(true, Ordering::SeqCst);
        }
    }
}

/// The body of a guest's response.
///
/// The guest of a stream runs while the body is polled: a slow reader slows it down, and dropping
/// the body ends it. What a guest does after the end of the body is run in the background.
pub enum ResponseBody {
    /// The whole body; the guest has ended.
    Collected(Bytes),
    /// The body as it comes.
    Stream(Box<StreamedBody>),
    /// A WebSocket, which the guest accepted.
    Socket(Box<GuestSocket>),
}

/// The body of a response that the guest is still making.
pub struct StreamedBody {
    /// `None` once the guest has ended.
    run: Option<LanedCall<RunEnd>>,
    failed: FailureFlag,
    body: BodyStream,
    limits: StreamLimits,
    /// When the next piece is late. Made when a piece has to be awaited.
    late: Option<Pin<Box<Sleep>>>,
    /// When a piece was awaited first.
    awaited: bool,
    /// When the body must have ended.
    end: Option<Instant>,
    bytes: u64,
    /// How the body broke, while the guest has not ended.
    broken: Option<BodyError>,
    /// How the guest failed, while pieces are left.
    failure: Option<CallError>,
    /// What was there when the head was passed on, in order, and is not read yet.
    ahead: VecDeque<Result<Frame<Bytes>, CallError>>,
    /// Nothing follows what is in `ahead`.
    ended: bool,
    /// Wall-clock time of what the guest does after its response.
    after: Duration,
    /// Dropped when the guest has ended.
    kept: KeptValues,
}

/// What is kept until a guest has ended.
type KeptValues = Vec<Box<dyn Send + Sync>>;

/// A call that passes the head of its response, in a form of its own, while it runs.
pub(crate) struct StreamingCall<H> {
    pub(crate) run: LanedCall<RunEnd>,
    pub(crate) head: oneshot::Receiver<H>,
    pub(crate) response: fn(H) -> Result<http::Response<BegunBody>, CallError>,
    pub(crate) failed: FailureFlag,
    /// Whether another task runs the guest.
    pub(crate) is_apart: bool,
}

impl<H> StreamingCall<H> {
    /// Runs the guest until the head of its response is known, within its time.
    pub(crate) async fn head_in_time(
        self,
        limits: &GuestLimits,
        waits: &ClientWaits,
    ) -> Result<http::Response<ResponseBody>, CallError> {
        let limit = limits.wall_time;
        let is_apart = self.is_apart;
        let head = self.head(&limits.stream, limit);
        let in_time = waits.timeout(limit, head).await;
        let mut response = in_time.unwrap_or(Err(CallError::WallTime(limit)))?;
        if let ResponseBody::Stream(body) = response.body_mut() {
            poll_fn(|context| {
                body.look_ahead(context);
                Poll::Ready(())
            })
            .await;
            if is_apart && !body.ended {
                // Its task sees that the first piece was taken.
                tokio::task::yield_now().await;
                poll_fn(|context| {
                    body.look_ahead(context);
                    Poll::Ready(())
                })
                .await;
            }
        }
        Ok(response)
    }

    async fn head(
        self,
        limits: &StreamLimits,
        after: Duration,
    ) -> Result<http::Response<ResponseBody>, CallError> {
        let failed = self.failed;
        let mut run = Some(self.run);
        // `None` once it is known that no head comes.
        let mut head = Some(self.head);
        let head = poll_fn(|context| {
            // The run first: it makes the head.
            let ended = match run.as_mut().map(|run| Pin::new(run).poll(context)) {
                Some(Poll::Ready(ended)) => {
                    run = None;
                    Some(ended)
                }
                _ => None,
            };
            let passed = match head.as_mut().map(|head| Pin::new(head).poll(context)) {
                Some(Poll::Ready(passed)) => {
                    head = None;
                    passed.ok()
                }
                Some(Poll::Pending) | None => None,
            };
            if let Some(head) = passed {
                return Poll::Ready(match ended {
                    Some(Some(Err(error))) => Err(error),
                    Some(None) => Err(CallError::Engine("the call panicked")),
                    Some(Some(Ok(_))) | None => (self.response)(head).map(Head::Begun),
                });
            }
            match ended {
                Some(Some(Ok(Some(response)))) => Poll::Ready(Ok(Head::Whole(response))),
                Some(Some(Ok(None))) => Poll::Ready(Err(CallError::NoResponse)),
                Some(Some(Err(error))) => Poll::Ready(Err(error)),
                Some(None) => Poll::Ready(Err(CallError::Engine("the call panicked"))),
                None => Poll::Pending,
            }
        })
        .await?;
        Ok(match head {
            Head::Whole(response) => response.map(ResponseBody::Collected),
            Head::Begun(response) => response.map(|body| match body {
                BegunBody::Stream(body) => ResponseBody::Stream(Box::new(StreamedBody {
                    run,
                    failed,
                    body,
                    limits: limits.clone(),
                    late: None,
                    awaited: false,
                    end: limits.time.map(|time| Instant::now() + time),
                    bytes: 0,
                    broken: None,
                    failure: None,
                    ahead: VecDeque::new(),
                    ended: false,
                    after,
                    kept: Vec::new(),
                })),
                BegunBody::Socket(end) => {
                    let limits = limits.socket.clone();
                    ResponseBody::Socket(Box::new(GuestSocket::new(run, end, limits, after)))
                }
            }),
        })
    }
}

/// How a response begins.
enum Head {
    Whole(http::Response<Bytes>),
    Begun(http::Response<BegunBody>),
}

impl StreamedBody {
    /// Runs the guest. Returns its failure, if that is its end.
    fn poll_run(&mut self, context: &mut Context<'_>) -> Option<CallError> {
        let run = self.run.as_mut()?;
        let Poll::Ready(ended) = Pin::new(run).poll(context) else {
            return None;
        };
        self.run = None;
        self.kept.clear();
        match ended {
            Some(Ok(_)) => None,
            Some(Err(error)) => Some(error),
            None => Some(CallError::Engine("the call panicked")),
        }
    }

    fn poll_body(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &self.broken {
            Some(error) => Poll::Ready(Some(Err(error.clone()))),
            None => Pin::new(&mut self.body).poll_frame(context),
        }
    }

    /// Ends the guest and the body.
    fn fail(&mut self, error: CallError) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        self.run = None;
        self.kept.clear();
        self.ended = true;
        Poll::Ready(Some(Err(error)))
    }

    /// Counts a piece that is passed on.
    fn passed(&mut self, frame: &Frame<Bytes>) -> Result<(), CallError> {
        self.awaited = false;
        let Some(data) = frame.data_ref() else {
            return Ok(());
        };
        self.bytes += data.len() as u64;
        match self.limits.bytes {
            Some(limit) if self.bytes > limit => Err(CallError::Body(BodyError::TooLarge(limit))),
            _ => Ok(()),
        }
    }

    /// Whether a piece is late.
    fn poll_late(&mut self, context: &mut Context<'_>) -> Option<CallError> {
        if !self.awaited {
            self.awaited = true;
            let idle = Instant::now() + self.limits.idle;
            let at = self.end.map_or(idle, |end| end.min(idle));
            match &mut self.late {
                Some(late) => late.as_mut().reset(at),
                None => self.late = Some(Box::pin(tokio::time::sleep_until(at))),
            }
        }
        if self.late.as_mut()?.as_mut().poll(context).is_pending() {
            return None;
        }
        Some(match (self.end, self.limits.time) {
            (Some(end), Some(time)) if end <= Instant::now() => CallError::StreamTime(time),
            _ => CallError::StreamIdle(self.limits.idle),
        })
    }

    /// Takes the first piece, if it is there, and learns whether it is the last one: the body of a
    /// short response is known with its head.
    fn look_ahead(&mut self, context: &mut Context<'_>) {
        for _ in 0..2 {
            let Poll::Ready(Some(next)) = self.poll_next(context) else {
                return;
            };
            self.ahead.push_back(next);
        }
    }

    /// The whole body, of which nothing was read yet, if the guest has ended and made at most one
    /// piece.
    #[must_use]
    pub fn whole(&self) -> Option<Bytes> {
        if !self.ended || self.run.is_some() {
            return None;
        }
        match self.ahead.front() {
            None => Some(Bytes::new()),
            Some(Ok(frame)) if self.ahead.len() == 1 => frame.data_ref().cloned(),
            Some(_) => None,
        }
    }

    /// Drops the body, for whose end some guests wait, and lets the guest end if it can at once.
    fn end_body(&mut self, context: &mut Context<'_>) {
        self.ended = true;
        self.body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        if let Some(error) = self.poll_run(context) {
            tracing::error!("after the response: {error}");
        }
    }

    /// The guest goes on after the end of the body, for a while.
    fn run_on(&mut self) {
        let Some(run) = self.run.take() else {
            return;
        };
        let (kept, after) = (std::mem::take(&mut self.kept), self.after);
        tokio::spawn(async move {
            let _kept = kept;
            match tokio::time::timeout(after, run).await {
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => tracing::error!("after the response: {error}"),
                Ok(None) => tracing::error!("after the response: the call panicked"),
                Err(_) => tracing::error!("after the response: {}", CallError::WallTime(after)),
            }
        });
    }

    /// The next frame of the guest.
    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        let this = self;
        if this.ended {
            return Poll::Ready(None);
        }
        // What is there is sent before the guest makes more.
        let mut polled = this.poll_body(context);
        if !matches!(polled, Poll::Ready(Some(Ok(_)))) {
            if let Some(error) = this.poll_run(context) {
                this.failure = Some(error);
            }
            if polled.is_pending() {
                polled = this.poll_body(context);
            }
        }
        if !matches!(polled, Poll::Ready(Some(Ok(_))))
            && let Some(error) = this.failure.take()
        {
            return this.fail(error);
        }
        if matches!(polled, Poll::Ready(None)) && this.run.is_some() && this.failed.is_raised() {
            polled = Poll::Ready(Some(Err(BodyError::Disconnected)));
        }
        // The guest that broke its body has an error of its own, which is soon known.
        if let Poll::Ready(Some(Err(error))) = polled {
            this.broken = Some(error.clone());
            polled = match this.run {
                Some(_) => Poll::Pending,
                None => Poll::Ready(Some(Err(error))),
            };
        }
        match polled {
            Poll::Ready(Some(Ok(frame))) => match this.passed(&frame) {
                Ok(()) => Poll::Ready(Some(Ok(frame))),
                Err(error) => this.fail(error),
            },
            Poll::Ready(Some(Err(error))) => this.fail(CallError::Body(error)),
            Poll::Ready(None) => {
                this.end_body(context);
                Poll::Ready(None)
            }
            Poll::Pending => match this.poll_late(context) {
                Some(error) => this.fail(error),
                None => Poll::Pending,
            },
        }
    }
}

impl Body for StreamedBody {
    type Data = Bytes;
    type Error = CallError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        if let Some(next) = self.ahead.pop_front() {
            return Poll::Ready(Some(next));
        }
        let polled = self.poll_next(context);
        if self.ended {
            self.run_on();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        // What a guest still does is begun when the end is read.
        self.ahead.is_empty() && self.run.is_none() && (self.ended || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let ahead = self.ahead.iter().flatten().filter_map(Frame::data_ref);
        let ahead: u64 = ahead.map(|piece| piece.len() as u64).sum();
        let body = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + ahead);
        // A body of a known length has no trailers in HTTP/1.
        let has_trailers = self.ahead.iter().flatten().any(Frame::is_trailers);
        if let Some(upper) = body.upper()
            && !has_trailers
        {
            hint.set_upper(upper + ahead);
        }
        hint
    }
}

impl ResponseBody {
    /// Keeps something until the guest has ended.
    pub fn keep(&mut self, kept: Box<dyn Send + Sync>) {
        if let Self::Stream(stream) = self
            && stream.run.is_some()
        {
            stream.kept.push(kept);
        }
    }

    /// The whole body, of at most `max` bytes.
    ///
    /// # Errors
    /// The guest failed, or made more.
    pub async fn collect(self, max: u64) -> Result<Bytes, CallError> {
        match self {
            Self::Collected(bytes) => Ok(bytes),
            Self::Stream(stream) => body::collect(stream, max, CallError::TooMuchOutput).await,
            Self::Socket(_) => Err(CallError::NoResponse),
        }
    }
}
