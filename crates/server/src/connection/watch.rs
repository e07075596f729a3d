//! Bounds the time of each phase of a connection.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::connection::activity::Activity;
use crate::connection::bounds::{Bounds, RATE_CHECKS, bytes_in};

/// Time for a client of HTTP/2 to see that the server stops, once it has no request in progress.
const STOPPING: Duration = Duration::from_secs(1);

/// Bytes after which a client that takes a response slowly counts as making progress.
const PROGRESS_STEP: u64 = 16 << 10;

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum ConnectionEnd {
    Closed,
    HeadTimeout,
    Timeout,
    /// There is no memory for the head, or the connection is evicted for another one.
    NoRoom,
    /// The client speaks HTTP/2.
    Http2,
    /// The connection leaves HTTP.
    Upgraded,
}

/// What a connection waits for. The counts tell one wait from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The first byte.
    New,
    /// The next request, after this many.
    Idle(u64),
    /// The rest of a head, after this many requests.
    Head(u64),
    /// The rest of a body of the request with this number, which is timed elsewhere; or, with
    /// HTTP/2, whatever all requests wait for.
    Upload(u64),
    /// The server, which has no time limit here.
    Busy,
    /// The client, to take what is sent.
    Stalled,
    /// The client, to see that the server stops.
    Stopping,
}

/// How much a client had taken when averaging began, and at the last check.
#[derive(Clone, Copy)]
struct Rate {
    since: Instant,
    taken: u64,
    taken_at_check: u64,
}

/// Bounds the duration of each phase.
pub(crate) struct Watch {
    pub(crate) activity: Arc<Activity>,
    pub(crate) bounds: Bounds,
    /// The bytes that the client had taken when this was last updated.
    seen: u64,
    /// Set while the client does not take all that is sent.
    rate: Option<Rate>,
    /// `None` before the first poll.
    phase: Option<Phase>,
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// When `sleep` expires, if it has not yet.
    armed: Option<Instant>,
}

impl Watch {
    pub(crate) fn new(activity: Arc<Activity>, bounds: Bounds) -> Self {
        Self {
            activity,
            bounds,
            seen: 0,
            phase: None,
            rate: None,
            deadline: None,
            sleep: None,
            armed: None,
        }
    }

    fn phase(&self) -> (Phase, Option<Duration>) {
        let (activity, bounds) = (&self.activity, &self.bounds);
        if activity.sending.is_stalled() {
            (Phase::Stalled, Some(bounds.write / RATE_CHECKS))
        } else if activity.reading.is_uploading() || activity.requests.are_all_awaiting() {
            (Phase::Upload(activity.requests.count()), None)
        } else if activity.requests.is_any_in_progress() {
            (Phase::Busy, None)
        } else if activity.reading.in_head() {
            (Phase::Head(activity.requests.count()), Some(bounds.header))
        } else if activity.reading.is_http2() && activity.sending.is_stopping() {
            (Phase::Stopping, Some(STOPPING))
        } else {
            match activity.requests.count() {
                // A client of HTTP/2 may connect in advance.
                requests if activity.reading.is_http2() => {
                    (Phase::Idle(requests), Some(bounds.idle))
                }
                // A client that connects has a request to send: its time runs from the start.
                0 => (Phase::New, Some(bounds.header)),
                requests => (Phase::Idle(requests), Some(bounds.idle)),
            }
        }
    }

    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<ConnectionEnd> {
        let (phase, time) = self.phase();
        if self.phase != Some(phase) {
            self.enter(phase, time);
        }
        // The client's system takes a few KiB at first, which is no progress of the client.
        if phase == Phase::Stalled && self.activity.sending.taken() >= self.seen + PROGRESS_STEP {
            self.seen = self.activity.sending.taken();
            self.activity.waiting.begin(Some(self.bounds.write));
        }
        if self.activity.waiting.take_evicted() {
            match phase {
                Phase::New | Phase::Idle(_) | Phase::Stopping => {
                    return Poll::Ready(ConnectionEnd::Closed);
                }
                Phase::Head(_) => return Poll::Ready(ConnectionEnd::NoRoom),
                Phase::Stalled if self.activity.waiting.used().is_some() => {
                    return Poll::Ready(ConnectionEnd::Timeout);
                }
                Phase::Upload(_) if self.activity.waiting.used().is_some() => {
                    // Nothing can be said within a response.
                    return Poll::Ready(if self.activity.sending.is_streaming() {
                        ConnectionEnd::Timeout
                    } else {
                        ConnectionEnd::NoRoom
                    });
                }
                // The connection makes progress.
                Phase::Busy | Phase::Stalled | Phase::Upload(_) => {}
            }
            // The wake-up consumed the waker.
            self.activity.waiting.register(context.waker());
        }
        loop {
            let Some(deadline) = self.deadline else {
                return Poll::Pending;
            };
            // A timer that expires too early is set again then.
            if self.armed.is_none_or(|armed| armed > deadline) {
                match &mut self.sleep {
                    Some(sleep) => sleep.as_mut().reset(deadline),
                    None => self.sleep = Some(Box::pin(tokio::time::sleep_until(deadline))),
                }
                self.armed = Some(deadline);
            }
            let Some(sleep) = &mut self.sleep else {
                return Poll::Pending;
            };
            if sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.armed = None;
            let now = Instant::now();
            if now < deadline {
                continue;
            }
            match phase {
                Phase::Head(_) => return Poll::Ready(ConnectionEnd::HeadTimeout),
                Phase::Stalled if self.is_fast_enough(now) => {
                    self.deadline = Some(now + self.bounds.write / RATE_CHECKS);
                }
                _ => return Poll::Ready(ConnectionEnd::Timeout),
            }
        }
    }

