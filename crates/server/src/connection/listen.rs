//! Listening sockets, and the loop that accepts connections.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hyper::server::conn::http1::Builder;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use wws_engine::Account;
use wws_project::ServerSettings;

use crate::connection::activity::Activity;
use crate::connection::bounds::Bounds;
use crate::connection::clients::{Clients, ConnectionPermit};

/// Connections that the kernel queues until they are accepted.
const BACKLOG: u32 = 4096;

/// Wait after a failed accept; the cause is most often that too many files are open.
const PAUSE: Duration = Duration::from_millis(100);

/// The number of headers that hyper parses on the stack.
const USUAL_HEADERS: u32 = 100;

/// The minimum and usual size of a connection's buffers, in bytes.
const BUFFER: usize = 64 << 10;

/// Divisor: at most this part of the memory is for heads of more than 8 KiB.
const HEADS_PART: u64 = 8;

/// With less memory than this many bytes, the kernel's buffers of a connection are small.
const SMALL_MEMORY: u64 = 512 << 20;

/// A connection that was accepted.
pub(crate) struct AcceptedConnection {
    pub(crate) stream: TcpStream,
    /// The client's address.
    pub(crate) peer: IpAddr,
    pub(crate) activity: Arc<Activity>,
    /// To be dropped when the connection is closed.
    pub(crate) permit: ConnectionPermit,
}

impl AcceptedConnection {
    /// The server's address. `None` if the connection is closed already.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        let mut local = self.stream.local_addr().ok()?;
        // An IPv4 client of a socket for both families has a mapped address.
        local.set_ip(local.ip().to_canonical());
        Some(local)
    }
}

/// Listens on an address. `memory`: bytes that this process may use.
pub(crate) fn listen(address: SocketAddr, memory: u64) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    // A server that has just stopped must not keep its successor from starting.
    socket.set_reuseaddr(true)?;
    limit_buffers(&socket, memory)?;
    if address.is_ipv6() {
        // `::` serves both families, whatever the machine's default is.
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Limits what the kernel keeps for a connection, which counts as the container's memory. Accepted
/// sockets inherit these settings from their listener.
fn limit_buffers(socket: &TcpSocket, memory: u64) -> io::Result<()> {
    let is_small = memory < SMALL_MEMORY;
    // Bytes in flight need as much room as the network takes; bytes queued behind them do not.
    let unsent = if is_small { 16 << 10 } else { 128 << 10 };
    SockRef::from(socket).set_tcp_notsent_lowat(unsent)?;
    if is_small {
        // Linux doubles this for its bookkeeping. Unlimited buffers do not grow while nobody reads,
        // but start at 128 KiB.
        socket.set_recv_buffer_size(32 << 10)?;
    }
    Ok(())
}

/// hyper's settings for all connections.
pub(crate) fn builder(settings: &ServerSettings) -> Builder {
    let mut http = Builder::new();
    let head = usize::try_from(settings.max_header_bytes).unwrap_or(usize::MAX);
    http.header_read_timeout(None)
        .max_header_size(head)
        .max_buf_size(head.max(BUFFER));
    if settings.max_headers != USUAL_HEADERS {
        http.max_headers(settings.max_headers as usize);
    }
    http
}

/// The bounds of all connections, whose memory is `memory`.
pub(crate) fn bounds(settings: &ServerSettings, memory: &Account) -> Bounds {
    Bounds {
        header: settings.header_timeout,
        idle: settings.idle_timeout,
        write: settings.body_timeout,
        min_rate: settings.min_send_rate,
        memory: memory.clone(),
        heads: memory.part(memory.total() / HEADS_PART),
    }
}

/// Accepts connections and passes each to `serve`, until the future is dropped.
pub(crate) async fn accept(
    listener: &TcpListener,
    clients: &Arc<Clients>,
    mut serve: impl FnMut(AcceptedConnection),
) -> Infallible {
    let mut failed = false;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if !is_client_error(&error) {
                    // Logged once, until accepting works again.
                    if !std::mem::replace(&mut failed, true) {
                        tracing::error!("cannot accept connections: {error}");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                continue;
            }
        };
        failed = false;
        let activity = Activity::new();
        let permit = clients.enter(activity.clone()).await;
        serve(AcceptedConnection {
            stream,
            peer: peer.ip(),
            activity,
            permit,
        });
    }
}

/// Whether accepting failed because the client went away.
fn is_client_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn accepted_sockets_inherit_the_bounds_of_their_listener() {
        for (memory, unsent) in [(64 << 20, 16 << 10), (4 << 30, 128 << 10)] {
            let socket = TcpSocket::new_v4().unwrap();
            limit_buffers(&socket, memory).unwrap();
            socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
            let listener = socket.listen(8).unwrap();
            let address = listener.local_addr().unwrap();
            let _client = TcpStream::connect(address).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let accepted = SockRef::from(&stream);
            assert_eq!(accepted.tcp_notsent_lowat().unwrap(), unsent);
            if memory < SMALL_MEMORY {
                assert_eq!(accepted.recv_buffer_size().unwrap(), 64 << 10);
            }
        }
    }
}
