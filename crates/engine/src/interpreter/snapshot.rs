//! Snapshots of interpreters: the state of an initialised instance, from which calls start.

use std::sync::Arc;

use wasmtime::Store;

use crate::error::LoadError;
use crate::host::clocks::SavedClocks;
use crate::host::state::Host;
use crate::interpreter::Interpreter;
use crate::interpreter::state::{GlobalValues, InstanceState};
use crate::interpreter::vm::{Program, Vm};
use crate::schedule::cpu::CpuUsage;

/// The state in which the calls of a guest start.
pub(crate) struct Snapshot {
    interpreter: Interpreter,
    pub(crate) state: InstanceState,
    /// Where the clocks of calls continue.
    pub(crate) clocks: SavedClocks,
    pub(crate) program: Arc<dyn Program>,
}

impl Snapshot {
    /// Returns the pages of the interpreter's code to the system.
    pub(crate) fn release_code(&self) {
        self.interpreter.release_code();
    }

    /// Takes a snapshot of `vm`, an initialised instance of `interpreter` whose globals had the
    /// values `new` at first. Its memory may have `memory_limit` bytes.
    pub(crate) fn take(
        interpreter: Interpreter,
        vm: &mut Vm,
        new: GlobalValues,
        program: Arc<dyn Program>,
        memory_limit: u64,
    ) -> Result<Self, LoadError> {
        let now = interpreter.globals(vm);
        let instance = (&mut vm.store, &vm.instance);
        let engine = interpreter.engine();
        let state = InstanceState::take(engine, instance, new, now, memory_limit)?;
        Ok(Self {
            interpreter,
            state,
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
        let image = &self.state.image;
        let mut vm = self.interpreter.instantiate(store, image, usage).await?;
        self.state.restore_globals(&mut vm.store, &vm.instance)?;
        Ok(vm)
    }
}
