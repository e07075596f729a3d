//! The Wasm engine of a process: its settings, compilation, and what all guests share. Guests are
//! made above, in `guest` and `interpreter`.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use wasmtime::{Collector, Config, InstancePre, Linker, OptLevel, component};

use crate::code_cache::cache::{CodeCache, CodeKey, CodeOrigin};
use crate::error::{Cause, EngineError, LoadError, LoadErrorKind};
use crate::host;
use crate::host::open_files::FileBudget;
use crate::host::state::Host;
use crate::host::{http, wasi};
use crate::memory::account::Account;
use crate::memory::page::page_size;
use crate::memory::pool::{Pool, PooledImage};
use crate::memory::stack::{ASYNC_STACK, Stacks, WASM_STACK};
use crate::module::component::{Component, is_component};
use crate::module::{self, Code, CodeKind, Module, check_header};
use crate::schedule::lane::SlowLane;
use crate::schedule::steady::SteadyPlaces;
use crate::schedule::ticker::Ticker;

/// Written memory that a slot keeps resident between calls, in bytes.
const KEEP: usize = 1 << 20;

/// The number of slots that may wait for a call, and the bytes that each may keep. These bytes are
/// not charged to any call, so they are an eighth of the memory at most.
fn idle_slots(memory: u64, concurrency: usize) -> (usize, usize) {
    let eighth = usize::try_from(memory / 8).unwrap_or(usize::MAX);
    let count = (eighth / (64 << 10)).max(8).min(concurrency);
    (count, (eighth / count).clamp(page_size(), KEEP))
}

/// The number of stacks that may wait for a call. A guest may have written to all of a stack, and
/// waiting stacks are not charged to any call.
fn max_idle_stacks(memory: u64, concurrency: usize) -> usize {
    let share = usize::try_from(memory / 16).unwrap_or(usize::MAX) / ASYNC_STACK;
    share.max(4).min(concurrency)
}

/// Settings of wasmtime. The code of functions that run at once in one instance, as WASI 0.3 has
/// them, is slower to call.
fn config(pool: &Arc<Pool>, stacks: &Arc<Stacks>, concurrent: bool) -> Config {
    let mut config = Config::new();
    config
        .cranelift_opt_level(OptLevel::Speed)
        .parallel_compilation(true)
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(ASYNC_STACK)
        .with_host_memory(pool.clone())
        .with_host_stack(stacks.clone())
        // Slots do this; see `memory`.
        .memory_init_cow(false)
        .memory_may_move(false)
        .guard_before_linear_memory(false)
        // Without threads a guest cannot read its memory while the host writes to it.
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        // What languages with a garbage collector are compiled to.
        .wasm_function_references(true)
        .wasm_gc(true)
        .wasm_exceptions(true)
        .collector(Collector::DeferredReferenceCounting)
        // A slot's image is never taken for this heap; see `memory::pool`.
        .gc_heap_initial_size(0)
        .concurrency_support(concurrent);
    if concurrent {
        config.wasm_component_model_async(true);
    }
    config
}

/// Settings of an [`Engine`].
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Bytes of memory for guests, and for what the host holds for guests and clients.
    pub memory: u64,
    /// Guests that may run at once.
    pub concurrency: u32,
    /// Files that all guests together may hold open.
    pub open_files: u32,
    /// Bytes of the memory that only new calls may take: what guests grow by, and what the host
    /// holds for guests and clients, leaves them free.
    pub kept_for_calls: u64,
    /// How long a call waits for its memory.
    pub queue_timeout: Duration,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            memory: 256 << 20,
            concurrency: 64,
            open_files: 1024,
            kept_for_calls: 0,
            queue_timeout: Duration::from_secs(5),
        }
    }
}

/// The Wasm engine of a process. Cheap to clone.
///
/// # Examples
///
/// ```no_run
/// use wws_engine::{Engine, EngineOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::new(&EngineOptions {
///     memory: 1 << 30,
///     ..EngineOptions::default()
/// })?;
/// let module = engine.compile(&std::fs::read("worker.wasm")?)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Engine(Arc<EngineState>);

