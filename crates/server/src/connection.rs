//! One connection: hyper speaks HTTP on it, this bounds its time and ends it.
//!
//! hyper's own head time-out also runs between requests, so that a connection could not be idle for longer than a head may take,
//! and makes a timer for each request. Here a connection has one timer, which is only set again when it has run out.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    server::conn::http1::{Builder, Connection},
    service::HttpService,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, Sleep},
};
use tokio_util::sync::CancellationToken;
use wws_engine::Account;

use crate::{activity::Activity, body::Body, socket::Socket};

/// How long what a client still sends is thrown away after an early response, so that it can read that response: closing a
/// socket with unread data resets it.
const LINGER: Duration = Duration::from_secs(5);

/// The answer to a head that didn't arrive in time.
const HEAD_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// The answer to a head that there is no memory or no place for.
const NO_ROOM: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// What a client takes is looked at so often within the time that its rate is an average of.
const LOOKS: u32 = 6;

/// So much of what a client still sends is read before an early end: closing a socket with unread data resets it, and the answer
/// is lost.
const UNREAD: usize = 256 << 10;

/// Bounds of a connection.
#[derive(Clone)]
pub(crate) struct Bounds {
    pub(crate) header: Duration,
    pub(crate) idle: Duration,
    /// For a client to take what is sent, at a rate of `min_rate` or more.
    pub(crate) write: Duration,
    /// Bytes a second.
    pub(crate) min_rate: u64,
    /// The memory for all: while it is short, slow clients have less time.
    pub(crate) memory: Account,
    /// What long heads are charged to.
    pub(crate) heads: Account,
}

/// Serves a connection until it ends. `draining` lets it end after the request that it is at.
pub(crate) async fn serve<S>(
    stream: TcpStream,
    http: &Builder,
    service: S,
    activity: Arc<Activity>,
    bounds: Bounds,
    draining: CancellationToken,
) where
    S: HttpService<Incoming, ResBody = Body, Error = Infallible>,
{
    let socket = Socket::new(stream, activity.clone(), bounds.heads.clone());
    let connection = http.serve_connection(TokioIo::new(socket), service);
    let mut driver = Driver {
        connection,
        watch: Watch {
            activity: activity.clone(),
            bounds,
            seen: 0,
            phase: None,
            rate: None,
            deadline: None,
            sleep: None,
            armed: None,
        },
        drained: false,
    };
    let end = {
        // Registers this task once; afterwards the flag is enough.
        let mut cancelled = std::pin::pin!(draining.cancelled());
        let mut registered = false;
        std::future::poll_fn(|context| {
            if !registered {
                registered = cancelled.as_mut().poll(context).is_pending();
                activity.register(context.waker());
            }
            driver.poll(context, draining.is_cancelled())
        })
        .await
    };
    let stream = driver.connection.into_parts().io.into_inner().into_stream();
    match end {
        End::Closed if activity.is_abandoned() => linger(stream).await,
        End::HeadTimeout => {
            // The socket of a client that is this slow has room.
            let _ = stream.try_write(HEAD_TIMEOUT);
        }
        End::NoRoom => {
            let mut scrap = [0; 4 << 10];
            let mut left = UNREAD;
            while let Ok(read @ 1..) = stream.try_read(&mut scrap)
                && left > 0
            {
                left = left.saturating_sub(read);
            }
            let _ = stream.try_write(NO_ROOM);
        }
        End::Closed | End::Timeout => {}
    }
}

/// How a connection ended.
#[derive(Debug)]
enum End {
    Closed,
    HeadTimeout,
    Timeout,
    /// There is no memory for the head, or another connection needs the place.
    NoRoom,
}

struct Driver<S: HttpService<Incoming>> {
    connection: Connection<TokioIo<Socket>, S>,
    watch: Watch,
    drained: bool,
}

