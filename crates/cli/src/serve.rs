//! Serves a project until a signal.

use std::{
    fmt::Display,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::Path,
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustix::process::{Resource, getrlimit, setrlimit};
use wws_project::{AdminAddress, Origins, PanelAccess, ServerSettings};
use wws_server::{CodeCache, Compiling, Languages, PrepareOptions, Server, Telemetry};

use crate::{
    EXIT_CONFIG, EXIT_OS, args::Serve, code, environment, log::Log, memory, progress, routes,
    runtimes, sandbox, signals::Signals, threads::Threads,
};

/// Where a server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A developer's machine.
    Machine,
    /// Its own container.
    Container,
}

impl Place {
    fn host(self) -> IpAddr {
        match self {
            Self::Machine => Ipv4Addr::LOCALHOST.into(),
            Self::Container if has_ipv6() => Ipv6Addr::UNSPECIFIED.into(),
            Self::Container => Ipv4Addr::UNSPECIFIED.into(),
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Machine => 8080,
            Self::Container => 3000,
        }
    }

    /// The address of a server with these settings.
    pub(crate) fn address(self, settings: &ServerSettings) -> SocketAddr {
        (
            settings.host.unwrap_or_else(|| self.host()),
            settings.port.unwrap_or(self.port()),
        )
            .into()
    }
}

/// Whether the kernel has IPv6, and this user may create a socket of it.
fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok()
}

/// The time to write remaining log lines before the process exits.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Serves a project, and returns the exit code.
pub(crate) fn serve(args: Serve, place: Place) -> ExitCode {
    raise_open_files();
    if args.install_runtimes && !runtimes::install_missing(&args.folder.path) {
        return ExitCode::FAILURE;
    }
    // To be called while this is the only thread.
    let sandbox = sandbox::enter();
    let threads = match Threads::plan() {
        Ok(threads) => threads,
        Err(too_few) => {
            eprintln!("wws: {too_few}");
            return ExitCode::from(EXIT_OS);
        }
    };
    let log = Arc::default();
    let end = match threads.runtime() {
        Ok(runtime) => {
            let end = runtime.block_on(run(args, place, sandbox, Arc::clone(&log)));
            // A blocked read of a file must not keep the process alive.
            runtime.shutdown_background();
            end
        }
        Err(error) => End::Failed(format!("cannot start threads: {error}")),
    };
    if let Some(log) = log.get() {
        log.flush(LAST_LINES);
    }
    match end {
        End::Stopped => ExitCode::SUCCESS,
        End::Failed(message) => failure(&message),
        End::BadProject(problems) => config_error(&problems),
    }
}

enum End {
    Stopped,
    Failed(String),
    BadProject(String),
}

/// The log starts once its format is known from the settings.
type StartedLog = Arc<OnceLock<Log>>;

async fn run(args: Serve, place: Place, sandbox: io::Result<()>, log: StartedLog) -> End {
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return End::Failed(format!("cannot handle signals: {error}")),
    };
    // Waiting, loading and compiling take long, and a signal must interrupt them.
    let path = args.folder.path.clone();
    let telemetry = Telemetry::new(env!("CARGO_PKG_VERSION"));
    let counted = telemetry.clone();
    let beginning = tokio::task::spawn_blocking(move || begin(&path, sandbox, &log, counted));
    let begun = tokio::select! {
        begun = beginning => begun,
        (signal, _) = signals.next() => return stopped_before_the_start(signal),
    };
    let (code, limit) = match begun {
        Ok(Ok(begun)) => begun,
        Ok(Err(end)) => return end,
        Err(_) => return End::Failed("the start panicked".into()),
    };
    let compiling = Compiling::default();
    let noted = compiling.clone();
    let preparing =
        tokio::task::spawn_blocking(move || prepare(&args, place, code, &noted, telemetry));
    let prepared = tokio::select! {
        prepared = preparing => prepared,
        (signal, _) = signals.next() => return stopped_before_the_start(signal),
        () = tokio::time::sleep(limit) => {
            return End::BadProject(format!(
                "not ready after {} s (`server.compile_timeout`), at work on {}",
                limit.as_secs(),
                progress::listed(&compiling.names()),
            ));
        }
    };
    match prepared {
        Ok(Ok((server, address))) => listen(server, address, place, signals).await,
        Ok(Err(end)) => end,
        Err(_) => End::Failed("the start panicked".into()),
    }
}

fn stopped_before_the_start(signal: &str) -> End {
    tracing::info!("{signal} before the start");
    End::Stopped
}

