//! Connections that leave HTTP after the head of a response.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_util::sync::CancellationToken;

use crate::connection::activity::{Activity, RequestInProgress};
use crate::connection::driver::Bounds;
use crate::connection::socket::Socket;

/// How long incoming bytes are discarded after an early end, so that the client can read the
/// server's last bytes: closing a socket with unread data resets it.
const LINGER: Duration = Duration::from_secs(5);

/// A connection that has left HTTP.
pub(crate) struct UpgradedConnection {
    pub(crate) socket: Socket,
    /// What was read already.
    pub(crate) read: Bytes,
    pub(crate) activity: Arc<Activity>,
    pub(crate) bounds: Bounds,
    /// Cancelled when the server stops.
    pub(crate) draining: CancellationToken,
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
