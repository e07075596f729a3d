//! WASI preview 1 for guests.
//!
//! What every guest calls at start and end (its streams, environment, arguments, clocks, random numbers, names of folders) is
//! answered here without asking the operating system; files are `wasmtime-wasi`'s, whose state is made when a guest first needs it.
//!
//! Source: `wasi_snapshot_preview1.witx`.

use std::sync::atomic::Ordering;

use wasmtime::{AsContextMut, Caller, Linker, Memory, Result};
use wasmtime_wasi::p1::wasi_snapshot_preview1 as files;
use wiggle::GuestMemory;

use crate::{
    account::Charge,
    ahead::Awaited,
    clocks::{self, ClockId},
    error::Stop,
    host::{self, Host},
    lane::{Pieces, measure_wait},
    open_files::TooMany,
    random,
    readdir::{self, DirectoryPath},
};

const MODULE: &str = "wasi_snapshot_preview1";

const SUCCESS: i32 = 0;
const BADF: i32 = 8;
const FAULT: i32 = 21;
const INVAL: i32 = 28;
const MFILE: i32 = 33;
const NAMETOOLONG: i32 = 37;
const NFILE: i32 = 41;
const NOMEM: i32 = 48;
const NOTDIR: i32 = 54;
const NOTSUP: i32 = 58;
const SPIPE: i32 = 70;

/// Buffers of one read or write.
const MAX_VECTORS: u32 = 1024;

/// What one `poll_oneoff` may wait for.
const MAX_SUBSCRIPTIONS: u32 = 1024;
/// Bytes that one write to a channel takes.
const MAX_WRITE: usize = 8 << 20;

/// Bytes that a host function works on before it looks whether its guest may go on.
const PIECE: usize = 64 << 10;

/// Bytes that one read or write of a file copies.
const MAX_TRANSFER: u32 = 1 << 20;

/// Fuel for copying into the host within one call of a file function, in bytes: `wasmtime-wasi`'s own default.
const FUEL: usize = 128 << 20;

/// `None`: the guest named memory that it does not have.
fn range(memory: &mut [u8], at: u32, len: u32) -> Option<&mut [u8]> {
    let at = at as usize;
    memory.get_mut(at..at.checked_add(len as usize)?)
}

fn put(memory: &mut [u8], at: u32, bytes: &[u8]) -> Option<()> {
    range(memory, at, u32::try_from(bytes.len()).ok()?)?.copy_from_slice(bytes);
    Some(())
}

fn vector(memory: &mut [u8], vectors: u32, index: u32) -> Option<(u32, u32)> {
    let at = vectors.checked_add(index.checked_mul(8)?)?;
    let pair = range(memory, at, 8)?;
    let (a, b) = pair.split_at(4);
    Some((
        u32::from_le_bytes(a.try_into().ok()?),
        u32::from_le_bytes(b.try_into().ok()?),
    ))
}

fn memory_of(caller: &mut Caller<'_, Host>) -> Result<Memory> {
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

/// Runs `f` on the guest's memory; no memory where it points is `EFAULT`.
fn with_memory(
    caller: &mut Caller<'_, Host>,
    f: impl FnOnce(&mut [u8], &mut Host) -> Option<i32>,
) -> Result<i32> {
    let memory = memory_of(caller)?;
    let (bytes, host) = memory.data_and_store_mut(caller);
    Ok(f(bytes, host).unwrap_or(FAULT))
}

/// A list of NUL-terminated strings as WASI hands it out: pointers, then the bytes.
fn put_list(memory: &mut [u8], list: &[Box<[u8]>], pointers: u32, buffer: u32) -> Option<i32> {
    let mut at = buffer;
    for (index, item) in list.iter().enumerate() {
        let pointer = pointers.checked_add(u32::try_from(index * 4).ok()?)?;
        put(memory, pointer, &at.to_le_bytes())?;
        put(memory, at, item)?;
        at = at.checked_add(u32::try_from(item.len()).ok()?)?;
    }
    Some(SUCCESS)
}

fn put_sizes(memory: &mut [u8], list: &[Box<[u8]>], count: u32, size: u32) -> Option<i32> {
    let bytes: usize = list.iter().map(|item| item.len()).sum();
    put(
        memory,
        count,
        &u32::try_from(list.len()).ok()?.to_le_bytes(),
    )?;
    put(memory, size, &u32::try_from(bytes).ok()?.to_le_bytes())?;
    Some(SUCCESS)
}

fn read_stdin(caller: &mut Caller<'_, Host>, vectors: u32, count: u32, read: u32) -> Result<i32> {
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
            let from = &host.stdin[host.read..];
            let n = from.len().min(to.len());
            to[..n].copy_from_slice(&from[..n]);
            host.read += n;
            total += u32::try_from(n).ok()?;
        }
        put(memory, read, &total.to_le_bytes())?;
        Some(SUCCESS)
    })
}

