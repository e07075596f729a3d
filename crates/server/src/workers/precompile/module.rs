//! A module that is compiled ahead of time: what it is, where it is read, and how it is compiled.

use std::{
    io::{self, Read, Write},
    path::Path,
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use wws_engine::{Engine, EngineOptions, LoadError, LoadErrorKind, interpreter_module};
use wws_languages::BuiltInInterpreter;
use wws_project::beneath::Root;

/// Bytes of a file that are in memory while it is hashed.
const PIECE: usize = 64 << 10;

/// What a module is compiled as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleKind {
    /// A module, unchanged.
    Module,
    /// An interpreter, whose state can be exported.
    Interpreter,
}

/// How long a module that cannot be compiled is not tried again, and one that crashed the compiler.
const KEEP_FAILURE: Duration = Duration::from_secs(600);
pub(super) const KEEP_CRASH: Duration = Duration::from_secs(60);

/// Compiles one module for a code cache.
///
/// # Errors
/// It is not a module.
pub fn compile(kind: ModuleKind, wasm: &[u8]) -> Result<Vec<u8>, LoadError> {
    let engine = engine()?;
    match kind {
        ModuleKind::Module => engine.precompile(wasm),
        ModuleKind::Interpreter => engine.precompile(&interpreter_module(wasm)?),
    }
}

/// The engine that compiles. Keys and code do not depend on its bounds.
pub(super) fn engine() -> Result<Engine, LoadError> {
    Engine::new(&EngineOptions {
        memory: 1 << 20,
        concurrency: 1,
        open_files: 1000,
        ..EngineOptions::default()
    })
    .map_err(|error| LoadError::new(LoadErrorKind::Host, "cannot compile").caused_by(error))
}

/// A module to compile.
pub struct Job<'a> {
    /// What it is compiled as.
    pub kind: ModuleKind,
    /// Its bytes.
    pub wasm: &'a mut (dyn Read + Send),
    /// When nobody waits for it any longer: long after its CPU time would have passed on a machine
    /// that has a CPU for it.
    pub until: Instant,
    /// CPU time that it may take.
    pub cpu_time: Duration,
}

/// Compiles in this process.
///
/// # Errors
/// As of [`compile`].
pub fn compile_here(job: Job<'_>, code: &mut dyn Write) -> Result<(), CompileFailure> {
    let mut wasm = Vec::new();
    job.wasm.read_to_end(&mut wasm)?;
    let compiled = compile(job.kind, &wasm);
    let compiled = compiled.map_err(|error| CompileFailure::Rejected(error.to_string()))?;
    Ok(code.write_all(&compiled)?)
}

/// Why a module was not compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileFailure {
    /// It is not a module that can be compiled: it fails each time.
    #[error("{0}")]
    Rejected(String),
    /// It needs more CPU time than a module may have, and would each time.
    #[error("it needs more than {} s of CPU time", .0.as_secs())]
    CpuTime(Duration),
    /// The compiler crashed: because of the module, or because it got no memory or thread.
    #[error("the compiler crashed ({0}); it may have needed more than its 2 GiB of memory")]
    Crashed(String),
    /// For a reason of the machine, which may be gone the next time: it is busy, has no memory or
    /// no room on its disk.
    #[error("{0}")]
    Machine(String),
}

impl From<io::Error> for CompileFailure {
    fn from(error: io::Error) -> Self {
        Self::Machine(error.to_string())
    }
}

impl CompileFailure {
    /// For how long the module is not to be compiled again.
    pub(super) fn keeps(&self) -> Duration {
        match self {
            Self::Rejected(_) | Self::CpuTime(_) => KEEP_FAILURE,
            Self::Crashed(_) => KEEP_CRASH,
            Self::Machine(_) => Duration::ZERO,
        }
    }

    /// What the operator can do.
    pub(super) fn advice(&self) -> &'static str {
        match self {
            Self::Rejected(_) => "correct the module",
            Self::CpuTime(_) => "make the module smaller",
            Self::Crashed(_) => "make the module smaller, or report this",
            Self::Machine(_) => "look at the CPUs, the memory and the disk of this machine",
        }
    }
}

/// Where a module is read.
pub(super) enum ModuleSource<'a> {
    /// A file beneath the root.
    File(&'a Root, &'a Path),
    /// An interpreter that is part of the server.
    BuiltIn(BuiltInInterpreter),
}

impl ModuleSource<'_> {
    /// Its name in progress reports.
    pub(super) fn name(&self) -> String {
        match self {
            Self::File(_, path) => path.display().to_string(),
            Self::BuiltIn(interpreter) => interpreter.name.to_owned(),
        }
    }

    pub(super) fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::File(root, path) => Box::new(root.file(path)?),
            Self::BuiltIn(interpreter) => Box::new(interpreter.wasm),
        })
    }
}

/// A reader that computes the SHA-256 of what it reads.
pub(super) struct HashingReader<R> {
    pub(super) inner: R,
    pub(super) hash: Sha256,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.hash.update(&buffer[..len]);
        Ok(len)
    }
}

/// A module that was hashed.
pub(super) struct HashedModule<'a> {
    pub(super) kind: ModuleKind,
    pub(super) source: ModuleSource<'a>,
    pub(super) digest: [u8; 32],
    /// In bytes.
    pub(super) size: u64,
}

/// The SHA-256 of a file of up to `left` bytes, which its size is subtracted from.
pub(super) fn digest(root: &Root, file: &Path, left: &mut u64) -> Option<[u8; 32]> {
    let file = root.file(file).ok()?;
    // The file may grow meanwhile.
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
