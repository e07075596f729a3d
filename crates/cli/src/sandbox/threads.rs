//! Gives up capabilities in all threads of the process.
//!
//! Capabilities belong to a thread, and no thread can change another's. So each thread gets a
//! signal, whose handler gives up its own: the C library changes the user of a process in the same
//! way.

use std::collections::BTreeSet;
use std::ffi::c_int;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io};

use rustix::thread::CapabilitySet;

/// How long threads may take on a busy machine, and how often they are checked.
const LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(1);

/// The capabilities to keep; the handler has no other way to get them.
static KEPT: AtomicU64 = AtomicU64::new(0);

/// `_LINUX_CAPABILITY_VERSION_3` of `linux/capability.h`.
const VERSION: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: c_int,
}

/// `struct __user_cap_data_struct`: 32 capabilities.
#[repr(C)]
#[derive(Clone, Copy)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Gives up all capabilities except some, in all threads that exist and that these start.
///
/// # Errors
/// A thread did not do it in time, or `/proc` is not available.
pub(super) fn keep_capabilities(kept: CapabilitySet) -> io::Result<()> {
    let had = rustix::thread::capabilities(None)?;
    let kept = (had.permitted & kept).bits();
    KEPT.store(kept, Ordering::Release);
    let signal = libc::SIGRTMAX();
    handle(
        signal,
        give_up as extern "C" fn(c_int) as libc::sighandler_t,
    )?;
    let started = Instant::now();
    // Threads that start meanwhile inherit from those that start them.
    loop {
        let others = threads_with_others(kept)?;
        if others.is_empty() {
            break;
        }
        if started.elapsed() > LIMIT {
            return Err(io::Error::other(format!(
                "{} threads still have capabilities",
                others.len()
            )));
        }
        for thread in others {
            // SAFETY: no memory is touched. A thread that has ended is no error, and its number is
            // not another process's.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) };
        }
        std::thread::sleep(PAUSE);
    }
    // A thread on a busy machine may get the signal only now: by default it would end the process.
    handle(signal, libc::SIG_IGN)
}

fn handle(signal: c_int, handler: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: all fields of the structure are numbers, for which 0 is valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the structure lives until then, and the handler does only what a handler may.
    match unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The handler: this thread keeps [`KEPT`].
extern "C" fn give_up(_: c_int) {
    let kept = KEPT.load(Ordering::Acquire);
    let header = Header {
        version: VERSION,
        pid: 0,
    };
    let halves = [kept as u32, (kept >> 32) as u32].map(|half| Half {
        effective: half,
        permitted: half,
        inheritable: 0,
    });
    // SAFETY: `errno` is this thread's, and what it was interrupted in may be about to read it. The
    // kernel reads the two structures, which are as it has them.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        // The caller checks whether it succeeded.
        libc::syscall(libc::SYS_capset, &raw const header, &raw const halves);
        *errno = before;
    }
}

/// The threads of this process with other capabilities than these.
fn threads_with_others(kept: u64) -> io::Result<BTreeSet<c_int>> {
    let mut threads = BTreeSet::new();
    for entry in fs::read_dir("/proc/self/task")? {
        let entry = entry?;
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else {
            // The thread has ended.
            continue;
        };
        let has = |field: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(field));
            value.and_then(|value| u64::from_str_radix(value.trim(), 16).ok())
        };
        if has("CapPrm:") != Some(kept) || has("CapEff:") != Some(kept) {
            threads.extend(
                entry
                    .file_name()
                    .to_str()
                    .and_then(|id| id.parse::<c_int>().ok()),
            );
        }
    }
    Ok(threads)
}
