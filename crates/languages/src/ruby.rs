//! Ruby workers: CRuby as built by the project ruby.wasm, the kit of `kits/ruby` and the user's
//! files, from one snapshot.
//!
//! That Ruby is a library: it starts, evaluates source and calls methods when the host calls it,
//! and returns each time. So its snapshot is taken between two calls, and a request is one call of
//! the kit's method `answer`.

mod abi;
mod kit;

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use wws_engine::{
    BodyStream, Call, Directories, GuestSpec, Host, LoadError, Program, ProgramError, RequestBody,
    Vm,
    wasmtime::{self, Linker, Module},
};
use wws_project::{InterpreterOrigin, LanguageSpec, beneath::Root};

use crate::channel::{self, Answered, Session, Sources};
use crate::incoming;
use crate::language::Language;
use crate::load;

use abi::Method;

/// Variables that the interpreter reads when it starts. The kit hides them from the worker.
///
/// There is room for as many objects (of 20, 40, 80, 160 and 320 bytes) and bytes as an ordinary
/// request allocates, so that the garbage collector, which writes to the pages of all objects, does
/// not run in it.
const SETTINGS: [(&str, &str); 7] = [
    ("RUBY_GC_HEAP_0_INIT_SLOTS", "60000"),
    ("RUBY_GC_HEAP_1_INIT_SLOTS", "40000"),
    ("RUBY_GC_HEAP_2_INIT_SLOTS", "12000"),
    ("RUBY_GC_HEAP_3_INIT_SLOTS", "4000"),
    ("RUBY_GC_HEAP_4_INIT_SLOTS", "1000"),
    ("RUBY_GC_MALLOC_LIMIT", "33554432"),
    ("RUBY_GC_OLDMALLOC_LIMIT", "33554432"),
];

/// Ruby, whose interpreter a project installs.
#[derive(Clone, Copy, Debug)]
pub struct Ruby;

/// A worker.
struct Worker {
    sources: Sources,
    /// Names in [`SETTINGS`] that the worker does not set itself.
    settings: Vec<&'static str>,
    answer: OnceLock<Method>,
}

impl Language for Ruby {
    fn spec(&self) -> LanguageSpec {
        LanguageSpec {
            name: "ruby",
            interpreter: InterpreterOrigin::Runtime,
            extensions: &["rb"],
            convertible: &[],
        }
    }

    fn define_imports(&self, linker: &mut Linker<Host>, module: &Module) -> wasmtime::Result<()> {
        abi::define(linker, module)
    }

    fn program(
        &self,
        root: &Root,
        file: &Path,
        spec: &mut GuestSpec,
    ) -> Result<Arc<dyn Program>, LoadError> {
        let mut settings = Vec::with_capacity(SETTINGS.len());
        for (name, value) in SETTINGS {
            // The worker's own value takes precedence.
            if !spec.env.iter().any(|(set, _)| set == name) {
                spec.env.push((name.into(), value.into()));
                settings.push(name);
            }
        }
        Ok(Arc::new(Worker {
            sources: Sources::new(root, file, "rb", kit::LIBRARY)?,
            settings,
            answer: OnceLock::new(),
        }))
    }

    fn not_a_worker(&self, _: &Path, source: &str) -> Option<String> {
        load::defines_no_worker(source)
    }
}

impl Program for Worker {
    fn initialise<'a>(&'a self, vm: &'a mut Vm) -> BoxFuture<'a, Result<(), ProgramError>> {
        Box::pin(self.load(vm))
    }

    fn takes_streams(&self) -> bool {
        true
    }

    fn sources(&self) -> Option<&Directories> {
        Some(self.sources.directories())
    }

    fn answer<'a>(
        &'a self,
        vm: &'a mut Vm,
        call: Call<RequestBody>,
    ) -> BoxFuture<'a, Result<Option<http::Response<Bytes>>, ProgramError>> {
        Box::pin(async move {
            let (call, body) = incoming::open(vm, call).await?;
            Ok(self.handle(vm, call, body).await?.into_response())
        })
    }
}

impl Worker {
    async fn load(&self, vm: &mut Vm) -> Result<(), ProgramError> {
        channel::begin_loading(vm.host(), self.sources.clone());
        abi::start(vm).await?;
        for part in kit::parts() {
            if let Err(state) = abi::evaluate(vm, &part).await? {
                // Writes the reason to the log.
                let _ = abi::evaluate(vm, kit::WHY).await?;
                return Err(ProgramError::failed(format!(
                    "the kit does not start in this Ruby (state {state}); the log has the reason"
                )));
            }
        }
        let script = kit::load(&self.sources.worker, &self.settings);
        let loaded = abi::evaluate(vm, &script).await?;
        // The kit's report says more than a state. It also reports a response: it has tried to
        // answer.
        Session::outcome(vm.host())?;
        loaded.map_err(|state| {
            ProgramError::failed(format!("it ended while it was loaded (state {state})"))
        })?;
        let answer = abi::method(vm, "Wws", "answer").await?;
        let _ = self.answer.set(answer);
        Ok(())
    }

    async fn handle(
        &self,
        vm: &mut Vm,
        call: Call,
        body: Option<BodyStream>,
    ) -> Result<Answered, ProgramError> {
        let answer = self
            .answer
            .get()
            .ok_or_else(|| ProgramError::failed("the worker was not loaded"))?;
        channel::begin_call(vm.host(), self.sources.clone(), call, body)?;
        let state = answer.call(vm).await?;
        Session::outcome(vm.host())?.ok_or_else(|| {
            ProgramError::failed(format!("gave no answer: Ruby ended with state {state}"))
        })
    }
}
