//! Compiles ahead what a folder's containers will need, into a store of compiled code.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use wws_engine::{CodeCache, CodeKey, Engine, EngineOptions, LoadError};
use wws_languages::JavaScript;
use wws_project::{beneath::Root, has_javascript, wasm_files};

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
    /// Files that are no modules, or for which there was no room or time: their server will say why, or compile them itself.
    pub left: usize,
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
        let files = wasm_files(folder, self.container)?;
        let mut done = Precompiled {
            left: files.len().saturating_sub(MAX_FILES),
            ..Precompiled::default()
        };
        let mut bytes = 0;
        for file in files.iter().take(MAX_FILES) {
            let Ok(wasm) = root.read(file, MAX_BYTES - bytes) else {
                done.left += 1;
                continue;
            };
            bytes += wasm.len() as u64;
            self.module(&engine, &wasm, started, &mut done)?;
        }
        if has_javascript(folder, self.container)?
            && let Ok(interpreter) = JavaScript::module()
        {
            self.module(&engine, &interpreter, started, &mut done)?;
        }
        Ok(done)
    }

    fn module(
        &self,
        engine: &Engine,
        wasm: &[u8],
        started: Instant,
        done: &mut Precompiled,
    ) -> io::Result<()> {
        let key = engine.code_key(wasm);
        if self.store.has(&key) {
            done.cached += 1;
        } else if started.elapsed() < MAX_TIME && self.store(&key, wasm) {
            done.compiled += 1;
        } else {
            done.left += 1;
            return Ok(());
        }
        self.link(&key)
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
