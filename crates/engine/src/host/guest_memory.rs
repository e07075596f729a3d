//! The memory of a guest that calls the host.

use wasmtime::{Caller, Memory, Result};

use crate::host::errno::FAULT;
use crate::host::state::Host;

/// The memory that the guest exports, looked up once per call.
pub(crate) fn exported_memory(caller: &mut Caller<'_, Host>) -> Result<Memory> {
    if let Some(memory) = caller.data().memory {
        return Ok(memory);
    }
    let memory = caller
        .get_export("memory")
        .and_then(wasmtime::Extern::into_memory)
        .ok_or_else(|| wasmtime::Error::msg("the module exports no memory"))?;
    caller.data_mut().memory = Some(memory);
    Ok(memory)
}

/// Runs `f` on the guest's memory. `None` of `f`, a pointer outside of memory, becomes `EFAULT`.
pub(crate) fn with_memory(
    caller: &mut Caller<'_, Host>,
    f: impl FnOnce(&mut [u8], &mut Host) -> Option<i32>,
) -> Result<i32> {
    let memory = exported_memory(caller)?;
    let (bytes, host) = memory.data_and_store_mut(caller);
    Ok(f(bytes, host).unwrap_or(FAULT))
}
