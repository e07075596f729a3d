//! From a loaded project to a server that is ready to listen.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::process::{Resource, getrlimit};
use wws_engine::{Account, Charge, CodeCache, Engine, EngineOptions, Guest};
use wws_kv::MemoryMeter;
use wws_project::{Problem, Problems, Project, beneath::Root};

use crate::{
    Server,
    admission::{Admission, Bounds, WorkerBounds},
    app::App,
    clients::{self, Clients},
    compiling::Compiling,
    compress::{Compressor, Precompressed},
    forwarded::Proxies,
    guests::{Maker, NotMade, located, problem},
    idle::Idle,
    memory,
    outgoing::Outgoing,
    request_id::RequestIds,
    upload::Uploads,
};

/// Calls at once for each processor, where the settings don't say.
const CALLS_PER_PROCESSOR: u32 = 64;

/// What a server is made with, beside its project.
#[derive(Clone, Debug, Default)]
pub struct PrepareOptions {
    /// Environment of the operator: `WWS_RESOLVE`, and variables for certificates and proxies.
    pub env: BTreeMap<String, String>,
    /// Where code may be that was compiled before; only ever written by us.
    pub code: Option<CodeCache>,
    /// Bytes that this process may use, where that is known from outside: a container need not see its own control group.
    pub memory: Option<u64>,
    /// Where to note what is being compiled.
    pub compiling: Compiling,
    /// Called when the server has become idle, after it gave its own memory back.
    pub on_idle: Option<fn()>,
}

/// Memory for all that guests and clients make the server hold: what is available without what the server itself, its
/// compiled code and the kernel's buffers take.
fn usable(available: u64) -> u64 {
    /// The least that is kept, in bytes.
    const RESERVE: u64 = 24 << 20;
    let reserve = (available / 4).max(RESERVE).min(available / 4 * 3);
    available - reserve
}

/// The part of the memory that growing guests and held answers leave to calls that begin: one worker alone shares with nobody.
fn kept_for_calls(memory: u64, workers: usize) -> u64 {
    const MOST: u64 = 256 << 20;
    if workers < 2 {
        0
    } else {
        (memory / 4).min(MOST)
    }
}

/// Takes out of the account what loading left no room for: compiled code, snapshots and images of the workers' memory.
fn set_aside_what_is_held(engine: &Engine, available: u64) {
    /// Kept for the kernel's buffers and the allocator, in bytes.
    const SLACK: u64 = 8 << 20;
    let slack = SLACK.max(available / 16) + engine.idle_memory();
    let room = available.saturating_sub(memory::held() + slack);
    let total = engine.memory();
    // Never so much that nothing could run.
    let beyond = total.saturating_sub(room.max(total / 2));
    if let Some(charge) = engine.account().charge(beyond) {
        std::mem::forget(charge);
    }
}

/// Files that all guests together may hold open: a quarter of what the process may, so that connections and the server's own
/// files always have their part.
fn guest_files(concurrency: u32) -> u32 {
    /// More for each call at once is of no use.
    const FOR_EACH: u32 = 1024;
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let quarter = u32::try_from(files / 4).unwrap_or(u32::MAX);
    quarter.min(concurrency.saturating_mul(FOR_EACH))
}

/// Charges what the key/value store in memory holds.
struct KvMeter(Mutex<(u64, Charge)>);

impl KvMeter {
    /// A meter whose store holds a quarter of the account at most.
    fn new(account: &Account) -> Arc<Self> {
        let charge = account.part(account.total() / 4).nothing();
        Arc::new(Self(Mutex::new((0, charge))))
    }

    fn held(&self) -> MutexGuard<'_, (u64, Charge)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryMeter for KvMeter {
    fn grow(&self, bytes: usize) -> bool {
        let (held, charge) = &mut *self.held();
        let more = *held + bytes as u64;
        let grown = charge.grow_to(more);
        if grown {
            *held = more;
        }
        grown
    }

