//! Workers become guests: files are read beneath the project's root and compiled, each content
//! once, all at the same time. Workers that the generation before has are taken over.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use sha2::{Digest, Sha256};
use wws_engine::{
    Code, CodeCache, CodeKey, CodeOrigin, Directories, Engine, FileContents, Guest, GuestLimits,
    GuestSpec, KvGrant, LoadError, LoadErrorKind, PreopenedDirectory, StreamLimits, load_blocking,
};
use wws_languages::{CompiledLanguage, Language, Languages, runtime_guest};
use wws_project::{
    Consistency, Execution, Instances, Limits, Project, Runtime, Worker, beneath::Root,
};
use wws_telemetry::{CodeSource, Telemetry};

use crate::stores::ProjectStores;
use crate::workers::compile_memory::{CompileMemory, ReservedMemory};
use crate::workers::compiling::Compiling;
use crate::workers::failure::GuestFailure;
use crate::workers::languages::{CompiledLanguages, Sha256Digest, language_key};
use crate::workers::loaded::{self, Predecessor, WorkerSource};
use crate::workers::not_a_worker;
use crate::workers::outgoing::Outgoing;
use crate::workers::parallel::in_parallel;

/// The maximum size of a module, in bytes.
const MAX_MODULE: u64 = 512 << 20;

/// A larger source is a broken worker, in bytes.
const MAX_SOURCE: u64 = 16 << 20;

/// Makes guests of workers.
pub(crate) struct GuestFactory<'a> {
    pub(crate) root: &'a Root,
    pub(crate) engine: &'a Engine,
    pub(crate) languages: &'a Languages,
    pub(crate) stores: &'a ProjectStores,
    pub(crate) outgoing: &'a Outgoing,
    pub(crate) code: Option<&'a CodeCache>,
    /// Lists what is being compiled.
    pub(crate) compiling: &'a Compiling,
    /// What compilations may take.
    pub(crate) compile_memory: CompileMemory,
    /// Code that is neither in the cache nor compiled here.
    pub(crate) missing: Mutex<Vec<CodeKey>>,
    pub(crate) telemetry: &'a Telemetry,
    /// The generation before, unless this is the first.
    pub(crate) predecessor: Option<Predecessor<'a>>,
    /// Threads that load at the same time.
    pub(crate) threads: usize,
}

/// The guests of a project.
pub(crate) struct LoadedGuests {
    /// One for each worker, in their order.
    pub(crate) results: Vec<Result<LoadedGuest, GuestFailure>>,
    /// The code of the workers that are modules.
    pub(crate) modules: HashMap<Sha256Digest, Code>,
    pub(crate) languages: CompiledLanguages,
}

/// A worker that is loaded.
pub(crate) struct LoadedGuest {
    pub(crate) guest: Guest,
    /// What it was loaded from; `None` if it is always loaded again.
    pub(crate) source: Option<Arc<WorkerSource>>,
    /// Whether it was taken over from the generation before.
    pub(crate) is_kept: bool,
}

/// Modules to compile, by the SHA-256 of their content; with the file that each was read from.
type Contents = HashMap<Sha256Digest, (PathBuf, Vec<u8>)>;

/// Compiled modules, by the SHA-256 of their content.
type Modules = HashMap<Sha256Digest, Result<Code, Arc<LoadError>>>;

/// What is to be done for a worker.
enum WorkerLoad {
    /// Its guest is taken over.
    Keep(Guest, Arc<WorkerSource>),
    Load(Arc<WorkerSource>),
}

