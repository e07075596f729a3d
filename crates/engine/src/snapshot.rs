//! Guests that were initialised once: memory and globals are kept, and every call starts from a copy-on-write view of them.
//!
//! An [`Interpreter`] is a compiled module and the functions that it imports; all its guests share it. A [`Program`] knows how to
//! talk to it: how to bring it to the point where requests can come, and how to hand it one. What lies between the two is the snapshot:
//! an image of the memory, and the globals that differ from a new instance's. `docs/design/snapshots.md` says what that means for
//! guests.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use wasmtime::{
    AsContextMut, Instance, InstancePre, Linker, Memory, ModuleExport, Ref, Store, StoreContextMut,
    TypedFunc, Val, WasmParams, WasmResults,
};

use crate::{
    Call, CallError, CodeCache, CodeKey, Guest, GuestSpec, LoadError,
    budget::FREE_OUTPUT,
    clocks::SavedClocks,
    code_cache::Found,
    engine::{Engine, check_header, instance_size},
    error::{Stop, one_line},
    guest::{Inner, InstanceConfig, STACK_COST, reserve},
    host::{self, Host},
    image_of::WASM_PAGE,
    lane::{Usage, measure_wait},
    memory::{Image, with_image},
    state_of,
};

/// Initialisation may use so much CPU, or a call's own limit if that is more.
const INITIALISE: Duration = Duration::from_secs(10);

/// A boxed future.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What talks to an interpreter.
pub trait Program: Send + Sync + 'static {
    /// Brings a new instance to the point where requests can come. What it did is in the snapshot.
    fn initialise<'a>(&'a self, vm: &'a mut Vm) -> Boxed<'a, Result<(), ProgramError>>;

    /// Hands a request to an instance that starts from the snapshot.
    fn answer<'a>(
        &'a self,
        vm: &'a mut Vm,
        call: Call,
    ) -> Boxed<'a, Result<http::Response<Bytes>, ProgramError>>;
}

/// Why a program failed.
#[derive(Debug)]
pub enum ProgramError {
    /// The instance trapped, or a limit ended it.
    Wasm(wasmtime::Error),
    /// The user's program failed; the text is the operator's.
    Failed(String),
}

impl From<wasmtime::Error> for ProgramError {
    fn from(error: wasmtime::Error) -> Self {
        Self::Wasm(error)
    }
}

/// A compiled interpreter, linked with what it imports. Cheap to clone.
#[derive(Clone)]
pub struct Interpreter(Arc<Shared>);

struct Shared {
    engine: Engine,
    pre: InstancePre<Host>,
    /// The module's own data.
    image: Arc<Image>,
    minimum_memory: u64,
    instance_size: u64,
    globals: Vec<ModuleExport>,
    table: Option<ModuleExport>,
}

/// Where the calls of a guest start.
pub(crate) struct Snapshot {
    interpreter: Interpreter,
    image: Arc<Image>,
    /// Bytes of memory that an instance starts with.
    pub(crate) memory: u64,
    globals: Vec<(ModuleExport, Value)>,
    /// The clocks of calls go on from here.
    pub(crate) clocks: SavedClocks,
    pub(crate) program: Arc<dyn Program>,
}

/// A number in a global.
#[derive(Clone, Copy, PartialEq)]
enum Value {
    I32(i32),
    I64(i64),
    F32(u32),
    F64(u64),
}

impl Value {
    fn of(value: &Val) -> Option<Self> {
        match value {
            Val::I32(x) => Some(Self::I32(*x)),
            Val::I64(x) => Some(Self::I64(*x)),
            Val::F32(x) => Some(Self::F32(*x)),
            Val::F64(x) => Some(Self::F64(*x)),
            _ => None,
        }
    }

    fn into_val(self) -> Val {
        match self {
            Self::I32(x) => Val::I32(x),
            Self::I64(x) => Val::I64(x),
            Self::F32(x) => Val::F32(x),
            Self::F64(x) => Val::F64(x),
        }
    }
}

/// An instance that a [`Program`] talks to.
pub struct Vm {
    pub(crate) store: Store<Host>,
    pub(crate) instance: Instance,
    pub(crate) usage: Arc<Usage>,
    table: Option<ModuleExport>,
}

impl Vm {
    /// The call's side of the host.
    pub fn host(&mut self) -> &mut Host {
        self.store.data_mut()
    }

