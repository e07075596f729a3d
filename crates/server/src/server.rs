//! A prepared server: it listens, serves and drains.

use std::{
    io, iter,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::{Request, Response, uri::Authority};
use tokio::{net::TcpListener, runtime, task::JoinSet};
use tokio_util::sync::CancellationToken;
use wws_otlp::Exporter;
use wws_project::{AdminAddress, Problem, Project};

use crate::admin::{self, listen::AdminListener};
use crate::connection::activity::Activity;
use crate::connection::body::Body;
use crate::connection::bounds::ConnectionSettings;
use crate::connection::driver;
use crate::connection::http2::{self, Handle};
use crate::connection::idle;
use crate::connection::incoming::IncomingBody;
use crate::connection::listen::{self, AcceptedConnection};
use crate::export::{self, PreparedExport};
use crate::options::PrepareOptions;
use crate::reload::Reloader;
use crate::request::app::App;
use crate::request::authority::{self, LastHost};
use crate::request::context::Client;
use crate::request::forwarded::Peer;

/// After this long without a request or a closed connection, memory is returned to the OS.
const QUIET: Duration = Duration::from_secs(2);

/// A server, ready to listen.
///
/// # Examples
///
/// ```no_run
/// use std::net::SocketAddr;
/// use std::path::Path;
///
/// use wws_project::{LoadOptions, load};
/// use wws_server::{PrepareOptions, prepare};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let options = PrepareOptions::default();
/// let load_options = LoadOptions {
///     languages: options.languages.specs(),
///     ..LoadOptions::default()
/// };
/// let project = load(Path::new("my-project"), &load_options)?;
/// let server = prepare(project, &options)?;
/// for warning in server.warnings() {
///     eprintln!("{warning}");
/// }
///
/// let bound = server.bind(SocketAddr::from(([127, 0, 0, 1], 8080))).await?;
/// println!("http://{}", bound.local_addr());
/// let drained = bound
///     .run(async {
///         let _ = tokio::signal::ctrl_c().await;
///     })
///     .await;
/// println!("{} connections were aborted", drained.aborted);
/// # Ok(())
/// # }
/// ```
pub struct Server {
    app: Arc<App>,
    options: PrepareOptions,
    export: PreparedExport,
}

/// A server that listens and has not accepted a connection yet.
pub struct Bound {
    app: Arc<App>,
    listener: TcpListener,
    address: SocketAddr,
    admin: Option<AdminListener>,
    exporter: Option<Exporter>,
}

/// How a server stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that still had a request in progress when the grace period ended.
    pub aborted: usize,
}

impl Server {
    pub(crate) fn new(app: App, options: PrepareOptions, export: PreparedExport) -> Self {
        Self {
            app: Arc::new(app),
            options,
            export,
        }
    }

    /// The project that it serves.
    #[must_use]
    pub fn project(&self) -> Arc<Project> {
        self.app.generation().project.clone()
    }

    /// Warnings about its workers and its environment, in addition to the warnings of its project.
    #[must_use]
    pub fn warnings(&self) -> Vec<Problem> {
        let generation = self.app.generation();
        let workers = generation.warnings.iter();
        workers.chain(&self.export.warnings).cloned().collect()
    }

    /// Exchanges the project later.
    #[must_use]
    pub fn reloader(&self) -> Reloader {
        Reloader::new(self.app.clone(), self.options.clone())
    }

    /// Listens on an address.
    ///
    /// # Errors
    /// The address is in use or does not belong to this machine.
    pub async fn bind(self, address: SocketAddr) -> io::Result<Bound> {
        let listener = listen::listen(address, self.app.memory)?;
        let address = listener.local_addr()?;
        Ok(Bound {
            app: self.app,
            listener,
            address,
            admin: None,
            exporter: self.export.exporter,
        })
    }
}

impl Bound {
    /// The address that it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The project that it serves.
    #[must_use]
    pub fn project(&self) -> Arc<Project> {
        self.app.generation().project.clone()
    }

    /// Listens on the admin address of the settings (`server.admin`), too.
    ///
    /// # Errors
    /// The address is in use or does not belong to this machine.
    pub fn with_admin(mut self) -> io::Result<Self> {
        self.admin = AdminListener::bind(&self.project().settings().admin)?;
        Ok(self)
    }