impl GuestFactory<'_> {
    /// Makes all guests of a project, in the order of its workers.
    pub(crate) fn guests(&self, project: &Project) -> LoadedGuests {
        let workers = project.workers();
        let mut contents = HashMap::new();
        let loads: Vec<_> = workers
            .iter()
            .map(|worker| self.load_of(worker, project.runtimes(), &mut contents))
            .collect();
        let modules = self.compile(contents);
        let languages = match &self.predecessor {
            Some(predecessor) => predecessor.languages().used_by(project),
            None => CompiledLanguages::default(),
        };
        let results = in_parallel(loads.len(), self.threads, |index| {
            let worker = &workers[index];
            Ok(match loads[index].as_ref().map_err(Clone::clone)? {
                WorkerLoad::Keep(guest, source) => LoadedGuest {
                    guest: guest.clone(),
                    source: Some(source.clone()),
                    is_kept: true,
                },
                WorkerLoad::Load(source) => LoadedGuest {
                    guest: self.guest(project, worker, source.module, &modules, &languages)?,
                    source: (!loaded::reads_directories_while_loading(worker))
                        .then(|| source.clone()),
                    is_kept: false,
                },
            })
        });
        let kept = loads.iter().filter_map(|load| match load {
            Ok(WorkerLoad::Keep(_, source)) => source.module,
            _ => None,
        });
        let kept =
            kept.filter_map(|digest| Some((digest, self.predecessor.as_ref()?.module(&digest)?)));
        let kept: Vec<_> = kept.collect();
        let modules = modules.into_iter();
        LoadedGuests {
            results,
            modules: modules
                .filter_map(|(digest, code)| Some((digest, code.ok()?)))
                .chain(kept)
                .collect(),
            languages: languages.used_by(project),
        }
    }

    /// Finds out what is to be done for a worker, and reads the module that it runs.
    fn load_of(
        &self,
        worker: &Worker,
        runtimes: &[Runtime],
        contents: &mut Contents,
    ) -> Result<WorkerLoad, GuestFailure> {
        if !worker.problems.is_empty() {
            return Err(GuestFailure::Problems(worker.problems.clone()));
        }
        let before = self.predecessor.as_ref();
        if let Some((guest, source)) = before.and_then(|b| b.guest(self.root, runtimes, worker)) {
            return Ok(WorkerLoad::Keep(guest, source));
        }
        if let Some(failure) = before.and_then(|before| before.not_a_worker(runtimes, worker)) {
            return Err(failure);
        }
        let mut files = Vec::new();
        let module = match worker.execution() {
            Execution::Module => {
                let (contents_of, wasm) = self.read(&worker.path)?;
                if let Some(reason) = not_a_worker::reason(&wasm) {
                    return Err(not_a_worker_failure(reason, None));
                }
                let digest = *contents_of.sha256();
                files.push((worker.path.clone(), contents_of));
                Some(add(&worker.path, wasm, digest, contents))
            }
            Execution::Prestarted { runtime } => {
                let runtime = listed(runtimes, runtime)?;
                let path = runtime.file(&runtime.binary);
                let (interpreter, wasm) = self.read(&path)?;
                let digest = *interpreter.sha256();
                let others = runtime.wrapper.iter().chain(&runtime.polyfill);
                let others = others.map(|file| runtime.file(file));
                for other in std::iter::once(worker.path.clone()).chain(others) {
                    let (read, _) = self.read(&other)?;
                    files.push((other, read));
                }
                let module = add(&path, wasm, digest, contents);
                files.push((path, interpreter));
                Some(module)
            }
            // The program is asked for what it has read, and the interpreter's checksum is one of
            // the settings.
            Execution::Snapshot { .. } => None,
        };
        let directories = loaded::directories(self.root, worker).map_err(|error| {
            LoadError::new(LoadErrorKind::Host, "cannot open its directories").caused_by(error)
        })?;
        Ok(WorkerLoad::Load(Arc::new(WorkerSource {
            files,
            directories,
            module,
        })))
    }

    fn guest(
        &self,
        project: &Project,
        worker: &Worker,
        module: Option<Sha256Digest>,
        modules: &Modules,
        languages: &CompiledLanguages,
    ) -> Result<Guest, GuestFailure> {
        let spec = self.spec(worker)?;
        let module = || {
            let module = module.and_then(|digest| modules.get(&digest));
            match module {
                Some(module) => module.as_ref().map_err(Clone::clone),
                None => Err(Arc::new(LoadError::new(
                    LoadErrorKind::Host,
                    "its module was not compiled",
                ))),
            }
        };
        let guest = match worker.execution() {
            Execution::Module => self.engine.guest(module()?, spec)?,
            Execution::Prestarted { runtime } => {
                let runtime = listed(project.runtimes(), runtime)?;
                let path = &worker.path;
                let (engine, root) = (self.engine, self.root);
                runtime_guest(engine, module()?, root, runtime, path, spec)?
            }
            Execution::Snapshot { language, runtime } => {
                let key = (
                    language,
                    language_key(worker, project.runtimes()).and_then(|(_, digest)| digest),
                );
                let language = self.languages.get(language).ok_or_else(|| {
                    LoadError::new(
                        LoadErrorKind::Host,
                        format!("this server has no language `{language}`"),
                    )
                })?;
                let compiled = languages.get(key, || {
                    let runtime = runtime
                        .map(|index| listed(project.runtimes(), index))
                        .transpose()?;
                    self.language(language, runtime)
                })?;
                let (guest, sources) = compiled.guest_and_sources(self.root, &worker.path, spec);
                guest.map_err(|error| self.classify(worker, error, &**language, sources))?
            }
        };
        Ok(with_instances(guest, &worker.instances)?)
    }

    /// Tells a file that is not a worker from a broken worker, after it could not be loaded.
    fn classify(
        &self,
        worker: &Worker,
        error: LoadError,
        language: &dyn Language,
        sources: Option<Directories>,
    ) -> GuestFailure {
        if error.kind() == LoadErrorKind::NoHandler {
            return GuestFailure::NotAWorker(Arc::new(error), sources);
        }
        let bytes = self.root.read(&worker.path, MAX_SOURCE);
        let source = bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok());
        match source.and_then(|source| language.not_a_worker(&worker.path, &source)) {
            Some(reason) => not_a_worker_failure(reason, sources),
            None => error.into(),
        }
    }

    /// Compiles the interpreter of a language, which is built in or a runtime.
    fn language(
        &self,
        language: &Arc<dyn Language>,
        runtime: Option<&Runtime>,
    ) -> Result<CompiledLanguage, LoadError> {
        let compile = |name: &str, wasm: &[u8], digest: Sha256Digest| {
            let key = self.engine.interpreter_key(&digest);
            let _memory = self.memory_to_compile(wasm, &key)?;
            let _compiling = self.compiling.begin(name);
            let code = self.code.map(|code| (code, &key));
            CompiledLanguage::new(language.clone(), self.engine, wasm, code)
        };
        match (runtime, language.built_in()) {
            (Some(runtime), _) => {
                let path = runtime.file(&runtime.binary);
                let wasm = self.root.read(&path, MAX_MODULE);
                let wasm = wasm.map_err(|error| unreadable(&path, error))?;
                // It was checked when the project was loaded.
                let digest = runtime.binary.digest();
                let digest = digest.unwrap_or_else(|| Sha256::digest(&wasm).into());
                let name = path.display().to_string();
                compile(&name, &wasm, digest).map_err(|error| {
                    let kind = match error.kind() {
                        LoadErrorKind::CompileMemory => LoadErrorKind::CompileMemory,
                        _ => LoadErrorKind::Host,
                    };
                    LoadError::new(kind, format!("cannot use the interpreter {name}"))
                        .caused_by(error)
                })
            }
            (None, Some(built_in)) => {
                let digest = Sha256::digest(built_in.wasm).into();
                compile(built_in.name, built_in.wasm, digest)
            }
            (None, None) => Err(LoadError::new(
                LoadErrorKind::Host,
                "its language has no interpreter: the project needs a runtime",
            )),
        }
    }

    /// Reads a file.
    fn read(&self, path: &Path) -> Result<(FileContents, Vec<u8>), LoadError> {
        let read = || {
            let (file, bytes) = self.root.open_and_read(path, MAX_MODULE)?;
            let contents = FileContents::new(&file, Sha256::digest(&bytes).into())?;
            Ok((contents, bytes))
        };
        read().map_err(|error| unreadable(path, error))
    }

    /// Compiles modules. The compiler itself is parallel, but has sequential parts.
    fn compile(&self, contents: Contents) -> Modules {
        let contents: Vec<_> = contents.into_iter().collect();
        let modules = in_parallel(contents.len(), self.threads, |index| {
            let (digest, (path, wasm)) = &contents[index];
            if let Some(code) = self.predecessor.as_ref().and_then(|b| b.module(digest)) {
                return Ok(code);
            }
            let _compiling = self.compiling.begin(&path.display().to_string());
            self.module(wasm, digest).map_err(Arc::new)
        });
        let digests = contents.iter().map(|(digest, _)| *digest);
        digests.zip(modules).collect()
    }

    /// Reserves the memory that compiling a module takes; none if the cache has its code.
    fn memory_to_compile(
        &self,
        wasm: &[u8],
        key: &CodeKey,
    ) -> Result<Option<ReservedMemory<'_>>, LoadError> {
        if self.code.is_some_and(|code| code.path(key).exists()) {
            return Ok(None);
        }
        let reserved = self.compile_memory.reserve(wasm);
        reserved.map(Some).inspect_err(|_| {
            let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
            missing.push(key.clone());
        })
    }

    fn module(&self, wasm: &[u8], digest: &Sha256Digest) -> Result<Code, LoadError> {
        let key = self.engine.code_key(digest);
        let _memory = self.memory_to_compile(wasm, &key)?;
        let Some(cache) = self.code else {
            self.telemetry.code(CodeSource::Compiled);
            return self.engine.compile(wasm);
        };
        let (module, code) = self.engine.compile_cached(wasm, &key, cache)?;
        self.telemetry.code(match code {
            CodeOrigin::Cached => CodeSource::Cached,
            CodeOrigin::Compiled { damaged: None } => CodeSource::Compiled,
            CodeOrigin::Compiled { damaged: Some(_) } => CodeSource::Damaged,
        });
        if let CodeOrigin::Compiled { damaged: Some(why) } = code {
            let name = key.file_name();
            tracing::warn!("the compiled code {name} is damaged ({why}): compiled again");
        }
        Ok(module)
    }

    /// What a worker is given.
    fn spec(&self, worker: &Worker) -> Result<GuestSpec, LoadError> {
        let mut directories = Vec::with_capacity(worker.directories.len());
        for directory in &worker.directories {
            let dir = self.root.directory(&directory.from).map_err(|error| {
                let text = format!("cannot open the directory `{}`", directory.from.display());
                LoadError::new(LoadErrorKind::Host, text).caused_by(error)
            })?;
            directories.push(PreopenedDirectory {
                dir,
                to: directory.to.clone(),
            });
        }
        let env = worker.vars.iter();
        let kv = worker.kv.as_ref().map(|kv| KvGrant {
            store: self.stores.of(kv).clone(),
            namespace: kv.namespace.clone(),
            serial: kv.consistency == Consistency::Serial,
        });
        Ok(GuestSpec {
            name: worker.name.clone(),
            env: env
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            args: vec![worker.name.clone()],
            directories,
            kv,
            http: self.outgoing.of(worker)?,
            limits: limits(&worker.limits),
        })
    }
}

