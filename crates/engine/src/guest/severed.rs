//! The body of a request that breaks off when its caller is done with it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;

use crate::body::{BodyError, BodyStream, RequestBody};

/// The body of a request that can be cut off: the guest, which outlives its callers, may keep it.
pub(crate) struct SeveredBody(Arc<Mutex<SeveredState>>);

struct SeveredState {
    body: Option<BodyStream>,
    reader: Option<Waker>,
}

/// Cuts the body of a request off when it is dropped.
pub(crate) struct Cut(Arc<Mutex<SeveredState>>);

fn locked(state: &Mutex<SeveredState>) -> MutexGuard<'_, SeveredState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SeveredBody {
    /// The request with such a body, if it streams.
    pub(crate) fn of(
        request: http::Request<RequestBody>,
    ) -> (http::Request<RequestBody>, Option<Cut>) {
        let (head, body) = request.into_parts();
        let RequestBody::Stream(body) = body else {
            return (http::Request::from_parts(head, body), None);
        };
        let state = Arc::new(Mutex::new(SeveredState {
            body: Some(body),
            reader: None,
        }));
        let body = RequestBody::Stream(Self(state.clone()).boxed_unsync());
        (http::Request::from_parts(head, body), Some(Cut(state)))
    }
}

impl Drop for SeveredBody {
    fn drop(&mut self) {
        // The guest reads no more: the connection need not wait for who cuts it off.
        let body = locked(&self.0).body.take();
        drop(body);
    }
}

impl Body for SeveredBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut state = locked(&self.0);
        let Some(body) = &mut state.body else {
            return Poll::Ready(Some(Err(BodyError::Disconnected)));
        };
        let polled = Pin::new(body).poll_frame(context);
        if polled.is_pending() {
            state.reader = Some(context.waker().clone());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let state = locked(&self.0);
        state.body.as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let state = locked(&self.0);
        state.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Cut {
    /// Leaves what the client still sends to the guest for so long.
    pub(crate) fn later(self, time: Duration) {
        if !locked(&self.0)
            .body
            .as_ref()
            .is_none_or(Body::is_end_stream)
        {
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                drop(self);
            });
        }
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        let mut state = locked(&self.0);
        let (body, reader) = (state.body.take(), state.reader.take());
        drop(state);
        drop(body);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}
