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

use crate::{activity::Activity, body::Body, socket::Socket};

/// How long what a client still sends is thrown away after an early response, so that it can read that response: closing a
/// socket with unread data resets it.
const LINGER: Duration = Duration::from_secs(5);

/// The answer to a head that didn't arrive in time.
const HEAD_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Times of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) header: Duration,
    pub(crate) idle: Duration,
    /// For a client to take any part of what is sent.
    pub(crate) write: Duration,
}

/// Serves a connection until it ends. `draining` lets it end after the request that it is at.
pub(crate) async fn serve<S>(
    stream: TcpStream,
    http: &Builder,
    service: S,
    activity: Arc<Activity>,
    times: Times,
    draining: CancellationToken,
) where
    S: HttpService<Incoming, ResBody = Body, Error = Infallible>,
{
    let socket = Socket::new(stream, activity.clone());
    let connection = http.serve_connection(TokioIo::new(socket), service);
    let mut driver = Driver {
        connection,
        watch: Watch {
            activity: activity.clone(),
            times,
            phase: None,
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
        End::Closed | End::Timeout => {}
    }
}

/// How a connection ended.
#[derive(Debug)]
enum End {
    Closed,
    HeadTimeout,
    Timeout,
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
    /// For us: no time runs here.
    Busy,
    /// For the client to take what is sent; so many bytes were taken.
    Stalled(u64),
}

/// Bounds the time of each phase.
struct Watch {
    activity: Arc<Activity>,
    times: Times,
    /// `None` before the first look.
    phase: Option<Phase>,
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// When `sleep` ends, if it has not.
    armed: Option<Instant>,
}

impl Watch {
    fn phase(&self) -> (Phase, Option<Duration>) {
        let activity = &self.activity;
        if activity.is_stalled() {
            (Phase::Stalled(activity.sent()), Some(self.times.write))
        } else if activity.is_busy() {
            (Phase::Busy, None)
        } else if activity.in_head() {
            (Phase::Head(activity.requests()), Some(self.times.header))
        } else {
            match activity.requests() {
                // The time of the first head runs from the start: a client that connects has something to say.
                0 => (Phase::New, Some(self.times.header)),
                requests => (Phase::Idle(requests), Some(self.times.idle)),
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        let (phase, time) = self.phase();
        if self.phase != Some(phase) {
            self.phase = Some(phase);
            self.deadline = time.map(|time| Instant::now() + time);
        }
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        loop {
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
            if Instant::now() >= deadline {
                return Poll::Ready(match self.phase {
                    Some(Phase::Head(_)) => End::HeadTimeout,
                    _ => End::Timeout,
                });
            }
        }
    }
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
