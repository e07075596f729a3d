//! Drives one connection: hyper speaks HTTP on it, the driver bounds its time and closes it.
//!
//! hyper's own head timeout also runs between requests, so a connection could not be idle for
//! longer than a head may take, and it creates a timer for each request. The driver has one timer
//! for a connection, which is set again only after it has expired.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Request;
use hyper::{
    body::Incoming,
    server::conn::http1::Connection,
    service::{HttpService, service_fn},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::connection::activity::Activity;
use crate::connection::body::Body;
use crate::connection::bounds::ConnectionSettings;
use crate::connection::http2::{self, Handle};
use crate::connection::incoming::IncomingBody;
use crate::connection::socket::Socket;
use crate::connection::upgrade::{UpgradeSlot, UpgradedConnection, UpgradedSocket, linger};
use crate::connection::watch::{ConnectionEnd, Watch};

/// The response to a head that did not arrive in time.
const HEAD_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// The response to a head for which there is no memory or no connection.
const NO_ROOM: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\
    connection: close\r\ncontent-length: 0\r\n\r\n";

/// Bytes that are read before a connection is closed early: closing a socket with unread data
/// resets it, and the response is lost.
const MAX_DISCARDED: usize = 256 << 10;

/// Serves a connection until it ends. When the server stops, the connection closes after its
/// current requests.
pub(crate) async fn serve(
    stream: TcpStream,
    handle: impl Handle,
    activity: Arc<Activity>,
    settings: &ConnectionSettings,
) {
    let ConnectionSettings {
        http1,
        bounds,
        draining,
        ..
    } = settings;
    // Otherwise the end of a response may wait for the client's acknowledgement.
    let _ = stream.set_nodelay(true);
    let socket = Socket::new(stream, activity.clone(), bounds.heads.clone());
    let upgrades = Arc::new(UpgradeSlot::default());
    let service = service_fn({
        let (handle, activity) = (handle.clone(), activity.clone());
        let upgrades = upgrades.clone();
        move |request: Request<Incoming>| {
            let (handle, activity) = (handle.clone(), activity.clone());
            let upgrades = upgrades.clone();
            async move {
                let request = request.map(IncomingBody::Http1);
                let mut response = handle.handle(activity, request).await;
                if let Some(upgrade) = response.body_mut().take_upgrade() {
                    upgrades.set(upgrade);
                }
                Ok::<_, Infallible>(response)
            }
        }
    });
    let connection = http1.serve_connection(TokioIo::new(socket), service);
    let mut driver = Driver {
        connection,
        watch: Watch::new(activity.clone(), bounds.clone()),
        upgrades: upgrades.clone(),
        drained: false,
    };
    let end = {
        // Registers this task once; afterwards the flag is enough.
        let mut cancelled = std::pin::pin!(draining.cancelled());
        let mut registered = false;
        std::future::poll_fn(|context| {
            if !registered {
                registered = cancelled.as_mut().poll(context).is_pending();
                activity.waiting.register(context.waker());
            }
            driver.poll(context, draining.is_cancelled())
        })
        .await
    };
    let parts = driver.connection.into_parts();
    let mut socket = parts.io.into_inner();
    if let Some(upgrade) = upgrades.take() {
        // Otherwise its head was not sent.
        if matches!(end, ConnectionEnd::Upgraded) {
            socket.leave_http();
            let connection = UpgradedConnection {
                socket: UpgradedSocket::Http1(socket),
                read: parts.read_buf,
                activity,
                bounds: bounds.clone(),
                draining: draining.clone(),
            };
            Box::pin(upgrade.run(connection)).await;
        }
        return;
    }
    if matches!(end, ConnectionEnd::Http2) {
        return Box::pin(http2::serve(socket, handle, activity, settings)).await;
    }
    let stream = socket.stream_mut();
    match end {
        ConnectionEnd::Closed if activity.requests.is_body_unread() => linger(stream).await,
        ConnectionEnd::HeadTimeout => {
            // The send buffer of a client this slow has room.
            let _ = stream.try_write(HEAD_TIMEOUT);
        }
        ConnectionEnd::NoRoom => {
            let mut scrap = [0; 4 << 10];
            let mut left = MAX_DISCARDED;
            while let Ok(read @ 1..) = stream.try_read(&mut scrap)
                && left > 0
            {
                left = left.saturating_sub(read);
            }
            let _ = stream.try_write(NO_ROOM);
        }
        ConnectionEnd::Closed
        | ConnectionEnd::Timeout
        | ConnectionEnd::Http2
        | ConnectionEnd::Upgraded => {}
    }
}

struct Driver<S: HttpService<Incoming>> {
    connection: Connection<TokioIo<Socket>, S>,
    watch: Watch,
    upgrades: Arc<UpgradeSlot>,
    drained: bool,
}

impl<S> Driver<S>
where
    S: HttpService<Incoming, ResBody = Body, Error = Infallible>,
{
    fn poll(&mut self, context: &mut Context<'_>, draining: bool) -> Poll<ConnectionEnd> {
        if draining && !self.drained {
            self.drained = true;
            self.watch.activity.sending.stop();
            Pin::new(&mut self.connection).graceful_shutdown();
        }
        match Pin::new(&mut self.connection).poll(context) {
            Poll::Ready(result) => {
                let upgraded = match result {
                    // All was sent.
                    Ok(()) => {
                        self.watch.activity.sending.set_until_close(false);
                        self.upgrades.is_set()
                    }
                    Err(error) => {
                        tracing::debug!("connection: {error}");
                        false
                    }
                };
                Poll::Ready(match upgraded {
                    true => ConnectionEnd::Upgraded,
                    false => ConnectionEnd::Closed,
                })
            }
            Poll::Pending if self.watch.activity.reading.is_refused() => {
                Poll::Ready(ConnectionEnd::NoRoom)
            }
            Poll::Pending if self.watch.activity.reading.is_http2() => {
                Poll::Ready(ConnectionEnd::Http2)
            }
            Poll::Pending => self.watch.poll(context),
        }
    }
}
