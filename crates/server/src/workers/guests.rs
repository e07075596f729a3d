//! Workers become guests: files are read beneath the project's root and compiled, each content
//! once, all at the same time.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use sha2::{Digest, Sha256};
use wws_engine::{
    Code, CodeCache, CodeOrigin, Engine, Guest, GuestLimits, GuestSpec, LoadError, LoadErrorKind,
    PreopenedDirectory, StreamLimits, load_blocking,
};
use wws_languages::{CompiledLanguage, Language, Languages, runtime_guest};
use wws_project::{Execution, Instances, Limits, Problem, Project, Runtime, Worker, beneath::Root};
use wws_telemetry::{CodeSource, Telemetry};

use crate::workers::compiling::Compiling;
use crate::workers::not_a_worker;
use crate::workers::outgoing::Outgoing;
use crate::workers::parallel::in_parallel;

/// The maximum size of a module, in bytes.
const MAX_MODULE: u64 = 512 << 20;

/// A larger source is a broken worker, in bytes.
const MAX_SOURCE: u64 = 16 << 20;

type Sha256Digest = [u8; 32];

/// Makes guests of workers.
pub(crate) struct GuestFactory<'a> {
    pub(crate) root: &'a Root,
    pub(crate) engine: &'a Engine,
    pub(crate) languages: &'a Languages,
    pub(crate) kv: Arc<dyn wws_kv::Store>,
    pub(crate) outgoing: &'a Outgoing,
    pub(crate) code: Option<&'a CodeCache>,
    /// Lists what is being compiled.
    pub(crate) compiling: &'a Compiling,
    pub(crate) telemetry: &'a Telemetry,
}

/// Why a worker has no guest.
#[derive(Clone, Debug)]
pub(crate) enum GuestFailure {
    /// The file is not a worker at all, for this reason.
    NotAWorker(Arc<LoadError>),
    /// The project's loader has found these problems.
    Problems(Vec<Problem>),
    /// The worker cannot be loaded.
    Broken(Arc<LoadError>),
}

impl From<LoadError> for GuestFailure {
    fn from(error: LoadError) -> Self {
        Self::Broken(Arc::new(error))
    }
}

impl From<Arc<LoadError>> for GuestFailure {
    fn from(error: Arc<LoadError>) -> Self {
        Self::Broken(error)
    }
}

impl GuestFailure {
    /// The problems of a worker that cannot be loaded.
    pub(crate) fn problems(self, worker: &Worker) -> Vec<Problem> {
        match self {
            Self::NotAWorker(error) | Self::Broken(error) => vec![problem(&worker.path, &error)],
            Self::Problems(problems) => problems,
        }
    }
}

/// A problem of a worker: at the place of the error, or about the worker's file as a whole.
pub(crate) fn problem(worker: &Path, error: &LoadError) -> Problem {
    let pos = error.pos();
    Problem {
        file: pos.map_or_else(|| worker.to_path_buf(), |pos| pos.file.clone()),
        line: pos.map(|pos| pos.line),
        column: pos.and_then(|pos| pos.column),
        message: error.message(),
        help: None,
    }
}

/// Modules to compile, by the SHA-256 of their content; with the file that each was read from.
type Contents = HashMap<Sha256Digest, (PathBuf, Vec<u8>)>;

/// Compiled modules, by the SHA-256 of their content.
type Modules = HashMap<Sha256Digest, Result<Code, Arc<LoadError>>>;

/// What a worker needs from its files before it can be made a guest.
#[derive(Clone, Copy, Debug)]
struct WorkerSource {
    execution: Execution,
    /// The module that it runs, unless a language compiles its own interpreter.
    module: Option<Sha256Digest>,
}

