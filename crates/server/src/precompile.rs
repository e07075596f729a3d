//! Compiles ahead what a folder's containers will need, into a store of compiled code.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use wws_engine::{
    CodeCache, CodeKey, Engine, EngineOptions, EntryState, LoadError, interpreter_module,
};
use wws_languages::JavaScript;
use wws_project::{Runtime, beneath::Root, compilable};

/// Beyond these a folder is left to its server, which compiles within its own limits.
const MAX_FILES: usize = 1000;
const MAX_BYTES: u64 = 256 << 20;
const MAX_TIME: Duration = Duration::from_secs(60);

/// Compiles one module for a store.
///
/// # Errors
/// It is not a module.
pub fn compile(wasm: &[u8]) -> Result<Vec<u8>, LoadError> {
    engine()?.precompile(wasm)
}

/// Keys and code don't depend on these bounds.
fn engine() -> Result<Engine, LoadError> {
    Engine::new(&EngineOptions {
        memory: 1 << 20,
        concurrency: 1,
    })
    .map_err(|error| LoadError::new(error.to_string()))
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

/// A file and its SHA-256, if it can be read and is not larger than what is left.
fn read(root: &Root, file: &Path, left: &mut u64) -> Option<(Vec<u8>, [u8; 32])> {
    let wasm = root.read(file, *left).ok()?;
    *left = left.saturating_sub(wasm.len() as u64);
    let digest = Sha256::digest(&wasm).into();
    Some((wasm, digest))
}

/// How and where a folder is compiled.
pub struct Precompile<'a> {
    /// Where code is kept for all folders.
    pub store: &'a CodeCache,
    /// A folder on the store's file system that gets a link to each entry that this folder needs, and to no other.
    pub links: Option<&'a Path>,
    /// Whether the folder is the root of a container.
    pub container: bool,
    /// Compiles one module. The text of an untrusted image is work for a process that has nothing to lose.
    pub compile: &'a dyn Fn(&[u8]) -> io::Result<Vec<u8>>,
}

impl Precompile<'_> {
    /// Compiles the modules of a folder that the store does not have.
    ///
    /// # Errors
    /// The folder cannot be read, or the links not be made. A store that cannot be written is no error.
    pub fn run(&self, folder: &Path) -> io::Result<Precompiled> {
        let started = Instant::now();
        let root = Root::open(folder)?;
        let engine = engine().map_err(io::Error::other)?;
        let found = compilable(folder, self.container)?;
        let mut done = Precompiled {
            left: found.modules.len().saturating_sub(MAX_FILES),
            ..Precompiled::default()
        };
        let mut left = MAX_BYTES;
        for file in found.modules.iter().take(MAX_FILES) {
            let Some((wasm, digest)) = read(&root, file, &mut left) else {
                done.left += 1;
                continue;
            };
            let key = engine.code_key(&digest);
            self.module(&key, started, &mut done, || Some(wasm))?;
        }
        for runtime in &found.runtimes {
            self.runtime(&engine, &root, runtime, (started, &mut left), &mut done)?;
        }
        if found.javascript {
            let key = JavaScript::key(&engine);
            self.module(&key, started, &mut done, || JavaScript::module().ok())?;
        }
        Ok(done)
    }

    fn runtime(
        &self,
        engine: &Engine,
        root: &Root,
        runtime: &Runtime,
        (started, left): (Instant, &mut u64),
        done: &mut Precompiled,
    ) -> io::Result<()> {
        let path = runtime.file(&runtime.binary);
        let key_of = |digest: &[u8; 32]| match runtime.kit {
            Some(_) => engine.interpreter_key(digest),
            None => engine.code_key(digest),
        };
        // Code that is there is found by what the project says of the file, which is large. Who lies gets another file's code,
        // that anybody may have, and its server refuses the file.
        let said = runtime.binary.digest().map(|digest| key_of(&digest));
        if let Some(key) = said.filter(|key| self.store.has(key)) {
            done.cached += 1;
            return self.link(&key);
        }
        let Some((wasm, digest)) = read(root, &path, left) else {
            done.left += 1;
            return Ok(());
        };
        self.module(&key_of(&digest), started, done, || match runtime.kit {
            Some(_) => interpreter_module(&wasm).ok(),
            None => Some(wasm),
        })
    }

    /// Sees to the code of one module; `wasm` is what is compiled where there is none.
    fn module(
        &self,
        key: &CodeKey,
        started: Instant,
        done: &mut Precompiled,
        wasm: impl FnOnce() -> Option<Vec<u8>>,
    ) -> io::Result<()> {
        let state = self.store.state(key);
        done.damaged += usize::from(state == EntryState::Damaged);
        if state == EntryState::Whole {
            done.cached += 1;
        } else if started.elapsed() < MAX_TIME && wasm().is_some_and(|wasm| self.store(key, &wasm))
        {
            done.compiled += 1;
        } else {
            done.left += 1;
            return Ok(());
        }
        self.link(key)
    }

    fn store(&self, key: &CodeKey, wasm: &[u8]) -> bool {
        match (self.compile)(wasm).and_then(|code| self.store.store(key, &code)) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!("{}: {error}", key.file_name());
                false
            }
        }
    }

    fn link(&self, key: &CodeKey) -> io::Result<()> {
        let Some(links) = self.links else {
            return Ok(());
        };
        match fs::hard_link(self.store.path(key), links.join(key.file_name())) {
            // Removed by another process that needed the room, or there already: two workers have the same content.
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists
                ) =>
            {
                Err(error)
            }
            _ => Ok(()),
        }
    }
}
