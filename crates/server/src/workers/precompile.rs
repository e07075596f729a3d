//! Compiles ahead of time what the containers of a directory will need, into a code cache.

mod module;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::{self, Write},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use wws_engine::{CacheEntryState, CodeCache, CodeKey, CompileWork};
use wws_languages::Languages;
use wws_project::{beneath::Root, compilable, hex};

use crate::workers::compiling::Compiling;

pub use module::{CompileFailure, Job, ModuleKind, compile, compile_here};
use module::{HashedModule, HashingReader, KEEP_CRASH, ModuleSource, digest, engine};

/// Bounds of one run. What exceeds them is compiled by the server, within its own limits.
const MAX_FILES: usize = 1000;
const MAX_BYTES: u64 = 256 << 20;
/// CPU time bounds a compilation. This is for a compiler that gets no CPU, or hardly any.
const MAX_TIME: Duration = Duration::from_secs(600);

/// Bytes of memory that compiling one module may take. Python's interpreter takes 0.4 GiB, and the
/// allocator reserves 1 GiB at a time.
pub const COMPILER_MEMORY: u64 = 2 << 30;

/// How long a module waits for modules of other containers. Then its server compiles it, so that
/// modules that take long do not delay other containers. No start waits for a later attempt.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most failures that a run reports.
const MAX_REPORTED: usize = 5;

/// CPU time for a module; the largest interpreters take about 20 s.
const MAX_CPU_TIME: Duration = Duration::from_secs(120);

/// A module of up to this many bytes is small: a turn is reserved for small modules, none of which
/// may take long. Usually they take some tenths of a second.
const SMALL: u64 = 1 << 20;
const SMALL_CPU_TIME: Duration = Duration::from_secs(10);

/// The result of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precompiled {
    /// Files whose code was in the code cache.
    pub cached: usize,
    /// Files that were compiled.
    pub compiled: usize,
    /// Files among those compiled and left whose code in the cache was damaged.
    pub damaged: usize,
    /// Files that are not modules, or for which there was no room or time: their server reports
    /// why, or compiles them itself.
    pub left: usize,
    /// Files among those left that a later run may compile: the machine had no time, memory or
    /// room for them.
    pub retry: usize,
    /// Why files were left: the first reasons, with the name of each file and what to do.
    pub failures: Vec<String>,
}

impl Precompiled {
    fn leave(&mut self, why: &LeftModule) {
        self.left += 1;
        self.retry += usize::from(why.retry);
        if self.failures.len() < MAX_REPORTED {
            self.failures.push(why.text.clone());
        }
    }
}

/// Why a module was left.
struct LeftModule {
    text: String,
    /// Whether a later run may compile it.
    retry: bool,
}

/// How a directory is compiled.
pub struct Precompile<'a> {
    /// The code cache of the machine.
    pub store: &'a CodeCache,
    /// A directory that gets a link to each entry that this project needs, and to no other.
    pub links: Option<&'a Path>,
    /// Whether the directory is the root of a container.
    pub container: bool,
    /// Whether to wait for modules of other containers as long as it takes: no start waits.
    pub patient: bool,
    /// Lists what is being compiled.
    pub compiling: &'a Compiling,
    /// The languages of the server.
    pub languages: &'a Languages,
    /// Compiles one module. A module of an untrusted image is compiled by a confined process.
    pub compile: &'a dyn Fn(Job<'_>, &mut dyn Write) -> Result<(), CompileFailure>,
}

/// Suffix of a note among the links: its name is the SHA-256 of a file of the project, its content
/// the file's path.
const HASHED: &str = ".sha256";

/// The files that were hashed when the project was compiled ahead of time, with their SHA-256 in
/// hex; empty if `links` does not exist.
#[must_use]
pub fn hashed(links: &Path) -> BTreeMap<PathBuf, String> {
    let note = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let sha256 = name.to_str()?.strip_suffix(HASHED)?.to_owned();
        let path = OsString::from_vec(fs::read(entry.path()).ok()?);
        Some((path.into(), sha256))
    };
    let entries = fs::read_dir(links).into_iter().flatten().flatten();
    entries.filter_map(note).collect()
}

