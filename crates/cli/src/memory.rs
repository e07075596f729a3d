//! Memory that was freed goes back to the system when it is worth it: after compiling, and when a server is idle.
//!
//! The allocator keeps what a thread freed for that thread's next allocations. A thread that sleeps never gives it back by itself.
//! The system keeps what a process once ran of its program in the process, for as long as nothing else needs the memory.

mod allocator;

use std::ffi::{c_int, c_long, c_void};

use rustix::mm::{Advice, madvise};

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

/// `mi_option_purge_delay` of `mi_option_t` in `mimalloc.h` (version 2): milliseconds until freed memory is returned to the system.
const PURGE_DELAY: c_int = 15;

// SAFETY: the declarations are those of `mimalloc.h`; the functions may be called by any thread at any time.
unsafe extern "C" {
    /// Of mimalloc: changes an option.
    safe fn mi_option_set(option: c_int, value: c_long);
    /// Of mimalloc: gives free memory of the calling thread, and of threads that ended, back to the system.
    safe fn mi_collect(force: bool);
}

/// Has freed memory returned to the system at once. The account of memory counts what is in use: what the allocator
/// kept of a burst beside it would be counted by nobody, and stay for as long as its thread is not busy.
pub(crate) fn return_at_once() {
    mi_option_set(PURGE_DELAY, 0);
}

/// Gives back what this thread freed.
pub(crate) fn collect() {
    mi_collect(true);
}

/// For a server that became idle: gives back what this thread freed, and lets go of the program's own code and constants. The
/// system has these in its cache; what runs again is found there, within microseconds.
pub(crate) fn rest() {
    collect();
    // SAFETY: `release` has the type that is asked for, and neither keeps nor changes what it is given.
    unsafe { libc::dl_iterate_phdr(Some(release), std::ptr::null_mut()) };
}

/// Lets go of the pages of one program that are those of its file. The first is this program; a static one is the only one.
unsafe extern "C" fn release(
    program: *mut libc::dl_phdr_info,
    _size: usize,
    _data: *mut c_void,
) -> c_int {
    const PAGE: usize = 4096;
    // SAFETY: the caller gives a description that is valid during this call.
    let program = unsafe { &*program };
    // SAFETY: as the description says of its headers, which are mapped as long as the program.
    let headers =
        unsafe { std::slice::from_raw_parts(program.dlpi_phdr, usize::from(program.dlpi_phnum)) };
    for header in headers {
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let from = (program.dlpi_addr + header.p_vaddr) as usize;
        let to = from + header.p_memsz as usize;
        let (from, to) = (from / PAGE * PAGE, to.next_multiple_of(PAGE));
        // SAFETY: a mapping of a file that nobody has written to: the next access finds the same bytes. The system's refusal costs
        // nothing but memory.
        let _ = unsafe { madvise(from as *mut c_void, to - from, Advice::LinuxDontNeed) };
    }
    1
}

/// Gives back what this thread and the compiler's threads freed.
pub(crate) fn collect_after_compiling() {
    rayon::broadcast(|_| collect());
    collect();
}
