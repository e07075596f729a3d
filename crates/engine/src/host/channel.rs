//! How an interpreter's kit talks to the host where its module imports nothing but WASI: positional
//! writes to standard output are messages, positional reads of standard input their replies.
//! Streams have no positions (`ESPIPE`), so nothing else uses either.
//!
//! [`Channel`](crate::host::state::Channel) is the host's side.

use wasmtime::{Caller, Result};

use crate::error::Stop;
use crate::host::errno::{INVAL, SUCCESS};
use crate::host::guest_memory::with_memory;
use crate::host::pointers::{put, range, vector};
use crate::host::state::{self, Host};
use crate::host::streams::MAX_VECTORS;
use crate::schedule::cpu::measure_wait;

/// Bytes that one write to a channel takes.
const MAX_WRITE: usize = 8 << 20;

/// Reads bytes of the channel's reply into the guest's buffers.
pub(crate) fn read_channel(
    caller: &mut Caller<'_, Host>,
    vectors: u32,
    count: u32,
    read: u32,
) -> Result<i32> {
    if count > MAX_VECTORS {
        return Ok(INVAL);
    }
    with_memory(caller, |memory, host| {
        let channel = host.channel().cloned()?;
        let mut total = 0u32;
        for index in 0..count {
            let (at, len) = vector(memory, vectors, index)?;
            let n = channel.read(host, range(memory, at, len)?);
            total += u32::try_from(n).ok()?;
            if n < len as usize {
                break;
            }
        }
        put(memory, read, &total.to_le_bytes())?;
        Some(SUCCESS)
    })
}

/// Passes what the guest wrote to the channel.
pub(crate) async fn write_channel(
    caller: &mut Caller<'_, Host>,
    vectors: u32,
    count: u32,
    written: u32,
) -> Result<i32> {
    if count > MAX_VECTORS {
        return Ok(INVAL);
    }
    let mut bytes = Vec::new();
    let mut held = None;
    let code = with_memory(caller, |memory, host| {
        // Bounds what one call copies, whatever the vectors name: a write may be short, as
        // `writev`'s.
        let mut left = MAX_WRITE;
        for index in 0..count {
            let (at, len) = vector(memory, vectors, index)?;
            left -= range(memory, at, len)?.len().min(left);
        }
        let total = MAX_WRITE - left;
        held = Some(host.quota.hold(total as u64));
        if !matches!(held, Some(Some(_))) {
            return Some(SUCCESS);
        }
        bytes.reserve_exact(total);
        for index in 0..count {
            let (at, len) = vector(memory, vectors, index)?;
            let len = (len as usize).min(total - bytes.len());
            bytes.extend_from_slice(&range(memory, at, u32::try_from(len).ok()?)?[..len]);
        }
        let total = u32::try_from(total).ok()?;
        put(memory, written, &total.to_le_bytes())?;
        Some(SUCCESS)
    })?;
    if let Some(None) = held {
        return Err(wasmtime::Error::new(Stop::Memory));
    }
    let Some(channel) = caller.data().channel().cloned().filter(|_| code == SUCCESS) else {
        return Ok(code);
    };
    let (result, wait) = measure_wait(channel.written(caller.data_mut(), bytes)).await;
    state::waited(caller, wait);
    result.map(|()| SUCCESS)
}
