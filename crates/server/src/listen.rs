//! Accepts connections, and ends them when the server stops.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use hyper::{server::conn::http1::Builder, service::service_fn};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use wws_project::{Problem, Project, ServerSettings};

use crate::{
    activity::Activity,
    app::{App, Client, authority},
    connection::{self, Answer, Bounds},
};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 4096;

/// Wait after an error of accepting, most often too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// So long without a request is idle: then memory is given back.
const QUIET: Duration = Duration::from_secs(2);

/// A thread waits for the others no longer than this when memory is given back.
const LONGEST_TRIM: Duration = Duration::from_millis(20);

/// hyper's own count of headers, which it keeps on the stack.
const USUAL_HEADERS: u32 = 100;

/// The least and the usual size of a connection's buffers, in bytes.
const BUFFER: usize = 64 << 10;

/// At most this part of the memory is for heads of more than 8 KiB.
const HEADS_PART: u64 = 8;

/// With less memory than this, in bytes, the kernel's buffers of a connection are small.
const SMALL_MEMORY: u64 = 512 << 20;

/// A server, ready to listen.
pub struct Server {
    app: Arc<App>,
}

/// A server that listens, and has not accepted anything yet.
pub struct Bound {
    app: Arc<App>,
    listener: TcpListener,
    address: SocketAddr,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still at a request when the grace period ended.
    pub aborted: usize,
}

impl Server {
    pub(crate) fn new(app: App) -> Self {
        Self { app: Arc::new(app) }
    }

    /// What it serves.
    #[must_use]
    pub fn project(&self) -> &Project {
        &self.app.project
    }

    /// What is odd of its workers, but no reason not to start; beside the warnings of its project.
    #[must_use]
    pub fn warnings(&self) -> &[Problem] {
        &self.app.warnings
    }

    /// Listens.
    ///
    /// # Errors
    /// The address is in use, or not ours.
    pub async fn bind(self, address: SocketAddr) -> io::Result<Bound> {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        // A server that was just stopped must not keep its successor from starting.
        socket.set_reuseaddr(true)?;
        bound_buffers(&socket, self.app.memory)?;
        if address.is_ipv6() {
            // Whatever the machine's default is: `::` answers on both families.
            rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
        }
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        Ok(Bound {
            app: self.app,
            listener,
            address,
        })
    }
}

impl Bound {
    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What it serves.
    #[must_use]
    pub fn project(&self) -> &Project {
        &self.app.project
    }

    /// Serves until `shutdown`; then accepts nothing more, lets what is in flight end within the grace period, and ends the rest.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Drained {
        let Self { app, listener, .. } = self;
        let grace = app.project.settings().grace_period;
        let draining = CancellationToken::new();
        let watch = tokio::spawn({
            let app = app.clone();
            async move {
                // What a request held may be freed long after it came.
                let count = || app.ids.count() + app.clients.closed();
                app.idle.watch(QUIET, count, || trim(app.clone())).await
            }
        });
        let mut connections = JoinSet::new();
        tokio::select! {
            () = shutdown => {}
            never = accept(&app, &listener, &draining, &mut connections) => match never {},
        }
        drop(listener);
        draining.cancel();
        let all = async { while connections.join_next().await.is_some() {} };
        let in_time = tokio::time::timeout(grace, all).await.is_ok();
        let aborted = if in_time { 0 } else { connections.len() };
        connections.shutdown().await;
        watch.abort();
        Drained { aborted }
    }
}

/// Bounds what the kernel keeps for a connection, which counts as the container's memory. The sockets that are accepted have
/// these settings of their listener.
fn bound_buffers(socket: &TcpSocket, memory: u64) -> io::Result<()> {
    let is_small = memory < SMALL_MEMORY;
    // What is on its way to the client has the size that the network needs; what waits behind it need not be large.
    let unsent = if is_small { 16 << 10 } else { 128 << 10 };
    SockRef::from(socket).set_tcp_notsent_lowat(unsent)?;
    if is_small {
        // Linux takes twice this size, for its own use. Larger ones would not grow while nobody reads, but begin at 128 KiB.
        socket.set_recv_buffer_size(32 << 10)?;
    }
    Ok(())
}

