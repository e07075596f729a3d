//! Serves a folder until a signal.

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use rustix::process::{Resource, getrlimit, setrlimit};
use wws_project::{Project, ServerSettings};
use wws_server::{CodeCache, Compiling, PrepareOptions, Server};

use crate::{
    EXIT_CONFIG, args::Serve, code, environment, log::Log, memory, progress, routes, runtimes,
    sandbox, signals::Signals,
};

/// Where a server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A developer's machine.
    Machine,
    /// A container of its own.
    Container,
}

impl Place {
    fn host(self) -> IpAddr {
        match self {
            Self::Machine => [127, 0, 0, 1].into(),
            Self::Container => [0, 0, 0, 0].into(),
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Machine => 8080,
            Self::Container => 3000,
        }
    }

    /// Where a server with these settings listens.
    pub(crate) fn address(self, settings: &ServerSettings) -> SocketAddr {
        (
            settings.host.unwrap_or(self.host()),
            settings.port.unwrap_or(self.port()),
        )
            .into()
    }
}

/// Log lines that wait for their reader when the process ends are given up after this time.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Serves, and says how the process ends.
pub(crate) fn serve(args: &Serve, place: Place) -> ExitCode {
    raise_open_files();
    if args.install_runtimes && !runtimes::install_missing(&args.folder.path) {
        return ExitCode::FAILURE;
    }
    let sandbox = sandbox::enter();
    let (code, refused) = match code::of_container() {
        Ok(code) => (code, None),
        Err(error) => (None, Some(error)),
    };
    let mut project =
        match environment::load(&args.folder, place == Place::Container, code.as_ref()) {
            Ok(project) => project,
            Err(problems) => return config_error(&problems),
        };
    let settings = project.settings_mut();
    settings.host = args.host.or(settings.host);
    settings.port = args.port.or(settings.port);
    let log = match Log::start(
        project.settings().log_format,
        std::env::var("WWS_LOG").ok().as_deref(),
    ) {
        Ok(log) => log,
        Err(error) => return failure(&format!("cannot start the log: {error}")),
    };
    if let Some(error) = refused {
        tracing::warn!("{error}");
    }
    if let Err(error) = sandbox {
        tracing::warn!("rights that no server needs are kept: {error}");
    }
    for warning in project.warnings() {
        tracing::warn!("{}", on_one_line(warning));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("wws")
        .enable_all()
        .build();
    let end = match runtime {
        Ok(runtime) => {
            let end = runtime.block_on(run(project, place, args, code));
            // A blocked read of a file must not keep the process.
            runtime.shutdown_background();
            end
        }
        Err(error) => End::Failed(format!("cannot start threads: {error}")),
    };
    log.flush(LAST_LINES);
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

async fn run(project: Project, place: Place, args: &Serve, given: Option<CodeCache>) -> End {
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return End::Failed(format!("cannot handle signals: {error}")),
    };
    let address = place.address(project.settings());
    // Compiling takes long, and a signal must end it.
    let limit = args.memory;
    let limit_of_time = project.settings().compile_timeout;
    let compiling = Compiling::default();
    let noted = compiling.clone();
    let preparing = tokio::task::spawn_blocking(move || {
        let prepare = || {
            let options = PrepareOptions {
                env: environment::variables(),
                code: match place {
                    Place::Machine => given.or_else(|| code::of_user(&project, &noted)),
                    Place::Container => given,
                },
                memory: limit,
                compiling: noted.clone(),
                on_idle: Some(memory::rest),
            };
            wws_server::prepare(project, &options)
        };
        let prepared = progress::while_compiling(&noted, |text| tracing::info!("{text}"), prepare);
        memory::collect_after_compiling();
        prepared
    });
    let prepared = tokio::select! {
        prepared = preparing => prepared,
        (signal, _) = signals.next() => {
            tracing::info!("{signal} before the start");
            return End::Stopped;
        }
        () = tokio::time::sleep(limit_of_time) => {
            return End::BadProject(format!(
                "not ready after {} s (`server.compile_timeout`), at work on {}",
                limit_of_time.as_secs(),
                progress::listed(&compiling.names()),
            ));
        }
    };
    let server = match prepared {
        Ok(Ok(server)) => server,
        Ok(Err(error)) => return End::BadProject(error.to_string()),
        Err(_) => return End::Failed("the start panicked".into()),
    };
    for warning in server.warnings() {
        tracing::warn!("{}", on_one_line(warning));
    }
    listen(server, address, place, signals).await
}

async fn listen(server: Server, address: SocketAddr, place: Place, mut signals: Signals) -> End {
    let bound = match server.bind(address).await {
        Ok(bound) => bound,
        Err(error) => return End::Failed(format!("cannot listen on {address}: {error}")),
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

/// Problems are the last lines, so that they are what people see of a container that did not start.
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
    // The server says when there are too few.
    let _ = setrlimit(Resource::Nofile, limit);
}
