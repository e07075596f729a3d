//! Workers become guests: files are read beneath the project's root and compiled, each content once, all at the same time.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use sha2::{Digest, Sha256};
use wws_engine::{
    CodeCache, CodeKey, CodeOrigin, Engine, Guest, GuestLimits, GuestSpec, LoadError, Module,
    PreopenedDirectory,
};
use wws_languages::{GuestError, JavaScript, Python, Ruby, runtime_guest};
use wws_project::{Kit, Limits, Problem, Project, Runtime, Worker, WorkerKind, beneath::Root};

use crate::{compiling::Compiling, no_worker, outgoing::Outgoing};

/// A larger module is not read, in bytes.
const MAX_MODULE: u64 = 512 << 20;

/// A source that is larger than this is a broken worker, in bytes.
const MAX_SOURCE: u64 = 16 << 20;

/// What the engine of JavaScript is called, as it has no file.
pub(crate) const JAVASCRIPT: &str = "the JavaScript engine";

type Digests = [u8; 32];

/// What guests are made with.
pub(crate) struct Maker<'a> {
    pub(crate) root: &'a Root,
    pub(crate) engine: &'a Engine,
    pub(crate) kv: Arc<dyn wws_kv::Store>,
    pub(crate) outgoing: &'a Outgoing,
    /// Where code may be that was compiled before.
    pub(crate) code: Option<&'a CodeCache>,
    /// Where to note what is being compiled.
    pub(crate) compiling: &'a Compiling,
}

/// A module to be compiled, and the file that it was read from.
type Content = (PathBuf, Vec<u8>);

/// What a worker runs as, or why it can't.
type Source = Result<Runs, NotMade>;

/// Why there is no guest of a worker.
#[derive(Clone, Debug)]
pub(crate) enum NotMade {
    /// Its file is plainly no worker.
    NoWorker(String),
    /// It cannot be loaded.
    Broken(Vec<Problem>),
    /// The same, in words that may begin with a place.
    Failed(String),
}

impl From<String> for NotMade {
    fn from(text: String) -> Self {
        Self::Failed(text)
    }
}

