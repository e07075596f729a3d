//! Serves a project until a signal.

use std::{
    fmt::Display,
    io::{self, stdout},
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use wws_project::{Problems, WatchOptions};
use wws_server::{
    CodeCache, Compiling, Languages, OpenedStores, PrepareOptions, Server, Telemetry,
};

use crate::{
    EXIT_CONFIG, EXIT_OS,
    args::Serve,
    code,
    colour::Painter,
    control::ControlSocket,
    dev::{self, DevView},
    environment,
    loader::Loader,
    log::{Log, LogStyle},
    memory, progress,
    project::{self, ServerLocation},
    reload::{Reload, ReloadParts, on_one_line},
    routes, runtimes,
    sandbox::{self, NeededRights},
    signals::Signals,
    threads::Threads,
    watch::Watch,
};

/// The time to write remaining log lines before the process exits.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Serves a project, and returns the exit code.
pub(crate) fn serve(args: Serve, place: ServerLocation) -> ExitCode {
    raise_open_files();
    if args.install_runtimes && !runtimes::install_missing(&args.project.path) {
        return ExitCode::FAILURE;
    }
    let style = args.dev.then(dev::log_style);
    // To be called while this is the only thread.
    let sandbox = sandbox::enter();
    let threads = match Threads::plan() {
        Ok(threads) => threads,
        Err(too_few) => {
            eprintln!("wws: {too_few}");
            return ExitCode::from(EXIT_OS);
        }
    };
    let loader = match Loader::start() {
        Ok(loader) => loader,
        Err(error) => return failure(&format!("cannot start threads: {error}")),
    };
    // All threads that are started from here on load no code.
    let sandbox = sandbox.and(sandbox::load_no_code());
    let log = Arc::default();
    let end = match threads.runtime() {
        Ok(runtime) => {
            let end =
                runtime.block_on(run(args, place, sandbox, (Arc::clone(&log), style), loader));
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

async fn run(
    args: Serve,
    place: ServerLocation,
    sandbox: io::Result<()>,
    (log, style): (StartedLog, Option<LogStyle>),
    loader: Loader,
) -> End {
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return End::Failed(format!("cannot handle signals: {error}")),
    };
    // Waiting, loading and compiling take long, and a signal must interrupt them.
    let path = args.project.path.clone();
    let telemetry = Telemetry::new(env!("CARGO_PKG_VERSION"));
    let counted = telemetry.clone();
    let beginning = loader.run(move || begin(&path, sandbox, (&log, style), counted));
    let begun = tokio::select! {
        begun = beginning => begun,
        (signal, _) = signals.next() => return stopped_before_the_start(signal),
    };
    let Begun { code, limit, watch } = match begun {
        Ok(Ok(begun)) => begun,
        Ok(Err(end)) => return end,
        Err(_) => return End::Failed("the start panicked".into()),
    };
    let changes = match (args.watch || watch).then(|| Changes::watch(&args, place, &signals)) {
        Some(Err(error)) => {
            tracing::warn!("changes of files are not noticed: {error}");
            None
        }
        watched => watched.and_then(Result::ok),
    };
    let asked = signals.reload_requests();
    let compiling = Compiling::default();
    let mut start = Start {
        args,
        place,
        code,
        compiling: compiling.clone(),
        telemetry,
    };
    loop {
        // Workers of some runtimes are started when they are loaded.
        let runtime = Handle::current();
        let preparing = loader.run(move || {
            let _entered = runtime.enter();
            (start.prepare(), start)
        });
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
        let Ok((prepared, unused)) = prepared else {
            return End::Failed("the start panicked".into());
        };
        let problems = match prepared {
            Ok(server) => return listen(server, unused, loader, signals, changes).await,
            Err(problems) => problems,
        };
        if changes.is_none() || !unused.args.dev {
            return End::BadProject(problems.to_string());
        }
        for problem in problems.all() {
            tracing::error!("{problem}");
        }
        tracing::info!("nothing is served yet: waiting for a change");
        tokio::select! {
            () = asked.notified() => start = unused,
            (signal, _) = signals.next() => return stopped_before_the_start(signal),
        }
    }
}

/// The changes of a project, from before it is loaded for the first time.
struct Changes {
    watch: Watch,
    _watching: JoinSet<()>,
}

impl Changes {
    /// Needs a runtime.
    fn watch(args: &Serve, place: ServerLocation, signals: &Signals) -> io::Result<Self> {
        let options = WatchOptions {
            container: place == ServerLocation::Container,
            ignore: args.project.ignore.clone(),
            ..WatchOptions::default()
        };
        let watch = Watch::start(&args.project.path, options)?;
        let mut watching = JoinSet::new();
        watching.spawn(watch.clone().run(signals.reload_requests()));
        Ok(Self {
            watch,
            _watching: watching,
        })
    }
}

fn stopped_before_the_start(signal: &str) -> End {
    tracing::info!("{signal} before the start");
    End::Stopped
}

/// What is known of a project before it is loaded.
struct Begun {
    /// The code that the host has compiled.
    code: Option<CodeCache>,
    /// The time limit for compiling what is missing.
    limit: Duration,
    /// Whether its settings say that its files are watched.
    watch: bool,
}

/// Starts the log, and waits for the code that the host compiles. Blocks the thread.
fn begin(
    project: &Path,
    sandbox: io::Result<()>,
    (log, style): (&StartedLog, Option<LogStyle>),
    telemetry: Telemetry,
) -> Result<Begun, End> {
    let settings = wws_project::server_settings(project, &environment::variables())
        .map_err(|problems| End::BadProject(problems.to_string()))?;
    let filter = std::env::var("WWS_LOG").ok();
    let style = style.unwrap_or(LogStyle::Format(settings.log_format));
    let started = Log::start(style, filter.as_deref(), telemetry)
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
    Ok(Begun {
        code,
        limit: settings.compile_timeout,
        watch: settings.watch,
    })
}

/// How a server starts.
struct Start {
    args: Serve,
    place: ServerLocation,
    code: Option<CodeCache>,
    compiling: Compiling,
    telemetry: Telemetry,
}

impl Start {
    /// Loads and compiles the project. Returns its server. Blocks the thread.
    fn prepare(&self) -> Result<Server, Problems> {
        let load = project::Load {
            args: &self.args,
            place: self.place,
            telemetry: &self.telemetry,
        };
        let code = self.code.as_ref();
        let hashed = code.map(|code| wws_server::hashed(code.directory()));
        let project = load.project(hashed.unwrap_or_default())?;
        for warning in project.warnings() {
            tracing::warn!("{}", on_one_line(warning));
        }
        let compiling = &self.compiling;
        let work = || {
            let options = PrepareOptions {
                env: environment::own_variables(),
                code: match (self.place, code) {
                    (ServerLocation::Machine, None) => {
                        code::of_user(&project, &self.args.project.path, compiling)
                    }
                    (_, code) => code.cloned(),
                },
                memory: self.args.memory,
                compiling: compiling.clone(),
                on_idle: Some(memory::rest),
                compile_within_memory: self.place != ServerLocation::Machine,
                languages: Languages::standard(),
                telemetry: self.telemetry.clone(),
                stores: OpenedStores::default(),
            };
            wws_server::prepare(project, &options)
        };
        let prepared = progress::while_compiling(compiling, |text| tracing::info!("{text}"), work);
        memory::collect_after_compiling();
        let server = prepared?;
        for warning in server.warnings() {
            tracing::warn!("{}", on_one_line(&warning));
        }
        Ok(server)
    }
}

async fn listen(
    server: Server,
    start: Start,
    loader: Loader,
    mut signals: Signals,
    changes: Option<Changes>,
) -> End {
    let address = start.place.address(server.project().settings());
    let reloader = server.reloader();
    let bound = match server.bind(address).await {
        Ok(bound) => bound,
        Err(error) => return End::Failed(cannot_listen(address, &error)),
    };
    let admin = bound.project().settings().admin.clone();
    let bound = match bound.with_admin() {
        Ok(bound) => bound,
        Err(error) => {
            let hint = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "; choose another address: --admin, WWS_ADMIN or `admin` in `[server]`"
                }
                _ => "",
            };
            return End::Failed(format!(
                "cannot listen on {admin} (`server.admin`): {error}{hint}"
            ));
        }
    };
    let (ignored, watched) = (start.args.project.ignore.clone(), reloader.clone());
    let (place, directory) = (start.place, start.args.project.path.clone());
    if let Some(changes) = &changes {
        changes
            .watch
            .follow(move || project::watch_options(&watched.project(), &ignored, place));
    }
    let rights = NeededRights::of(&bound.project());
    if let Err(error) = sandbox::close(rights) {
        tracing::warn!("rights that the server no longer needs are kept: {error}");
    }
    let dev = start.args.dev.then(|| DevView::new(bound.local_addr()));
    match &dev {
        Some(dev) => print!("{}", dev.welcome(&bound.project(), Painter::of(&stdout()))),
        None if start.place == ServerLocation::Machine => {
            print!("{}", routes::table(&bound.project()))
        }
        None => {}
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
    loader.give_way();
    let Start {
        args,
        compiling,
        telemetry,
        ..
    } = start;
    let reload = Reload::new(ReloadParts {
        args,
        place,
        compiling,
        telemetry,
        reloader,
        loader,
        rights,
        dev,
    });
    let mut reloading = JoinSet::new();
    match ControlSocket::bind(&directory) {
        Ok(socket) => drop(reloading.spawn(socket.serve(reload.clone()))),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            tracing::warn!("another server serves this project: `wws reload` reaches that one");
        }
        Err(error) => tracing::warn!("`wws reload` does not reach this server: {error}"),
    }
    reloading.spawn(reload.clone().whenever_code_comes());
    reloading.spawn(reload.whenever(signals.reload_requests()));
    let drained = bound
        .run(async {
            let (signal, _) = signals.next().await;
            tracing::info!("{signal}: finishing what is in flight");
            drop(changes);
            reloading.abort_all();
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

fn cannot_listen(address: SocketAddr, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "; choose another port with --port, 0 for a free one",
        _ => "",
    };
    format!("cannot listen on {address}: {error}{hint}")
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

/// Each connection is an open file, and the usual soft limit is 1,024.
fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // The server reports if there are too few.
    let _ = setrlimit(Resource::Nofile, limit);
}
