//! The state of an instance, from which others start: a copy-on-write image of its memory, and its
//! globals.

use std::sync::Arc;

use wasmtime::{Instance, ModuleExport, Store, Val};

use crate::engine::Engine;
use crate::error::{LoadError, WasmError};
use crate::host::state::Host;
use crate::memory::image::MemoryImage;
use crate::memory::pool::PooledImage;
use crate::module::export_state;

/// A number in a global.
#[derive(Clone, Copy, PartialEq)]
enum GlobalValue {
    I32(i32),
    I64(i64),
    F32(u32),
    F64(u64),
}

impl GlobalValue {
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

/// The mutable globals of a module whose state is exported ([`export_state::expose`]).
pub(crate) struct ExposedGlobals(Vec<ModuleExport>);

/// The values of an instance's mutable globals.
pub(crate) struct GlobalValues(Vec<(ModuleExport, GlobalValue)>);

impl ExposedGlobals {
    pub(crate) fn of(module: &wasmtime::Module) -> Self {
        let exports = module.exports();
        let exposed = exports.filter(|export| export.name().starts_with(export_state::GLOBAL));
        Self(
            exposed
                .filter_map(|export| module.get_export_index(export.name()))
                .collect(),
        )
    }

    /// The values in an instance.
    pub(crate) fn values(&self, store: &mut Store<Host>, instance: &Instance) -> GlobalValues {
        let values = self.0.iter().filter_map(|export| {
            let global = instance.get_module_export(&mut *store, export)?;
            let value = global.into_global()?.get(&mut *store);
            Some((*export, GlobalValue::of(&value)?))
        });
        GlobalValues(values.collect())
    }
}

/// The state in which instances start.
pub(crate) struct InstanceState {
    pub(crate) image: Arc<PooledImage>,
    /// Bytes of memory that an instance starts with.
    pub(crate) memory: u64,
    /// The globals that differ from a new instance's.
    globals: Vec<(ModuleExport, GlobalValue)>,
}

impl InstanceState {
    /// Takes the state of an instance, whose globals had the values `new` when it was new and have
    /// the values `now`. Its memory may have `memory_limit` bytes.
    pub(crate) fn take(
        engine: &Engine,
        (store, instance): (&mut Store<Host>, &Instance),
        new: GlobalValues,
        now: GlobalValues,
        memory_limit: u64,
    ) -> Result<Self, LoadError> {
        let globals = now.0.into_iter().zip(new.0);
        let globals = globals.filter(|((_, now), (_, new))| now != new);
        let globals = globals.map(|(now, _)| now).collect();
        let memory = instance.get_memory(&mut *store, "memory").ok_or_else(|| {
            let error = wasmtime::Error::msg("the module exports no memory");
            LoadError::unsupported("no snapshot can be taken").caused_by(WasmError::new(error))
        })?;
        let memory = memory.data(&*store);
        let bytes = memory.len() as u64;
        if bytes > memory_limit {
            return Err(LoadError::limit(format!(
                "it has {bytes} bytes of memory once it is loaded, `limits.memory` allows \
                 {memory_limit}"
            )));
        }
        let image = MemoryImage::new(0, memory)
            .map_err(|error| LoadError::host("no memory for its snapshot").caused_by(error))?;
        let image = Arc::new(PooledImage::new(image));
        engine.register(&image);
        Ok(Self {
            image,
            memory: bytes,
            globals,
        })
    }

    /// Sets the globals of an instance that was made with the state's image.
    pub(crate) fn restore_globals(
        &self,
        store: &mut Store<Host>,
        instance: &Instance,
    ) -> wasmtime::Result<()> {
        for (export, value) in &self.globals {
            let global = instance
                .get_module_export(&mut *store, export)
                .and_then(wasmtime::Extern::into_global)
                .ok_or_else(|| wasmtime::Error::msg("a global of the snapshot is gone"))?;
            global.set(&mut *store, value.into_val())?;
        }
        Ok(())
    }
}
