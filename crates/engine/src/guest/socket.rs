//! WebSockets that a guest has accepted.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use wws_websocket::{End, Limits};

use crate::error::CallError;
use crate::guest::run::RunEnd;
use crate::schedule::lane::LanedCall;

/// A WebSocket that a guest has accepted, and the guest, which runs while this is polled. Dropping
/// it ends the guest.
pub struct GuestSocket {
    /// `None` once the guest has ended.
    run: Option<LanedCall<RunEnd>>,
    /// `None` once it was taken.
    end: Option<End>,
    limits: Limits,
    after: Duration,
}

impl GuestSocket {
    pub(crate) fn new(
        run: Option<LanedCall<RunEnd>>,
        end: End,
        limits: Limits,
        after: Duration,
    ) -> Self {
        Self {
            run,
            end: Some(end),
            limits,
            after,
        }
    }

    /// The connection's end of the socket, once.
    pub fn take_end(&mut self) -> Option<End> {
        self.end.take()
    }

    /// Bounds of the socket.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Wall-clock time of what the guest does after the socket is closed.
    #[must_use]
    pub fn after(&self) -> Duration {
        self.after
    }

    /// Whether the guest has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.run.is_none()
    }

    /// Runs the guest until it ends. To be polled until then.
    pub fn poll_guest(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        let Some(run) = &mut self.run else {
            return Poll::Pending;
        };
        let Poll::Ready(ended) = Pin::new(run).poll(context) else {
            return Poll::Pending;
        };
        self.run = None;
        Poll::Ready(match ended {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(error),
            None => Err(CallError::Engine("the call panicked")),
        })
    }
}