    fn enter(&mut self, phase: Phase, time: Option<Duration>) {
        self.phase = Some(phase);
        let now = time.map(|time| (Instant::now(), time));
        self.deadline = now.map(|(now, time)| now + time);
        let is_stalled = phase == Phase::Stalled;
        let taken = self.activity.sending.taken();
        self.rate = now.filter(|_| is_stalled).map(|(now, _)| Rate {
            since: now,
            taken,
            taken_at_check: taken,
        });
        self.seen = taken;
        let waiting = &self.activity.waiting;
        match phase {
            Phase::New | Phase::Head(_) => waiting.begin_head(time),
            // A rate check is not the end of the client's time. Bodies have as much time.
            Phase::Stalled | Phase::Upload(_) => waiting.begin(Some(self.bounds.write)),
            Phase::Busy | Phase::Idle(_) | Phase::Stopping => waiting.begin(time),
        }
    }

    /// Whether a client takes what is sent fast enough: at `min_rate`, averaged over `write`; and
    /// while memory is short, fast enough to take the bytes held for it within `write`.
    fn is_fast_enough(&mut self, now: Instant) -> bool {
        let Some(rate) = &mut self.rate else {
            return true;
        };
        let bounds = &self.bounds;
        let taken = self.activity.sending.taken();
        let since_check = taken - rate.taken_at_check;
        rate.taken_at_check = taken;
        if bounds.memory.is_short() {
            let minimum = bytes_in(bounds.min_rate, bounds.write).max(self.activity.sending.held());
            return since_check >= (minimum / u64::from(RATE_CHECKS)).max(1);
        }
        if now - rate.since < bounds.write {
            return true;
        }
        let enough = taken - rate.taken >= bytes_in(bounds.min_rate, bounds.write).max(1);
        (rate.since, rate.taken) = (now, taken);
        enough
    }
}

#[cfg(test)]
mod tests {
    use wws_engine::Account;

    use super::*;

    const WRITE: Duration = Duration::from_millis(600);

    fn watch(memory: &Account) -> Watch {
        let bounds = Bounds {
            header: WRITE,
            idle: WRITE,
            write: WRITE,
            min_rate: 1000,
            memory: memory.clone(),
            heads: memory.clone(),
        };
        Watch::new(Activity::new(), bounds)
    }

    /// How long a client is served that takes `bytes` of a response of `held` bytes every 20 ms; at
    /// most 2 s.
    async fn served(memory: &Account, held: u64, bytes: usize) -> Duration {
        let mut watch = watch(memory);
        let activity = watch.activity.clone();
        let _request = activity.begin_request();
        activity.sending.set_held(held);
        activity.sending.stall(0);
        let takes = async {
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                activity.sending.wrote(bytes);
                activity.sending.stall(0);
            }
        };
        let start = Instant::now();
        tokio::select! {
            _ = std::future::poll_fn(|context| watch.poll(context)) => {}
            () = takes => {}
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
        }
        start.elapsed()
    }

    #[tokio::test]
    async fn closes_clients_below_the_minimum_rate() {
        let memory = Account::new(1 << 20);
        let slow = served(&memory, 1 << 20, 1).await;
        assert!(slow >= WRITE && slow < WRITE * 2, "{slow:?}");
        let fast_enough = served(&memory, 1 << 20, 100).await;
        assert!(fast_enough > WRITE * 3, "{fast_enough:?}");
    }

    #[tokio::test]
    async fn evicts_clients_that_take_nothing_and_keeps_those_that_take_something() {
        let memory = Account::new(1 << 20);
        for (bytes, ended) in [(0, true), (4000, false)] {
            let mut watch = watch(&memory);
            watch.bounds.write = Duration::from_secs(60);
            let activity = watch.activity.clone();
            let _request = activity.begin_request();
            activity.sending.stall(0);
            let evicts = async {
                for _ in 0..30 {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    activity.sending.wrote(bytes);
                    activity.sending.stall(0);
                    activity.waiting.evict();
                }
            };
            let end = tokio::select! {
                end = std::future::poll_fn(|context| {
                    watch.activity.waiting.register(context.waker());
                    watch.poll(context)
                }) => Some(end),
                () = evicts => None,
            };
            assert_eq!(
                matches!(end, Some(ConnectionEnd::Timeout)),
                ended,
                "{end:?}"
            );
        }
    }

    #[tokio::test]
    async fn requires_a_response_to_be_taken_in_time_while_memory_is_short() {
        let memory = Account::new(1 << 20);
        let all = memory.charge(1 << 20);
        assert!(all.is_some() && memory.is_short());
        let slow = served(&memory, 1 << 20, 1000).await;
        assert!(slow < WRITE, "{slow:?}");
        let fast_enough = served(&memory, 1 << 20, 100_000).await;
        assert!(fast_enough > WRITE * 3, "{fast_enough:?}");
        // What is small need not be taken faster than usual.
        let small = served(&memory, 100, 100).await;
        assert!(small > WRITE * 3, "{small:?}");
    }
}