impl NotMade {
    /// The problems of a worker that cannot be loaded.
    pub(crate) fn problems(self, worker: &Worker) -> Vec<Problem> {
        match self {
            Self::NoWorker(text) | Self::Failed(text) => vec![located(&worker.path, &text)],
            Self::Broken(problems) => problems,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Runs {
    /// The module of this content.
    Module(Digests),
    JavaScript,
    /// The interpreter of this content, that of the runtime of this index.
    Runtime(Digests, usize),
    /// The interpreter of the runtime of this index, driven by a kit of ours.
    Kit(Kit, usize),
}

/// Compiled interpreters, each made when a worker first needs it.
#[derive(Default)]
struct Languages {
    javascript: OnceLock<Result<JavaScript, String>>,
    python: Interpreters<Python>,
    ruby: Interpreters<Ruby>,
}

/// Interpreters of a language, by the index of their runtime.
struct Interpreters<T>(Mutex<HashMap<usize, Place<T>>>);

/// Of one interpreter, made or to be made.
type Place<T> = Arc<OnceLock<Result<T, String>>>;

impl<T> Default for Interpreters<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Interpreters<T> {
    fn get(&self, index: usize, make: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        let place = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(index).or_default().clone()
        };
        place.get_or_init(make).clone()
    }
}

/// Does `work` for 0 to `count` on all processors. Gives what came of it, in order.
fn in_parallel<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(count);
    let next = AtomicUsize::new(0);
    let mut done: Vec<_> = std::thread::scope(|scope| {
        let take = || {
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return done;
                }
                done.push((index, work(index)));
            }
        };
        // This thread works, too: where no other can be started, it does all.
        let start = |_| std::thread::Builder::new().spawn_scoped(scope, take).ok();
        let others: Vec<_> = (1..threads).map_while(start).collect();
        let mut all = take();
        for thread in others {
            match thread.join() {
                Ok(done) => all.extend(done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

impl Maker<'_> {
    /// Makes all guests of a project, in the order of its workers.
    pub(crate) fn guests(&self, project: &Project) -> Vec<Result<Guest, NotMade>> {
        let workers = project.workers();
        let mut contents = HashMap::new();
        let sources: Vec<Source> = workers
            .iter()
            .map(|worker| self.source(worker, project.runtimes(), &mut contents))
            .collect();
        let modules = self.compile(contents);
        let languages = Languages::default();
        in_parallel(sources.len(), |index| {
            let worker = &workers[index];
            let runs = sources[index].clone()?;
            self.guest(project, worker, runs, &modules, &languages)
        })
    }

    fn guest(
        &self,
        project: &Project,
        worker: &Worker,
        runs: Runs,
        modules: &HashMap<Digests, Result<Module, String>>,
        languages: &Languages,
    ) -> Result<Guest, NotMade> {
        let spec = self.spec(worker)?;
        let module = |digest| match modules.get(&digest) {
            Some(Ok(module)) => Ok(module),
            Some(Err(message)) => Err(message.clone()),
            None => Err("it was not compiled".into()),
        };
        match runs {
            Runs::Module(digest) => {
                let made = self.engine.guest(module(digest)?, spec);
                Ok(made.map_err(text)?)
            }
            Runs::Runtime(digest, index) => {
                let runtime = &project.runtimes()[index];
                let interpreter = module(digest)?;
                let path = &worker.path;
                let made = runtime_guest(self.engine, interpreter, self.root, runtime, path, spec);
                Ok(made.map_err(text)?)
            }
            Runs::Kit(Kit::Python, index) => {
                let python = languages.python.get(index, || {
                    self.interpreter(&project.runtimes()[index], Python::new)
                })?;
                let made = python.guest(self.root, &worker.path, spec);
                made.map_err(|error| self.judge(worker, error, no_worker::of_source))
            }
            Runs::Kit(Kit::Ruby, index) => {
                let ruby = languages.ruby.get(index, || {
                    self.interpreter(&project.runtimes()[index], Ruby::new)
                })?;
                let made = ruby.guest(self.root, &worker.path, spec);
                made.map_err(|error| self.judge(worker, error, no_worker::of_source))
            }
            Runs::JavaScript => {
                let javascript = languages
                    .javascript
                    .get_or_init(|| {
                        let _compiling = self.compiling.begin(JAVASCRIPT);
                        JavaScript::new(self.engine, self.code).map_err(text)
                    })
                    .as_ref()
                    .map_err(Clone::clone)?;
                let made = javascript.guest(self.root, &worker.path, spec);
                made.map_err(|error| match error {
                    GuestError::NoHandler(error) => NotMade::NoWorker(text(error)),
                    GuestError::Broken(error) => self.judge(worker, error, |source| {
                        no_worker::of_javascript(&worker.path, source)
                    }),
                })
            }
        }
    }

    /// Tells a source that is no worker from a broken one, after it could not be loaded.
    fn judge(
        &self,
        worker: &Worker,
        error: LoadError,
        reason: impl FnOnce(&str) -> Option<String>,
    ) -> NotMade {
        let bytes = self.root.read(&worker.path, MAX_SOURCE);
        let source = bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok());
        match source.and_then(|source| reason(&source)) {
            Some(reason) => NotMade::NoWorker(reason),
            None => NotMade::Failed(text(error)),
        }
    }

    /// The one place that says which kinds of workers there are, and what module each runs as.
    fn source(
        &self,
        worker: &Worker,
        runtimes: &[Runtime],
        contents: &mut HashMap<Digests, Content>,
    ) -> Source {
        if !worker.problems.is_empty() {
            return Err(NotMade::Broken(worker.problems.clone()));
        }
        match worker.kind {
            WorkerKind::Wasm => {
                let wasm = self.file(&worker.path)?;
                match no_worker::of_wasm(&wasm) {
                    Some(reason) => Err(NotMade::NoWorker(reason)),
                    None => Ok(Runs::Module(hashed(&worker.path, wasm, contents))),
                }
            }
            WorkerKind::JavaScript => Ok(Runs::JavaScript),
            WorkerKind::Runtime(index) => {
                let runtime = runtimes
                    .get(index)
                    .ok_or_else(|| "its runtime is not listed in .wws.toml".to_owned())?;
                if let Some(kit) = runtime.kit {
                    return Ok(Runs::Kit(kit, index));
                }
                let path = runtime.file(&runtime.binary);
                Ok(Runs::Runtime(self.read(&path, contents)?, index))
            }
        }
    }

    /// Compiles the interpreter of a runtime that a kit drives.
    fn interpreter<T>(
        &self,
        runtime: &Runtime,
        new: impl FnOnce(&Engine, &[u8], Option<(&CodeCache, &CodeKey)>) -> Result<T, LoadError>,
    ) -> Result<T, String> {
        let path = runtime.file(&runtime.binary);
        let wasm = self.file(&path)?;
        // It was checked when the project was loaded.
        let digest = runtime
            .binary
            .digest()
            .unwrap_or_else(|| Sha256::digest(&wasm).into());
        let key = self.engine.interpreter_key(&digest);
        let _compiling = self.compiling.begin(&path.display().to_string());
        let made = new(self.engine, &wasm, self.code.map(|code| (code, &key)));
        made.map_err(|error| format!("{}: {error}", path.display()))
    }

    fn file(&self, path: &Path) -> Result<Vec<u8>, String> {
        self.root
            .read(path, MAX_MODULE)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))
    }

    /// Reads a module that is to be compiled.
    fn read(
        &self,
        path: &Path,
        contents: &mut HashMap<Digests, Content>,
    ) -> Result<Digests, String> {
        Ok(hashed(path, self.file(path)?, contents))
    }

    /// The compiler itself is parallel, but has stretches that are not.
    fn compile(
        &self,
        contents: HashMap<Digests, Content>,
    ) -> HashMap<Digests, Result<Module, String>> {
        let contents: Vec<(Digests, Content)> = contents.into_iter().collect();
        let modules = in_parallel(contents.len(), |index| {
            let (digest, (path, wasm)) = &contents[index];
            let _compiling = self.compiling.begin(&path.display().to_string());
            self.module(wasm, digest).map_err(text)
        });
        let digests = contents.iter().map(|(digest, _)| *digest);
        digests.zip(modules).collect()
    }

    fn module(&self, wasm: &[u8], digest: &Digests) -> Result<Module, LoadError> {
        let Some(cache) = self.code else {
            return self.engine.compile(wasm);
        };
        let key = self.engine.code_key(digest);
        let (module, code) = self.engine.compile_cached(wasm, &key, cache)?;
        if let CodeOrigin::Compiled { damaged: Some(why) } = code {
            let name = key.file_name();
            tracing::warn!("the compiled code {name} is damaged ({why}): compiled again");
        }
        Ok(module)
    }

    /// What a worker was given.
    fn spec(&self, worker: &Worker) -> Result<GuestSpec, String> {
        let mut folders = Vec::with_capacity(worker.folders.len());
        for folder in &worker.folders {
            let dir = self.root.folder(&folder.from).map_err(|error| {
                format!(
                    "cannot open the folder `{}`: {error}",
                    folder.from.display()
                )
            })?;
            folders.push(PreopenedDirectory {
                dir,
                to: folder.to.clone(),
            });
        }
        Ok(GuestSpec {
            name: worker.name.clone(),
            env: worker
                .vars
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            args: vec![worker.name.clone()],
            directories: folders,
            kv: worker
                .kv_namespace
                .clone()
                .map(|namespace| (self.kv.clone(), namespace)),
            http: self.outgoing.of(worker)?,
            limits: limits(&worker.limits),
        })
    }
}

/// Adds the module of a file to those that are compiled.
fn hashed(path: &Path, wasm: Vec<u8>, contents: &mut HashMap<Digests, Content>) -> Digests {
    let digest = Sha256::digest(&wasm).into();
    contents
        .entry(digest)
        .or_insert_with(|| (path.to_owned(), wasm));
    digest
}

fn text(error: LoadError) -> String {
    error.to_string()
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
    }
}

/// A problem of a worker. A message that begins with a place (`file:line:column: `) is about that.
pub(crate) fn located(worker: &Path, message: &str) -> Problem {
    let at_place = || {
        let (place, message) = message.split_once(": ")?;
        let mut parts = place.rsplitn(3, ':');
        let column = parts.next()?.parse().ok()?;
        let line = parts.next()?.parse().ok()?;
        Some(Problem {
            line: Some(line),
            column: Some(column),
            ..problem(Path::new(parts.next()?), message.to_owned())
        })
    };
    at_place().unwrap_or_else(|| {
        let of_file = format!("{}: ", worker.display());
        let message = message.strip_prefix(&of_file).unwrap_or(message);
        problem(worker, message.to_owned())
    })
}

/// A problem of a whole file.
pub(crate) fn problem(file: &Path, message: String) -> Problem {
    Problem {
        file: file.to_path_buf(),
        line: None,
        column: None,
        message,
        help: None,
    }
}
