//! Turns a loaded project into a server that is ready to listen.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use rustix::process::{Resource, getrlimit};
use tracing::level_filters::LevelFilter;
use wws_engine::{CallReport, CodeCache, Engine, EngineOptions, Guest, LoadError, LoadErrorKind};
use wws_languages::Languages;
use wws_project::{LogLevel, Problem, Problems, Project, beneath::Root};
use wws_telemetry::Telemetry;

use crate::assets::{precompressed::Precompressed, serve::StaticFiles};
use crate::connection::clients::{self, Clients};
use crate::connection::idle::Idle;
use crate::memory;
use crate::request::admission::{Admission, AdmissionBounds, WorkerBounds};
use crate::request::app::App;
use crate::request::compress::Compressor;
use crate::request::cors::ProjectCors;
use crate::request::forwarded::TrustedProxies;
use crate::request::request_id::RequestIds;
use crate::request::sockets::Sockets;
use crate::request::upload::Uploads;
use crate::server::Server;
use crate::workers::compiling::Compiling;
use crate::workers::guests::{self, GuestFactory, GuestFailure};
use crate::workers::kv_counted::CountedStore;
use crate::workers::kv_meter::KvMeter;
use crate::workers::outgoing::Outgoing;

/// Concurrent calls for each CPU, unless the settings say otherwise.
const CALLS_PER_CPU: u32 = 64;

/// What a server needs in addition to its project.
#[derive(Clone, Debug, Default)]
pub struct PrepareOptions {
    /// The operator's environment: `WWS_RESOLVE`, and variables for certificates and proxies.
    pub env: BTreeMap<String, String>,
    /// The code cache; only this program writes to it.
    pub code: Option<CodeCache>,
    /// Bytes that this process may use, if the caller knows: a container may not see its own
    /// cgroup.
    pub memory: Option<u64>,
    /// Lists what is being compiled.
    pub compiling: Compiling,
    /// Called when the server is idle, after it has returned its own memory to the OS.
    pub on_idle: Option<fn()>,
    /// The languages of workers.
    pub languages: Languages,
    /// What is counted. The same for all generations of a project.
    pub telemetry: Telemetry,
}

/// Memory for guests and clients: what is available, without what the server itself, its compiled
/// code and the kernel's buffers take.
fn usable(available: u64) -> u64 {
    /// The minimum that is kept, in bytes.
    const RESERVE: u64 = 24 << 20;
    let reserve = (available / 4).max(RESERVE).min(available / 4 * 3);
    available - reserve
}

/// The part of the memory that growing guests and held responses leave to calls that begin. A
/// single worker shares it with no other.
fn kept_for_calls(memory: u64, workers: usize) -> u64 {
    const MAX: u64 = 256 << 20;
    if workers < 2 {
        0
    } else {
        (memory / 4).min(MAX)
    }
}

/// Charges what loading has taken to the account: compiled code, snapshots and memory images.
fn charge_loaded(engine: &Engine, available: u64) {
    /// Kept for the kernel's buffers and the allocator, in bytes.
    const SLACK: u64 = 8 << 20;
    let slack = SLACK.max(available / 16) + engine.idle_memory();
    let room = available.saturating_sub(memory::held() + slack);
    let total = engine.memory();
    // At most half of the account, so that workers can run.
    let beyond = total.saturating_sub(room.max(total / 2));
    if let Some(charge) = engine.account().charge(beyond) {
        std::mem::forget(charge);
    }
}

/// Files that all guests together may hold open: a quarter of the process's limit. The rest is for
/// connections and the server's own files.
fn guest_files(concurrency: u32) -> u32 {
    /// More for each concurrent call is of no use.
    const PER_CALL: u32 = 1024;
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let quarter = u32::try_from(files / 4).unwrap_or(u32::MAX);
    quarter.min(concurrency.saturating_mul(PER_CALL))
}

/// The filter of a level.
fn log_level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// A problem without a worker.
fn failed(what: &str, error: &LoadError) -> Problems {
    Problems::one(guests::problem(Path::new(what), error))
}

