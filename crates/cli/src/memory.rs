//! Returns freed memory to the OS when it pays off: after compiling, and when a server is idle.
//!
//! The allocator keeps memory that a thread freed for that thread's next allocations, so a sleeping
//! thread never returns it. The OS keeps pages of the program's file that were once used, as long
//! as nothing else needs the memory.

mod allocator;

use std::ffi::{c_int, c_long, c_void};

use rustix::mm::{Advice, madvise};

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

/// `mi_option_purge_delay` of `mi_option_t` in `mimalloc.h` (version 2): milliseconds until freed
/// memory is returned to the system.
const PURGE_DELAY: c_int = 15;

// SAFETY: the declarations are those of `mimalloc.h`; the functions may be called by any thread at
// any time.
unsafe extern "C" {
    /// mimalloc: changes an option.
    safe fn mi_option_set(option: c_int, value: c_long);
    /// mimalloc: returns free memory of the calling thread, and of threads that have ended, to the
    /// OS.
    safe fn mi_collect(force: bool);
}

/// Returns freed memory to the OS at once. The memory account counts only what is in use: memory
/// that the allocator kept after a burst would not be counted, and would stay as long as its thread
/// is idle.
pub(crate) fn return_at_once() {
    mi_option_set(PURGE_DELAY, 0);
}

/// Lets all threads use one heap of the C library's allocator. Only C code allocates there, and the
/// C library itself when a thread starts: with a heap of its own, each thread would take four
/// system calls more to start, and keep pages for as long as it lives.
pub(crate) fn share_c_heap() {
    // SAFETY: `mallopt` asks that no other thread allocates meanwhile: this is called first, while
    // there is one thread. A failure costs only memory.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Returns what this thread freed.
pub(crate) fn collect() {
    allocator::release_kept();
    mi_collect(true);
}

/// For an idle server: returns what this thread freed, and releases the pages of the program's own
/// code and constants. These are in the page cache, from where they are mapped again within
/// microseconds.
pub(crate) fn rest() {
    collect();
    // SAFETY: `release` has the type that is asked for, and neither keeps nor changes what it is
    // given.
    unsafe { libc::dl_iterate_phdr(Some(release), std::ptr::null_mut()) };
}

/// Releases the pages of one program that belong to its file. The first is this program; a static
/// one is the only one.
unsafe extern "C" fn release(
    program: *mut libc::dl_phdr_info,
    _size: usize,
    _data: *mut c_void,
) -> c_int {
    let page = rustix::param::page_size();
    // SAFETY: the caller passes a description that is valid during this call.
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
        let (from, to) = (from / page * page, to.next_multiple_of(page));
        // SAFETY: the pages belong to a mapping of a file that was never written to: the next
        // access finds the same bytes. A failure costs only memory.
        let _ = unsafe { madvise(from as *mut c_void, to - from, Advice::LinuxDontNeed) };
    }
    1
}

/// Returns what this thread and the compiler's threads freed.
pub(crate) fn collect_after_compiling() {
    rayon::broadcast(|_| collect());
    collect();
}
