//! WASI preview 1 for guests.
//!
//! What every guest calls at start and end (streams, environment, arguments, clocks, random
//! numbers, names of directories) is answered here without system calls. Files are left to
//! `wasmtime-wasi`, whose state is created when a guest first needs it.
//!
//! Source: `wasi_snapshot_preview1.witx`.

use wasmtime::{Caller, Linker, Result};
use wasmtime_wasi::p1::wasi_snapshot_preview1 as files;
use wiggle::GuestMemory;

use crate::error::Stop;
use crate::host::channel::{read_channel, write_channel};
use crate::host::clocks::{self, ClockId};
use crate::host::errno::{
    BADF, FAULT, INVAL, MFILE, NAMETOOLONG, NFILE, NOMEM, NOTDIR, NOTSUP, SPIPE, SUCCESS,
};
use crate::host::guest_memory::{exported_memory, with_memory};
use crate::host::open_files::TooManyFiles;
use crate::host::pointers::{put, put_list, put_sizes, range, vector};
use crate::host::random;
use crate::host::readdir::{self, DirectoryPath};
use crate::host::slices::WorkSlices;
use crate::host::state::{self, Host};
use crate::host::streams::{
    MAX_VECTORS, awaits_stdin, is_stream, read_stdin, stat_stream, wait_for_stdin, write_stream,
};
use crate::memory::account::Charge;
use crate::schedule::cpu::{measure_wait, nanos};

const MODULE: &str = "wasi_snapshot_preview1";

/// Most events for which one `poll_oneoff` may wait.
const MAX_SUBSCRIPTIONS: u32 = 1024;

/// Bytes that a host function works on before it checks whether its guest may go on.
const PIECE: usize = 64 << 10;

/// Most bytes that one read or write of a file copies.
const MAX_TRANSFER: u32 = 1 << 20;

/// Fuel for copying into the host within one call of a file function, in bytes: `wasmtime-wasi`'s
/// own default.
const FUEL: usize = 128 << 20;

/// Passes a call about a file's descriptor to `wasmtime-wasi`.
macro_rules! files {
    ($caller:ident, $name:ident, $($arg:expr),*) => {{
        let memory = exported_memory(&mut $caller)?;
        let (bytes, host) = memory.data_and_store_mut(&mut $caller);
        let wasi = host.wasi();
        files::WasiSnapshotPreview1::set_hostcall_fuel(wasi, FUEL);
        let mut memory = GuestMemory::Unshared(bytes);
        let (result, wait) = measure_wait(files::$name(wasi, &mut memory, $($arg),*)).await;
        state::waited(&mut $caller, wait);
        result
    }};
}

/// The same for a call that does not wait.
macro_rules! files_at_once {
    ($caller:ident, $name:ident, $($arg:expr),*) => {{
        let memory = exported_memory(&mut $caller)?;
        let (bytes, host) = memory.data_and_store_mut(&mut $caller);
        let wasi = host.wasi();
        files::WasiSnapshotPreview1::set_hostcall_fuel(wasi, FUEL);
        files::$name(wasi, &mut GuestMemory::Unshared(bytes), $($arg),*)
    }};
}

/// Passes a read or write of a file to `wasmtime-wasi`, which copies as much as the first vector
/// that is not empty names. What is copied is charged; a vector longer than `MAX_TRANSFER` is
/// shortened for this call, as WASI allows (a short read or write).
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

/// The result of a call that need not wait: without the state of those that may, which is large.
fn answered<'a>(result: Result<i32>) -> Box<dyn Future<Output = Result<i32>> + Send + 'a> {
    Box::new(std::future::ready(result))
}

/// A vector's length that was shortened: its address, and its value before.
type Cut = Option<(u32, u32)>;

/// Charges the first vector that is not empty, and shortens it.
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

/// Restores a vector's length, unless what was read overwrote it.
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