/// A guest whose instances live as the worker's TOML says.
fn with_instances(mut guest: Guest, instances: &Instances) -> Result<Guest, LoadError> {
    if instances.snapshot {
        guest = load_blocking(guest.initialised())?;
    }
    if instances.reuse > 1 {
        guest = guest.reusing(instances.reuse)?;
    }
    if instances.concurrent > 1 {
        guest = guest.concurrent(instances.concurrent)?;
    }
    Ok(guest)
}

/// A file that is not a worker, for a reason.
fn not_a_worker_failure(reason: String, sources: Option<Directories>) -> GuestFailure {
    let reason = LoadError::new(LoadErrorKind::Unsupported, reason);
    GuestFailure::NotAWorker(Arc::new(reason), sources)
}

/// A runtime of the project.
fn listed(runtimes: &[Runtime], index: usize) -> Result<&Runtime, LoadError> {
    runtimes.get(index).ok_or_else(|| {
        LoadError::new(
            LoadErrorKind::Host,
            "its runtime is not listed in .wws.toml",
        )
    })
}

fn unreadable(path: &Path, error: io::Error) -> LoadError {
    let text = format!("cannot read {}", path.display());
    LoadError::new(LoadErrorKind::Host, text).caused_by(error)
}

/// Adds a module to those that are compiled.
fn add(path: &Path, wasm: Vec<u8>, digest: Sha256Digest, contents: &mut Contents) -> Sha256Digest {
    contents
        .entry(digest)
        .or_insert_with(|| (path.to_owned(), wasm));
    digest
}

fn limits(limits: &Limits) -> GuestLimits {
    GuestLimits {
        memory: limits.memory,
        table_elements: limits.table_elements,
        cpu_time: limits.cpu_time,
        wall_time: limits.wall_time,
        output: limits.output,
        buffers: limits.buffers,
        log: limits.log,
        http_calls: limits.http_calls,
        open_files: limits.open_files,
        stream: StreamLimits {
            idle: limits.stream_idle,
            time: Some(limits.stream_time).filter(|time| !time.is_zero()),
            bytes: Some(limits.stream_bytes).filter(|bytes| *bytes > 0),
            socket: wws_websocket::Limits {
                message: limits.socket_message,
                frame: limits.socket_frame,
                queue: limits.socket_queue,
                idle: limits.socket_idle,
                time: Some(limits.stream_time).filter(|time| !time.is_zero()),
            },
        },
    }
}
