//! Standard streams of guests in WASI preview 1.

use std::sync::atomic::Ordering;

use wasmtime::{AsContextMut, Caller, Result};

use crate::error::Stop;
use crate::host::errno::{BADF, INVAL, SUCCESS};
use crate::host::guest_memory::with_memory;
use crate::host::pointers::{put, range, vector};
use crate::host::state::{Host, Io};
use crate::schedule::cpu::measure_wait;

/// Buffers of one read or write.
pub(crate) const MAX_VECTORS: u32 = 1024;

pub(crate) fn read_stdin(
    caller: &mut Caller<'_, Host>,
    vectors: u32,
    count: u32,
    read: u32,
) -> Result<i32> {
    if count > MAX_VECTORS {
        return Ok(INVAL);
    }
    with_memory(caller, |memory, host| {
        if host.closed[0] {
            return Some(BADF);
        }
        let mut total = 0u32;
        for index in 0..count {
            let (at, len) = vector(memory, vectors, index)?;
            let to = range(memory, at, len)?;
            let n = match &mut host.io {
                Io::Command(stdin) => stdin.read(to),
                Io::Kit(_) | Io::Component(_) => 0,
            };
            total += u32::try_from(n).ok()?;
        }
        put(memory, read, &total.to_le_bytes())?;
        Some(SUCCESS)
    })
}

/// Whether the guest has to wait before it can read standard input.
pub(crate) fn awaits_stdin(caller: &Caller<'_, Host>) -> bool {
    match &caller.data().io {
        Io::Command(stdin) => stdin.is_awaited(),
        Io::Kit(_) | Io::Component(_) => false,
    }
}

/// Waits for the request of a prestarted instance, at its first read of standard input.
pub(crate) async fn wait_for_stdin(caller: &mut Caller<'_, Host>) -> Result<()> {
    let Io::Command(stdin) = &mut caller.data_mut().io else {
        return Ok(());
    };
    let Some(awaited) = stdin.take_awaited() else {
        return Ok(());
    };
    awaited.waits.store(true, Ordering::Relaxed);
    let (input, wait) = measure_wait(awaited.input).await;
    let input = input?;
    let host = caller.data_mut();
    if let Some(wait) = wait {
        host.clocks.waited(wait.time);
    }
    // CPU time used before belongs to no request.
    host.cpu.restart();
    if let Io::Command(stdin) = &mut host.io {
        stdin.supply(input.stdin, input.charge);
    }
    host.log.set_request(input.request_id);
    host.begin_trace(input.trace);
    caller.as_context_mut().set_epoch_deadline(2);
    Ok(())
}

/// Makes room for `more` bytes of standard output. Returns `false` if there is no memory for them.
fn grow_output(host: &mut Host, more: usize) -> bool {
    let (len, capacity) = (host.stdout.len(), host.stdout.capacity());
    let needed = len + more;
    if needed <= capacity {
        return true;
    }
    // Doubles the capacity, up to the limit, so that many small writes do not copy everything each.
    let limit = usize::try_from(host.grants.limits.output).unwrap_or(usize::MAX);
    let wanted = needed.max((capacity * 2).min(limit)).max(1024);
    if !host.quota.hold_output(wanted as u64) {
        return false;
    }
    host.stdout.reserve_exact(wanted - len);
    true
}

pub(crate) fn write_stream(
    caller: &mut Caller<'_, Host>,
    fd: i32,
    vectors: u32,
    count: u32,
    written: u32,
) -> Result<i32> {
    if count > MAX_VECTORS {
        return Ok(INVAL);
    }
    let mut stop = None;
    let code = with_memory(caller, |memory, host| {
        if host.closed[fd as usize] {
            return Some(BADF);
        }
        let mut total = 0u32;
        for index in 0..count {
            let (at, len) = vector(memory, vectors, index)?;
            let bytes = range(memory, at, len)?;
            // A guest with a channel does not print its response.
            if fd == 2 || host.channel().is_some() {
                host.log.write(bytes);
            } else {
                let space = host
                    .grants
                    .limits
                    .output
                    .saturating_sub(host.stdout.len() as u64);
                if len as u64 > space {
                    stop = Some(Stop::Output);
                    return Some(INVAL);
                }
                if !grow_output(host, len as usize) {
                    stop = Some(Stop::Memory);
                    return Some(INVAL);
                }
                host.stdout.extend_from_slice(bytes);
            }
            total = total.checked_add(len)?;
        }
        put(memory, written, &total.to_le_bytes())?;
        Some(SUCCESS)
    })?;
    match stop {
        Some(stop) => Err(wasmtime::Error::new(stop)),
        None => Ok(code),
    }
}

/// Writes the `fdstat` of a standard stream: its type, and the right to read or to write.
pub(crate) fn stat_stream(caller: &mut Caller<'_, Host>, fd: i32, at: u32) -> Result<i32> {
    const FD_READ: u64 = 1 << 1;
    const FD_WRITE: u64 = 1 << 6;
    with_memory(caller, |memory, host| {
        if host.closed[fd as usize] {
            return Some(BADF);
        }
        let rights = if fd == 0 { FD_READ } else { FD_WRITE };
        let mut stat = [0u8; 24];
        stat[8..16].copy_from_slice(&rights.to_le_bytes());
        stat[16..24].copy_from_slice(&rights.to_le_bytes());
        put(memory, at, &stat)?;
        Some(SUCCESS)
    })
}

pub(crate) fn is_stream(fd: i32) -> bool {
    (0..3).contains(&fd)
}