struct EngineState {
    engine: wasmtime::Engine,
    linker: Linker<Host>,
    /// What components can import; made for the first one.
    components: OnceLock<component::Linker<Host>>,
    /// For components of WASI 0.3; made for the first one.
    concurrent: OnceLock<ConcurrentEngine>,
    pool: Arc<Pool>,
    stacks: Arc<Stacks>,
    /// All memory, to which new calls are charged.
    memory: Account,
    /// The memory without what is kept for new calls.
    account: Account,
    /// Bytes that are kept for new calls.
    kept_for_calls: Mutex<u64>,
    queue_timeout: Duration,
    files: FileBudget,
    idle_memory: u64,
    ticker: Ticker,
    slow: Arc<SlowLane>,
    steady: Arc<SteadyPlaces>,
}

/// The engine of components whose functions are asynchronous.
struct ConcurrentEngine {
    engine: wasmtime::Engine,
    linker: component::Linker<Host>,
    ticker: Ticker,
}

/// Increments the engine's epoch, and returns false once the engine is gone.
fn epoch_of(engine: &wasmtime::Engine) -> impl FnMut() -> bool + Send + 'static {
    let weak = engine.weak();
    move || {
        weak.upgrade()
            .map(|engine| engine.increment_epoch())
            .is_some()
    }
}

impl Engine {
    /// Creates an engine.
    ///
    /// # Errors
    /// Returns an error if the system has no thread or address space left.
    pub fn new(options: &EngineOptions) -> Result<Self, EngineError> {
        let concurrency = options.concurrency.max(1) as usize;
        let (max_idle, keep) = idle_slots(options.memory, concurrency);
        let idle_stacks = max_idle_stacks(options.memory, concurrency);
        let pool = Arc::new(Pool::new(max_idle, keep));
        let stacks = Arc::new(Stacks::new(idle_stacks));
        let config = config(&pool, &stacks, false);
        let engine = wasmtime::Engine::new(&config).map_err(EngineError::new)?;
        let mut linker = Linker::new(&engine);
        wasi::add_to_linker(&mut linker).map_err(EngineError::new)?;
        http::add_to_linker(&mut linker).map_err(EngineError::new)?;
        let ticker = Ticker::start(epoch_of(&engine)).map_err(EngineError::new)?;
        let memory = Account::new(options.memory);
        let kept = options.kept_for_calls.min(options.memory / 2);
        Ok(Self(Arc::new(EngineState {
            engine,
            linker,
            components: OnceLock::new(),
            concurrent: OnceLock::new(),
            pool,
            stacks,
            account: memory.part(memory.total() - kept),
            kept_for_calls: Mutex::new(kept),
            memory,
            queue_timeout: options.queue_timeout,
            files: FileBudget::new(options.open_files),
            idle_memory: (max_idle * keep + idle_stacks * ASYNC_STACK) as u64,
            ticker,
            slow: Arc::default(),
            steady: Arc::default(),
        })))
    }

    /// Compiles a module or a component. Blocks the thread, and uses all CPUs.
    ///
    /// # Errors
    /// Returns an error if `wasm` is neither, or not one that can be a worker.
    pub fn compile(&self, wasm: &[u8]) -> Result<Code, LoadError> {
        check_header(wasm)?;
        if is_component(wasm) {
            self.load_component(wasm, None)
        } else {
            self.load_module(wasm, None)
        }
    }

    /// Loads code from `cache`, where its name is `key` ([`Self::code_key`]). Compiles it if the
    /// cache has no entry, or one that cannot be used.
    ///
    /// # Errors
    /// Returns the errors of [`Self::compile`].
    pub fn compile_cached(
        &self,
        wasm: &[u8],
        key: &CodeKey,
        cache: &CodeCache,
    ) -> Result<(Code, CodeOrigin), LoadError> {
        check_header(wasm)?;
        let compile = || self.precompile(wasm);
        if is_component(wasm) {
            let (code, origin) = cache.load_or_fill(self.engine_of(wasm)?, key, compile)?;
            Ok((self.load_component(wasm, code)?, origin))
        } else {
            let (code, origin) = cache.load_or_fill(&self.0.engine, key, compile)?;
            Ok((self.load_module(wasm, code)?, origin))
        }
    }

