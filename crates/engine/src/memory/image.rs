//! The memory that every call of a module starts from.

use std::{
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::{
    fs::{MemfdFlags, SealFlags},
    mm::{MapFlags, ProtFlags},
};

use super::{PAGE, page_up, pool::Waiting};

/// Initial memory of a module: bytes in a sealed memfd, mapped copy-on-write into slots.
///
/// Only the range from the first to the last page that isn't zero is in the file.
pub(crate) struct Image {
    /// Where in linear memory the bytes begin; a multiple of the page size.
    start: usize,
    /// The bytes, in whole pages.
    len: usize,
    file: Option<OwnedFd>,
    /// The file mapped for reading: the source of resets.
    bytes: *const u8,
    /// Bytes of the memory that the image was taken of: an instance starts with as many, or with its module's minimum.
    size: usize,
    /// Slots that hold this image and wait for a call; the one used last (its cache is warm) is taken first.
    idle: Mutex<Vec<Waiting>>,
}

// SAFETY: `bytes` points to a read-only mapping of a sealed file, which lives as long as the image.
unsafe impl Send for Image {}
// SAFETY: as above: nobody can write to it.
unsafe impl Sync for Image {}

impl Image {
    /// An image of linear memory that is `memory` from the address `at` on, which begins a page, and zeros before.
    ///
    /// # Errors
    /// The operating system's, when it has no memory or descriptor left.
    pub(crate) fn new(at: usize, memory: &[u8]) -> std::io::Result<Self> {
        static ZEROS: [u8; PAGE] = [0; PAGE];
        assert!(at.is_multiple_of(PAGE));
        let is_set = |page: &[u8]| page != &ZEROS[..page.len()];
        let first = memory.chunks(PAGE).position(is_set);
        let last = memory.chunks(PAGE).rposition(is_set);
        let (Some(first), Some(last)) = (first, last) else {
            let mut image = Self::zero();
            image.size = at + memory.len();
            return Ok(image);
        };
        let start = first * PAGE;
        let bytes = &memory[start..memory.len().min((last + 1) * PAGE)];
        let len = page_up(bytes.len());
        let file =
            rustix::fs::memfd_create("wws-image", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, len as u64)?;
        // Pages of zeros stay holes.
        for (index, page) in bytes.chunks(PAGE).enumerate().filter(|(_, p)| is_set(p)) {
            let mut done = 0;
            while done < page.len() {
                done += rustix::io::pwrite(&file, &page[done..], (index * PAGE + done) as u64)?;
            }
        }
        rustix::fs::fcntl_add_seals(
            &file,
            SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
        )?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let mapped = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ,
                MapFlags::SHARED,
                &file,
                0,
            )
        }?;
        Ok(Self {
            start: at + start,
            len,
            file: Some(file),
            bytes: mapped.cast_const().cast(),
            size: at + memory.len(),
            idle: Mutex::default(),
        })
    }

    /// The image of memory that starts as zeros.
    pub(crate) fn zero() -> Self {
        Self {
            start: 0,
            len: 0,
            file: None,
            bytes: std::ptr::null(),
            size: 0,
            idle: Mutex::default(),
        }
    }

    /// The range of linear memory that comes from the file.
    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.len
    }

    /// Bytes of the memory that the image was taken of.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    pub(crate) fn file(&self) -> Option<&OwnedFd> {
        self.file.as_ref()
    }

    /// The image's bytes of `range`, which lies within [`Self::range`].
    pub(crate) fn bytes(&self, range: std::ops::Range<usize>) -> &[u8] {
        assert!(range.start >= self.start && range.end <= self.start + self.len);
        // SAFETY: the assertion keeps it inside of the mapping, which lives as long as `self` and never changes.
        unsafe {
            std::slice::from_raw_parts(
                self.bytes.add(range.start - self.start),
                range.end - range.start,
            )
        }
    }

    pub(super) fn take_idle(&self) -> Option<Waiting> {
        self.waiting().pop()
    }

    pub(super) fn put_idle(&self, slot: Waiting) {
        self.waiting().push(slot);
    }

    /// Takes the slot that has waited longest.
    pub(super) fn take_oldest(&self) -> Option<Waiting> {
        let mut waiting = self.waiting();
        (!waiting.is_empty()).then(|| waiting.remove(0))
    }

    /// How many slots wait.
    pub(super) fn idle(&self) -> usize {
        self.waiting().len()
    }

    /// Takes all idle slots, for their memory to be freed.
    pub(super) fn drain_idle(&self) -> Vec<Waiting> {
        std::mem::take(&mut self.waiting())
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: our own mapping; whoever borrowed from it borrowed from `self`.
            let _ = unsafe { rustix::mm::munmap(self.bytes.cast_mut().cast(), self.len) };
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_part_that_is_not_zero_is_kept() {
        let mut memory = vec![0; 10 * PAGE];
        memory[3 * PAGE + 5] = 1;
        memory[6 * PAGE] = 2;
        let image = Image::new(0, &memory).unwrap();
        assert_eq!(image.range(), 3 * PAGE..7 * PAGE);
        assert_eq!(image.bytes(3 * PAGE..7 * PAGE), &memory[3 * PAGE..7 * PAGE]);
    }

    #[test]
    fn memory_of_zeros_has_no_file() {
        let image = Image::new(0, &[0; PAGE]).unwrap();
        assert!(image.file().is_none());
        assert_eq!(image.range(), 0..0);
    }

    #[test]
    fn an_image_can_end_within_a_page() {
        let image = Image::new(0, &[7; 10]).unwrap();
        assert_eq!(image.range(), 0..PAGE);
        assert_eq!(image.bytes(0..12), [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0, 0]);
    }
}
