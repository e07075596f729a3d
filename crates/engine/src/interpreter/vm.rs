//! Programs, which drive interpreters, and the instances that they drive.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use wasmtime::{
    AsContextMut, Instance, Memory, ModuleExport, Ref, Store, StoreContextMut, TypedFunc,
    WasmParams, WasmResults,
};

use crate::body::{BodyError, RequestBody};
use crate::error::{ProgramFailure, Stop};
use crate::host::directories::Directories;
use crate::host::state::{self, Host};
use crate::schedule::cpu::{CpuUsage, measure_wait};
use crate::spec::Call;

/// Drives the instances of an interpreter.
pub trait Program: Send + Sync + 'static {
    /// Initialises a new instance. The snapshot is taken afterwards.
    fn initialise<'a>(&'a self, vm: &'a mut Vm) -> BoxFuture<'a, Result<(), ProgramError>>;

    /// Whether it takes the body of a request as it comes. The request of any other program has its
    /// whole body.
    fn takes_streams(&self) -> bool {
        false
    }

    /// The directories from which the program was loaded, if they record what was read.
    fn sources(&self) -> Option<&Directories> {
        None
    }

    /// Whether an instance that has answered may answer another request: nothing of the last one is
    /// under way.
    fn is_reusable(&self, vm: &mut Vm) -> bool {
        let _ = vm;
        true
    }

    /// Passes a request to an instance that starts from the snapshot, and returns its response:
    /// `None` if it was begun with [`Host::start_response`].
    fn answer<'a>(
        &'a self,
        vm: &'a mut Vm,
        call: Call<RequestBody>,
    ) -> BoxFuture<'a, Result<Option<http::Response<Bytes>>, ProgramError>>;
}

/// Why a program failed.
#[derive(Debug)]
pub enum ProgramError {
    /// The instance trapped, or a limit stopped it.
    Wasm(wasmtime::Error),
    /// The worker's program failed.
    Failed(ProgramFailure),
    /// The worker's program was executed and has left nothing that answers requests.
    NoHandler(ProgramFailure),
}

impl ProgramError {
    /// Creates a failure of the worker's program whose position is not known.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(ProgramFailure::new(message))
    }
}

impl From<BodyError> for ProgramError {
    fn from(error: BodyError) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<wasmtime::Error> for ProgramError {
    fn from(error: wasmtime::Error) -> Self {
        Self::Wasm(error)
    }
}

/// An instance that a [`Program`] drives.
pub struct Vm {
    pub(crate) store: Store<Host>,
    pub(crate) instance: Instance,
    pub(crate) usage: Arc<CpuUsage>,
    pub(super) table: Option<ModuleExport>,
}

impl Vm {
    /// The host state of the call.
    pub fn host(&mut self) -> &mut Host {
        self.store.data_mut()
    }

    /// Returns an exported function.
    ///
    /// # Errors
    /// Returns an error if no function of that name and type is exported.
    pub fn function<P: WasmParams, R: WasmResults>(
        &mut self,
        name: &str,
    ) -> wasmtime::Result<TypedFunc<P, R>> {
        self.instance.get_typed_func(&mut self.store, name)
    }

    /// Returns the function that a function pointer of the guest, an index into the module's table,
    /// leads to.
    ///
    /// # Errors
    /// Returns an error if no function of that type is there.
    pub fn function_at<P: WasmParams, R: WasmResults>(
        &mut self,
        pointer: u32,
    ) -> wasmtime::Result<TypedFunc<P, R>> {
        let no = || wasmtime::Error::msg(format!("no function at {pointer}"));
        let table = self.table.ok_or_else(no)?;
        let table = self
            .instance
            .get_module_export(&mut self.store, &table)
            .and_then(wasmtime::Extern::into_table)
            .ok_or_else(no)?;
        match table.get(&mut self.store, u64::from(pointer)) {
            Some(Ref::Func(Some(function))) => function.typed(&self.store),
            _ => Err(no()),
        }
    }

    /// Calls a function of the instance.
    ///
    /// # Errors
    /// Returns an error if the function trapped or reached a limit.
    pub async fn call<P: WasmParams + Sync, R: WasmResults + Sync>(
        &mut self,
        function: &TypedFunc<P, R>,
        arguments: P,
    ) -> wasmtime::Result<R> {
        function.call_async(&mut self.store, arguments).await
    }

    /// The context that wasmtime's functions take.
    pub fn context(&mut self) -> StoreContextMut<'_, Host> {
        self.store.as_context_mut()
    }

    /// Returns the instance's memory.
    ///
    /// # Errors
    /// Returns an error if the instance exports no memory.
    pub fn memory(&mut self) -> wasmtime::Result<Memory> {
        self.instance
            .get_memory(&mut self.store, "memory")
            .ok_or_else(|| wasmtime::Error::msg("the module exports no memory"))
    }

    /// Waits for something outside of the instance. The time does not count as CPU time.
    pub async fn wait<F: Future>(&mut self, future: F) -> F::Output {
        let (output, wait) = measure_wait(future).await;
        state::waited(&mut self.store, wait);
        output
    }

    /// Runs `run`, which calls functions of the instance, and counts CPU time that lies between two
    /// ticks of the clock.
    ///
    /// # Errors
    /// Returns the errors of `run`, or that the guest used more CPU time than it may.
    pub async fn counted<T>(
        &mut self,
        run: impl AsyncFnOnce(&mut Self) -> wasmtime::Result<T>,
    ) -> wasmtime::Result<T> {
        let (ticks, start) = (self.usage.ticks(), Instant::now());
        let result = run(self).await;
        if self.usage.ticks() == ticks {
            let total = self.usage.count(start.elapsed());
            if total > self.host().limits().cpu_time {
                return Err(wasmtime::Error::new(Stop::CpuTime));
            }
        }
        result
    }
}
