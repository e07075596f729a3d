//! The Wasm engine of a process: its settings, compilation, and what all guests share.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use wasmparser::{Parser, Payload};
use wasmtime::{Config, InstancePre, Linker, OptLevel};

use crate::{
    EngineError, Guest, GuestSpec, LoadError, PreopenedFolder,
    account::Account,
    ahead::Ahead,
    code_cache::{CodeCache, CodeKey, Found},
    host::Host,
    http_import,
    image_of::{self, WASM_PAGE},
    instantiable,
    lane::SlowLane,
    memory::{Image, PAGE, Pool},
    open_files::AllFiles,
    stack::Stacks,
    ticker::Ticker,
    wasi,
};

/// Native stack of a guest, in bytes. Interpreters of deep recursion need most of it.
pub(crate) const WASM_STACK: usize = 4 << 20;

/// The same with room for functions of the host.
const STACK: usize = WASM_STACK + (512 << 10);

/// Written memory that a slot keeps resident between calls, in bytes.
const KEEP: usize = 1 << 20;

/// A module larger than this is refused, in bytes.
const MAX_MODULE: usize = 512 << 20;

/// How many slots may wait for a call, and how much each may keep: what they keep is charged to nobody, and an eighth of the
/// memory at most.
fn idle_slots(memory: u64, concurrency: usize) -> (usize, usize) {
    let eighth = usize::try_from(memory / 8).unwrap_or(usize::MAX);
    let count = (eighth / (64 << 10)).max(8).min(concurrency);
    (count, (eighth / count).clamp(PAGE, KEEP))
}

/// Stacks that may wait for the next call: a guest may have written to all of one, and waiting stacks are charged to nobody.
fn max_idle_stacks(memory: u64, concurrency: usize) -> usize {
    let share = usize::try_from(memory / 16).unwrap_or(usize::MAX) / STACK;
    share.max(4).min(concurrency)
}

/// Functions of a module. The compiler takes some kilobytes for each, also for an empty one; Python's interpreter has 13,000.
const MAX_FUNCTIONS: u64 = 100_000;

/// What an [`Engine`] is made with.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Memory for guests, and for all that is held for them and for clients, in bytes.
    pub memory: u64,
    /// Guests that may run at once.
    pub concurrency: u32,
    /// Files that all guests together may hold open.
    pub open_files: u32,
    /// The part of the memory that only calls which begin may take, in bytes: what guests grow by, and what is held for them and
    /// for clients, leaves it to others.
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
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

struct Shared {
    engine: wasmtime::Engine,
    linker: Linker<Host>,
    pool: Arc<Pool>,
    /// All memory: calls begin with a part of it.
    memory: Account,
    /// The memory without what is kept for calls that begin.
    account: Account,
    queue_timeout: Duration,
    files: AllFiles,
    idle_memory: u64,
    ticker: Ticker,
    slow: SlowLane,
    ahead: Mutex<Vec<Weak<Ahead>>>,
}

/// A compiled module. Cheap to clone.
#[derive(Clone)]
pub struct Module {
    module: wasmtime::Module,
    pub(crate) image: Arc<Image>,
    pub(crate) minimum_memory: u64,
    /// The exported function that is the program.
    pub(crate) entry: &'static str,
    /// What an instance costs beside its memory and tables, in bytes.
    pub(crate) instance_size: u64,
}

/// Where a module's code came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Code {
    /// From the store.
    Cached,
    /// Compiled now.
    Compiled {
        /// Why the store's entry was of no use, if it had one.
        damaged: Option<String>,
    },
}

