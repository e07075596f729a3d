//! Turns a loaded project into a server that is ready to listen.

use rustix::process::{Resource, getrlimit};
use wws_engine::{Engine, EngineOptions, LoadError, LoadErrorKind};
use wws_otlp::Exporter;
use wws_project::{Problems, Project};

use crate::connection::clients::{self, Clients};
use crate::export;
use crate::load::{self, LoadContext};
use crate::memory;
use crate::options::{PrepareOptions, kept_for_calls};
use crate::request::admission::{Admission, AdmissionBounds};
use crate::request::app::{App, AppParts};
use crate::request::loaded_memory::LoadedMemory;
use crate::request::sockets::Sockets;
use crate::request::upload::Uploads;
use crate::server::Server;

/// Concurrent calls for each CPU, unless the settings say otherwise.
const CALLS_PER_CPU: u32 = 64;

/// Memory for guests and clients: what is available, without what the server itself, its compiled
/// code and the kernel's buffers take.
fn usable(available: u64) -> u64 {
    /// The minimum that is kept, in bytes.
    const RESERVE: u64 = 24 << 20;
    let reserve = (available / 4).max(RESERVE).min(available / 4 * 3);
    available - reserve
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

/// Opens, compiles and links everything of a project. Blocks the thread and uses all CPUs.
///
/// # Errors
/// All problems of all workers at once.
pub fn prepare(project: Project, options: &PrepareOptions) -> Result<Server, Problems> {
    let settings = project.settings().clone();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let cpus = u32::try_from(threads).unwrap_or(u32::MAX);
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
    .map_err(|error| load::failed("", &LoadError::new(LoadErrorKind::Host, error.to_string())))?;
    let context = LoadContext {
        engine: &engine,
        options,
        memory: available,
        threads,
    };
    let new = context.load(project, None)?;
    let loaded_memory = LoadedMemory::new((settings.memory == 0).then_some(available));
    loaded_memory.charge(&engine);
    let admission = Admission::new(AdmissionBounds {
        concurrency,
        queue: settings.queue,
        timeout: settings.queue_timeout,
        memory: engine.free_memory(),
    });
    let generation = context.place(new, &admission, 1);
    let memory = engine.free_memory();
    let sockets = Sockets::new(settings.max_sockets, connections, memory, engine.account());
    let (time, wait) = (settings.body_timeout, settings.queue_timeout);
    let uploads = Uploads::new(settings.max_body, engine.account(), time, wait);
    let export = export::exporter(&options.env, generation.project.root(), &options.telemetry);
    let sampler = export.exporter.as_ref().and_then(Exporter::sampler);
    let parts = AppParts {
        sampler,
        engine,
        telemetry: options.telemetry.clone(),
        admission,
        sockets,
        uploads,
        clients: Clients::new(connections),
        loaded_memory,
        memory: available,
        on_idle: options.on_idle,
    };
    let app = App::new(parts, generation);
    Ok(Server::new(app, options.clone(), export))
}
