//! Compiles ahead what a folder's containers will need, into a store of compiled code.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::{self, Read, Write},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use wws_engine::{
    CacheEntryState, CodeCache, CodeKey, CompileWork, Engine, EngineOptions, LoadError,
    LoadErrorKind, interpreter_module,
};
use wws_languages::JavaScript;
use wws_project::{beneath::Root, compilable};

use crate::{compiling::Compiling, guests::JAVASCRIPT};

/// Beyond these a directory is left to its server, which compiles within its own limits.
const MAX_FILES: usize = 1000;
const MAX_BYTES: u64 = 256 << 20;
const MAX_TIME: Duration = Duration::from_secs(60);

/// Memory that compiling one module may take, in bytes. Python's interpreter takes 0.4 GiB, and the allocator reserves 1 GiB at
/// a time.
pub const COMPILER_MEMORY: u64 = 2 << 30;

/// How long a module waits for modules of others. Then it is left to its server, so that who fills the machine with modules
/// that take long does not delay anybody else.
const PATIENCE: Duration = Duration::from_secs(2);

/// CPU time for a module; the largest interpreters take about 20 s.
const MAX_CPU_TIME: Duration = Duration::from_secs(120);

/// A module up to this size, in bytes, is small: a turn is kept for its kind, of which none may take long. Usually it is some
/// tenths of a second.
const SMALL: u64 = 1 << 20;
const SMALL_CPU_TIME: Duration = Duration::from_secs(10);

/// How much of a file is in memory.
const PIECE: usize = 64 << 10;

/// What a module is compiled as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As it is.
    Module,
    /// As one whose state can be kept.
    Interpreter,
}

/// Compiles one module for a store.
///
/// # Errors
/// It is not a module.
pub fn compile(kind: Kind, wasm: &[u8]) -> Result<Vec<u8>, LoadError> {
    let engine = engine()?;
    match kind {
        Kind::Module => engine.precompile(wasm),
        Kind::Interpreter => engine.precompile(&interpreter_module(wasm)?),
    }
}

/// Keys and code don't depend on these bounds.
fn engine() -> Result<Engine, LoadError> {
    Engine::new(&EngineOptions {
        memory: 1 << 20,
        concurrency: 1,
        open_files: 1000,
        ..EngineOptions::default()
    })
    .map_err(|error| LoadError::new(LoadErrorKind::Host, error.to_string()))
}

/// A module that is to be compiled.
pub struct Job<'a> {
    /// As what.
    pub kind: Kind,
    /// Its bytes.
    pub wasm: &'a mut (dyn Read + Send),
    /// When nobody waits for it any more.
    pub until: Instant,
    /// CPU time that it may take.
    pub cpu_time: Duration,
}

/// Compiles in this very process.
///
/// # Errors
/// As of [`compile`].
pub fn compile_here(job: Job<'_>, code: &mut dyn Write) -> io::Result<()> {
    let mut wasm = Vec::new();
    job.wasm.read_to_end(&mut wasm)?;
    code.write_all(&compile(job.kind, &wasm).map_err(io::Error::other)?)
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Precompiled {
    /// Files whose code was in the store.
    pub cached: usize,
    /// Files that were compiled now.
    pub compiled: usize,
    /// Those of them, and of the ones left, whose code was in the store and not whole.
    pub damaged: usize,
    /// Files that are no modules, or for which there was no room or time: their server will say why, or compile them itself.
    pub left: usize,
}

/// How and where a folder is compiled.
pub struct Precompile<'a> {
    /// Where code is kept for all folders.
    pub store: &'a CodeCache,
    /// A folder that gets a link to each entry that this folder needs, and to no other.
    pub links: Option<&'a Path>,
    /// Whether the folder is the root of a container.
    pub container: bool,
    /// Where to note what is being compiled.
    pub compiling: &'a Compiling,
    /// Compiles one module. The text of an untrusted image is work for a process that has nothing to lose.
    pub compile: &'a dyn Fn(Job<'_>, &mut dyn Write) -> io::Result<()>,
}

/// Ending of a note among the links: its name is the SHA-256 of a file of the folder, whose path it holds.
const HASHED: &str = ".sha256";

/// The files of a folder that were hashed when its code was compiled ahead, with their SHA-256 in hex; none where there are no `links`.
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