/// Compiled interpreters, each compiled when a worker first needs it. The key is the name of the
/// language and the index of the runtime.
#[derive(Default)]
struct CompiledLanguages(Mutex<HashMap<(&'static str, Option<usize>), LanguageSlot>>);

/// One interpreter, compiled or not yet.
type LanguageSlot = Arc<OnceLock<Result<CompiledLanguage, Arc<LoadError>>>>;

impl CompiledLanguages {
    fn get(
        &self,
        key: (&'static str, Option<usize>),
        compile: impl FnOnce() -> Result<CompiledLanguage, LoadError>,
    ) -> Result<CompiledLanguage, Arc<LoadError>> {
        let slot = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(key).or_default().clone()
        };
        slot.get_or_init(|| compile().map_err(Arc::new)).clone()
    }
}

impl GuestFactory<'_> {
    /// Makes all guests of a project, in the order of its workers.
    pub(crate) fn guests(&self, project: &Project) -> Vec<Result<Guest, GuestFailure>> {
        let workers = project.workers();
        let mut contents = HashMap::new();
        let sources: Vec<_> = workers
            .iter()
            .map(|worker| self.source(worker, project.runtimes(), &mut contents))
            .collect();
        let modules = self.compile(contents);
        let languages = CompiledLanguages::default();
        in_parallel(sources.len(), |index| {
            let source = sources[index].clone()?;
            self.guest(project, &workers[index], source, &modules, &languages)
        })
    }

    /// Reads the module that a worker runs.
    fn source(
        &self,
        worker: &Worker,
        runtimes: &[Runtime],
        contents: &mut Contents,
    ) -> Result<WorkerSource, GuestFailure> {
        if !worker.problems.is_empty() {
            return Err(GuestFailure::Problems(worker.problems.clone()));
        }
        let execution = worker.execution();
        let module = match execution {
            Execution::Module => {
                let wasm = self.read(&worker.path)?;
                if let Some(reason) = not_a_worker::reason(&wasm) {
                    return Err(not_a_worker_failure(reason));
                }
                Some(add(&worker.path, wasm, contents))
            }
            Execution::Prestarted { runtime } => {
                let runtime = listed(runtimes, runtime)?;
                let path = runtime.file(&runtime.binary);
                Some(add(&path, self.read(&path)?, contents))
            }
            Execution::Snapshot { .. } => None,
        };
        Ok(WorkerSource { execution, module })
    }

    fn guest(
        &self,
        project: &Project,
        worker: &Worker,
        source: WorkerSource,
        modules: &Modules,
        languages: &CompiledLanguages,
    ) -> Result<Guest, GuestFailure> {
        let spec = self.spec(worker)?;
        let module = || {
            let module = source.module.and_then(|digest| modules.get(&digest));
            match module {
                Some(module) => module.as_ref().map_err(Clone::clone),
                None => Err(Arc::new(LoadError::new(
                    LoadErrorKind::Host,
                    "its module was not compiled",
                ))),
            }
        };
        let guest = match source.execution {
            Execution::Module => self.engine.guest(module()?, spec)?,
            Execution::Prestarted { runtime } => {
                let runtime = listed(project.runtimes(), runtime)?;
                let path = &worker.path;
                let (engine, root) = (self.engine, self.root);
                runtime_guest(engine, module()?, root, runtime, path, spec)?
            }
            Execution::Snapshot { language, runtime } => {
                let key = (language, runtime);
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
                let guest = compiled.guest(self.root, &worker.path, spec);
                guest.map_err(|error| self.classify(worker, error, &**language))?
            }
        };
        Ok(with_instances(guest, &worker.instances)?)
    }

    /// Tells a file that is not a worker from a broken worker, after it could not be loaded.
    fn classify(&self, worker: &Worker, error: LoadError, language: &dyn Language) -> GuestFailure {
        if error.kind() == LoadErrorKind::NoHandler {
            return GuestFailure::NotAWorker(Arc::new(error));
        }
        let bytes = self.root.read(&worker.path, MAX_SOURCE);
        let source = bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok());
        match source.and_then(|source| language.not_a_worker(&worker.path, &source)) {
            Some(reason) => not_a_worker_failure(reason),
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
            let _compiling = self.compiling.begin(name);
            let code = self.code.map(|code| (code, &key));
            CompiledLanguage::new(language.clone(), self.engine, wasm, code)
        };
        match (runtime, language.built_in()) {
            (Some(runtime), _) => {
                let path = runtime.file(&runtime.binary);
                let wasm = self.read(&path)?;
                // It was checked when the project was loaded.
                let digest = runtime.binary.digest();
                let digest = digest.unwrap_or_else(|| Sha256::digest(&wasm).into());
                let name = path.display().to_string();
                compile(&name, &wasm, digest).map_err(|error| {
                    LoadError::new(
                        LoadErrorKind::Host,
                        format!("cannot use the interpreter {name}"),
                    )
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

    fn read(&self, path: &Path) -> Result<Vec<u8>, LoadError> {
        self.root.read(path, MAX_MODULE).map_err(|error| {
            LoadError::new(
                LoadErrorKind::Host,
                format!("cannot read {}", path.display()),
            )
            .caused_by(error)
        })
    }

    /// Compiles modules. The compiler itself is parallel, but has sequential parts.
    fn compile(&self, contents: Contents) -> Modules {
        let contents: Vec<_> = contents.into_iter().collect();
        let modules = in_parallel(contents.len(), |index| {
            let (digest, (path, wasm)) = &contents[index];
            let _compiling = self.compiling.begin(&path.display().to_string());
            self.module(wasm, digest).map_err(Arc::new)
        });
        let digests = contents.iter().map(|(digest, _)| *digest);
        digests.zip(modules).collect()
    }

    fn module(&self, wasm: &[u8], digest: &Sha256Digest) -> Result<Code, LoadError> {
        let Some(cache) = self.code else {
            self.telemetry.code(CodeSource::Compiled);
            return self.engine.compile(wasm);
        };
        let key = self.engine.code_key(digest);
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
        let mut folders = Vec::with_capacity(worker.folders.len());
        for folder in &worker.folders {
            let dir = self.root.folder(&folder.from).map_err(|error| {
                let text = format!("cannot open the directory `{}`", folder.from.display());
                LoadError::new(LoadErrorKind::Host, text).caused_by(error)
            })?;
            folders.push(PreopenedDirectory {
                dir,
                to: folder.to.clone(),
            });
        }
        let env = worker.vars.iter();
        let kv = worker.kv_namespace.clone();
        Ok(GuestSpec {
            name: worker.name.clone(),
            env: env
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            args: vec![worker.name.clone()],
            directories: folders,
            kv: kv.map(|namespace| (self.kv.clone(), namespace)),
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
    Ok(guest)
}

/// A file that is not a worker, for a reason.
fn not_a_worker_failure(reason: String) -> GuestFailure {
    GuestFailure::NotAWorker(Arc::new(LoadError::new(LoadErrorKind::Unsupported, reason)))
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

/// Adds a module to those that are compiled.
fn add(path: &Path, wasm: Vec<u8>, contents: &mut Contents) -> Sha256Digest {
    let digest = Sha256::digest(&wasm).into();
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

#[cfg(test)]
mod tests {
    use super::*;
    use wws_engine::{ProgramFailure, SourcePos};

    fn broken(pos: Option<SourcePos>, message: &str) -> LoadError {
        let failure = ProgramFailure {
            pos,
            message: message.into(),
        };
        failure.into()
    }

    #[test]
    fn reports_errors_at_their_place() {
        let pos = SourcePos {
            file: "lib.js".into(),
            line: 3,
            column: Some(5),
        };
        let error = broken(Some(pos), "Error: x");
        let problem = problem(Path::new("w.js"), &error);
        assert_eq!(problem.to_string(), "lib.js:3:5: Error: x");
    }

    #[test]
    fn a_message_that_looks_like_a_place_is_not_a_place() {
        let error = broken(None, "evil.js:1:2: Error: x");
        let problem = problem(Path::new("w.js"), &error);
        assert_eq!(problem.file, Path::new("w.js"));
        assert_eq!((problem.line, problem.column), (None, None));
    }

    #[test]
    fn reports_all_causes() {
        let cause = std::io::Error::other("disk is full");
        let error = LoadError::new(LoadErrorKind::Host, "cannot read w.wasm").caused_by(cause);
        let problem = problem(Path::new("w.wasm"), &error);
        assert_eq!(problem.message, "cannot read w.wasm: disk is full");
    }
}
