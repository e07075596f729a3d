//! Request bodies that a worker reads as they come.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use wws_engine::{Account, BodyError};

use crate::connection::activity::Activity;
use crate::connection::bounds::bytes_in;

/// Bounds of a body that is read as it comes.
#[derive(Clone)]
pub(crate) struct UploadStreamBounds {
    /// The longest time that a worker waits for the client.
    pub(crate) idle: Duration,
    /// The most bytes that are read; any number without it.
    pub(crate) max: Option<u64>,
    /// The lowest rate at which a client sends while memory is short, in bytes per second...
    pub(crate) min_rate: u64,
    /// ... averaged over this much time in which the worker waits.
    pub(crate) average: Duration,
    pub(crate) memory: Account,
}

/// How the body of a request failed, for the response of the server.
pub(crate) type UploadFailure = Arc<OnceLock<BodyError>>;

/// A body that is read as it comes. Only the time in which the worker waits for it is the client's.
pub(crate) struct UploadStream<B> {
    /// `None` once it has ended.
    body: Option<B>,
    activity: Arc<Activity>,
    bounds: UploadStreamBounds,
    received: u64,
    /// When the worker began to wait for the next piece.
    awaited: Option<Instant>,
    /// Expires at some time before the wait is too long.
    sleep: Option<Pin<Box<Sleep>>>,
    /// How long the worker has waited, and what came, since the rate was checked.
    waited: Duration,
    came: u64,
    failure: UploadFailure,
}

impl<B> UploadStream<B> {
    pub(crate) fn new(
        body: B,
        activity: Arc<Activity>,
        bounds: UploadStreamBounds,
        failure: UploadFailure,
    ) -> Self {
        Self {
            body: Some(body),
            activity,
            bounds,
            received: 0,
            awaited: None,
            sleep: None,
            waited: Duration::ZERO,
            came: 0,
            failure,
        }
    }

    /// The worker waits: whether it has done so for too long.
    fn poll_wait(&mut self, context: &mut Context<'_>) -> Poll<BodyError> {
        let now = Instant::now();
        let since = *self.awaited.get_or_insert_with(|| {
            self.activity.reading.set_uploading(true);
            now
        });
        let end = since + self.bounds.idle;
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        // A timer of an earlier wait is set again when it expires.
        while sleep.as_mut().poll(context).is_ready() {
            if Instant::now() >= end {
                return Poll::Ready(BodyError::TooSlow);
            }
            sleep.as_mut().reset(end);
        }
        Poll::Pending
    }

    /// The wait is over.
    fn arrived(&mut self) {
        if let Some(since) = self.awaited.take() {
            self.activity.reading.set_uploading(false);
            self.waited += since.elapsed();
        }
    }

    /// Counts a piece.
    fn count(&mut self, piece: &Bytes) -> Result<(), BodyError> {
        let bytes = piece.len() as u64;
        self.received += bytes;
        self.came += bytes;
        if let Some(max) = self.bounds.max
            && self.received > max
        {
            return Err(BodyError::TooLarge(max));
        }
        if self.waited >= self.bounds.average {
            let enough = self.came >= bytes_in(self.bounds.min_rate, self.waited);
            (self.waited, self.came) = (Duration::ZERO, 0);
            if !enough && self.bounds.memory.is_short() {
                return Err(BodyError::TooSlow);
            }
        }
        Ok(())
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.arrived();
        self.body = None;
        let _ = self.failure.set(error.clone());
        Poll::Ready(Some(Err(error)))
    }
}