/// The path that the guest names from a directory. `None` if it cannot be opened.
fn path_from(
    caller: &mut Caller<'_, Host>,
    directory: i32,
    at: u32,
    len: u32,
) -> Result<Option<DirectoryPath>> {
    /// Longest path that the kernel takes, in bytes.
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

/// Lists a directory into `len` bytes at `at`. Fewer bytes mean that there are no more entries.
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
        let (grants, directory) = (caller.data().grants.clone(), directory.clone());
        let list = tokio::task::spawn_blocking(move || {
            let given = &grants.preopened[directory.directory];
            let (room, cut) = (left.min(readdir::PIECE), left <= readdir::PIECE);
            readdir::read(given, &directory.path, cookie, room, cut)
        });
        let (entries, wait) = measure_wait(list).await;
        state::waited(&mut *caller, wait);
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

/// Defines all functions of WASI preview 1.
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
            if fd == 0 && !awaits_stdin(&caller) {
                return answered(read_stdin(&mut caller, vectors, count, read));
            }
            Box::new(async move {
                if fd == 0 {
                    wait_for_stdin(&mut caller).await?;
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
            if fd == 1 || fd == 2 {
                return answered(write_stream(&mut caller, fd, vectors, count, written));
            }
            Box::new(async move { transfer!(caller, fd_write, fd, vectors, count, written as i32) })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_pread",
        |mut caller: Caller<'_, Host>,
         (fd, vectors, count, offset, read): (i32, u32, u32, i64, u32)| {
            Box::new(async move {
                if fd == 0 && caller.data().channel().is_some() {
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
                if fd == 1 && caller.data().channel().is_some() {
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
            if is_stream(fd) {
                return answered(stat_stream(&mut caller, fd, at));
            }
            Box::new(async move { files!(caller, fd_fdstat_get, fd, at as i32) })
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
                // `wasmtime-wasi` knows whether the descriptor is an open directory, and reports it
                // where the entries will be.
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

/// Defines the opening of files, which counts them.
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
                let reservation = match caller.data().open_files.reserve() {
                    Ok(reservation) => reservation,
                    Err(TooManyFiles::OfCall) => return Ok(MFILE),
                    Err(TooManyFiles::OfAll) => return Ok(NFILE),
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
                    host.open_files.opened(fd, reservation, named);
                    Some(SUCCESS)
                })
            })
        },
    )?;
    Ok(())
}

fn surroundings(linker: &mut Linker<Host>) -> Result<()> {
    type GrantedList = fn(&Host) -> &[Box<[u8]>];
    let lists: [(&str, &str, GrantedList); 2] = [
        ("environ_sizes_get", "environ_get", |host| &host.grants.env),
        ("args_sizes_get", "args_get", |host| &host.grants.args),
    ];
    for (sizes_get, get, list) in lists {
        linker.func_wrap(
            MODULE,
            sizes_get,
            move |mut caller: Caller<'_, Host>, count: u32, size: u32| {
                with_memory(&mut caller, |memory, host| {
                    put_sizes(memory, list(host), count, size)
                })
            },
        )?;
        linker.func_wrap(
            MODULE,
            get,
            move |mut caller: Caller<'_, Host>, pointers: u32, buffer: u32| {
                with_memory(&mut caller, |memory, host| {
                    put_list(memory, list(host), pointers, buffer)
                })
            },
        )?;
    }
    linker.func_wrap(
        MODULE,
        "fd_prestat_get",
        |mut caller: Caller<'_, Host>, fd: i32, at: u32| {
            if caller.data().has_wasi() {
                return files_at_once!(caller, fd_prestat_get, fd, at as i32);
            }
            with_memory(&mut caller, |memory, host| {
                let Some(name) = host.grants.directory_name(fd) else {
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
                let Some(name) = host.grants.directory_name(fd) else {
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
            if caller.data().is_suspended() {
                return Err(wasmtime::Error::new(Stop::Suspended));
            }
            let Some(id) = ClockId::new(id) else {
                return Ok(INVAL);
            };
            let time = nanos(caller.data().clocks.time(id));
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
            let step = nanos(clocks::RESOLUTION);
            with_memory(&mut caller, |memory, _| {
                put(memory, at, &step.to_le_bytes())?;
                Some(SUCCESS)
            })
        },
    )?;
    // Waits on the clocks of `Host::wasi`, which are those of `clock_time_get`.
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
            // Most calls ask for a few bytes; measuring these would take longer than the calls.
            if len <= PIECE as u32 {
                return answered(with_memory(&mut caller, |memory, _| {
                    random::fill(range(memory, at, len)?).ok()?;
                    Some(SUCCESS)
                }));
            }
            Box::new(async move {
                let mut pieces = WorkSlices::new(caller.data_mut());
                let mut done = 0;
                loop {
                    let piece = (len - done).min(PIECE as u32);
                    let code = with_memory(&mut caller, |memory, _| {
                        // Checks all of the range first: nothing is written if a part lies outside
                        // of memory.
                        range(memory, at, len)?;
                        random::fill(range(memory, at.checked_add(done)?, piece)?).ok()?;
                        Some(SUCCESS)
                    })?;
                    done += piece;
                    if code != SUCCESS || done == len {
                        return Ok(code);
                    }
                    pieces.next(caller.data_mut()).await?;
                }
            })
        },
    )?;
    linker.func_wrap(MODULE, "proc_exit", |code: i32| -> Result<()> {
        Err(wasmtime::Error::new(Stop::Exit(code)))
    })?;
    Ok(())
}
