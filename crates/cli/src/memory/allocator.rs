//! The allocator: mimalloc for small blocks, a separate mapping for a large one.
//!
//! A large buffer (a body, a response, the input of a guest) is often freed by another thread than
//! the one that allocated it, and an allocator with heaps for each thread keeps it until the first
//! thread allocates again, although the memory account counts it as free. A mapping returns to the
//! OS when it is freed, by whichever thread, and grows without being copied.
//!
//! mimalloc's functions for aligned blocks reserve more than was asked for and take longer, so they
//! are left to the few blocks whose alignment all others do not have anyway.
//!
//! One exception: each thread keeps one freed mapping of at most [`KEPT`] bytes for its next
//! allocation. The account does not count it; it is bounded by the number of threads.

use std::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    ffi::c_void,
    ptr::null_mut,
};

use mimalloc::MiMalloc;
use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap_anonymous, mremap, munmap};

/// An allocation from this size on is a mapping, in bytes.
const LARGE: usize = 128 << 10;

/// Mappings begin at a multiple of this, or of more where pages are larger.
const PAGE: usize = 4096;

/// A thread keeps the last freed mapping of at most so many bytes for its next allocation of that
/// size: the instance of an interpreter takes this much in every request, and each page of a new
/// mapping costs a fault.
const KEPT: usize = 512 << 10;

/// The alignment of every block of mimalloc's.
const ALIGNED: usize = size_of::<usize>();

// SAFETY: the declarations are those of `mimalloc.h`; both functions may be called by any thread
// at any time, and return null if there is no memory.
unsafe extern "C" {
    /// mimalloc: a new block.
    safe fn mi_malloc(size: usize) -> *mut c_void;
    /// mimalloc: a new block of zeros.
    safe fn mi_zalloc(size: usize) -> *mut c_void;
}

/// The allocator of this program; see the module.
pub(super) struct Allocator;

/// A mapping that waits for its thread's next allocation of the same size, or null.
struct KeptMapping(Cell<(*mut u8, usize)>);

impl Drop for KeptMapping {
    fn drop(&mut self) {
        unmap(self.0.replace((null_mut(), 0)));
    }
}

thread_local! {
    static KEPT_MAPPING: KeptMapping = const { KeptMapping(Cell::new((null_mut(), 0))) };
}

/// Returns the mapping that this thread keeps to the system.
pub(super) fn release_kept() {
    replace_kept((null_mut(), 0));
}

/// Keeps a mapping instead of the one before, which returns to the system.
fn replace_kept(mapping: (*mut u8, usize)) {
    // A thread that ends keeps nothing.
    let before = KEPT_MAPPING.try_with(|kept| kept.0.replace(mapping));
    unmap(before.unwrap_or(mapping));
}

/// Takes the mapping that this thread keeps, if it has this size; its bytes are what they were.
fn take_kept(size: usize) -> Option<*mut u8> {
    let take = |kept: &KeptMapping| {
        let (block, kept_size) = kept.0.get();
        (!block.is_null() && kept_size == size).then(|| {
            kept.0.set((null_mut(), 0));
            block
        })
    };
    KEPT_MAPPING.try_with(take).ok().flatten()
}

fn unmap((block, size): (*mut u8, usize)) {
    if !block.is_null() {
        // SAFETY: a mapping of this size that `map` made or `mremap` moved, and that was freed.
        let _ = unsafe { munmap(block.cast(), size) };
    }
}

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
            return take_kept(layout.size()).unwrap_or_else(|| map(layout.size()));
        }
        if layout.align() <= ALIGNED {
            return mi_malloc(layout.size()).cast();
        }
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_large(&layout) {
            if let Some(block) = take_kept(layout.size()) {
                // SAFETY: a mapping of this size that has no other user.
                unsafe { block.write_bytes(0, layout.size()) };
                return block;
            }
            // The kernel gives zeros.
            return map(layout.size());
        }
        if layout.align() <= ALIGNED {
            return mi_zalloc(layout.size()).cast();
        }
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_large(&layout) {
            let mapping = (block, layout.size());
            match layout.size() <= KEPT {
                true => replace_kept(mapping),
                false => unmap(mapping),
            }
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
                // SAFETY: the size of `new` is not zero, and rounded up no more than `isize::MAX`:
                // the caller promises both.
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
    fn reallocation_keeps_the_content() {
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
    fn reuses_freed_mappings_and_zeroes_memory() {
        let block = vec![7u8; 2 * LARGE];
        let address = block.as_ptr().addr();
        drop(block);
        assert!(vec![0u8; 2 * LARGE].iter().all(|byte| *byte == 0));
        let again: Vec<u8> = Vec::with_capacity(2 * LARGE);
        assert_eq!(again.as_ptr().addr(), address);
        drop(again);
        release_kept();
        assert_eq!(take_kept(2 * LARGE), None);
    }

    #[test]
    fn honours_alignment() {
        let small = (1..200).flat_map(|size| [(size, 1), (size, 8), (size, 16)]);
        let others = [(LARGE, 8), (LARGE, PAGE), (LARGE, 2 * PAGE), (64, 64)];
        for (size, align) in small.chain(others) {
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