    /// Returns the key of a module's or component's code in a [`CodeCache`], from its SHA-256.
    #[must_use]
    pub fn code_key(&self, sha256: &[u8; 32]) -> CodeKey {
        CodeKey::new(&self.0.engine, "module", sha256)
    }

    /// Returns the key of an interpreter's code in a [`CodeCache`], from its module's SHA-256.
    #[must_use]
    pub fn interpreter_key(&self, sha256: &[u8; 32]) -> CodeKey {
        CodeKey::new(&self.0.engine, "interpreter", sha256)
    }

    /// Compiles a module or a component for a [`CodeCache`]. Blocks the thread, and uses all CPUs.
    ///
    /// # Errors
    /// Returns an error if `wasm` is neither.
    pub fn precompile(&self, wasm: &[u8]) -> Result<Vec<u8>, LoadError> {
        check_header(wasm)?;
        if is_component(wasm) {
            module::component::precompile(self.engine_of(wasm)?, wasm)
        } else {
            module::precompile(&self.0.engine, wasm)
        }
    }

    fn load_module(&self, wasm: &[u8], code: Option<wasmtime::Module>) -> Result<Code, LoadError> {
        let module = Module::new(&self.0.engine, wasm, code)?;
        self.register(&module.image);
        Ok(Code(CodeKind::Module(module)))
    }

    fn load_component(
        &self,
        wasm: &[u8],
        code: Option<component::Component>,
    ) -> Result<Code, LoadError> {
        let component = Component::new(self.engine_of(wasm)?, wasm, code)?;
        for memory in component.memories.iter() {
            self.register(&memory.image);
        }
        Ok(Code(CodeKind::Component(component)))
    }

    /// The engine of a component.
    fn engine_of(&self, wasm: &[u8]) -> Result<&wasmtime::Engine, LoadError> {
        Ok(if module::component::is_async(wasm) {
            &self.concurrent()?.engine
        } else {
            &self.0.engine
        })
    }

    fn concurrent(&self) -> Result<&ConcurrentEngine, LoadError> {
        if let Some(made) = self.0.concurrent.get() {
            return Ok(made);
        }
        let fail = |error: Cause| {
            LoadError::new(
                LoadErrorKind::Host,
                "cannot start the Wasm engine for WASI 0.3",
            )
            .caused_by(error)
        };
        let config = config(&self.0.pool, &self.0.stacks, true);
        let engine = wasmtime::Engine::new(&config).map_err(|error| fail(error.into()))?;
        let mut linker = component::Linker::new(&engine);
        host::component::add_async_to_linker(&mut linker).map_err(|error| fail(error.into()))?;
        let ticker = Ticker::start(epoch_of(&engine)).map_err(|error| fail(error.into()))?;
        Ok(self.0.concurrent.get_or_init(|| ConcurrentEngine {
            engine,
            linker,
            ticker,
        }))
    }

    /// Links a component with what it imports.
    pub(crate) fn link_component(
        &self,
        component: &Component,
    ) -> Result<component::InstancePre<Host>, LoadError> {
        let linker = if component.is_async {
            &self.concurrent()?.linker
        } else {
            self.component_linker()?
        };
        linker.instantiate_pre(&component.code).map_err(|error| {
            LoadError::unsupported(format!(
                "{error:#}; components can import WASI (`wasi:http`, `wasi:cli`, \
                 `wasi:filesystem`, ...), `wasi:keyvalue`, `wasi:config` and `wasi:logging`"
            ))
        })
    }

