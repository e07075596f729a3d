//! Ruby workers: CRuby as the project ruby.wasm builds it, the kit of `kits/ruby` and the user's files, from one snapshot.
//!
//! That Ruby is a library: it starts, evaluates texts and calls methods when its host says so, and gives control back each time. So
//! its snapshot is made between two calls, and a request is one call of the kit's method `answer`.

mod abi;
mod kit;

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use wws_engine::{
    Call, CodeCache, CodeKey, Engine, Guest, GuestSpec, Interpreter, LoadError, Program,
    ProgramError, Vm,
};
use wws_project::beneath::Root;

use crate::{
    channel::{Session, Sources},
    load::load,
};

use abi::Method;

/// What the interpreter looks at when it starts. The kit takes it out of what the worker sees.
///
/// There is room for as many objects (of 20, 40, 80, 160 and 320 bytes) as an ordinary request makes, and for as many
/// bytes, so that the collector, which writes to the pages of all objects, does not run in it.
const SETTINGS: [(&str, &str); 7] = [
    ("RUBY_GC_HEAP_0_INIT_SLOTS", "60000"),
    ("RUBY_GC_HEAP_1_INIT_SLOTS", "40000"),
    ("RUBY_GC_HEAP_2_INIT_SLOTS", "12000"),
    ("RUBY_GC_HEAP_3_INIT_SLOTS", "4000"),
    ("RUBY_GC_HEAP_4_INIT_SLOTS", "1000"),
    ("RUBY_GC_MALLOC_LIMIT", "33554432"),
    ("RUBY_GC_OLDMALLOC_LIMIT", "33554432"),
];

/// A compiled Ruby. Cheap to clone.
#[derive(Clone)]
pub struct Ruby(Interpreter);

/// A worker.
struct Worker {
    sources: Sources,
    /// Names of [`SETTINGS`] that the worker's own variables do not have.
    settings: Vec<&'static str>,
    answer: OnceLock<Method>,
}

impl Ruby {
    /// Takes the interpreter's code from the store of `code`, under the name beside it ([`Engine::interpreter_key`]), or compiles it,
    /// which blocks the thread for half a minute of CPU time.
    ///
    /// # Errors
    /// `wasm` is no interpreter that can be kept in a snapshot.
    pub fn new(
        engine: &Engine,
        wasm: &[u8],
        code: Option<(&CodeCache, &CodeKey)>,
    ) -> Result<Self, LoadError> {
        Ok(Self(engine.interpreter(wasm, code, abi::define)?))
    }

    /// Loads a worker: `file` beneath `root`, and what it requires. Blocks the thread.
    ///
    /// # Errors
    /// A file is not there, has a syntax error, raises, or defines no `worker`; the text names file and line.
    pub fn guest(&self, root: &Root, file: &Path, mut spec: GuestSpec) -> Result<Guest, LoadError> {
        let mut settings = Vec::with_capacity(SETTINGS.len());
        for (name, value) in SETTINGS {
            // What the worker says is nearer.
            if !spec.env.iter().any(|(set, _)| set == name) {
                spec.env.push((name.into(), value.into()));
                settings.push(name);
            }
        }
        let worker = Worker {
            sources: Sources::new(root, file, "rb", kit::LIBRARY)?,
            settings,
            answer: OnceLock::new(),
        };
        load(&self.0, spec, Arc::new(worker))
    }
}

impl Program for Worker {
    fn initialise<'a>(&'a self, vm: &'a mut Vm) -> BoxFuture<'a, Result<(), ProgramError>> {
        Box::pin(self.load(vm))
    }

    fn answer<'a>(
        &'a self,
        vm: &'a mut Vm,
        call: Call,
    ) -> BoxFuture<'a, Result<http::Response<Bytes>, ProgramError>> {
        Box::pin(self.handle(vm, call))
    }
}

impl Worker {
    async fn load(&self, vm: &mut Vm) -> Result<(), ProgramError> {
        Session::load(vm.host(), self.sources.clone());
        abi::start(vm).await?;
        for part in kit::parts() {
            if let Err(state) = abi::evaluate(vm, &part).await? {
                // The text is in the log.
                let _ = abi::evaluate(vm, kit::WHY).await?;
                return Err(ProgramError::failed(format!(
                    "the kit does not start in this Ruby (state {state}); the log has the reason"
                )));
            }
        }
        let script = kit::load(&self.sources.worker, &self.settings);
        let loaded = abi::evaluate(vm, &script).await?;
        // What the kit says is nearer than a state. It says an answer, too: it has tried the way there.
        Session::outcome(vm.host())?;
        loaded.map_err(|state| {
            ProgramError::failed(format!("it ended while it was loaded (state {state})"))
        })?;
        let answer = abi::method(vm, "Wws", "answer").await?;
        let _ = self.answer.set(answer);
        Ok(())
    }

    async fn handle(&self, vm: &mut Vm, call: Call) -> Result<http::Response<Bytes>, ProgramError> {
        let answer = self
            .answer
            .get()
            .ok_or_else(|| ProgramError::failed("the worker was not loaded"))?;
        Session::call(vm.host(), self.sources.clone(), call)?;
        let state = answer.call(vm).await?;
        Session::outcome(vm.host())?.ok_or_else(|| {
            ProgramError::failed(format!("gave no answer: Ruby ended with state {state}"))
        })
    }
}
