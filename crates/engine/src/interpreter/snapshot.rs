//! The state of an initialised instance, from which calls start: a copy-on-write image of its
//! memory, and its globals.

use std::sync::Arc;

use wasmtime::{ModuleExport, Store};

use crate::error::{LoadError, WasmError};
use crate::host::clocks::SavedClocks;
use crate::host::state::Host;
use crate::interpreter::vm::{Program, Vm};
use crate::interpreter::{GlobalValue, Interpreter};
use crate::memory::image::MemoryImage;
use crate::memory::pool::PooledImage;
use crate::schedule::cpu::CpuUsage;

/// The state in which the calls of a guest start.
pub(crate) struct Snapshot {
    interpreter: Interpreter,
    image: Arc<PooledImage>,
    /// Bytes of memory that an instance starts with.
    pub(crate) memory: u64,
    /// The globals that differ from a new instance's.
    globals: Vec<(ModuleExport, GlobalValue)>,
    /// Where the clocks of calls continue.
    pub(crate) clocks: SavedClocks,
    pub(crate) program: Arc<dyn Program>,
}

impl Snapshot {
    /// Takes a snapshot of `vm`, an initialised instance of `interpreter` whose globals had the
    /// values `new` at first. Its memory may have `memory_limit` bytes.
    pub(crate) fn take(
        interpreter: Interpreter,
        vm: &mut Vm,
        new: Vec<(ModuleExport, GlobalValue)>,
        program: Arc<dyn Program>,
        memory_limit: u64,
    ) -> Result<Self, LoadError> {
        let globals = interpreter
            .globals(vm)
            .into_iter()
            .zip(new)
            .filter(|((_, now), (_, new))| now != new)
            .map(|(now, _)| now)
            .collect();
        let memory = vm.memory().map_err(|error| {
            LoadError::unsupported("no snapshot can be taken").caused_by(WasmError::new(error))
        })?;
        let memory = memory.data(&vm.store);
        let bytes = memory.len() as u64;
        if bytes > memory_limit {
            return Err(LoadError::limit(format!(
                "it has {bytes} bytes of memory once it is loaded, `limits.memory` allows {memory_limit}"
            )));
        }
        let image = MemoryImage::new(0, memory)
            .map_err(|error| LoadError::host("no memory for its snapshot").caused_by(error))?;
        let image = Arc::new(PooledImage::new(image));
        interpreter.engine().register(&image);
        Ok(Self {
            interpreter,
            image,
            memory: bytes,
            globals,
            clocks: vm.host().clocks.save(),
            program,
        })
    }

    /// What an instance costs besides its memory, in bytes.
    pub(crate) fn instance_size(&self) -> u64 {
        self.interpreter.instance_size()
    }

    /// Makes an instance in the state of the snapshot.
    pub(crate) async fn restore(
        &self,
        store: Store<Host>,
        usage: Arc<CpuUsage>,
    ) -> wasmtime::Result<Vm> {
        let mut vm = self
            .interpreter
            .instantiate(store, &self.image, usage)
            .await?;
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
