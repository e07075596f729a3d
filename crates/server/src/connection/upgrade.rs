//! Connections that leave HTTP after the head of a response.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use crate::connection::activity::{Activity, RequestInProgress};
use crate::connection::bounds::Bounds;
use crate::connection::http2_socket::Http2Socket;
use crate::connection::socket::Socket;

/// How long incoming bytes are discarded after an early end, so that the client can read the
/// server's last bytes: closing a socket with unread data resets it.
const LINGER: Duration = Duration::from_secs(5);

/// A connection that has left HTTP.
pub(crate) struct UpgradedConnection {
    pub(crate) socket: UpgradedSocket,
    /// What was read already.
    pub(crate) read: Bytes,
    pub(crate) activity: Arc<Activity>,
    pub(crate) bounds: Bounds,
    /// Cancelled when the server stops.
    pub(crate) draining: CancellationToken,
}

/// What is read and written from then on.
pub(crate) enum UpgradedSocket {
    Http1(Socket),
    /// One stream of a connection.
    Http2(Http2Socket),
}

impl UpgradedSocket {
    /// Ends it, if the client `takes` the end.
    pub(crate) async fn finish(self, takes: bool) {
        match self {
            Self::Http1(mut socket) => {
                let stream = socket.stream_mut();
                if takes && stream.shutdown().await.is_ok() {
                    linger(stream).await;
                }
            }
            Self::Http2(mut socket) if takes => {
                let _ = socket.shutdown().await;
            }
            Self::Http2(_) => {}
        }
    }
}

impl AsyncRead for UpgradedSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Http1(socket) => Pin::new(socket).poll_read(context, buffer),
            Self::Http2(socket) => Pin::new(socket).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for UpgradedSocket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Http1(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Http2(socket) => Pin::new(socket).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Http1(socket) => Pin::new(socket).poll_flush(context),
            Self::Http2(socket) => Pin::new(socket).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Http1(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Http2(socket) => Pin::new(socket).poll_shutdown(context),
        }
    }
}

/// What takes over the connection.
pub(crate) type Takeover =
    Box<dyn FnOnce(UpgradedConnection) -> BoxFuture<'static, ()> + Send + 'static>;

/// A response after which the connection is taken over.
pub(crate) struct Upgrade {
    pub(crate) takeover: Takeover,
    /// The request, which is in progress as long as the connection is taken over.
    pub(crate) in_progress: Option<RequestInProgress>,
}

impl Upgrade {
    /// Drives the connection to its end.
    pub(crate) async fn run(self, connection: UpgradedConnection) {
        let _in_progress = self.in_progress;
        (self.takeover)(connection).await;
    }
}

/// The upgrade of a connection whose response is being sent. No part of the connection's
/// [`Activity`], which the upgrade holds.
#[derive(Default)]
pub(crate) struct UpgradeSlot(Mutex<Option<Upgrade>>);

impl UpgradeSlot {
    pub(crate) fn set(&self, upgrade: Upgrade) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(upgrade);
    }

    pub(crate) fn is_set(&self) -> bool {
        let upgrade = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        upgrade.is_some()
    }

    pub(crate) fn take(&self) -> Option<Upgrade> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Discards what the client sends until it closes its side or its time is over. The server's side
/// is closed already.
pub(crate) async fn linger(stream: &mut TcpStream) {
    let mut scrap = vec![0; 16 << 10];
    let read = async { while matches!(stream.read(&mut scrap).await, Ok(1..)) {} };
    let _ = tokio::time::timeout(LINGER, read).await;
}
