//! Compiled interpreters, whose guests start from a snapshot.
//!
//! An [`Interpreter`] is a compiled module with the functions that it imports; all its guests share
//! it. A [`Program`](vm::Program) drives it: it initialises an instance, and passes requests to
//! instances. Between the two, a [`Snapshot`](snapshot::Snapshot) keeps an image of the memory and
//! the globals that differ from a new instance's. `docs/design/snapshots.md` explains what that
//! means for guests.

pub(crate) mod snapshot;
pub(crate) mod state;
pub(crate) mod vm;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;

use wasmtime::{InstancePre, Linker, ModuleExport, Store};

use crate::code_cache::cache::{CodeCache, CodeKey, CodeOrigin};
use crate::engine::Engine;
use crate::error::{LoadError, WasmError};
use crate::host::state::Host;
use crate::interpreter::state::{ExposedGlobals, GlobalValues};
use crate::interpreter::vm::Vm;
use crate::memory::page::WASM_PAGE;
use crate::memory::pool::{PooledImage, with_image};
use crate::module::instance_size::instance_size;
use crate::module::{CodePlace, check_header, export_state};
use crate::schedule::cpu::CpuUsage;

/// A compiled interpreter, linked with what it imports. Cheap to clone.
#[derive(Clone)]
pub struct Interpreter(Arc<LinkedInterpreter>);

struct LinkedInterpreter {
    engine: Engine,
    pre: InstancePre<Host>,
    code_place: CodePlace,
    /// The module's own data.
    image: Arc<PooledImage>,
    minimum_memory: u64,
    instance_size: u64,
    globals: ExposedGlobals,
    table: Option<ModuleExport>,
}

impl Engine {
    /// Compiles an interpreter: a module whose exports a [`Program`](vm::Program) calls, and which
    /// imports WASI preview 1 and what `imports` defines. If `code` names a cache and a key
    /// ([`Self::interpreter_key`]), the code is loaded from there if possible; compiling blocks the
    /// thread and uses all CPUs.
    ///
    /// # Errors
    /// Returns an error if `wasm` is not a module, imports something else, or has state other than
    /// its memory and globals.
    pub fn interpreter(
        &self,
        wasm: &[u8],
        code: Option<(&CodeCache, &CodeKey)>,
        imports: impl FnOnce(&mut Linker<Host>, &wasmtime::Module) -> wasmtime::Result<()>,
    ) -> Result<Interpreter, LoadError> {
        check_header(wasm)?;
        let cached = match code {
            None => None,
            Some((cache, key)) => {
                let compile = || self.precompile(&export_state::expose(wasm)?);
                let (module, origin) = cache.load_or_fill(self.wasmtime(), key, compile)?;
                if let CodeOrigin::Compiled { damaged: Some(why) } = origin {
                    tracing::warn!(
                        "the compiled code {} is damaged ({why}): compiled again",
                        key.file_name()
                    );
                }
                module
            }
        };
        let code_place = CodePlace::of(cached.as_ref());
        let (module, image) = match cached {
            Some(module) => self.compile_parts(wasm, Some(module)),
            None => self.compile_parts(&export_state::expose(wasm)?, None),
        }?;
        let mut linker = self.linker();
        imports(&mut linker, &module).map_err(not_linked)?;
        let pre = linker.instantiate_pre(&module).map_err(not_linked)?;
        let memory = module
            .get_export("memory")
            .and_then(|ty| ty.memory().cloned())
            .filter(|memory| !memory.is_shared())
            .ok_or_else(|| {
                LoadError::unsupported("it exports no memory of its own named `memory`")
            })?;
        Ok(Interpreter(Arc::new(LinkedInterpreter {
            engine: self.clone(),
            pre,
            code_place,
            image,
            minimum_memory: memory.minimum().saturating_mul(WASM_PAGE),
            instance_size: instance_size(wasm),
            globals: ExposedGlobals::of(&module),
            table: module.get_export_index(export_state::TABLE),
        })))
    }
}

fn not_linked(error: wasmtime::Error) -> LoadError {
    LoadError::unsupported("cannot be linked").caused_by(WasmError::new(error))
}

/// Returns an interpreter's module as [`Engine::precompile`] takes it.
///
/// # Errors
/// Returns an error if the module has state other than its memory and globals.
pub fn interpreter_module(wasm: &[u8]) -> Result<Vec<u8>, LoadError> {
    check_header(wasm)?;
    export_state::expose(wasm)
}

impl Interpreter {
    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// Returns the pages of the code to the system: they are mapped again when they run.
    pub(crate) fn release_code(&self) {
        self.0.code_place.release(self.0.pre.module());
    }

    /// The memory of a new instance.
    pub(crate) fn image(&self) -> &Arc<PooledImage> {
        &self.0.image
    }

    /// Bytes of memory that a new instance starts with.
    pub(crate) fn minimum_memory(&self) -> u64 {
        self.0.minimum_memory
    }

    /// What an instance costs besides its memory, in bytes.
    pub(crate) fn instance_size(&self) -> u64 {
        self.0.instance_size
    }

    /// Makes an instance whose memory starts as `image`.
    pub(crate) async fn instantiate(
        &self,
        mut store: Store<Host>,
        image: &Arc<PooledImage>,
        usage: Arc<CpuUsage>,
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

    /// The values of an instance's mutable globals.
    pub(crate) fn globals(&self, vm: &mut Vm) -> GlobalValues {
        self.0.globals.values(&mut vm.store, &vm.instance)
    }
}