    fn component_linker(&self) -> Result<&component::Linker<Host>, LoadError> {
        if let Some(made) = self.0.components.get() {
            return Ok(made);
        }
        let mut linker = component::Linker::new(&self.0.engine);
        host::component::add_to_linker(&mut linker).map_err(|error| {
            LoadError::new(LoadErrorKind::Host, "cannot link components").caused_by(error)
        })?;
        Ok(self.0.components.get_or_init(|| linker))
    }

    /// What the instances of a component run in, and the clock that runs while they do.
    pub(crate) fn wasmtime_for(&self, component: &Component) -> (&wasmtime::Engine, &Ticker) {
        match self.0.concurrent.get() {
            Some(concurrent) if component.is_async => (&concurrent.engine, &concurrent.ticker),
            _ => (&self.0.engine, &self.0.ticker),
        }
    }

    /// Compiles a module, or takes its `code`, and registers the image of its memory.
    pub(crate) fn compile_parts(
        &self,
        wasm: &[u8],
        code: Option<wasmtime::Module>,
    ) -> Result<(wasmtime::Module, Arc<PooledImage>), LoadError> {
        let (module, image) = module::compile(&self.0.engine, wasm, code)?;
        self.register(&image);
        Ok((module, image))
    }

    /// Lets [`Self::trim`] find the slots that wait with an image.
    pub(crate) fn register(&self, image: &Arc<PooledImage>) {
        self.0.pool.register(image);
    }

    /// The functions that every guest can import.
    pub(crate) fn linker(&self) -> Linker<Host> {
        self.0.linker.clone()
    }

    /// Returns memory that waits for the next calls to the system, for a server that became idle.
    pub fn trim(&self) {
        self.0.pool.trim();
    }

    /// Whether most memory is free, so that instances may be started before their request comes.
    pub(crate) fn has_room_to_prestart(&self) -> bool {
        self.0.memory.free() > self.0.memory.total() / 4 * 3
    }

    pub(crate) fn link(&self, module: &Module) -> Result<InstancePre<Host>, LoadError> {
        self.0
            .linker
            .instantiate_pre(&module.code)
            .map_err(|error| {
                LoadError::unsupported(format!(
                    "{error:#}; workers can import WASI preview 1 and `http.send-http-request`"
                ))
            })
    }

    /// Bytes of memory for guests, and for what the host holds for guests and clients.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.0.memory.total()
    }

    /// Bytes of that memory that are not in use.
    #[must_use]
    pub fn free_memory(&self) -> u64 {
        self.0.memory.free()
    }

    /// The account to which new calls are charged.
    pub(crate) fn calls(&self) -> &Account {
        &self.0.memory
    }

    /// Keeps at least `bytes` of the memory for new calls ([`EngineOptions::kept_for_calls`]), as
    /// far as they are free now.
    pub fn keep_for_calls(&self, bytes: u64) {
        let kept = &self.0.kept_for_calls;
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = bytes.min(self.0.memory.total() / 2);
        *kept += self.0.account.shrink(wanted.saturating_sub(*kept));
    }

    pub(crate) fn queue_timeout(&self) -> Duration {
        self.0.queue_timeout
    }

    /// Bytes that waiting slots and stacks may keep. They are not charged to any call.
    #[must_use]
    pub fn idle_memory(&self) -> u64 {
        self.0.idle_memory
    }

    /// The account of memory by which guests may grow, and of what the host holds for guests and
    /// clients.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.0.account
    }

    pub(crate) fn files(&self) -> &FileBudget {
        &self.0.files
    }

    pub(crate) fn ticker(&self) -> &Ticker {
        &self.0.ticker
    }

    /// The runtimes of the threads to which long calls move, as far as these were started.
    #[must_use]
    pub fn lanes(&self) -> Vec<Handle> {
        self.0.slow.started()
    }

    pub(crate) fn slow_lane(&self) -> &Arc<SlowLane> {
        &self.0.slow
    }

    pub(crate) fn steady_places(&self) -> &Arc<SteadyPlaces> {
        &self.0.steady
    }

    pub(crate) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.0.engine
    }
}