/// Starts the log, and waits for the code that the host compiles. Returns that code, and the time
/// limit for compiling what is missing. Blocks the thread.
fn begin(
    project: &Path,
    sandbox: io::Result<()>,
    log: &StartedLog,
    telemetry: Telemetry,
) -> Result<(Option<CodeCache>, Duration), End> {
    let settings = wws_project::server_settings(project, &environment::variables())
        .map_err(|problems| End::BadProject(problems.to_string()))?;
    let filter = std::env::var("WWS_LOG").ok();
    let started = Log::start(settings.log_format, filter.as_deref(), telemetry)
        .map_err(|error| End::Failed(format!("cannot start the log: {error}")))?;
    // This is the only one.
    let _ = log.set(started);
    if let Err(error) = sandbox {
        tracing::warn!("rights that no server needs are kept: {error}");
    }
    let code = code::of_container().unwrap_or_else(|error| {
        tracing::warn!("{error}");
        None
    });
    if let Some(code) = &code {
        code::wait_for_host(code.directory());
    }
    Ok((code, settings.compile_timeout))
}

/// Loads and compiles the project. Returns its server and the address to listen on. Blocks the
/// thread.
fn prepare(
    args: &Serve,
    place: Place,
    given: Option<CodeCache>,
    compiling: &Compiling,
    telemetry: Telemetry,
) -> Result<(Server, SocketAddr), End> {
    let bad = |problems: &dyn Display| End::BadProject(problems.to_string());
    let loaded = environment::load(&args.folder, place == Place::Container, given.as_ref());
    let mut project = loaded.map_err(|problems| bad(&problems))?;
    let settings = project.settings_mut();
    settings.host = args.host.or(settings.host);
    settings.port = args.port.or(settings.port);
    if let Some(admin) = &args.admin {
        settings.admin = admin.clone();
    }
    if let Some(panel) = args.enable_panel {
        settings.panel = panel;
    }
    if let Some(origins) = cors(&args.cors) {
        settings.cors = origins;
    }
    if settings.admin != AdminAddress::Off || settings.panel != PanelAccess::Off {
        telemetry.tail().enable();
    }
    for warning in project.warnings() {
        tracing::warn!("{}", on_one_line(warning));
    }
    let address = place.address(project.settings());
    let work = || {
        let options = PrepareOptions {
            env: environment::variables(),
            code: match place {
                Place::Machine => given.or_else(|| code::of_user(&project, compiling)),
                Place::Container => given,
            },
            memory: args.memory,
            compiling: compiling.clone(),
            on_idle: Some(memory::rest),
            languages: Languages::standard(),
            telemetry,
        };
        wws_server::prepare(project, &options)
    };
    let prepared = progress::while_compiling(compiling, |text| tracing::info!("{text}"), work);
    memory::collect_after_compiling();
    let server = prepared.map_err(|problems| bad(&problems))?;
    for warning in server.warnings() {
        tracing::warn!("{}", on_one_line(warning));
    }
    Ok((server, address))
}

async fn listen(server: Server, address: SocketAddr, place: Place, mut signals: Signals) -> End {
    let bound = match server.bind(address).await {
        Ok(bound) => bound,
        Err(error) => return End::Failed(format!("cannot listen on {address}: {error}")),
    };
    let admin = bound.project().settings().admin.clone();
    let bound = match bound.with_admin() {
        Ok(bound) => bound,
        Err(error) => {
            return End::Failed(format!(
                "cannot listen on {admin} (`server.admin`): {error}"
            ));
        }
    };
    if let Err(error) = sandbox::close(bound.project()) {
        tracing::warn!("rights that the server no longer needs are kept: {error}");
    }
    if place == Place::Machine {
        print!("{}", routes::table(bound.project()));
    }
    let (workers, assets) = (
        bound.project().workers().len(),
        bound.project().assets().len(),
    );
    tracing::info!(
        "listening on http://{} ({workers} workers, {assets} assets)",
        bound.local_addr()
    );
    if let Some(address) = bound.admin_addr() {
        tracing::info!("metrics and health checks on {address}");
    }
    let drained = bound
        .run(async {
            let (signal, _) = signals.next().await;
            tracing::info!("{signal}: finishing what is in flight");
            signals.end_at_next();
        })
        .await;
    match drained.aborted {
        0 => tracing::info!("stopped"),
        count => {
            tracing::warn!("stopped; {count} connections did not end within `server.grace_period`")
        }
    }
    End::Stopped
}

/// The origins of all flags together; `None` without any.
fn cors(flags: &[Origins]) -> Option<Origins> {
    let mut all = Vec::new();
    for flag in flags {
        match flag {
            Origins::Any => return Some(Origins::Any),
            Origins::Only(origins) => all.extend(origins.iter().cloned()),
            Origins::None => {}
        }
    }
    (!flags.is_empty()).then_some(Origins::Only(all))
}

/// Problems are the last lines, because these are what users see of a container that did not start.
fn config_error(problems: &dyn Display) -> ExitCode {
    eprintln!("{problems}");
    ExitCode::from(EXIT_CONFIG)
}

fn failure(message: &str) -> ExitCode {
    eprintln!("wws: {message}");
    ExitCode::FAILURE
}

fn on_one_line(text: &dyn Display) -> String {
    text.to_string()
        .split('\n')
        .map(str::trim)
        .collect::<Vec<_>>()
        .join(": ")
}

/// Each connection is an open file, and the usual soft limit is 1,024.
fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // The server reports if there are too few.
    let _ = setrlimit(Resource::Nofile, limit);
}