impl<S> Driver<S>
where
    S: HttpService<Incoming, ResBody = Body, Error = Infallible>,
{
    fn poll(&mut self, context: &mut Context<'_>, draining: bool) -> Poll<End> {
        if draining && !self.drained {
            self.drained = true;
            Pin::new(&mut self.connection).graceful_shutdown();
        }
        match Pin::new(&mut self.connection).poll(context) {
            Poll::Ready(result) => {
                if let Err(error) = result {
                    tracing::debug!("connection: {error}");
                }
                Poll::Ready(End::Closed)
            }
            Poll::Pending if self.watch.activity.is_refused() => Poll::Ready(End::NoRoom),
            Poll::Pending => self.watch.poll(context),
        }
    }
}

/// What a connection is waiting for, with what tells one such wait from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// For the first byte.
    New,
    /// For a request; so many came before it.
    Idle(u64),
    /// For the rest of a head.
    Head(u64),
    /// For the rest of a body, whose time runs elsewhere; of the request of this number.
    Upload(u64),
    /// For us: no time runs here.
    Busy,
    /// For the client to take what is sent.
    Stalled,
}

/// What a client took, since the beginning of the time that its rate is an average of, and since the last look.
#[derive(Clone, Copy)]
struct Rate {
    since: Instant,
    taken: u64,
    taken_at_look: u64,
}

/// Bounds the time of each phase.
struct Watch {
    activity: Arc<Activity>,
    bounds: Bounds,
    /// What the client has taken, as of the last time that this moved.
    seen: u64,
    /// Of a client that doesn't take all that is sent.
    rate: Option<Rate>,
    /// `None` before the first look.
    phase: Option<Phase>,
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// When `sleep` ends, if it has not.
    armed: Option<Instant>,
}