impl Engine {
    /// Makes the engine.
    ///
    /// # Errors
    /// The system has no thread or address space left.
    pub fn new(options: &EngineOptions) -> Result<Self, EngineError> {
        let fail = |error: &dyn std::fmt::Display| EngineError(error.to_string());
        let concurrency = options.concurrency.max(1) as usize;
        let (max_idle, keep) = idle_slots(options.memory, concurrency);
        let idle_stacks = max_idle_stacks(options.memory, concurrency);
        let pool = Arc::new(Pool::new(max_idle, keep));
        let mut config = Config::new();
        config
            .cranelift_opt_level(OptLevel::Speed)
            .parallel_compilation(true)
            .epoch_interruption(true)
            .max_wasm_stack(WASM_STACK)
            .async_stack_size(STACK)
            .with_host_memory(pool.clone())
            .with_host_stack(Arc::new(Stacks::new(idle_stacks)))
            // Slots do this, see `memory`.
            .memory_init_cow(false)
            .memory_may_move(false)
            .guard_before_linear_memory(false)
            // Without threads a guest cannot read its memory while the host writes to it.
            .wasm_memory64(false)
            .wasm_multi_memory(false);
        let engine = wasmtime::Engine::new(&config).map_err(|e| fail(&e))?;
        let mut linker = Linker::new(&engine);
        wasi::add_to_linker(&mut linker).map_err(|e| fail(&e))?;
        http_import::add_to_linker(&mut linker).map_err(|e| fail(&e))?;
        let ticker = Ticker::start(engine.weak()).map_err(|e| fail(&e))?;
        let memory = Account::new(options.memory);
        let kept = options.kept_for_calls.min(options.memory / 2);
        Ok(Self(Arc::new(Shared {
            engine,
            linker,
            pool,
            account: memory.part(memory.total() - kept),
            memory,
            queue_timeout: options.queue_timeout,
            files: AllFiles::new(options.open_files),
            idle_memory: (max_idle * keep + idle_stacks * STACK) as u64,
            ticker,
            slow: SlowLane::default(),
            ahead: Mutex::default(),
        })))
    }

    /// Compiles a module. Blocks the thread, and uses all processors.
    ///
    /// # Errors
    /// It is not a module, or not one that can be a worker; the text says why.
    pub fn compile(&self, wasm: &[u8]) -> Result<Module, LoadError> {
        self.load(wasm, None)
    }

    /// Takes a module's code from a store, where it has the name `key` ([`Self::code_key`]), and compiles it where there is none or none that can be used.
    ///
    /// # Errors
    /// As [`Self::compile`].
    pub fn compile_cached(
        &self,
        wasm: &[u8],
        key: &CodeKey,
        cache: &CodeCache,
    ) -> Result<(Module, Code), LoadError> {
        check_header(wasm)?;
        let damaged = match cache.load(&self.0.engine, key) {
            Found::Code(module) => return Ok((self.load(wasm, Some(module))?, Code::Cached)),
            Found::Nothing => None,
            Found::Damaged(why) => Some(why),
        };
        Ok((self.compile(wasm)?, Code::Compiled { damaged }))
    }

    /// The name of the code of a module in a [`CodeCache`], by the module's SHA-256.
    #[must_use]
    pub fn code_key(&self, sha256: &[u8; 32]) -> CodeKey {
        CodeKey::new(&self.0.engine, "module", sha256)
    }

    /// The name of an interpreter's code in a [`CodeCache`], by its module's SHA-256.
    #[must_use]
    pub fn interpreter_key(&self, sha256: &[u8; 32]) -> CodeKey {
        CodeKey::new(&self.0.engine, "interpreter", sha256)
    }

    /// Compiles a module for a [`CodeCache`]. Blocks the thread, and uses all processors.
    ///
    /// # Errors
    /// It is not a module.
    pub fn precompile(&self, wasm: &[u8]) -> Result<Vec<u8>, LoadError> {
        check_header(wasm)?;
        let stripped = image_of::split(wasm).and_then(|split| split.stripped());
        self.0
            .engine
            .precompile_module(stripped.as_deref().unwrap_or(wasm))
            .map_err(|error| invalid(&error))
    }