    /// An exported function.
    ///
    /// # Errors
    /// There is none of that name and type.
    pub fn function<P: WasmParams, R: WasmResults>(
        &mut self,
        name: &str,
    ) -> wasmtime::Result<TypedFunc<P, R>> {
        self.instance.get_typed_func(&mut self.store, name)
    }

    /// The function that a pointer of the guest's leads to: its place in the module's table.
    ///
    /// # Errors
    /// There is none of that type there.
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
    /// It trapped, or met a limit.
    pub async fn call<P: WasmParams + Sync, R: WasmResults + Sync>(
        &mut self,
        function: &TypedFunc<P, R>,
        arguments: P,
    ) -> wasmtime::Result<R> {
        function.call_async(&mut self.store, arguments).await
    }

    /// What functions of wasmtime take to work on the instance.
    pub fn context(&mut self) -> StoreContextMut<'_, Host> {
        self.store.as_context_mut()
    }

    /// The instance's memory.
    ///
    /// # Errors
    /// It exports none.
    pub fn memory(&mut self) -> wasmtime::Result<Memory> {
        self.instance
            .get_memory(&mut self.store, "memory")
            .ok_or_else(|| wasmtime::Error::msg("the module exports no memory"))
    }

    /// Waits for something outside of the instance. That time is no CPU time of the guest's.
    pub async fn wait<F: Future>(&mut self, future: F) -> F::Output {
        let (output, wait) = measure_wait(future).await;
        host::waited(&mut self.store, wait);
        output
    }

    /// Runs what calls functions of the instance, and counts the CPU time that it used without being seen by the clock of
    /// ticks.
    ///
    /// # Errors
    /// Its own, or the guest used more CPU time than it may.
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

impl Engine {
    /// Compiles an interpreter: a module whose exports are called by a [`Program`], and which imports WASI preview 1 and what
    /// `imports` defines. Its code is taken from the store of `code`, where that has it under the name beside it
    /// ([`Self::interpreter_key`]); else it is compiled, which blocks the thread and uses all processors.
    ///
    /// # Errors
    /// It is not a module, it imports something else, or its state is more than memory and globals.
    pub fn interpreter(
        &self,
        wasm: &[u8],
        code: Option<(&CodeCache, &CodeKey)>,
        imports: impl FnOnce(&mut Linker<Host>, &wasmtime::Module) -> wasmtime::Result<()>,
    ) -> Result<Interpreter, LoadError> {
        check_header(wasm)?;
        let found = code.map(|(code, key)| (code.load(self.wasmtime(), key), key));
        let (module, image) = match found {
            Some((Found::Code(module), _)) => self.parts(wasm, Some(module)),
            found => {
                if let Some((Found::Damaged(why), key)) = found {
                    tracing::warn!(
                        "the compiled code {} is damaged ({why}): compiled again",
                        key.file_name()
                    );
                }
                self.parts(&state_of::expose(wasm)?, None)
            }
        }?;
        let mut linker = self.linker();
        imports(&mut linker, &module).map_err(|error| LoadError(one_line(&error)))?;
        let pre = linker
            .instantiate_pre(&module)
            .map_err(|error| LoadError(one_line(&error)))?;
        let memory = module
            .get_export("memory")
            .and_then(|ty| ty.memory().cloned())
            .filter(|memory| !memory.is_shared())
            .ok_or_else(|| LoadError("it exports no memory of its own named `memory`".into()))?;
        Ok(Interpreter(Arc::new(Shared {
            engine: self.clone(),
            pre,
            image,
            minimum_memory: memory.minimum().saturating_mul(WASM_PAGE),
            instance_size: instance_size(wasm),
            globals: module
                .exports()
                .filter(|export| export.name().starts_with(state_of::GLOBAL))
                .filter_map(|export| module.get_export_index(export.name()))
                .collect(),
            table: module.get_export_index(state_of::TABLE),
        })))
    }
}

/// An interpreter's module as it is compiled for a [`CodeCache`]: what [`Engine::precompile`] takes.
///
/// # Errors
/// Its state is more than memory and globals.
pub fn interpreter_module(wasm: &[u8]) -> Result<Vec<u8>, LoadError> {
    check_header(wasm)?;
    state_of::expose(wasm)
}