impl Watch {
    fn phase(&self) -> (Phase, Option<Duration>) {
        let (activity, bounds) = (&self.activity, &self.bounds);
        if activity.is_stalled() {
            (Phase::Stalled, Some(bounds.write / LOOKS))
        } else if activity.is_uploading() {
            (Phase::Upload(activity.requests()), None)
        } else if activity.is_busy() {
            (Phase::Busy, None)
        } else if activity.in_head() {
            (Phase::Head(activity.requests()), Some(bounds.header))
        } else {
            match activity.requests() {
                // The time of the first head runs from the start: a client that connects has something to say.
                0 => (Phase::New, Some(bounds.header)),
                requests => (Phase::Idle(requests), Some(bounds.idle)),
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        let (phase, time) = self.phase();
        if self.phase != Some(phase) {
            self.enter(phase, time);
        }
        if phase == Phase::Stalled && self.activity.taken() != self.seen {
            // It is slow, but goes on.
            self.seen = self.activity.taken();
            self.activity.waits(Some(self.bounds.write));
        }
        if self.activity.take_evicted() {
            match phase {
                Phase::New | Phase::Idle(_) => return Poll::Ready(End::Closed),
                Phase::Head(_) => return Poll::Ready(End::NoRoom),
                Phase::Stalled if self.activity.used_time().is_some() => {
                    return Poll::Ready(End::Timeout);
                }
                Phase::Upload(_) if self.activity.used_time().is_some() => {
                    return Poll::Ready(End::NoRoom);
                }
                // It is of use meanwhile.
                Phase::Busy | Phase::Stalled | Phase::Upload(_) => {}
            }
        }
        loop {
            let Some(deadline) = self.deadline else {
                return Poll::Pending;
            };
            // A timer that ends too early is set again when it does.
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
                Phase::Head(_) => return Poll::Ready(End::HeadTimeout),
                Phase::Stalled if self.is_fast_enough(now) => {
                    self.deadline = Some(now + self.bounds.write / LOOKS);
                }
                _ => return Poll::Ready(End::Timeout),
            }
        }
    }

    fn enter(&mut self, phase: Phase, time: Option<Duration>) {
        self.phase = Some(phase);
        let now = time.map(|time| (Instant::now(), time));
        self.deadline = now.map(|(now, time)| now + time);
        let is_stalled = phase == Phase::Stalled;
        let taken = self.activity.taken();
        self.rate = now.filter(|_| is_stalled).map(|(now, _)| Rate {
            since: now,
            taken,
            taken_at_look: taken,
        });
        self.seen = taken;
        // A look at a client that takes nothing is not the end of its time. Bodies have as much of it.
        self.activity.waits(match phase {
            Phase::Stalled | Phase::Upload(_) => Some(self.bounds.write),
            _ => time,
        });
    }

    /// Whether a client takes what is sent as fast as it has to: `min_rate`, as an average of `write`; and while memory is short,
    /// as fast as it needs to take what is held for it within `write`.
    fn is_fast_enough(&mut self, now: Instant) -> bool {
        let Some(rate) = &mut self.rate else {
            return true;
        };
        let bounds = &self.bounds;
        let taken = self.activity.taken();
        let since_look = taken - rate.taken_at_look;
        rate.taken_at_look = taken;
        if bounds.memory.is_short() {
            let minimum = bytes_in(bounds.min_rate, bounds.write).max(self.activity.held());
            return since_look >= (minimum / u64::from(LOOKS)).max(1);
        }
        if now - rate.since < bounds.write {
            return true;
        }
        let enough = taken - rate.taken >= bytes_in(bounds.min_rate, bounds.write).max(1);
        (rate.since, rate.taken) = (now, taken);
        enough
    }
}

/// Bytes that pass within a time at a rate.
pub(crate) fn bytes_in(rate: u64, time: Duration) -> u64 {
    let bytes = u128::from(rate) * time.as_millis() / 1000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Reads and throws away until the client has ended, or is out of time. Our side is closed already.
async fn linger(mut stream: TcpStream) {
    let mut scrap = vec![0; 16 << 10];
    let read = async { while matches!(stream.read(&mut scrap).await, Ok(1..)) {} };
    let _ = tokio::time::timeout(LINGER, read).await;
}

/// What a connection's service answers.
pub(crate) type Answer = Result<Response<Body>, Infallible>;

/// What it is asked.
pub(crate) type Asked = Request<Incoming>;

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: Duration = Duration::from_millis(600);

    fn watch(memory: &Account) -> Watch {
        Watch {
            activity: Activity::new(),
            bounds: Bounds {
                header: WRITE,
                idle: WRITE,
                write: WRITE,
                min_rate: 1000,
                memory: memory.clone(),
                heads: memory.clone(),
            },
            seen: 0,
            rate: None,
            phase: None,
            deadline: None,
            sleep: None,
            armed: None,
        }
    }

    /// How long a client is served that takes so many bytes of an answer of `held` bytes each 20 ms; at most 2 s.
    async fn served(memory: &Account, held: u64, bytes: usize) -> Duration {
        let mut watch = watch(memory);
        let activity = watch.activity.clone();
        let _busy = activity.request();
        activity.set_held(held);
        activity.write_stalled(0);
        let takes = async {
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                activity.wrote(bytes);
                activity.write_stalled(0);
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
    async fn a_client_has_to_take_what_is_sent_at_the_least_rate() {
        let memory = Account::new(1 << 20);
        let slow = served(&memory, 1 << 20, 1).await;
        assert!(slow >= WRITE && slow < WRITE * 2, "{slow:?}");
        let fast_enough = served(&memory, 1 << 20, 100).await;
        assert!(fast_enough > WRITE * 3, "{fast_enough:?}");
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_makes_room_and_one_that_goes_on_does_not() {
        let memory = Account::new(1 << 20);
        for (bytes, ended) in [(0, true), (1000, false)] {
            let mut watch = watch(&memory);
            watch.bounds.write = Duration::from_secs(60);
            let activity = watch.activity.clone();
            let _busy = activity.request();
            activity.write_stalled(0);
            let evicts = async {
                for _ in 0..30 {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    activity.wrote(bytes);
                    activity.write_stalled(0);
                    activity.evict();
                }
            };
            let end = tokio::select! {
                end = std::future::poll_fn(|context| {
                    watch.activity.register(context.waker());
                    watch.poll(context)
                }) => Some(end),
                () = evicts => None,
            };
            assert_eq!(matches!(end, Some(End::Timeout)), ended, "{end:?}");
        }
    }

    #[tokio::test]
    async fn while_memory_is_short_an_answer_has_to_be_taken_in_time() {
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