    fn shrink(&self, bytes: usize) {
        let (held, charge) = &mut *self.held();
        *held = held.saturating_sub(bytes as u64);
        charge.shrink_to(*held);
    }
}

/// A problem that has no file of the project.
fn one(file: &Path, message: String) -> Problems {
    Problems::one(problem(file, message))
}

/// Opens, compiles and links everything that a project has. Blocks the thread, and uses all processors.
///
/// # Errors
/// All problems of all workers at once.
pub fn prepare(mut project: Project, options: &PrepareOptions) -> Result<Server, Problems> {
    let here = Path::new("");
    let root = Root::open(project.root()).map_err(|error| {
        one(
            project.root(),
            format!("cannot open the project's folder: {error}"),
        )
    })?;
    let settings = project.settings().clone();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let processors = u32::try_from(processors).unwrap_or(u32::MAX);
    let concurrency = match settings.concurrency {
        0 => processors.saturating_mul(CALLS_PER_PROCESSOR),
        calls => calls,
    };
    let available = options.memory.unwrap_or(u64::MAX).min(memory::available());
    let usable = usable(available);
    let connections = clients::max_connections(&settings, usable);
    let guests_memory = match settings.memory {
        0 => usable - (connections * clients::COST).min(usable / 2),
        bytes => bytes,
    };
    let engine = Engine::new(&EngineOptions {
        memory: guests_memory,
        concurrency,
        open_files: guest_files(concurrency),
        kept_for_calls: kept_for_calls(guests_memory, project.workers().len()),
        queue_timeout: settings.queue_timeout,
    })
    .map_err(|error| one(here, error.to_string()))?;
    let outgoing = Outgoing::new(&project, &options.env, project.root(), available / 8)
        .map_err(|message| one(Path::new("environment"), message))?;
    let maker = Maker {
        root: &root,
        engine: &engine,
        kv: Arc::new(wws_kv::MemoryStore::default().metered(KvMeter::new(engine.account()))),
        outgoing: &outgoing,
        code: options.code.as_ref(),
        compiling: &options.compiling,
    };
    let made = maker.guests(&project);
    let served = serve(&mut project, made)?;
    if settings.memory == 0 {
        set_aside_what_is_held(&engine, available);
    }
    let admission = Admission::new(Bounds {
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
    let compressor = settings
        .compression
        .then(|| Compressor::new(engine.account()));
    let (time, wait) = (settings.body_timeout, settings.queue_timeout);
    let uploads = Uploads::new(settings.max_body, engine.account(), time, wait);
    Ok(Server::new(App {
        access_log: settings.access_log,
        root,
        engine,
        guests: served.guests,
        admission,
        uploads,
        compressor,
        precompressed: Precompressed::of(project.assets().iter().map(|asset| &*asset.path)),
        clients: Clients::new(connections),
        proxies: Proxies(settings.trusted_proxies.clone()),
        memory: available,
        ids: RequestIds::new(),
        idle: Idle::default(),
        on_idle: options.on_idle,
        project,
        warnings: served.warnings,
    }))
}

/// What is served of a project.
struct Served {
    /// One for each worker, in their order; none of a worker that cannot be loaded.
    guests: Vec<Option<Guest>>,
    warnings: Vec<Problem>,
}

/// Leaves out of the project what is no worker. A broken one is a problem, or costs its own route only where the settings say so.
fn serve(project: &mut Project, made: Vec<Result<Guest, NotMade>>) -> Result<Served, Problems> {
    let strict = project.settings().strict;
    let (mut guests, mut left_out) = (Vec::with_capacity(made.len()), Vec::new());
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    for (worker, made) in project.workers().iter().zip(made) {
        match made {
            Ok(guest) => guests.push(Some(guest)),
            Err(NotMade::NoWorker(reason)) => {
                left_out.push(worker.id);
                let mut warning = located(&worker.path, &reason);
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
