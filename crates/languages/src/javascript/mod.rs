//! JavaScript workers: QuickJS, the kit of `kits/js` and the user's files, from one snapshot.

mod crypto;
mod encoding;
mod exports;
mod files;
mod host_calls;
mod kit;
mod mappings;
mod modules;
mod multipart;
mod operations;
mod place;
mod program;
mod source_map;
mod state;
mod urls;

use std::{path::Path, sync::Arc};

use sha2::{Digest, Sha256};
use wws_engine::{
    CodeCache, CodeKey, Directories, Engine, Guest, GuestSpec, Interpreter, LoadError,
    LoadErrorKind,
};
use wws_project::beneath::Root;

use crate::{error::GuestError, load::load};

use program::Worker;

/// The compiled JavaScript engine: one for a process. Cheap to clone.
#[derive(Clone)]
pub struct JavaScript(Interpreter);

impl JavaScript {
    /// Takes the engine's code from `code`, or compiles it, which blocks the thread for a second of CPU time.
    ///
    /// # Errors
    /// The Wasm engine refuses the interpreter.
    pub fn new(engine: &Engine, code: Option<&CodeCache>) -> Result<Self, LoadError> {
        let key = Self::key(engine);
        let code = code.map(|code| (code, &key));
        Ok(Self(engine.interpreter(
            kit::QUICKJS,
            code,
            |linker, _| host_calls::define(linker),
        )?))
    }

    /// The name of the code that [`Self::new`] looks for.
    #[must_use]
    pub fn key(engine: &Engine) -> CodeKey {
        engine.interpreter_key(&Sha256::digest(kit::QUICKJS).into())
    }

    /// The interpreter's module.
    #[must_use]
    pub fn module() -> &'static [u8] {
        kit::QUICKJS
    }

    /// Loads a worker: `file` beneath `root`, and what it imports. Its variables are those of `spec.env`. Blocks the thread.
    ///
    /// # Errors
    /// A file is not there, has a syntax error, throws, or makes no handler; the text names file and line.
    pub fn guest(&self, root: &Root, file: &Path, spec: GuestSpec) -> Result<Guest, GuestError> {
        let folder = root.folder(Path::new("")).map_err(|error| {
            LoadError::new(LoadErrorKind::Host, "cannot open the project").caused_by(error)
        })?;
        let worker = Arc::new(Worker::new(
            file.to_string_lossy().into_owned(),
            Directories::new(vec![(folder.into(), "/".into())]),
            spec.env.clone(),
        ));
        load(&self.0, spec, worker.clone()).map_err(|error| {
            if worker.has_no_handler() {
                GuestError::NoHandler(error)
            } else {
                error.into()
            }
        })
    }
}