impl<B> Body for UploadStream<B>
where
    B: Body<Data = Bytes, Error: Into<BodyError>> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        match Pin::new(&mut *body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                // Few readers ask for what follows the end.
                if frame.is_trailers() || body.is_end_stream() {
                    this.activity.requests.set_body_unread(false);
                }
                this.arrived();
                match frame.data_ref().map_or(Ok(()), |piece| this.count(piece)) {
                    Ok(()) => Poll::Ready(Some(Ok(frame))),
                    Err(error) => this.fail(error),
                }
            }
            Poll::Ready(Some(Err(error))) => this.fail(error.into()),
            Poll::Ready(None) => {
                this.arrived();
                this.body = None;
                this.activity.requests.set_body_unread(false);
                Poll::Ready(None)
            }
            Poll::Pending => match this.poll_wait(context) {
                Poll::Ready(error) => this.fail(error),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Some(body) => body.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

impl<B> Drop for UploadStream<B> {
    fn drop(&mut self) {
        self.arrived();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures_util::{StreamExt, stream};
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn bounds(memory: &Account) -> UploadStreamBounds {
        UploadStreamBounds {
            idle: Duration::from_millis(300),
            max: None,
            min_rate: 5_000,
            average: Duration::from_millis(200),
            memory: memory.clone(),
        }
    }

    /// A client that sends `count` pieces of `size` bytes, one every `pause` milliseconds, and then
    /// nothing for ever.
    fn client(
        size: usize,
        count: usize,
        pause: u64,
    ) -> impl Body<Data = Bytes, Error = BodyError> + Unpin {
        let pieces = stream::iter(0..count).then(move |_| async move {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            Ok(Frame::data(Bytes::from(vec![7; size])))
        });
        StreamBody::new(Box::pin(pieces.chain(stream::pending())))
    }

    async fn read<B>(body: B, bounds: UploadStreamBounds) -> (usize, Option<BodyError>, Duration)
    where
        B: Body<Data = Bytes, Error = BodyError> + Unpin,
    {
        let (activity, failure) = (Activity::new(), UploadFailure::default());
        let mut stream = UploadStream::new(body, activity.clone(), bounds, failure.clone());
        let (start, mut all) = (Instant::now(), 0);
        loop {
            match stream.frame().await {
                Some(Ok(frame)) => all += frame.data_ref().unwrap().len(),
                Some(Err(error)) => {
                    assert_eq!(failure.get(), Some(&error));
                    assert!(!activity.reading.is_uploading());
                    return (all, Some(error), start.elapsed());
                }
                None => return (all, None, start.elapsed()),
            }
        }
    }

    #[tokio::test]
    async fn only_the_time_between_pieces_counts() {
        let memory = Account::new(1 << 20);
        let (all, error, took) = read(client(10, 5, 150), bounds(&memory)).await;
        assert_eq!((all, error), (50, Some(BodyError::TooSlow)));
        assert!(took > Duration::from_millis(5 * 150 + 300), "{took:?}");
    }

    #[tokio::test]
    async fn slow_clients_have_less_time_while_memory_is_short() {
        let memory = Account::new(1 << 20);
        let _all = memory.charge(1 << 20).unwrap();
        let (all, error, _) = read(client(10, 50, 20), bounds(&memory)).await;
        assert_eq!(error, Some(BodyError::TooSlow));
        assert!(all < 300, "{all}");
        let (all, ..) = read(client(10_000, 50, 20), bounds(&memory)).await;
        assert_eq!(all, 500_000, "it is fast enough");
    }

    #[tokio::test]
    async fn a_body_has_its_largest_size() {
        let memory = Account::new(1 << 20);
        let bounds = UploadStreamBounds {
            max: Some(35),
            ..bounds(&memory)
        };
        let (all, error, _) = read(client(10, 50, 1), bounds).await;
        assert_eq!((all, error), (30, Some(BodyError::TooLarge(35))));
    }

    #[tokio::test]
    async fn an_upload_is_the_client_s_turn_only_while_a_worker_reads() {
        let memory = Account::new(1 << 20);
        let activity = Activity::new();
        activity.requests.set_body_unread(true);
        let pieces = [Ok::<_, BodyError>(Frame::data(Bytes::from_static(b"a")))];
        let body = StreamBody::new(stream::iter(pieces));
        let failure = UploadFailure::default();
        let mut stream =
            UploadStream::new(body, activity.clone(), bounds(&memory), failure.clone());
        assert!(!activity.reading.is_uploading());
        stream.frame().await.unwrap().unwrap();
        assert!(stream.frame().await.is_none());
        assert!(!activity.requests.is_body_unread());
        let mut stream = UploadStream::new(
            client(1, 1, 5000),
            activity.clone(),
            bounds(&memory),
            failure,
        );
        let polled = std::future::poll_fn(|context| {
            Poll::Ready(Pin::new(&mut stream).poll_frame(context).is_pending())
        });
        assert!(polled.await && activity.reading.is_uploading());
        drop(stream);
        assert!(!activity.reading.is_uploading());
    }
}
