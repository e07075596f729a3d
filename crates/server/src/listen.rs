//! Accepts connections, and ends them when the server stops.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{server::conn::http1::Builder, service::service_fn};
use rustix::process::{Resource, getrlimit};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use wws_project::{Problem, Project, ServerSettings};

use crate::{
    activity::Activity,
    app::{App, Client, authority},
    connection::{self, Answer, Times},
};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 4096;

/// Descriptors that are not for connections: files, outgoing requests, the log.
const OTHER_FILES: u64 = 256;

/// Wait after an error of accepting, most often too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// So long without a request is idle: then memory is given back.
const QUIET: Duration = Duration::from_secs(2);

/// hyper's own count of headers, which it keeps on the stack.
const USUAL_HEADERS: u32 = 100;

/// The least and the usual size of a connection's buffers, in bytes.
const BUFFER: usize = 64 << 10;

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
                app.idle
                    .watch(QUIET, || app.ids.count(), || app.trim())
                    .await
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

/// Connections that may be open at once.
fn max_connections(settings: &ServerSettings) -> usize {
    let wanted = settings.max_connections as usize;
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    // A quarter is for the files of guests.
    let possible = (files / 4 * 3).saturating_sub(OTHER_FILES).max(files / 2);
    let possible = usize::try_from(possible).unwrap_or(usize::MAX);
    if possible < wanted {
        tracing::warn!("only {possible} connections at once: the limit of open files is {files}");
    }
    wanted.min(possible).clamp(1, Semaphore::MAX_PERMITS)
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

async fn accept(
    app: &Arc<App>,
    listener: &TcpListener,
    draining: &CancellationToken,
    connections: &mut JoinSet<()>,
) -> Infallible {
    let settings = app.project.settings();
    let http = Arc::new(builder(settings));
    let times = Times {
        header: settings.header_timeout,
        idle: settings.idle_timeout,
        write: settings.body_timeout,
    };
    let places = Arc::new(Semaphore::new(max_connections(settings)));
    let mut failed = false;
    loop {
        // The semaphore is never closed.
        let place = places.clone().acquire_owned().await.ok();
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
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
        let (app, http, draining) = (app.clone(), http.clone(), draining.clone());
        connections.spawn(async move {
            serve(app, stream, &http, times, draining).await;
            drop(place);
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
    http: &Builder,
    times: Times,
    draining: CancellationToken,
) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    // Without it the end of a response may wait for the client's acknowledgement.
    let _ = stream.set_nodelay(true);
    let activity = Activity::new();
    let client = Arc::new((
        app,
        Client {
            activity: activity.clone(),
            local: authority(local),
        },
    ));
    let service = service_fn(move |request| {
        let client = client.clone();
        async move {
            let (app, client) = &*client;
            app.idle.touch();
            Answer::Ok(app.handle(client, request).await)
        }
    });
    connection::serve(stream, http, service, activity, times, draining).await;
}
