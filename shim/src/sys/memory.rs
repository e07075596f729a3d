//! Returns memory to the OS that a shim does not need while its containers just run.

use std::ffi::{c_int, c_void};

use rustix::mm::{Advice, madvise};

/// Returns free memory of the heap, and releases the pages of the program's own code and constants.
/// These are in the page cache, from where they are mapped again when they are needed.
pub(crate) fn rest() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
    // SAFETY: `release` has the type that is asked for, and neither keeps nor changes what it is
    // given.
    unsafe { libc::dl_iterate_phdr(Some(release), std::ptr::null_mut()) };
}

/// Releases the pages of one program that belong to its file. The first is this program.
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
    let read_only = headers
        .iter()
        .filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0);
    for header in read_only {
        let from = (program.dlpi_addr + header.p_vaddr) as usize;
        let to = (from + header.p_memsz as usize).next_multiple_of(page);
        let from = from / page * page;
        // SAFETY: the pages belong to a mapping of a file that was never written to: the next
        // access finds the same bytes. A failure costs only memory.
        let _ = unsafe { madvise(from as *mut c_void, to - from, Advice::LinuxDontNeed) };
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_runs_on() {
        for text in ["a", "b"] {
            rest();
            assert_eq!(format!("{text}{}", 1 + text.len()), format!("{text}2"));
        }
    }
}