/// Where a module is.
enum Place<'a> {
    /// A file beneath the root.
    File(&'a Root, &'a Path),
    /// One of ours.
    Ours(&'static [u8]),
}

impl Place<'_> {
    fn name(&self) -> String {
        match self {
            Self::File(_, path) => path.display().to_string(),
            Self::Ours(_) => JAVASCRIPT.to_owned(),
        }
    }

    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::File(root, path) => Box::new(root.file(path)?),
            Self::Ours(bytes) => Box::new(*bytes),
        })
    }
}

/// Reads, and knows the SHA-256 of what was read.
struct Hashed<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.hash.update(&buffer[..len]);
        Ok(len)
    }
}

/// A module of which it is known what it is.
struct Module<'a> {
    kind: Kind,
    place: Place<'a>,
    digest: [u8; 32],
    /// In bytes.
    size: u64,
}

/// The SHA-256 of a file that is not larger than what is left.
fn digest(root: &Root, file: &Path, left: &mut u64) -> Option<[u8; 32]> {
    let file = root.file(file).ok()?;
    // It may grow meanwhile.
    let (len, max) = (file.metadata().ok()?.len(), *left);
    let mut file = (len <= max).then(|| file.take(max))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; PIECE]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Some(hash.finalize().into()),
            Ok(len) => {
                hash.update(&buffer[..len]);
                *left -= len as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

fn timed_out(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut
}

/// How a module came to its code.
enum Outcome {
    Cached,
    Compiled,
    Left,
}

impl Precompile<'_> {
    /// Compiles the modules of a folder that the store does not have.
    ///
    /// # Errors
    /// The folder cannot be opened, or the links not be made. A store that cannot be written is no error.
    pub fn run(&self, folder: &Path) -> io::Result<Precompiled> {
        let until = Instant::now() + MAX_TIME;
        let root = Root::open(folder)?;
        let engine = engine().map_err(io::Error::other)?;
        let found = compilable(&root, self.container);
        let mut done = Precompiled {
            left: found.modules.len().saturating_sub(MAX_FILES),
            ..Precompiled::default()
        };
        let modules = found.modules.iter().take(MAX_FILES);
        let mut files: Vec<_> = modules
            .map(|file| (Kind::Module, file.clone(), false))
            .collect();
        for runtime in found.runtimes.iter().take(MAX_FILES) {
            let kind = match runtime.kit {
                Some(_) => Kind::Interpreter,
                None => Kind::Module,
            };
            files.push((kind, runtime.file(&runtime.binary), true));
        }
        let mut left = MAX_BYTES;
        for (kind, file, of_runtime) in &files {
            // Read to its end, whatever the project says of it: code is for those who have the module.
            let before = left;
            let Some(digest) = digest(&root, file, &mut left) else {
                done.left += 1;
                continue;
            };
            let key = match kind {
                Kind::Module => engine.code_key(&digest),
                Kind::Interpreter => engine.interpreter_key(&digest),
            };
            let module = Module {
                kind: *kind,
                place: Place::File(&root, file),
                digest,
                size: before - left,
            };
            self.module(&key, &module, until, &mut done)?;
            if *of_runtime {
                self.note_hashed(file, &digest)?;
            }
        }
        if found.javascript {
            let ours = JavaScript::module();
            let module = Module {
                kind: Kind::Interpreter,
                place: Place::Ours(ours),
                digest: Sha256::digest(ours).into(),
                size: ours.len() as u64,
            };
            let key = engine.interpreter_key(&module.digest);
            self.module(&key, &module, until, &mut done)?;
        }
        Ok(done)
    }

    /// Sees to the code of one module.
    fn module(
        &self,
        key: &CodeKey,
        module: &Module<'_>,
        until: Instant,
        done: &mut Precompiled,
    ) -> io::Result<()> {
        let state = self.store.state(key);
        done.damaged += usize::from(state == CacheEntryState::Damaged);
        let outcome = match state {
            CacheEntryState::Whole => Outcome::Cached,
            _ => self.compiled(key, module, until).unwrap_or_else(|error| {
                tracing::debug!("{}: {error}", key.file_name());
                Outcome::Left
            }),
        };
        match outcome {
            Outcome::Cached => done.cached += 1,
            Outcome::Compiled => done.compiled += 1,
            Outcome::Left => {
                done.left += 1;
                return Ok(());
            }
        }
        self.link(key)
    }

    fn compiled(&self, key: &CodeKey, module: &Module<'_>, until: Instant) -> io::Result<Outcome> {
        if Instant::now() >= until || self.store.failed(key) {
            return Ok(Outcome::Left);
        }
        // Another container of the same image may be at it.
        let Some(_turn) = self.store.turn(key, until)? else {
            return Ok(Outcome::Left);
        };
        if self.store.state(key) == CacheEntryState::Whole {
            return Ok(Outcome::Cached);
        }
        // The engine of our own is known to take a second.
        let small = module.size <= SMALL || matches!(module.place, Place::Ours(_));
        let work = CompileWork {
            memory: COMPILER_MEMORY,
            small,
        };
        let patience = until.min(Instant::now() + PATIENCE);
        let Some(_cpu) = self.store.cpu(work, patience)? else {
            return Ok(Outcome::Left);
        };
        if self.store.failed(key) {
            return Ok(Outcome::Left);
        }
        let mut entry = self.store.write(key)?;
        let mut wasm = Hashed {
            inner: module.place.open()?,
            hash: Sha256::new(),
        };
        let job = Job {
            kind: module.kind,
            wasm: &mut wasm,
            until,
            cpu_time: if small { SMALL_CPU_TIME } else { MAX_CPU_TIME },
        };
        let started = Instant::now();
        let compiling = self.compiling.begin(&module.place.name());
        let compiled = (self.compile)(job, &mut entry);
        drop(compiling);
        // A file that changed since its key was made is another module, of which nothing is known.
        if wasm.hash.finalize()[..] != module.digest {
            return Err(compiled
                .err()
                .unwrap_or_else(|| io::Error::other("it changed")));
        }
        match compiled {
            Ok(()) => entry.finish().map(|()| Outcome::Compiled),
            Err(error) if entry.failed() => Err(error),
            // It came late, after others: the next start may have time for it.
            Err(error) if timed_out(&error) && started.elapsed() < MAX_TIME / 2 => Err(error),
            Err(error) => {
                self.store.note_failed(key)?;
                Err(error)
            }
        }
    }

    /// Tells the folder's server what it need not hash once more: interpreters are large.
    fn note_hashed(&self, file: &Path, digest: &[u8; 32]) -> io::Result<()> {
        let Some(links) = self.links else {
            return Ok(());
        };
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(links.join(hex + HASHED), file.as_os_str().as_bytes())
    }

    fn link(&self, key: &CodeKey) -> io::Result<()> {
        use io::ErrorKind::{AlreadyExists, CrossesDevices, NotFound, TooManyLinks};
        let Some(links) = self.links else {
            return Ok(());
        };
        let (entry, link) = (self.store.path(key), links.join(key.file_name()));
        let linked = match fs::hard_link(&entry, &link) {
            // The store is a file system of its own, or the entry of very many containers: memory is not shared then.
            Err(error) if matches!(error.kind(), CrossesDevices | TooManyLinks) => {
                fs::copy(&entry, &link).map(drop)
            }
            linked => linked,
        };
        match linked {
            // Removed by another process that needed the room, or there already: two workers have the same content.
            Err(error) if matches!(error.kind(), NotFound | AlreadyExists) => Ok(()),
            linked => linked,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{
        fs::File,
        os::unix::fs::{PermissionsExt, symlink},
        path::PathBuf,
        sync::atomic::{AtomicUsize, Ordering},
        time::SystemTime,
    };

    fn module(text: &str) -> Vec<u8> {
        let text = format!(r#"(module (func (export "_start")) (data "{text}") (memory 1))"#);
        wat::parse_str(text).unwrap()
    }

    struct Machine {
        folder: tempfile::TempDir,
        store: CodeCache,
        compiled: AtomicUsize,
    }

    impl Machine {
        fn new(max: u64) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = CodeCache::open(&folder.path().join("code"), max).unwrap();
            Self {
                folder,
                store,
                compiled: AtomicUsize::new(0),
            }
        }

        fn project(&self, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
            let project = self.folder.path().join(name);
            fs::create_dir_all(&project).unwrap();
            for (name, content) in files {
                fs::write(project.join(name), content).unwrap();
            }
            project
        }

        /// What was done, and the entries that are linked.
        fn run(&self, project: &Path) -> (Precompiled, Vec<String>) {
            let links = tempfile::tempdir_in(self.folder.path()).unwrap();
            let precompile = Precompile {
                store: &self.store,
                links: Some(links.path()),
                container: false,
                compiling: &Compiling::default(),
                compile: &|job, code| {
                    self.compiled.fetch_add(1, Ordering::Relaxed);
                    compile_here(job, code)
                },
            };
            let done = precompile.run(project).unwrap();
            (done, names(links.path()))
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn done(compiled: usize, cached: usize, left: usize) -> Precompiled {
        Precompiled {
            cached,
            compiled,
            damaged: 0,
            left,
        }
    }

    #[test]
    fn a_project_sees_its_own_code_and_no_other() {
        let machine = Machine::new(1 << 30);
        let (a, b) = (module("a"), module("b"));
        let one = machine.project("one", &[("a.wasm", &a), ("same.wasm", &a)]);
        let two = machine.project("two", &[("b.wasm", &b)]);
        let (did, of_one) = machine.run(&one);
        assert_eq!((did, of_one.len()), (done(1, 1, 0), 1));
        let (did, of_two) = machine.run(&two);
        assert_eq!((did, of_two.len()), (done(1, 0, 0), 1));
        assert_ne!(of_one, of_two);
        assert_eq!(machine.run(&one), (done(0, 2, 0), of_one));
        let entry = machine.folder.path().join("code").join(&of_two[0]);
        assert_eq!(
            fs::metadata(entry).unwrap().permissions().mode() & 0o777,
            0o444
        );
    }

    #[test]
    fn a_runtime_that_was_read_to_the_end_is_noted() {
        let machine = Machine::new(1 << 30);
        let toml = "version = 1\n[[repositories]]\nname = \"r\"\n[[repositories.runtimes]]\nname = \"n\"\nversion = \"1\"\n\
                    extensions = [\"x\"]\n[repositories.runtimes.binary]\nfilename = \"i.wasm\"\n";
        let project = machine.project("p", &[(".wws.toml", toml.as_bytes()), ("w.x", b"")]);
        let folder = project.join(".wws/runtimes/r/n/1");
        fs::create_dir_all(&folder).unwrap();
        let wasm = module("interpreter");
        fs::write(folder.join("i.wasm"), &wasm).unwrap();
        let links = tempfile::tempdir_in(machine.folder.path()).unwrap();
        let precompile = Precompile {
            store: &machine.store,
            links: Some(links.path()),
            container: false,
            compiling: &Compiling::default(),
            compile: &compile_here,
        };
        assert!(hashed(links.path()).is_empty());
        assert_eq!(precompile.run(&project).unwrap(), done(1, 0, 0));
        let digest = Sha256::digest(&wasm);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let noted = hashed(links.path());
        assert_eq!(noted, [(".wws/runtimes/r/n/1/i.wasm".into(), hex)].into());
    }

    #[test]
    fn what_is_used_stays() {
        let size = {
            let machine = Machine::new(1 << 30);
            let (_, links) = machine.run(&machine.project("p", &[("a.wasm", &module("a"))]));
            let entry = machine.folder.path().join("code").join(&links[0]);
            fs::metadata(entry).unwrap().len()
        };
        let machine = Machine::new(2 * size + size / 2);
        let project = |name: &str| machine.project(name, &[("x.wasm", &module(name))]);
        let (used, unused, new) = (project("a"), project("b"), project("c"));
        for (number, project) in [&used, &unused].into_iter().enumerate() {
            let (_, links) = machine.run(project);
            let entry = machine.folder.path().join("code").join(&links[0]);
            let time = SystemTime::now() - Duration::from_secs(1000 - number as u64);
            File::open(entry).unwrap().set_modified(time).unwrap();
        }
        assert_eq!(machine.run(&used).0, done(0, 1, 0));
        assert_eq!(machine.run(&new).0, done(1, 0, 0));
        assert_eq!(machine.run(&used).0, done(0, 1, 0));
        assert_eq!(machine.run(&unused).0, done(1, 0, 0));
    }

    #[test]
    fn what_cannot_be_compiled_is_not_tried_again_at_once() {
        let machine = Machine::new(1 << 30);
        let project = machine.project(
            "p",
            &[
                ("bad.wasm", b"\0asm\x01\0\0\0\xff"),
                ("a.wasm", &module("a")),
            ],
        );
        assert_eq!(machine.run(&project).0, done(1, 0, 1));
        assert_eq!(machine.run(&project).0, done(0, 1, 1));
        assert_eq!(machine.compiled.load(Ordering::Relaxed), 2);
        // Put right, it is another module.
        machine.project("p", &[("bad.wasm", &module("b"))]);
        assert_eq!(machine.run(&project).0, done(1, 1, 0));
    }

    #[test]
    fn one_that_had_no_time_is_tried_again() {
        let machine = Machine::new(1 << 30);
        let project = machine.project("p", &[("a.wasm", &module("a"))]);
        let late = Precompile {
            store: &machine.store,
            links: None,
            container: false,
            compiling: &Compiling::default(),
            compile: &|job, _| {
                io::copy(job.wasm, &mut io::sink())?;
                Err(io::ErrorKind::TimedOut.into())
            },
        };
        assert_eq!(late.run(&project).unwrap(), done(0, 0, 1));
        assert_eq!(machine.run(&project).0, done(1, 0, 0));
    }

    #[test]
    fn those_that_start_at_once_compile_once() {
        let machine = Machine::new(1 << 30);
        let project = machine.project("p", &[("a.wasm", &module("a")), ("b.wasm", &module("b"))]);
        let precompile = |job: Job<'_>, code: &mut dyn Write| {
            machine.compiled.fetch_add(1, Ordering::Relaxed);
            // Long enough for the others to come.
            std::thread::sleep(Duration::from_millis(100));
            compile_here(job, code)
        };
        std::thread::scope(|scope| {
            let runs: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let links = tempfile::tempdir_in(machine.folder.path()).unwrap();
                        let precompile = Precompile {
                            store: &machine.store,
                            links: Some(links.path()),
                            container: true,
                            compiling: &Compiling::default(),
                            compile: &precompile,
                        };
                        let did = precompile.run(&project).unwrap();
                        (
                            did.compiled + did.cached,
                            did.left,
                            names(links.path()).len(),
                        )
                    })
                })
                .collect();
            for run in runs {
                assert_eq!(run.join().unwrap(), (2, 0, 2));
            }
        });
        assert_eq!(machine.compiled.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn one_that_is_small_waits_for_none_that_take_long_and_others_not_for_long() {
        let machine = Machine::new(1 << 30);
        let small = machine.project("small", &[("a.wasm", &module("a"))]);
        let text = "b".repeat(usize::try_from(SMALL).unwrap());
        let large = machine.project("large", &[("b.wasm", &module(&text))]);
        // What other images' modules do.
        let work = CompileWork {
            memory: COMPILER_MEMORY,
            small: false,
        };
        let mut held = Vec::new();
        while let Some(turn) = machine.store.cpu(work, Instant::now()).unwrap() {
            held.push(turn);
        }
        assert_eq!(machine.run(&small).0, done(1, 0, 0));
        let started = Instant::now();
        assert_eq!(machine.run(&large).0, done(0, 0, 1));
        assert!(started.elapsed() >= PATIENCE);
        assert_eq!(machine.compiled.load(Ordering::Relaxed), 1);
        // It was not its fault.
        drop(held);
        assert_eq!(machine.run(&large).0, done(1, 0, 0));
    }

    #[test]
    fn a_module_is_read_to_be_had() {
        let machine = Machine::new(1 << 30);
        let wasm = module("secret");
        let owner = machine.project("owner", &[("a.wasm", &wasm)]);
        machine.run(&owner);
        let sha256: String = Sha256::digest(&wasm)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let config = format!(
            "version = 1\n[[repositories]]\nname = \"r\"\n[[repositories.runtimes]]\nname = \"l\"\nversion = \"1\"\n\
             tags = []\nstatus = \"active\"\nextensions = [\"l\"]\nargs = [\"x\"]\n\
             [repositories.runtimes.binary]\nurl = \"x\"\nfilename = \"x.wasm\"\n\
             checksum = {{ type = \"sha256\", value = \"{sha256}\" }}\n"
        );
        let thief = machine.project("thief", &[(".wws.toml", config.as_bytes()), ("a.l", b"")]);
        // Who knows its hash alone gets nothing.
        assert_eq!(machine.run(&thief), (done(0, 0, 1), Vec::new()));
        let place = thief.join(".wws/runtimes/r/l/1");
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("x.wasm"), &wasm).unwrap();
        let key = engine().unwrap().code_key(&Sha256::digest(&wasm).into());
        let mut all = vec![key.file_name(), format!("{sha256}.sha256")];
        all.sort();
        assert_eq!(machine.run(&thief), (done(0, 1, 0), all));
    }

    #[test]
    fn hostile_files_are_left() {
        use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
        let machine = Machine::new(1 << 30);
        let outside = machine.project("outside", &[("secret.wasm", &module("secret"))]);
        let project = machine.project("p", &[("a.wasm", &module("a"))]);
        let at = |name: &str| project.join(name);
        symlink(outside.join("secret.wasm"), at("absolute.wasm")).unwrap();
        symlink("../outside/secret.wasm", at("relative.wasm")).unwrap();
        symlink("../outside", at("folder")).unwrap();
        symlink("circle.wasm", at("circle.wasm")).unwrap();
        mknodat(CWD, at("fifo.wasm"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        symlink("fifo.wasm", at("to-fifo.wasm")).unwrap();
        // Nothing of it is read, though its text is what a module begins with.
        let huge = File::create(at("huge.wasm")).unwrap();
        huge.set_len(1 << 40).unwrap();
        if rustix::process::geteuid().is_root() {
            let node = makedev(240, 255);
            mknodat(CWD, at("node"), FileType::CharacterDevice, Mode::RUSR, node).unwrap();
            symlink("node", at("node.wasm")).unwrap();
            symlink("node", at(".wws.toml")).unwrap();
        }
        let started = Instant::now();
        let (did, links) = machine.run(&project);
        assert_eq!((did, links.len()), (done(1, 0, 1), 1));
        assert!(started.elapsed() < Duration::from_secs(30));
        assert_eq!(machine.compiled.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn more_files_than_the_limit_are_left() {
        let machine = Machine::new(1 << 30);
        let project = machine.project("p", &[]);
        let wasm = module("a");
        for number in 0..MAX_FILES + 3 {
            fs::write(project.join(format!("{number}.wasm")), &wasm).unwrap();
        }
        assert_eq!(machine.run(&project).0, done(1, MAX_FILES - 1, 3));
    }

    #[test]
    fn code_of_a_module_that_changes_is_not_kept() {
        let machine = Machine::new(1 << 30);
        let (before, after) = (module("a"), module("b"));
        let project = machine.project("p", &[("a.wasm", &before)]);
        let file = project.join("a.wasm");
        let engine = engine().unwrap();
        // Between its two readings: the handle is the same file's.
        let precompile = Precompile {
            store: &machine.store,
            links: None,
            container: false,
            compiling: &Compiling::default(),
            compile: &|job, code| {
                fs::write(&file, &after).unwrap();
                compile_here(job, code)
            },
        };
        assert_eq!(precompile.run(&project).unwrap(), done(0, 0, 1));
        for wasm in [&before, &after] {
            let key = engine.code_key(&Sha256::digest(wasm).into());
            assert_eq!(machine.store.state(&key), CacheEntryState::Missing);
            assert!(!machine.store.failed(&key));
        }
    }

    #[test]
    fn links_may_be_on_another_file_system() {
        let machine = Machine::new(1 << 30);
        let project = machine.project("p", &[("a.wasm", &module("a"))]);
        let Ok(links) = tempfile::tempdir_in("/dev/shm") else {
            return;
        };
        let precompile = Precompile {
            store: &machine.store,
            links: Some(links.path()),
            container: false,
            compiling: &Compiling::default(),
            compile: &compile_here,
        };
        for expected in [done(1, 0, 0), done(0, 1, 0)] {
            assert_eq!(precompile.run(&project).unwrap(), expected);
            assert_eq!(names(links.path()).len(), 1);
        }
    }
}
