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
    /// When nobody waits for it any longer.
    pub until: Instant,
    /// CPU time that it may take.
    pub cpu_time: Duration,
}

/// Compiles in this process.
///
/// # Errors
/// As of [`compile`].
pub fn compile_here(job: Job<'_>, code: &mut dyn Write) -> io::Result<()> {
    let mut wasm = Vec::new();
    job.wasm.read_to_end(&mut wasm)?;
    code.write_all(&compile(job.kind, &wasm).map_err(io::Error::other)?)
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
