//! Loads one generation of a project.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tracing::level_filters::LevelFilter;
use wws_engine::{
    CallReport, Code, CodeKey, Engine, FileContents, Guest, LoadError, LoadErrorKind,
};
use wws_project::{LogLevel, Problem, Problems, Project, beneath::Root};
use wws_telemetry::WorkerSeries;

use crate::assets::{precompressed::Precompressed, serve::StaticFiles};
use crate::options::PrepareOptions;
use crate::request::admission::{Admission, WorkerBounds};
use crate::request::compress::Compressor;
use crate::request::cors::ProjectCors;
use crate::request::forwarded::TrustedProxies;
use crate::request::generation::Generation;
use crate::stores::ProjectStores;
use crate::workers::compile_memory::CompileMemory;
use crate::workers::failure::{self, GuestFailure};
use crate::workers::guests::{GuestFactory, LoadedGuest};
use crate::workers::languages::{CompiledLanguages, Sha256Digest};
use crate::workers::loaded::{self, LoadedWorkers, NotAWorker, Predecessor};
use crate::workers::outgoing::Outgoing;

/// What to do about a worker whose code the host has not compiled.
const UNCOMPILED_HELP: &str = "the shim's lines in the log of containerd say why the host has not \
     compiled it, and it tries again; or raise the memory limit";

/// What generations share while they are loaded.
pub(crate) struct LoadContext<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) options: &'a PrepareOptions,
    /// Bytes that this process may use.
    pub(crate) memory: u64,
    /// Threads that load at the same time.
    pub(crate) threads: usize,
}

/// A generation that no request has used yet.
pub(crate) struct NewGeneration {
    project: Project,
    root: Root,
    served: ServedWorkers,
    outgoing: Outgoing,
    stores: ProjectStores,
    modules: HashMap<Sha256Digest, Code>,
    languages: CompiledLanguages,
    missing_code: Vec<CodeKey>,
    /// Workers that were taken over from the generation before.
    pub(crate) kept: usize,
    /// The files of all others, which were loaded.
    pub(crate) fresh: Vec<PathBuf>,
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
pub(crate) fn failed(what: &str, error: &LoadError) -> Problems {
    Problems::one(failure::problem(Path::new(what), error))
}

/// The number of the project's directory.
fn directory_id(root: &Root) -> Option<loaded::DirectoryId> {
    loaded::id(&root.directory(Path::new("")).ok()?).ok()
}

/// The interpreters of a project whose checksums were compared when it was loaded.
fn checked_runtimes(project: &Project, root: &Root) -> Vec<(PathBuf, FileContents)> {
    let usable = project.runtimes().iter();
    let usable = usable.filter(|runtime| runtime.unusable.is_none());
    let checked = usable.filter_map(|runtime| {
        let path = runtime.file(&runtime.binary);
        let file = root.file(&path).ok()?;
        let contents = FileContents::new(&file, runtime.binary.digest()?).ok()?;
        Some((path, contents))
    });
    checked.collect()
}

impl LoadContext<'_> {
    /// Loads the workers of a project, except those that a generation before has. Blocks the
    /// thread.
    ///
    /// # Errors
    /// All problems of all workers at once.
    pub(crate) fn load(
        &self,
        mut project: Project,
        before: Option<&Generation>,
    ) -> Result<NewGeneration, Problems> {
        let root = Root::open(project.root()).map_err(|error| {
            let error = LoadError::new(LoadErrorKind::Host, "cannot open the project's directory")
                .caused_by(error);
            Problems::one(failure::problem(project.root(), &error))
        })?;
        let options = self.options;
        let outgoing = Outgoing::new(
            &project,
            &options.env,
            project.root(),
            // What outgoing requests may hold.
            self.memory / 8,
            before.map(|before| &before.loaded.outgoing),
        )
        .map_err(|error| failed("environment", &error))?;
        let stores = options.stores.open(
            project.stores(),
            self.engine.account(),
            &options.telemetry,
            &options.env,
        )?;
        let id = directory_id(&root);
        let predecessor = before.and_then(|before| {
            Predecessor::new(
                &before.project,
                &before.guests,
                &before.loaded,
                id,
                &outgoing,
                (&before.stores, &stores),
            )
        });
        let factory = GuestFactory {
            root: &root,
            engine: self.engine,
            languages: &options.languages,
            stores: &stores,
            outgoing: &outgoing,
            code: options.code.as_ref(),
            compiling: &options.compiling,
            compile_memory: CompileMemory::new(
                options.compile_within_memory.then_some(self.memory),
                self.threads,
            ),
            missing: Mutex::default(),
            telemetry: &options.telemetry,
            predecessor,
            threads: self.threads,
        };
        let loaded = factory.guests(&project);
        let missing = factory.missing;
        let served = select(&mut project, loaded.results, before)?;
        let guests = served.guests.iter().flatten();
        let fresh = project.workers().iter().zip(&served.guests);
        let fresh = fresh.filter(|(_, guest)| guest.as_ref().is_some_and(|guest| !guest.is_kept));
        Ok(NewGeneration {
            kept: guests.filter(|guest| guest.is_kept).count(),
            fresh: fresh.map(|(worker, _)| worker.path.clone()).collect(),
            project,
            root,
            served,
            outgoing,
            stores,
            modules: loaded.modules,
            languages: loaded.languages,
            missing_code: missing.into_inner().unwrap_or_else(PoisonError::into_inner),
        })
    }