/// Opens, compiles and links everything of a project. Blocks the thread and uses all CPUs.
///
/// # Errors
/// All problems of all workers at once.
pub fn prepare(mut project: Project, options: &PrepareOptions) -> Result<Server, Problems> {
    let root = Root::open(project.root()).map_err(|error| {
        let error = LoadError::new(LoadErrorKind::Host, "cannot open the project's directory")
            .caused_by(error);
        Problems::one(guests::problem(project.root(), &error))
    })?;
    let settings = project.settings().clone();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    let concurrency = match settings.concurrency {
        0 => cpus.saturating_mul(CALLS_PER_CPU),
        calls => calls,
    };
    let available = options.memory.unwrap_or(u64::MAX).min(memory::available());
    let usable = usable(available);
    let connections = clients::max_connections(&settings, usable);
    let guests_memory = match settings.memory {
        0 => usable - (connections * clients::CONNECTION_COST).min(usable / 2),
        bytes => bytes,
    };
    let engine = Engine::new(&EngineOptions {
        memory: guests_memory,
        concurrency,
        open_files: guest_files(concurrency),
        kept_for_calls: kept_for_calls(guests_memory, project.workers().len()),
        queue_timeout: settings.queue_timeout,
    })
    .map_err(|error| failed("", &LoadError::new(LoadErrorKind::Host, error.to_string())))?;
    let outgoing = Outgoing::new(&project, &options.env, project.root(), available / 8)
        .map_err(|error| failed("environment", &error))?;
    let meter = KvMeter::new(engine.account());
    let store = wws_kv::MemoryStore::default().metered(meter);
    let kv: Arc<dyn wws_kv::Store> = CountedStore::new(store, options.telemetry.clone());
    let factory = GuestFactory {
        root: &root,
        engine: &engine,
        languages: &options.languages,
        kv: kv.clone(),
        outgoing: &outgoing,
        code: options.code.as_ref(),
        compiling: &options.compiling,
        telemetry: &options.telemetry,
    };
    let results = factory.guests(&project);
    let served = select(&mut project, results)?;
    if settings.memory == 0 {
        charge_loaded(&engine, available);
    }
    let admission = Admission::new(AdmissionBounds {
        concurrency,
        queue: settings.queue,
        timeout: settings.queue_timeout,
        memory: engine.free_memory(),
        workers: project
            .workers()
            .iter()
            .zip(&served.guests)
            .map(|(worker, guest)| WorkerBounds {
                concurrency: worker.limits.concurrency,
                memory: guest.as_ref().map_or(0, Guest::call_cost),
            })
            .collect(),
    });
    let workers = project.workers().iter();
    let series: Vec<_> = workers
        .map(|worker| options.telemetry.worker(&worker.route))
        .collect();
    for ((worker, guest), series) in project.workers().iter().zip(&served.guests).zip(&series) {
        if let Some(guest) = guest {
            guest.report_to(CallReport {
                series: series.clone(),
                log_level: log_level(worker.log.level),
                log_rate: worker.log.rate,
            });
        }
    }
    let memory = engine.free_memory();
    let sockets = Sockets::new(settings.max_sockets, connections, memory, engine.account());
    let compressor = settings
        .compression
        .then(|| Compressor::new(engine.account()));
    let (time, wait) = (settings.body_timeout, settings.queue_timeout);
    let uploads = Uploads::new(settings.max_body, engine.account(), time, wait);
    Ok(Server::new(App {
        access_log: settings.access_log,
        files: StaticFiles {
            root,
            precompressed: Precompressed::new(project.assets().iter().map(|asset| &*asset.path)),
        },
        engine,
        streams: served.guests.iter().flatten().any(Guest::takes_streams),
        guests: served.guests,
        telemetry: options.telemetry.clone(),
        series,
        admission,
        sockets,
        uploads,
        compressor,
        clients: Clients::new(connections),
        cors: ProjectCors::new(&project),
        kv,
        proxies: TrustedProxies(settings.trusted_proxies.clone()),
        memory: available,
        ids: RequestIds::new(),
        idle: Idle::default(),
        on_idle: options.on_idle,
        draining: AtomicBool::new(false),
        project,
        warnings: served.warnings,
    }))
}

/// The workers of a project that are served.
struct Served {
    /// One for each worker, in their order; `None` for a worker that cannot be loaded.
    guests: Vec<Option<Guest>>,
    warnings: Vec<Problem>,
}

/// Removes files that are not workers from the project. A broken worker is a problem, or costs only
/// its own route if the settings say so.
fn select(
    project: &mut Project,
    results: Vec<Result<Guest, GuestFailure>>,
) -> Result<Served, Problems> {
    let strict = project.settings().strict;
    let (mut guests, mut left_out) = (Vec::with_capacity(results.len()), Vec::new());
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    for (worker, result) in project.workers().iter().zip(results) {
        match result {
            Ok(guest) => guests.push(Some(guest)),
            Err(GuestFailure::NotAWorker(reason)) => {
                left_out.push(worker.id);
                let mut warning = guests::problem(&worker.path, &reason);
                warning.message = format!("no worker, and not served: {}", warning.message);
                warning.help = Some(
                    "move it to a directory that begins with `_`, or let --ignore leave it out"
                        .into(),
                );
                warnings.push(warning);
            }
            Err(broken) if strict => problems.extend(broken.problems(worker)),
            Err(broken) => {
                guests.push(None);
                for mut problem in broken.problems(worker) {
                    problem.message = format!(
                        "{} answers 500 (`server.strict`): {}",
                        worker.route, problem.message
                    );
                    warnings.push(problem);
                }
            }
        }
    }
    if let Some(problems) = Problems::of(problems) {
        return Err(problems);
    }
    if !left_out.is_empty() {
        project.leave_out(&left_out);
    }
    Ok(Served { guests, warnings })
}
