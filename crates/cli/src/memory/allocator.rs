//! The allocator: mimalloc for small blocks, a separate mapping for a large one.
//!
//! A large buffer (a body, a response, the input of a guest) is often freed by another thread than
//! the one that allocated it, and an allocator with heaps for each thread keeps it until the first
//! thread allocates again, although the memory account counts it as free. A mapping returns to the
//! OS when it is freed, by whichever thread, and grows without being copied.

use std::{
    alloc::{GlobalAlloc, Layout},
    ptr::null_mut,
};

use mimalloc::MiMalloc;
use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap_anonymous, mremap, munmap};

/// An allocation from this size on is a mapping, in bytes.
const LARGE: usize = 128 << 10;

/// Mappings begin at a multiple of this.
const PAGE: usize = 4096;

/// The allocator of this program; see the module.
pub(super) struct Allocator;

fn is_large(layout: &Layout) -> bool {
    layout.size() >= LARGE && layout.align() <= PAGE
}

fn map(size: usize) -> *mut u8 {
    // SAFETY: a new mapping at an address of the kernel's choice.
    let mapped = unsafe {
        mmap_anonymous(
            null_mut(),
            size,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    };
    mapped.map_or(null_mut(), <*mut _>::cast)
}

// SAFETY: what `is_large` says of a layout does not change, so that each block is freed by what
// made it: a mapping of its own, of at least the size and alignment that were asked for, or
// mimalloc's, whose contract is the same as this one's.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_large(&layout) {
            return map(layout.size());
        }
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_large(&layout) {
            // The kernel gives zeros.
            return map(layout.size());
        }
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_large(&layout) {
            // SAFETY: `block` is a mapping of this size, made by `map` or moved by `mremap`, which
            // nobody uses any more.
            let _ = unsafe { munmap(block.cast(), layout.size()) };
            return;
        }
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the size, rounded up to the alignment, is no more than
        // `isize::MAX`.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (is_large(&layout), is_large(&new)) {
            // SAFETY: the caller's promise.
            (false, false) => unsafe { MiMalloc.realloc(block, layout, size) },
            (true, true) => {
                // SAFETY: `block` is a mapping of this size, and only the caller uses it.
                let moved =
                    unsafe { mremap(block.cast(), layout.size(), size, MremapFlags::MAYMOVE) };
                moved.map_or(null_mut(), <*mut _>::cast)
            }
            _ => {
                // SAFETY: the layout is valid, as above.
                let moved = unsafe { self.alloc(new) };
                if !moved.is_null() {
                    let kept = layout.size().min(size);
                    // SAFETY: both blocks have at least `kept` bytes, and are not the same.
                    unsafe { block.copy_to_nonoverlapping(moved, kept) };
                    // SAFETY: the caller's promise.
                    unsafe { self.dealloc(block, layout) };
                }
                moved
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Grows and shrinks one block over the border between the two kinds.
    #[test]
    fn keeps_what_is_in_a_block_whatever_its_size_becomes() {
        let mut bytes: Vec<u8> = Vec::new();
        for size in [
            10,
            LARGE - 1,
            LARGE,
            5 * LARGE,
            90 * LARGE,
            LARGE + 1,
            LARGE - 1,
            10,
        ] {
            bytes.resize(size, 0);
            bytes.shrink_to_fit();
            for (at, byte) in bytes.iter_mut().enumerate().skip(10) {
                *byte = (at % 251) as u8;
            }
            assert!((10..size).all(|at| bytes[at] == (at % 251) as u8));
        }
        let zeros = vec![0u8; 3 * LARGE];
        assert!(zeros.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn honours_alignment() {
        for (size, align) in [(LARGE, 8), (LARGE, PAGE), (LARGE, 2 * PAGE), (64, 64)] {
            let Ok(layout) = Layout::from_size_align(size, align) else {
                continue;
            };
            // SAFETY: the layout has a size, and the block is freed with the same layout.
            unsafe {
                let block = Allocator.alloc(layout);
                assert!(!block.is_null() && block.addr().is_multiple_of(align));
                Allocator.dealloc(block, layout);
            }
        }
    }
}