/// An instance that was started ahead waits here for its request.
async fn wait_for_stdin(caller: &mut Caller<'_, Host>, awaited: Awaited) -> Result<()> {
    awaited.waits.store(true, Ordering::Relaxed);
    let (input, wait) = measure_wait(awaited.input).await;
    let input = input?;
    let host = caller.data_mut();
    if let Some(wait) = wait {
        host.clocks.waited(wait.time);
    }
    // What it did before is nobody's request.
    host.cpu.restart();
    host.stdin = input.stdin;
    host.input_charge = Some(input.charge);
    host.log.set_request(input.request_id);
    caller.as_context_mut().set_epoch_deadline(2);
    Ok(())
}

/// Makes room for `more` bytes of standard output. `false`: there is no memory for them.
fn grow_output(host: &mut Host, more: usize) -> bool {
    let (len, capacity) = (host.stdout.len(), host.stdout.capacity());
    let needed = len + more;
    if needed <= capacity {
        return true;
    }
    // Twice as much, so that many small writes are not copied each; no more than can be printed.
    let limit = usize::try_from(host.guest.limits.output).unwrap_or(usize::MAX);
    let wanted = needed.max((capacity * 2).min(limit)).max(1024);
    if !host.quota.hold_output(wanted as u64) {
        return false;
    }
    host.stdout.reserve_exact(wanted - len);
    true
}