    /// Makes a module of its bytes, and of its code where that was compiled before.
    fn load(&self, wasm: &[u8], code: Option<wasmtime::Module>) -> Result<Module, LoadError> {
        check_header(wasm)?;
        let (module, image) = self.parts(wasm, code)?;
        instantiable::check_segments(wasm)?;
        // A reactor's `_initialize` is all there is of it: Zig's kit for the old server has its `main` in there.
        let Some((entry, ty)) = ["_start", "_initialize"].into_iter().find_map(|name| {
            let export = module.get_export(name)?;
            Some((name, export.func().cloned()?))
        }) else {
            return Err(LoadError(
                "it exports no function `_start`: build it as a WASI command (a program with `main`), not as a library".into(),
            ));
        };
        if ty.params().len() != 0 || ty.results().len() != 0 {
            return Err(LoadError(format!(
                "its function `{entry}` has parameters or results"
            )));
        }
        let Some(memory) = module
            .get_export("memory")
            .and_then(|ty| ty.memory().cloned())
        else {
            return Err(LoadError("it exports no memory named `memory`".into()));
        };
        if memory.is_shared() {
            return Err(LoadError(
                "its memory is shared: threads are not supported".into(),
            ));
        }
        Ok(Module {
            minimum_memory: memory.minimum().saturating_mul(WASM_PAGE),
            instance_size: instance_size(wasm),
            module,
            image,
            entry,
        })
    }

    /// A module's code, compiled now if it was not before, and the image of its initial memory.
    pub(crate) fn parts(
        &self,
        wasm: &[u8],
        code: Option<wasmtime::Module>,
    ) -> Result<(wasmtime::Module, Arc<Image>), LoadError> {
        let split = image_of::split(wasm);
        let module = match code {
            Some(code) => code,
            None => {
                let stripped = split.as_ref().and_then(image_of::Split::stripped);
                wasmtime::Module::new(&self.0.engine, stripped.as_deref().unwrap_or(wasm))
                    .map_err(|error| invalid(&error))?
            }
        };
        let image = match &split {
            Some(split) => Image::new(split.start, &split.memory)
                .map_err(|error| LoadError(format!("no memory for the module's data: {error}")))?,
            // Zeros, into which instantiation copies what there is: slots that wait for the next call need an image to wait with.
            None => Image::zero(),
        };
        let image = Arc::new(image);
        self.register(&image);
        Ok((module, image))
    }

    /// Makes the slots that wait with an image known.
    pub(crate) fn register(&self, image: &Arc<Image>) {
        self.0.pool.register(image);
    }

    /// What every guest can import.
    pub(crate) fn linker(&self) -> Linker<Host> {
        self.0.linker.clone()
    }

    /// Links a module with what it is given.
    ///
    /// # Errors
    /// It imports what we don't have, or asks for more than it may.
    pub fn guest(&self, module: &Module, spec: GuestSpec) -> Result<Guest, LoadError> {
        self.guest_with(module, spec, Vec::new())
    }

    /// [`Self::guest`] with folders which the guest can read only, before those of `spec`.
    ///
    /// # Errors
    /// As [`Self::guest`].
    pub fn guest_with(
        &self,
        module: &Module,
        spec: GuestSpec,
        read_only: Vec<PreopenedFolder>,
    ) -> Result<Guest, LoadError> {
        instantiable::check_tables(&module.module, spec.limits.table_elements)?;
        Guest::new(self, module, spec, read_only)
    }

    /// Gives memory that waits for the next calls back to the system: for a server that became idle.
    pub fn trim(&self) {
        let ahead: Vec<_> = self.ahead().iter().filter_map(Weak::upgrade).collect();
        ahead.iter().for_each(|ahead| ahead.trim());
        self.0.pool.trim();
    }