impl Interpreter {
    /// Runs a program's initialisation and keeps the state that it reached: every call of the guest starts there.
    ///
    /// # Errors
    /// The initialisation failed; the text says how.
    pub async fn snapshot(
        &self,
        spec: GuestSpec,
        program: Arc<dyn Program>,
    ) -> Result<Guest, LoadError> {
        let engine = self.0.engine.clone();
        let inner = Arc::new(Inner::new(spec, Vec::new())?);
        let cpu_time = inner.limits.cpu_time.max(INITIALISE);
        let usage = Arc::new(Usage::default());
        let fail = |error: CallError| LoadError(format!("while it was loaded: {error}"));
        let _running = engine.ticker().run();
        let memory = self.0.minimum_memory;
        let cost = memory + self.0.instance_size + STACK_COST + FREE_OUTPUT;
        let instance = InstanceConfig {
            charge: reserve(&engine, cost).await.map_err(fail)?,
            memory,
            cpu_time,
            usage: usage.clone(),
            stdin: Vec::new(),
            request_id: String::new(),
        };
        let store = inner.store(&engine, instance);
        let mut vm = self
            .instance(store, &self.0.image, usage)
            .await
            .map_err(|error| LoadError(one_line(&error)))?;
        let new = self.values(&mut vm);
        let initialised = tokio::time::timeout(
            inner.limits.wall_time.max(INITIALISE),
            program.initialise(&mut vm),
        );
        match initialised.await {
            Err(_) => return Err(LoadError("did not end loading".into())),
            Ok(Err(ProgramError::Failed(text))) => return Err(LoadError(text)),
            Ok(Err(ProgramError::Wasm(error))) => {
                let refused = vm.host().quota.refused;
                return Err(fail(inner.failure(&error, refused, cpu_time)));
            }
            Ok(Ok(())) => {}
        }
        let globals = self
            .values(&mut vm)
            .into_iter()
            .zip(new)
            .filter(|((_, now), (_, new))| now != new)
            .map(|(now, _)| now)
            .collect();
        let memory = vm.memory().map_err(|error| LoadError(one_line(&error)))?;
        let memory = memory.data(&vm.store);
        let bytes = memory.len() as u64;
        if bytes > inner.limits.memory {
            return Err(LoadError(format!(
                "it has {bytes} bytes of memory once it is loaded, `limits.memory` allows {}",
                inner.limits.memory
            )));
        }
        let image = Image::new(0, memory)
            .map_err(|error| LoadError(format!("no memory for its snapshot: {error}")))?;
        let image = Arc::new(image);
        engine.register(&image);
        Ok(Guest::of_snapshot(
            engine.clone(),
            inner,
            Snapshot {
                interpreter: self.clone(),
                image,
                memory: bytes,
                globals,
                clocks: vm.host().clocks.save(),
                program,
            },
        ))
    }

    async fn instance(
        &self,
        mut store: Store<Host>,
        image: &Arc<Image>,
        usage: Arc<Usage>,
    ) -> wasmtime::Result<Vm> {
        let instance = {
            let charge = store.data().quota.charge().clone();
            let mut making = pin!(self.0.pre.instantiate_async(&mut store));
            poll_fn(|context| with_image(image, &charge, || making.as_mut().poll(context))).await?
        };
        Ok(Vm {
            store,
            instance,
            usage,
            table: self.0.table,
        })
    }

    fn values(&self, vm: &mut Vm) -> Vec<(ModuleExport, Value)> {
        self.0
            .globals
            .iter()
            .filter_map(|export| {
                let global = vm
                    .instance
                    .get_module_export(&mut vm.store, export)?
                    .into_global()?;
                Some((*export, Value::of(&global.get(&mut vm.store))?))
            })
            .collect()
    }
}

impl Snapshot {
    /// What an instance costs beside its memory, in bytes.
    pub(crate) fn instance_size(&self) -> u64 {
        self.interpreter.0.instance_size
    }

    /// An instance in the state of the snapshot.
    pub(crate) async fn restore(
        &self,
        store: Store<Host>,
        usage: Arc<Usage>,
    ) -> wasmtime::Result<Vm> {
        let mut vm = self.interpreter.instance(store, &self.image, usage).await?;
        for (export, value) in &self.globals {
            let global = vm
                .instance
                .get_module_export(&mut vm.store, export)
                .and_then(wasmtime::Extern::into_global)
                .ok_or_else(|| wasmtime::Error::msg("a global of the snapshot is gone"))?;
            global.set(&mut vm.store, value.into_val())?;
        }
        Ok(vm)
    }
}
