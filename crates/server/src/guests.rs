//! Workers become guests: files are read beneath the project's root and compiled, each content once, all at the same time.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use sha2::{Digest, Sha256};
use wws_engine::{
    Code, CodeCache, CodeKey, Engine, Guest, GuestLimits, GuestSpec, LoadError, Module,
    PreopenedFolder,
};
use wws_languages::{JavaScript, Python, Ruby, runtime_guest};
use wws_project::{
    Kit, Limits, Problem, Problems, Project, Runtime, Worker, WorkerKind, beneath::Root,
};

use crate::outgoing::Outgoing;

/// A larger module is not read, in bytes.
const MAX_MODULE: u64 = 512 << 20;

type Digests = [u8; 32];

/// What guests are made with.
pub(crate) struct Maker<'a> {
    pub(crate) root: &'a Root,
    pub(crate) engine: &'a Engine,
    pub(crate) kv: Arc<dyn wws_kv::Store>,
    pub(crate) outgoing: &'a Outgoing,
    /// Where code may be that was compiled before.
    pub(crate) code: Option<&'a CodeCache>,
}

/// What a worker runs as, or why it can't.
type Source = Result<Runs, String>;

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
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(take)).collect();
        threads
            .into_iter()
            .flat_map(|thread| match thread.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

impl Maker<'_> {
    /// Makes all guests of a project, in the order of its workers; or says everything that is wrong.
    pub(crate) fn guests(&self, project: &Project) -> Result<Vec<Guest>, Problems> {
        let workers = project.workers();
        let mut contents = HashMap::new();
        let sources: Vec<Source> = workers
            .iter()
            .map(|worker| self.source(worker, project.runtimes(), &mut contents))
            .collect();
        let modules = self.compile(contents);
        let languages = Languages::default();
        let made = in_parallel(sources.len(), |index| {
            let worker = &workers[index];
            let spec = self.spec(worker)?;
            let module = |digest| match modules.get(&digest) {
                Some(Ok(module)) => Ok(module),
                Some(Err(message)) => Err(message.clone()),
                None => Err("it was not compiled".into()),
            };
            match sources[index].clone()? {
                Runs::Module(digest) => self.engine.guest(module(digest)?, spec).map_err(text),
                Runs::Runtime(digest, index) => runtime_guest(
                    self.engine,
                    module(digest)?,
                    self.root,
                    &project.runtimes()[index],
                    &worker.path,
                    spec,
                )
                .map_err(text),
                Runs::Kit(Kit::Python, index) => languages
                    .python
                    .get(index, || {
                        self.interpreter(&project.runtimes()[index], Python::new)
                    })?
                    .guest(self.root, &worker.path, spec)
                    .map_err(text),
                Runs::Kit(Kit::Ruby, index) => languages
                    .ruby
                    .get(index, || {
                        self.interpreter(&project.runtimes()[index], Ruby::new)
                    })?
                    .guest(self.root, &worker.path, spec)
                    .map_err(text),
                Runs::JavaScript => languages
                    .javascript
                    .get_or_init(|| JavaScript::new(self.engine, self.code).map_err(text))
                    .as_ref()
                    .map_err(Clone::clone)?
                    .guest(self.root, &worker.path, spec)
                    .map_err(text),
            }
        });
        let mut guests = Vec::with_capacity(workers.len());
        let mut problems = Vec::new();
        for (worker, made) in workers.iter().zip(made) {
            match made {
                Ok(guest) => guests.push(guest),
                Err(message) => problems.push(located(&worker.path, &message)),
            }
        }
        match Problems::of(problems) {
            None => Ok(guests),
            Some(problems) => Err(problems),
        }
    }

    /// The one place that says which kinds of workers there are, and what module each runs as.
    fn source(
        &self,
        worker: &Worker,
        runtimes: &[Runtime],
        contents: &mut HashMap<Digests, Vec<u8>>,
    ) -> Source {
        match worker.kind {
            WorkerKind::Wasm => Ok(Runs::Module(self.read(&worker.path, contents)?)),
            WorkerKind::JavaScript => Ok(Runs::JavaScript),
            WorkerKind::Runtime(index) => {
                let runtime = runtimes
                    .get(index)
                    .ok_or("its runtime is not listed in .wws.toml")?;
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
        contents: &mut HashMap<Digests, Vec<u8>>,
    ) -> Result<Digests, String> {
        let wasm = self.file(path)?;
        let digest = Sha256::digest(&wasm).into();
        contents.entry(digest).or_insert(wasm);
        Ok(digest)
    }

    /// The compiler itself is parallel, but has stretches that are not.
    fn compile(
        &self,
        contents: HashMap<Digests, Vec<u8>>,
    ) -> HashMap<Digests, Result<Module, String>> {
        let contents: Vec<(Digests, Vec<u8>)> = contents.into_iter().collect();
        let modules = in_parallel(contents.len(), |index| {
            let (digest, wasm) = &contents[index];
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
        if let Code::Compiled { damaged: Some(why) } = code {
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
            folders.push(PreopenedFolder {
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
            folders,
            kv: worker
                .kv_namespace
                .clone()
                .map(|namespace| (self.kv.clone(), namespace)),
            http: self.outgoing.of(worker)?,
            limits: limits(&worker.limits),
        })
    }
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
        log: limits.log,
        http_calls: limits.http_calls,
    }
}

/// A problem of a worker. A message that begins with a place (`file:line:column: `) is about that.
fn located(worker: &Path, message: &str) -> Problem {
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
