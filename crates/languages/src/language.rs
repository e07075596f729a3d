//! What a language is to the server.

use std::{path::Path, sync::Arc};

use wws_engine::{
    CodeCache, CodeKey, Directories, Engine, Guest, GuestSpec, Host, Interpreter, LoadError,
    Program, load_blocking,
    wasmtime::{Linker, Module, Result},
};
use wws_project::{LanguageSpec, beneath::Root};

/// A language whose workers are sources. Each worker has a snapshot of the interpreter that has
/// loaded its source, and each request starts from that snapshot.
pub trait Language: Send + Sync + 'static {
    /// Its name and its files.
    fn spec(&self) -> LanguageSpec;

    /// The interpreter that is part of the server. `None`: projects install it as a runtime.
    fn built_in(&self) -> Option<BuiltInInterpreter> {
        None
    }

    /// Defines the functions that the interpreter imports, except for WASI.
    ///
    /// # Errors
    /// A function is defined twice.
    fn define_imports(&self, linker: &mut Linker<Host>, module: &Module) -> Result<()> {
        let _ = (linker, module);
        Ok(())
    }

    /// The program of a worker: how its source is loaded, and how a request begins. `file` is
    /// relative to `root`. Arguments and variables that the interpreter needs are added to `spec`.
    ///
    /// # Errors
    /// The project cannot be opened.
    fn program(
        &self,
        root: &Root,
        file: &Path,
        spec: &mut GuestSpec,
    ) -> Result<Arc<dyn Program>, LoadError>;

    /// Why a source that could not be loaded is not a worker at all. `None` for a broken worker.
    fn not_a_worker(&self, file: &Path, source: &str) -> Option<String> {
        let _ = (file, source);
        None
    }
}

/// An interpreter that is part of the server.
#[derive(Clone, Copy, Debug)]
pub struct BuiltInInterpreter {
    /// Its name, for progress reports.
    pub name: &'static str,
    /// Its module.
    pub wasm: &'static [u8],
}

/// A language with its compiled interpreter. Cheap to clone.
#[derive(Clone)]
pub struct CompiledLanguage {
    language: Arc<dyn Language>,
    interpreter: Interpreter,
}

impl CompiledLanguage {
    /// Takes the interpreter's code from the code cache, where it has the given key
    /// ([`Engine::interpreter_key`]), or compiles it, which blocks the thread for up to half a
    /// minute of CPU time.
    ///
    /// # Errors
    /// `wasm` is not an interpreter of this language.
    pub fn new(
        language: Arc<dyn Language>,
        engine: &Engine,
        wasm: &[u8],
        code: Option<(&CodeCache, &CodeKey)>,
    ) -> Result<Self, LoadError> {
        let interpreter = engine.interpreter(wasm, code, |linker, module| {
            language.define_imports(linker, module)
        })?;
        Ok(Self {
            language,
            interpreter,
        })
    }

    /// Loads a worker: `file` beneath `root`, and what it imports. Blocks the thread.
    ///
    /// # Errors
    /// A file is missing, has a syntax error or fails; or it defines no handler, which is an error
    /// of the kind [`NoHandler`](wws_engine::LoadErrorKind::NoHandler).
    pub fn guest(&self, root: &Root, file: &Path, spec: GuestSpec) -> Result<Guest, LoadError> {
        self.guest_and_sources(root, file, spec).0
    }

    /// [`Self::guest`], and the directories that have recorded what was read, also if it could not
    /// be loaded.
    pub fn guest_and_sources(
        &self,
        root: &Root,
        file: &Path,
        mut spec: GuestSpec,
    ) -> (Result<Guest, LoadError>, Option<Directories>) {
        let program = match self.language.program(root, file, &mut spec) {
            Ok(program) => program,
            Err(error) => return (Err(error), None),
        };
        let sources = program.sources().cloned();
        let guest = load_blocking(self.interpreter.snapshot(spec, program));
        if let Some(sources) = &sources {
            sources.end_trace();
        }
        (guest, sources)
    }
}