fn write_stream(
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
            // Where there is a channel, the answer does not come this way.
            if fd == 2 || host.channel.is_some() {
                host.log.write(bytes);
            } else {
                let space = host
                    .guest
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

/// Gives the guest bytes of the channel's reply.
fn read_channel(caller: &mut Caller<'_, Host>, vectors: u32, count: u32, read: u32) -> Result<i32> {
    if count > MAX_VECTORS {
        return Ok(INVAL);
    }
    with_memory(caller, |memory, host| {
        let channel = host.channel.clone()?;
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

/// Hands what the guest wrote to the channel.
async fn write_channel(
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
        // A write may be short, as `writev` may: what one call copies is bounded, whatever the vectors name.
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
    let Some(channel) = caller.data().channel.clone().filter(|_| code == SUCCESS) else {
        return Ok(code);
    };
    let (result, wait) = measure_wait(channel.written(caller.data_mut(), bytes)).await;
    host::waited(caller, wait);
    result.map(|()| SUCCESS)
}

/// `fdstat` of a standard stream: what it is, and the right to read or to write.
fn stat_stream(caller: &mut Caller<'_, Host>, fd: i32, at: u32) -> Result<i32> {
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

fn is_stream(fd: i32) -> bool {
    (0..3).contains(&fd)
}

/// Hands a call about another descriptor to `wasmtime-wasi`.
macro_rules! files {
    ($caller:ident, $name:ident, $($arg:expr),*) => {{
        let memory = memory_of(&mut $caller)?;
        let (bytes, host) = memory.data_and_store_mut(&mut $caller);
        let wasi = host.wasi();
        files::WasiSnapshotPreview1::set_hostcall_fuel(wasi, FUEL);
        let mut memory = GuestMemory::Unshared(bytes);
        let (result, wait) = measure_wait(files::$name(wasi, &mut memory, $($arg),*)).await;
        host::waited(&mut $caller, wait);
        result
    }};
}

/// The same for a call that does not wait. It knows which descriptors were closed since the start.
macro_rules! files_at_once {
    ($caller:ident, $name:ident, $($arg:expr),*) => {{
        let memory = memory_of(&mut $caller)?;
        let (bytes, host) = memory.data_and_store_mut(&mut $caller);
        let wasi = host.wasi();
        files::WasiSnapshotPreview1::set_hostcall_fuel(wasi, FUEL);
        files::$name(wasi, &mut GuestMemory::Unshared(bytes), $($arg),*)
    }};
}

/// Hands a read or write of a file to `wasmtime-wasi`, which copies as much as the first vector that is not empty names: a longer one is
/// cut for this call, which WASI allows (a short read or write), and what is copied is charged.
macro_rules! transfer {
    ($caller:ident, $name:ident, $fd:ident, $vectors:ident, $count:ident, $($arg:expr),*) => {{
        let (charge, cut) = match before_transfer(&mut $caller, $vectors, $count)? {
            Ok(begun) => begun,
            Err(code) => return Ok(code),
        };
        let code = files!($caller, $name, $fd, $vectors as i32, $count as i32, $($arg),*);
        drop(charge);
        after_transfer(&mut $caller, cut)?;
        code
    }};
}

/// A vector's length that was made shorter: where it lies, and what it was.
type Cut = Option<(u32, u32)>;

/// Charges the first vector that is not empty, and cuts it.
fn before_transfer(
    caller: &mut Caller<'_, Host>,
    vectors: u32,
    count: u32,
) -> Result<Result<(Option<Charge>, Cut), i32>> {
    if count > MAX_VECTORS {
        return Ok(Err(INVAL));
    }
    let mut begun = Err(FAULT);
    with_memory(caller, |memory, host| {
        for index in 0..count {
            let (_, len) = vector(memory, vectors, index)?;
            if len == 0 {
                continue;
            }
            let taken = len.min(MAX_TRANSFER);
            begun = match host.quota.hold(u64::from(taken)) {
                None => {
                    host.refusal_was_handled();
                    Err(NOMEM)
                }
                Some(charge) if taken == len => Ok((Some(charge), None)),
                Some(charge) => {
                    let at = vectors.checked_add(index * 8 + 4)?;
                    put(memory, at, &taken.to_le_bytes())?;
                    Ok((Some(charge), Some((at, len))))
                }
            };
            return Some(SUCCESS);
        }
        begun = Ok((None, None));
        Some(SUCCESS)
    })?;
    Ok(begun)
}

/// Gives a vector its length again, unless what was read took its place.
fn after_transfer(caller: &mut Caller<'_, Host>, cut: Cut) -> Result<()> {
    if let Some((at, len)) = cut {
        with_memory(caller, |memory, _| {
            if *range(memory, at, 4)? == MAX_TRANSFER.to_le_bytes() {
                put(memory, at, &len.to_le_bytes())?;
            }
            Some(SUCCESS)
        })?;
    }
    Ok(())
}

/// Where a path leads that the guest names from a directory. `None`: it is none that can be opened.
fn path_from(
    caller: &mut Caller<'_, Host>,
    directory: i32,
    at: u32,
    len: u32,
) -> Result<Option<DirectoryPath>> {
    /// What the kernel takes, in bytes.
    const LONGEST: usize = 4096;
    let mut named = None;
    with_memory(caller, |memory, host| {
        let path = range(memory, at, len)?;
        let base = host.directory(directory)?;
        if path.len() + base.path.len() < LONGEST {
            named = Some(base.join(std::str::from_utf8(path).ok()?));
        }
        Some(SUCCESS)
    })?;
    Ok(named)
}

/// Lists a directory into `len` bytes at `at`: less than that means that there is no more.
async fn read_directory(
    caller: &mut Caller<'_, Host>,
    fd: i32,
    at: u32,
    len: u32,
    cookie: u64,
    used: u32,
) -> Result<i32> {
    let Some(directory) = caller.data().directory(fd) else {
        return Ok(NOTSUP);
    };
    let Some(charge) = caller.data_mut().hold(readdir::PIECE as u64).ok() else {
        caller.data_mut().refusal_was_handled();
        return Ok(NOMEM);
    };
    let (mut done, mut cookie) = (0, cookie);
    while done < len {
        let left = (len - done) as usize;
        let (guest, directory) = (caller.data().guest.clone(), directory.clone());
        let list = tokio::task::spawn_blocking(move || {
            let folder = &guest.preopened[directory.folder];
            let (room, cut) = (left.min(readdir::PIECE), left <= readdir::PIECE);
            readdir::read(folder, &directory.path, cookie, room, cut)
        });
        let (entries, wait) = measure_wait(list).await;
        host::waited(&mut *caller, wait);
        let entries = match entries? {
            Ok(entries) => entries,
            Err(error) => return Ok(readdir::errno(error)),
        };
        let code = with_memory(caller, |memory, _| {
            put(memory, at.checked_add(done)?, &entries.bytes)?;
            done += u32::try_from(entries.bytes.len()).ok()?;
            Some(SUCCESS)
        })?;
        if code != SUCCESS {
            return Ok(code);
        }
        match entries.next {
            Some(next) => cookie = next,
            None => break,
        }
    }
    drop(charge);
    with_memory(caller, |memory, _| {
        put(memory, used, &done.to_le_bytes())?;
        Some(SUCCESS)
    })
}

/// Everything of WASI preview 1.
pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> Result<()> {
    wasmtime_wasi::p1::add_to_linker_async(linker, Host::wasi)?;
    linker.allow_shadowing(true);
    streams(linker)?;
    opening(linker)?;
    surroundings(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

fn streams(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap_async(
        MODULE,
        "fd_read",
        |mut caller: Caller<'_, Host>, (fd, vectors, count, read): (i32, u32, u32, u32)| {
            Box::new(async move {
                if fd == 0 {
                    if let Some(awaited) = caller.data_mut().awaited.take() {
                        wait_for_stdin(&mut caller, awaited).await?;
                    }
                    return read_stdin(&mut caller, vectors, count, read);
                }
                transfer!(caller, fd_read, fd, vectors, count, read as i32)
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_write",
        |mut caller: Caller<'_, Host>, (fd, vectors, count, written): (i32, u32, u32, u32)| {
            Box::new(async move {
                if fd == 1 || fd == 2 {
                    return write_stream(&mut caller, fd, vectors, count, written);
                }
                transfer!(caller, fd_write, fd, vectors, count, written as i32)
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_pread",
        |mut caller: Caller<'_, Host>,
         (fd, vectors, count, offset, read): (i32, u32, u32, i64, u32)| {
            Box::new(async move {
                if fd == 0 && caller.data().channel.is_some() {
                    return read_channel(&mut caller, vectors, count, read);
                }
                if is_stream(fd) {
                    return Ok(SPIPE);
                }
                transfer!(caller, fd_pread, fd, vectors, count, offset, read as i32)
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_pwrite",
        |mut caller: Caller<'_, Host>,
         (fd, vectors, count, offset, written): (i32, u32, u32, i64, u32)| {
            Box::new(async move {
                if fd == 1 && caller.data().channel.is_some() {
                    return write_channel(&mut caller, vectors, count, written).await;
                }
                if is_stream(fd) {
                    return Ok(SPIPE);
                }
                transfer!(
                    caller,
                    fd_pwrite,
                    fd,
                    vectors,
                    count,
                    offset,
                    written as i32
                )
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_fdstat_get",
        |mut caller: Caller<'_, Host>, (fd, at): (i32, u32)| {
            Box::new(async move {
                if is_stream(fd) {
                    return stat_stream(&mut caller, fd, at);
                }
                files!(caller, fd_fdstat_get, fd, at as i32)
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_close",
        |mut caller: Caller<'_, Host>, (fd,): (i32,)| {
            Box::new(async move {
                if is_stream(fd) {
                    let closed = &mut caller.data_mut().closed[fd as usize];
                    return Ok(if std::mem::replace(closed, true) {
                        BADF
                    } else {
                        SUCCESS
                    });
                }
                let code = files!(caller, fd_close, fd)?;
                if code == SUCCESS {
                    caller.data_mut().open_files.closed(fd);
                }
                Ok(code)
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_readdir",
        |mut caller: Caller<'_, Host>, (fd, at, len, cookie, used): (i32, u32, u32, i64, u32)| {
            Box::new(async move {
                const DIRECTORY: u8 = 3;
                const STAT: u32 = 24;
                if is_stream(fd) {
                    return Ok(BADF);
                }
                // Whether it is an open directory is what `wasmtime-wasi` knows, which says so where the entries will be.
                let Some(stat) = at.checked_next_multiple_of(8) else {
                    return Ok(FAULT);
                };
                if len < STAT + (stat - at) {
                    return Ok(INVAL);
                }
                let code = files!(caller, fd_fdstat_get, fd, stat as i32)?;
                if code != SUCCESS {
                    return Ok(code);
                }
                let is_directory = with_memory(&mut caller, |memory, _| {
                    Some(i32::from(range(memory, stat, 1)?[0] == DIRECTORY))
                })?;
                if is_directory != 1 {
                    return Ok(NOTDIR);
                }
                read_directory(&mut caller, fd, at, len, cookie.cast_unsigned(), used).await
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_renumber",
        |mut caller: Caller<'_, Host>, (from, to): (i32, i32)| {
            Box::new(async move {
                if is_stream(from) || is_stream(to) {
                    return Ok(NOTSUP);
                }
                let code = files!(caller, fd_renumber, from, to)?;
                if code == SUCCESS {
                    let host = caller.data_mut();
                    let path = host.directory(from);
                    host.open_files.renumbered(from, to, path);
                }
                Ok(code)
            })
        },
    )?;
    Ok(())
}

/// Opening files: counted, for a call and for all calls.
fn opening(linker: &mut Linker<Host>) -> Result<()> {
    type Params = (i32, i32, i32, i32, i32, i64, i64, i32, u32);
    linker.func_wrap_async(
        MODULE,
        "path_open",
        |mut caller: Caller<'_, Host>, params: Params| {
            Box::new(async move {
                let (directory, flags, path, len, how, rights, inheriting, fd_flags, opened) =
                    params;
                let named = path_from(&mut caller, directory, path as u32, len as u32)?;
                let place = match caller.data().open_files.place() {
                    Ok(place) => place,
                    Err(TooMany::OfCall) => return Ok(MFILE),
                    Err(TooMany::OfAll) => return Ok(NFILE),
                };
                let code = files!(
                    caller,
                    path_open,
                    directory,
                    flags,
                    path,
                    len,
                    how,
                    rights,
                    inheriting,
                    fd_flags,
                    opened as i32
                )?;
                if code != SUCCESS {
                    return Ok(code);
                }
                with_memory(&mut caller, |memory, host| {
                    let fd = range(memory, opened, 4)?;
                    let fd = i32::from_le_bytes(fd.try_into().ok()?);
                    host.open_files.opened(fd, place, named);
                    Some(SUCCESS)
                })
            })
        },
    )?;
    Ok(())
}

fn surroundings(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap(
        MODULE,
        "environ_sizes_get",
        |mut caller: Caller<'_, Host>, count: u32, size: u32| {
            with_memory(&mut caller, |memory, host| {
                put_sizes(memory, &host.guest.env, count, size)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "environ_get",
        |mut caller: Caller<'_, Host>, pointers: u32, buffer: u32| {
            with_memory(&mut caller, |memory, host| {
                put_list(memory, &host.guest.env, pointers, buffer)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "args_sizes_get",
        |mut caller: Caller<'_, Host>, count: u32, size: u32| {
            with_memory(&mut caller, |memory, host| {
                put_sizes(memory, &host.guest.args, count, size)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "args_get",
        |mut caller: Caller<'_, Host>, pointers: u32, buffer: u32| {
            with_memory(&mut caller, |memory, host| {
                put_list(memory, &host.guest.args, pointers, buffer)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "fd_prestat_get",
        |mut caller: Caller<'_, Host>, fd: i32, at: u32| {
            if caller.data().has_wasi() {
                return files_at_once!(caller, fd_prestat_get, fd, at as i32);
            }
            with_memory(&mut caller, |memory, host| {
                let Some(name) = host.guest.folder_name(fd) else {
                    return Some(BADF);
                };
                let mut prestat = [0u8; 8];
                prestat[4..].copy_from_slice(&u32::try_from(name.len()).ok()?.to_le_bytes());
                put(memory, at, &prestat)?;
                Some(SUCCESS)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "fd_prestat_dir_name",
        |mut caller: Caller<'_, Host>, fd: i32, at: u32, len: u32| {
            if caller.data().has_wasi() {
                return files_at_once!(caller, fd_prestat_dir_name, fd, at as i32, len as i32);
            }
            with_memory(&mut caller, |memory, host| {
                let Some(name) = host.guest.folder_name(fd) else {
                    return Some(BADF);
                };
                if name.len() > len as usize {
                    return Some(NAMETOOLONG);
                }
                put(memory, at, name.as_bytes())?;
                Some(SUCCESS)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "clock_time_get",
        |mut caller: Caller<'_, Host>, id: i32, _precision: i64, at: u32| {
            if caller.data().suspended {
                return Err(wasmtime::Error::new(Stop::Suspended));
            }
            let Some(id) = ClockId::new(id) else {
                return Ok(INVAL);
            };
            let time = clocks::nanoseconds(caller.data().clocks.time(id));
            with_memory(&mut caller, |memory, _| {
                put(memory, at, &time.to_le_bytes())?;
                Some(SUCCESS)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "clock_res_get",
        |mut caller: Caller<'_, Host>, id: i32, at: u32| {
            if ClockId::new(id).is_none() {
                return Ok(INVAL);
            }
            let step = clocks::nanoseconds(clocks::RESOLUTION);
            with_memory(&mut caller, |memory, _| {
                put(memory, at, &step.to_le_bytes())?;
                Some(SUCCESS)
            })
        },
    )?;
    // It waits for the clocks of `Host::wasi`, which are those of `clock_time_get`.
    linker.func_wrap_async(
        MODULE,
        "poll_oneoff",
        |mut caller: Caller<'_, Host>, (from, to, count, events): (u32, u32, u32, u32)| {
            Box::new(async move {
                if count > MAX_SUBSCRIPTIONS {
                    return Ok(INVAL);
                }
                files!(
                    caller,
                    poll_oneoff,
                    from as i32,
                    to as i32,
                    count as i32,
                    events as i32
                )
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "random_get",
        |mut caller: Caller<'_, Host>, (at, len): (u32, u32)| {
            Box::new(async move {
                // Most ask for a few bytes: they are measured by nobody, which would take longer than all else.
                let mut pieces = (len > PIECE as u32).then(|| Pieces::new(caller.data_mut()));
                let mut done = 0;
                loop {
                    let piece = (len - done).min(PIECE as u32);
                    let code = with_memory(&mut caller, |memory, _| {
                        // All of it is looked at first: nothing is written where a part lies outside.
                        range(memory, at, len)?;
                        random::fill(range(memory, at.checked_add(done)?, piece)?).ok()?;
                        Some(SUCCESS)
                    })?;
                    done += piece;
                    if code != SUCCESS || done == len {
                        return Ok(code);
                    }
                    if let Some(pieces) = &mut pieces {
                        pieces.next(caller.data_mut()).await?;
                    }
                }
            })
        },
    )?;
    linker.func_wrap(MODULE, "proc_exit", |code: i32| -> Result<()> {
        Err(wasmtime::Error::new(Stop::Exit(code)))
    })?;
    Ok(())
}