    fn ahead(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Ahead>>> {
        self.0.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes instances that are started ahead known.
    pub(crate) fn keep_ahead(&self, new: &Arc<Ahead>) {
        let mut all = self.ahead();
        all.retain(|ahead| ahead.strong_count() > 0);
        all.push(Arc::downgrade(new));
    }

    /// Whether an instance may be started that no request waits for: while most memory is free.
    pub(crate) fn has_room_ahead(&self) -> bool {
        self.0.memory.free() > self.0.memory.total() / 4 * 3
    }

    pub(crate) fn link(&self, module: &Module) -> Result<InstancePre<Host>, LoadError> {
        self.0
            .linker
            .instantiate_pre(&module.module)
            .map_err(|error| {
                LoadError(format!(
                    "{error:#}; workers can import WASI preview 1 and `http.send-http-request`"
                ))
            })
    }

    /// Bytes of memory for guests, and for all that is held for them and for clients.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.0.memory.total()
    }

    /// Bytes of it that are not in use.
    #[must_use]
    pub fn free_memory(&self) -> u64 {
        self.0.memory.free()
    }

    /// What calls begin with is charged to this account.
    pub(crate) fn calls(&self) -> &Account {
        &self.0.memory
    }

    pub(crate) fn queue_timeout(&self) -> Duration {
        self.0.queue_timeout
    }

    /// Bytes that waiting slots and stacks may keep: they are charged to nobody.
    #[must_use]
    pub fn idle_memory(&self) -> u64 {
        self.0.idle_memory
    }

    /// The memory that guests may grow by, and for all that is held for them and for clients.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.0.account
    }

    pub(crate) fn files(&self) -> &AllFiles {
        &self.0.files
    }

    pub(crate) fn ticker(&self) -> &Ticker {
        &self.0.ticker
    }

    pub(crate) fn slow_lane(&self) -> &SlowLane {
        &self.0.slow
    }

    pub(crate) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.0.engine
    }
}

/// What an instance of a module costs beside its memory and tables, in bytes: wasmtime's `VMContext`, at most.
pub(crate) fn instance_size(wasm: &[u8]) -> u64 {
    /// Of a global, a function that may be pointed to, and an import.
    const GLOBAL: u64 = 16;
    const FUNCTION: u64 = 32;
    const IMPORT: u64 = 64;
    let mut size = 16 << 10;
    for payload in Parser::new(0).parse_all(wasm) {
        size += match payload {
            Ok(Payload::ImportSection(imports)) => u64::from(imports.count()) * IMPORT,
            Ok(Payload::FunctionSection(functions)) => u64::from(functions.count()) * FUNCTION,
            Ok(Payload::GlobalSection(globals)) => u64::from(globals.count()) * GLOBAL,
            // Nothing that counts comes later.
            Ok(Payload::CodeSectionStart { .. }) | Err(_) => break,
            Ok(_) => 0,
        };
    }
    size
}

/// Refuses a module whose functions alone would take gigabytes while they are compiled, however small they are.
fn check_functions(wasm: &[u8]) -> Result<(), LoadError> {
    let functions = Parser::new(0)
        .parse_all(wasm)
        .map_while(Result::ok)
        .take_while(|payload| !matches!(payload, Payload::CodeSectionStart { .. }))
        .fold(0u64, |sum, payload| match payload {
            Payload::FunctionSection(section) => sum + u64::from(section.count()),
            _ => sum,
        });
    if functions > MAX_FUNCTIONS {
        return Err(LoadError(format!(
            "it has {functions} functions, and can have {MAX_FUNCTIONS}: leave out what the worker does not need"
        )));
    }
    Ok(())
}

fn invalid(error: &wasmtime::Error) -> LoadError {
    LoadError(format!("not a valid WebAssembly module: {error:#}"))
}

/// Says what a file is that isn't a core module, or that is too large a one to be compiled.
pub(crate) fn check_header(wasm: &[u8]) -> Result<(), LoadError> {
    if wasm.len() > MAX_MODULE {
        return Err(LoadError(format!("larger than {MAX_MODULE} bytes")));
    }
    match wasm {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => check_functions(wasm),
        [0, b'a', b's', b'm', _, 0, 1, 0, ..] => Err(LoadError(
            "a WebAssembly component; workers are core modules (WASI preview 1 commands): build for wasm32-wasip1".into(),
        )),
        [] => Err(LoadError("an empty file, not WebAssembly".into())),
        _ => Err(LoadError(format!(
            "not WebAssembly: a module begins with 00 61 73 6d 01 00 00 00, this file with {:02x?}",
            &wasm[..wasm.len().min(8)]
        ))),
    }
}