    /// The admin address; `None` if it is off.
    #[must_use]
    pub fn admin_addr(&self) -> Option<AdminAddress> {
        self.admin.as_ref()?.address().ok()
    }

    /// Serves until `shutdown` completes. Then it accepts nothing more, lets requests in progress
    /// end within the grace period, and aborts the rest.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Drained {
        let Self {
            app,
            listener,
            admin,
            exporter,
            ..
        } = self;
        let exporter = exporter.map(|exporter| export::start(exporter, &app));
        // Answers until everything has ended, so that an operator sees the server drain.
        let admin = admin.map(|admin| tokio::spawn(admin::serve::serve(admin, app.clone())));
        // None of these changes when the project is loaded again.
        let project_settings = &app.generation().project.settings().clone();
        let grace = project_settings.grace_period;
        let settings = Arc::new(ConnectionSettings {
            http1: listen::builder(project_settings),
            http2: http2::builder(
                project_settings.max_header_bytes,
                project_settings.max_streams,
            ),
            bounds: listen::bounds(project_settings, app.engine.account()),
            draining: CancellationToken::new(),
        });
        let watch = tokio::spawn({
            let app = app.clone();
            async move {
                // Memory that a request held may be freed long after the request came.
                let count = || app.ids.count() + app.clients.closed();
                app.idle.watch(QUIET, count, || trim(app.clone())).await
            }
        });
        let mut connections = JoinSet::new();
        let spawn = |accepted| {
            connections.spawn(serve(app.clone(), accepted, settings.clone()));
            while connections.try_join_next().is_some() {}
        };
        tokio::select! {
            () = shutdown => {}
            never = listen::accept(&listener, &app.clients, spawn) => match never {},
        }
        app.draining.store(true, Ordering::Relaxed);
        drop(listener);
        settings.draining.cancel();
        let all = async { while connections.join_next().await.is_some() {} };
        let in_time = tokio::time::timeout(grace, all).await.is_ok();
        let aborted = if in_time { 0 } else { connections.len() };
        connections.shutdown().await;
        watch.abort();
        export::stop(exporter).await;
        if let Some(admin) = admin {
            admin.abort();
            // Its socket is removed.
            let _ = admin.await;
        }
        Drained { aborted }
    }
}

/// Returns memory to the OS.
async fn trim(app: Arc<App>) {
    app.trim();
    if let Some(on_idle) = app.on_idle {
        let lanes = app.engine.lanes();
        for runtime in iter::once(runtime::Handle::current()).chain(lanes) {
            idle::run_on_each_thread(&runtime, on_idle).await;
        }
    }
}

/// Serves one connection.
async fn serve(app: Arc<App>, accepted: AcceptedConnection, settings: Arc<ConnectionSettings>) {
    let Some(local) = accepted.local_addr() else {
        return;
    };
    let AcceptedConnection {
        stream,
        peer,
        activity,
        permit,
    } = accepted;
    app.telemetry.changes().touch();
    let handle = ClientHandle(Arc::new(ConnectionClient {
        app: app.clone(),
        local: authority::of_address(local),
        last_host: LastHost::default(),
        peer: Peer::new(peer),
    }));
    driver::serve(stream, handle, activity, &settings).await;
    drop(permit);
    app.telemetry.changes().touch();
    app.idle.touch();
}

/// Answers the requests of one connection.
#[derive(Clone)]
struct ClientHandle(Arc<ConnectionClient>);

/// Whose requests are answered.
struct ConnectionClient {
    app: Arc<App>,
    /// The server's address.
    local: Authority,
    last_host: LastHost,
    peer: Peer,
}

impl Handle for ClientHandle {
    async fn handle(
        &self,
        activity: Arc<Activity>,
        request: Request<IncomingBody>,
    ) -> Response<Body> {
        let ConnectionClient {
            app,
            local,
            last_host,
            peer,
        } = &*self.0;
        app.idle.touch();
        let client = Client {
            activity: &activity,
            local,
            last_host,
            peer,
        };
        app.handle(&client, request).await
    }
}