fn builder(settings: &ServerSettings) -> Builder {
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

/// Gives memory back to the system. The allocator keeps what a thread freed for that thread: each of them has to give it back,
/// and nobody has anything else to do.
async fn trim(app: Arc<App>) {
    app.trim();
    let Some(on_idle) = app.on_idle else { return };
    let threads = tokio::runtime::Handle::current().metrics().num_workers();
    let all_here = Arc::new(Barrier::new(threads));
    let tasks = (0..threads).map(|_| {
        let all_here = all_here.clone();
        tokio::spawn(async move {
            on_idle();
            all_here.wait(LONGEST_TRIM);
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        let _ = task.await;
    }
}

/// Holds each thread until all of them are there, so that each runs one of as many tasks.
struct Barrier {
    missing: Mutex<usize>,
    none: Condvar,
}

impl Barrier {
    fn new(threads: usize) -> Self {
        Self {
            missing: Mutex::new(threads),
            none: Condvar::new(),
        }
    }

    fn wait(&self, limit: Duration) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        *missing = missing.saturating_sub(1);
        self.none.notify_all();
        // A thread may be busy with a request that has just come.
        let _ = self
            .none
            .wait_timeout_while(missing, limit, |missing| *missing > 0);
    }
}

async fn accept(
    app: &Arc<App>,
    listener: &TcpListener,
    draining: &CancellationToken,
    connections: &mut JoinSet<()>,
) -> Infallible {
    let settings = app.project.settings();
    let http = Arc::new(builder(settings));
    let memory = app.engine.account();
    let bounds = Bounds {
        header: settings.header_timeout,
        idle: settings.idle_timeout,
        write: settings.body_timeout,
        min_rate: settings.min_send_rate,
        memory: memory.clone(),
        heads: memory.part(memory.total() / HEADS_PART),
    };
    let mut failed = false;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if !is_of_the_client(&error) {
                    // Once, until it works again.
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
        let place = app.clients.enter(activity.clone()).await;
        let (app, http, draining) = (app.clone(), http.clone(), draining.clone());
        let bounds = bounds.clone();
        connections.spawn(async move {
            let served = app.clone();
            serve(app, stream, peer, &http, activity, bounds, draining).await;
            drop(place);
            served.idle.touch();
        });
        while connections.try_join_next().is_some() {}
    }
}

/// The client went away before it was accepted.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

async fn serve(
    app: Arc<App>,
    stream: TcpStream,
    peer: SocketAddr,
    http: &Builder,
    activity: Arc<Activity>,
    bounds: Bounds,
    draining: CancellationToken,
) {
    let Ok(mut local) = stream.local_addr() else {
        return;
    };
    // A client of IPv4, on a socket of both families.
    local.set_ip(local.ip().to_canonical());
    // Without it the end of a response may wait for the client's acknowledgement.
    let _ = stream.set_nodelay(true);
    let client = Client {
        activity: activity.clone(),
        local: authority(local),
        peer: app.proxies.peer(peer.ip()),
    };
    let client = Arc::new((app, client));
    let service = service_fn(move |request| {
        let client = client.clone();
        async move {
            let (app, client) = &*client;
            app.idle.touch();
            Answer::Ok(app.handle(client, request).await)
        }
    });
    connection::serve(stream, http, service, activity, bounds, draining).await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_thread_waits_for_the_others_but_not_for_ever() {
        let barrier = Barrier::new(2);
        let start = std::time::Instant::now();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| barrier.wait(Duration::from_secs(60)));
            barrier.wait(Duration::from_secs(60));
            assert!(first.join().is_ok());
        });
        assert!(start.elapsed() < Duration::from_secs(30));
        Barrier::new(2).wait(Duration::from_millis(20));
    }

    #[tokio::test]
    async fn accepted_sockets_have_the_bounds_of_their_listener() {
        for (memory, unsent) in [(64 << 20, 16 << 10), (4 << 30, 128 << 10)] {
            let socket = TcpSocket::new_v4().unwrap();
            bound_buffers(&socket, memory).unwrap();
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