    /// Makes a generation ready to answer requests.
    pub(crate) fn place(
        &self,
        new: NewGeneration,
        admission: &Arc<Admission>,
        number: u64,
    ) -> Generation {
        let NewGeneration {
            project,
            root,
            served,
            outgoing,
            stores,
            modules,
            languages,
            missing_code,
            ..
        } = new;
        let telemetry = &self.options.telemetry;
        let workers = project.workers();
        let series: Vec<Arc<WorkerSeries>> = workers
            .iter()
            .map(|worker| telemetry.worker(&worker.route))
            .collect();
        for ((worker, loaded), series) in workers.iter().zip(&served.guests).zip(&series) {
            if let Some(loaded) = loaded.as_ref().filter(|loaded| !loaded.is_kept) {
                loaded.guest.report_to(CallReport {
                    series: series.clone(),
                    log_level: log_level(worker.log.level),
                    log_rate: worker.log.rate,
                });
            }
        }
        let (mut guests, mut sources) = (Vec::new(), Vec::new());
        for loaded in served.guests {
            let (guest, source) = match loaded {
                Some(loaded) => (Some(loaded.guest), loaded.source),
                None => (None, None),
            };
            guests.push(guest);
            sources.push(source);
        }
        let bounds = workers.iter().zip(&guests).map(|(worker, guest)| {
            let bounds = WorkerBounds {
                concurrency: worker.limits.concurrency,
                memory: guest.as_ref().map_or(0, Guest::call_cost),
            };
            (worker.route.as_str(), bounds)
        });
        let settings = project.settings();
        Generation {
            number,
            streams: guests.iter().flatten().any(Guest::takes_streams),
            places: admission.places(bounds),
            series,
            uncompiled: served.uncompiled,
            missing_code,
            warnings: served.warnings,
            compressor: settings
                .compression
                .then(|| Compressor::new(self.engine.account())),
            proxies: TrustedProxies(settings.trusted_proxies.clone()),
            cors: ProjectCors::new(&project),
            stores,
            loaded: LoadedWorkers {
                root: directory_id(&root),
                runtimes: checked_runtimes(&project, &root),
                outgoing,
                sources,
                others: served.others,
                modules,
                languages,
            },
            files: StaticFiles {
                root,
                precompressed: Precompressed::new(
                    project.assets().iter().map(|asset| &*asset.path),
                ),
            },
            guests,
            project: Arc::new(project),
        }
    }
}

/// The workers of a project that are served.
struct ServedWorkers {
    /// One for each worker, in their order; `None` for a worker that cannot be loaded.
    guests: Vec<Option<LoadedGuest>>,
    /// Workers that wait for their code, by index.
    uncompiled: BTreeSet<usize>,
    warnings: Vec<Problem>,
    /// Files that are not workers.
    others: HashMap<PathBuf, NotAWorker>,
}

/// Removes files that are not workers from the project. A broken worker is a problem, or costs only
/// its own route if the settings say so. One that waits for its code costs only its own route,
/// unless the generation `before` serves it.
fn select(
    project: &mut Project,
    results: Vec<Result<LoadedGuest, GuestFailure>>,
    before: Option<&Generation>,
) -> Result<ServedWorkers, Problems> {
    let strict = project.settings().strict;
    let mut uncompiled = BTreeSet::new();
    let is_served = |path: &Path| {
        before.is_some_and(|before| {
            let workers = before.project.workers().iter();
            let mut served = workers.zip(&before.guests);
            served.any(|(worker, guest)| worker.path == path && guest.is_some())
        })
    };
    let (mut guests, mut left_out) = (Vec::with_capacity(results.len()), Vec::new());
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    let mut others = HashMap::new();
    for (worker, result) in project.workers().iter().zip(results) {
        match result {
            Ok(guest) => guests.push(Some(guest)),
            Err(GuestFailure::NotAWorker(reason, sources)) => {
                left_out.push(worker.id);
                let runtimes = project.runtimes();
                let other = NotAWorker::new(worker, runtimes, reason.clone(), sources);
                others.extend(other.map(|other| (worker.path.clone(), other)));
                let mut warning = failure::problem(&worker.path, &reason);
                warning.message = format!("no worker, and not served: {}", warning.message);
                warning.help = Some(
                    "move it to a directory that begins with `_`, or let --ignore leave it out"
                        .into(),
                );
                warnings.push(warning);
            }
            Err(failure) if failure.is_uncompiled() && !is_served(&worker.path) => {
                uncompiled.insert(guests.len());
                guests.push(None);
                for mut problem in failure.problems(worker) {
                    problem.message = format!(
                        "{} answers 503 until the host has compiled it: {}",
                        worker.route, problem.message
                    );
                    problem.help = Some(UNCOMPILED_HELP.into());
                    warnings.push(problem);
                }
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
    Ok(ServedWorkers {
        guests,
        uncompiled,
        warnings,
        others,
    })
}