/// What happened to a module.
enum CodeOutcome {
    Cached,
    Compiled,
    Left(LeftModule),
}

impl Precompile<'_> {
    /// Compiles the modules of a directory that are not in the code cache: of all its workers, or
    /// of the one `file` in it that is the project.
    ///
    /// # Errors
    /// The directory cannot be opened or the links cannot be created. A cache that cannot be
    /// written is not an error.
    pub fn run(&self, directory: &Path, file: Option<&Path>) -> io::Result<Precompiled> {
        let until = Instant::now() + MAX_TIME;
        let root = Root::open(directory)?;
        let engine = engine().map_err(io::Error::other)?;
        let found = compilable(&root, file, self.container, &self.languages.specs());
        let mut done = Precompiled {
            left: found.modules.len().saturating_sub(MAX_FILES),
            ..Precompiled::default()
        };
        let modules = found.modules.iter().take(MAX_FILES);
        let mut files: Vec<_> = modules
            .map(|file| (ModuleKind::Module, file.clone(), false))
            .collect();
        for runtime in found.runtimes.iter().take(MAX_FILES) {
            let kind = match runtime.kit {
                Some(_) => ModuleKind::Interpreter,
                None => ModuleKind::Module,
            };
            files.push((kind, runtime.file(&runtime.binary), true));
        }
        let mut left = MAX_BYTES;
        for (kind, file, of_runtime) in &files {
            // Hashed completely, whatever the project says: code is only for those who have the
            // module.
            let before = left;
            let Some(digest) = digest(&root, file, &mut left) else {
                let bytes = MAX_BYTES >> 20;
                done.leave(&LeftModule {
                    text: format!(
                        "{}: not compiled ahead: it cannot be read, or the project's modules have \
                         more than {bytes} MiB",
                        file.display()
                    ),
                    retry: false,
                });
                continue;
            };
            let key = match kind {
                ModuleKind::Module => engine.code_key(&digest),
                ModuleKind::Interpreter => engine.interpreter_key(&digest),
            };
            let module = HashedModule {
                kind: *kind,
                source: ModuleSource::File(&root, file),
                digest,
                size: before - left,
            };
            self.module(&key, &module, until, &mut done)?;
            if *of_runtime {
                self.note_hashed(file, &digest)?;
            }
        }
        let built_in = found.built_in.iter();
        let built_in = built_in.filter_map(|name| self.languages.get(name)?.built_in());
        for interpreter in built_in {
            let module = HashedModule {
                kind: ModuleKind::Interpreter,
                source: ModuleSource::BuiltIn(interpreter),
                digest: Sha256::digest(interpreter.wasm).into(),
                size: interpreter.wasm.len() as u64,
            };
            let key = engine.interpreter_key(&module.digest);
            self.module(&key, &module, until, &mut done)?;
        }
        Ok(done)
    }

    /// Makes sure that the code of one module is linked.
    fn module(
        &self,
        key: &CodeKey,
        module: &HashedModule<'_>,
        until: Instant,
        done: &mut Precompiled,
    ) -> io::Result<()> {
        let state = self.store.state(key);
        done.damaged += usize::from(state == CacheEntryState::Damaged);
        let outcome = match state {
            CacheEntryState::Whole => CodeOutcome::Cached,
            _ => self
                .compiled(key, module, until)
                .unwrap_or_else(|failure| CodeOutcome::Left(left_by(module, &failure))),
        };
        match outcome {
            CodeOutcome::Cached => done.cached += 1,
            CodeOutcome::Compiled => done.compiled += 1,
            CodeOutcome::Left(why) => {
                done.leave(&why);
                return Ok(());
            }
        }
        self.link(key)
    }

    fn compiled(
        &self,
        key: &CodeKey,
        module: &HashedModule<'_>,
        until: Instant,
    ) -> Result<CodeOutcome, CompileFailure> {
        let busy = |why: &str| CompileFailure::Machine(why.to_owned());
        if let Some(left) = self.store.failed(key) {
            return Ok(CodeOutcome::Left(failed_before(module, left)));
        }
        if Instant::now() >= until {
            return Err(busy("other modules of the project took all the time"));
        }
        // Another container of the same image may be compiling it.
        let Some(_turn) = self.store.turn(key, until)? else {
            return Err(busy("another container did not finish compiling it"));
        };
        if self.store.state(key) == CacheEntryState::Whole {
            return Ok(CodeOutcome::Cached);
        }
        // A built-in interpreter is known to take a second.
        let small = module.size <= SMALL || matches!(module.source, ModuleSource::BuiltIn(_));
        let work = CompileWork {
            memory: COMPILER_MEMORY,
            small,
        };
        let patience = match self.patient {
            true => until,
            false => until.min(Instant::now() + PATIENCE),
        };
        let Some(_cpu) = self.store.cpu(work, patience)? else {
            return Err(busy("all CPUs are compiling other modules"));
        };
        if let Some(left) = self.store.failed(key) {
            return Ok(CodeOutcome::Left(failed_before(module, left)));
        }
        let mut entry = self.store.write(key)?;
        let mut wasm = HashingReader {
            inner: module.source.open()?,
            hash: Sha256::new(),
        };
        let job = Job {
            kind: module.kind,
            wasm: &mut wasm,
            until,
            cpu_time: if small { SMALL_CPU_TIME } else { MAX_CPU_TIME },
        };
        let compiling = self.compiling.begin(&module.source.name());
        let compiled = (self.compile)(job, &mut entry);
        drop(compiling);
        // A file that changed since it was hashed is another module.
        if wasm.hash.finalize()[..] != module.digest {
            compiled?;
            return Err(busy("it changed while it was compiled"));
        }
        match compiled {
            Ok(()) => Ok(entry.finish().map(|()| CodeOutcome::Compiled)?),
            Err(failure) if entry.failed() => Err(CompileFailure::Machine(failure.to_string())),
            Err(failure) => {
                let keep = failure.keeps();
                if !keep.is_zero() {
                    self.store.note_failed(key, keep)?;
                }
                Err(failure)
            }
        }
    }

    /// Notes a digest for the project's server, which then need not hash the file again:
    /// interpreters are large.
    fn note_hashed(&self, file: &Path, digest: &[u8; 32]) -> io::Result<()> {
        let Some(links) = self.links else {
            return Ok(());
        };
        fs::write(
            links.join(hex::encode(digest) + HASHED),
            file.as_os_str().as_bytes(),
        )
    }

    fn link(&self, key: &CodeKey) -> io::Result<()> {
        use io::ErrorKind::{AlreadyExists, CrossesDevices, NotFound, TooManyLinks};
        let Some(links) = self.links else {
            return Ok(());
        };
        let (entry, link) = (self.store.path(key), links.join(key.file_name()));
        let linked = match fs::hard_link(&entry, &link) {
            // The cache is on another file system, or very many containers link the entry. Then
            // memory is not shared.
            Err(error) if matches!(error.kind(), CrossesDevices | TooManyLinks) => {
                fs::copy(&entry, &link).map(drop)
            }
            linked => linked,
        };
        match linked {
            // Removed by another process that needed the space, or linked already because two
            // workers have the same content.
            Err(error) if matches!(error.kind(), NotFound | AlreadyExists) => Ok(()),
            linked => linked,
        }
    }
}

/// A module that was left because of `failure`.
fn left_by(module: &HashedModule<'_>, failure: &CompileFailure) -> LeftModule {
    LeftModule {
        text: format!(
            "{}: not compiled ahead: {failure}; {}",
            module.source.name(),
            failure.advice()
        ),
        retry: failure.keeps() <= KEEP_CRASH,
    }
}

/// A module that is not tried again for the time `left`.
fn failed_before(module: &HashedModule<'_>, left: Duration) -> LeftModule {
    LeftModule {
        text: format!(
            "{}: not compiled ahead: that failed before; it is tried again in {} s",
            module.source.name(),
            left.as_secs()
        ),
        retry: left <= KEEP_CRASH,
    }
}
