//! Linear memory of guests: copy-on-write images in slots that are mapped once and reset between calls.
//!
//! wasmtime asks a [`MemoryCreator`](wasmtime::MemoryCreator) for the memory of each instance. Ours hands out a [`slot`]: a
//! reservation of address space that keeps its mappings for its whole life. A slot belongs to an [`Image`], the
//! memory that every call of a module starts from. After a call, the pages which it wrote (and only those: [`dirty`] asks
//! the kernel) get the image's bytes again, so a request costs no `mmap`, `munmap` or `mprotect`, and takes no page fault for
//! memory that an earlier one touched. The bytes of one call are never seen by the next; `tests/isolation.rs` holds that.

mod dirty;
mod image;
mod pool;
mod slot;

pub(crate) use image::Image;
pub(crate) use pool::{Pool, with_image};

/// Size of a host page. Memory is mapped and reset by pages; x86_64 has no other base size.
pub(crate) const PAGE: usize = 4096;

/// Rounds up to whole pages.
pub(crate) const fn page_up(bytes: usize) -> usize {
    bytes.next_multiple_of(PAGE)
}
