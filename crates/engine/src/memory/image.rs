//! The memory that every call of a module starts from.

use rustix::fs::MemfdFlags;

use crate::memory::mapping::SealedFile;
use crate::memory::page::{PageRange, page_size, page_up};

/// Initial memory of a module: bytes in a sealed memfd, mapped copy-on-write into slots.
///
/// Only the range from the first to the last page that isn't zero is in the file.
pub(crate) struct MemoryImage {
    /// Where in linear memory the file's bytes are.
    range: PageRange,
    /// None where all memory is zero.
    file: Option<SealedFile>,
    /// Bytes of the memory that the image was taken of: an instance starts with as many, or with
    /// its module's minimum.
    size: usize,
}

impl MemoryImage {
    /// An image of linear memory that is `memory` from the address `at` on, which begins a page,
    /// and zeros before.
    ///
    /// # Errors
    /// The operating system has no memory or descriptor left.
    pub(crate) fn new(at: usize, memory: &[u8]) -> std::io::Result<Self> {
        static ZEROS: [u8; 4096] = [0; 4096];
        assert!(at.is_multiple_of(page_size()));
        let is_zero = |part: &[u8]| part == &ZEROS[..part.len()];
        let is_set = |page: &[u8]| !page.chunks(ZEROS.len()).all(is_zero);
        let first = memory.chunks(page_size()).position(is_set);
        let last = memory.chunks(page_size()).rposition(is_set);
        let size = at + memory.len();
        let (Some(first), Some(last)) = (first, last) else {
            return Ok(Self {
                size,
                ..Self::zero()
            });
        };
        let start = first * page_size();
        let bytes = &memory[start..memory.len().min((last + 1) * page_size())];
        let len = page_up(bytes.len());
        let file =
            rustix::fs::memfd_create("wws-image", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, len as u64)?;
        // Pages of zeros stay holes.
        for (index, page) in bytes
            .chunks(page_size())
            .enumerate()
            .filter(|(_, p)| is_set(p))
        {
            let mut done = 0;
            while done < page.len() {
                done +=
                    rustix::io::pwrite(&file, &page[done..], (index * page_size() + done) as u64)?;
            }
        }
        Ok(Self {
            range: PageRange::new(at + start, at + start + len),
            file: Some(SealedFile::new(file, len)?),
            size,
        })
    }

    /// The image of memory that starts as zeros.
    pub(crate) fn zero() -> Self {
        Self {
            range: PageRange::EMPTY,
            file: None,
            size: 0,
        }
    }

    /// The range of linear memory that comes from the file.
    pub(crate) fn range(&self) -> PageRange {
        self.range
    }

    /// Bytes of the memory that the image was taken of.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    pub(crate) fn file(&self) -> Option<&SealedFile> {
        self.file.as_ref()
    }

    /// The image's bytes of linear memory from `start` to `end`.
    ///
    /// # Panics
    /// They do not lie within [`Self::range`], or are in the wrong order.
    pub(crate) fn bytes(&self, start: usize, end: usize) -> &[u8] {
        assert!(self.range.start() <= start && start <= end && end <= self.range.end());
        let bytes = self.file.as_ref().map_or(&[][..], SealedFile::bytes);
        &bytes[start - self.range.start()..end - self.range.start()]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::memory::page::assuming_page_size;

    #[test]
    fn keeps_only_the_part_that_is_not_zero() {
        assuming_page_size(|| {
            let page = page_size();
            let mut memory = vec![0; 10 * page];
            memory[3 * page + 5] = 1;
            memory[7 * page - 1] = 2;
            let image = MemoryImage::new(0, &memory).unwrap();
            let (start, end) = (3 * page, 7 * page);
            assert_eq!(image.range(), PageRange::new(start, end));
            assert_eq!(image.bytes(start, end), &memory[start..end]);
        });
    }

    #[test]
    fn zero_memory_has_no_file() {
        assuming_page_size(|| {
            let image = MemoryImage::new(0, &vec![0; page_size()]).unwrap();
            assert!(image.file().is_none());
            assert_eq!(image.range(), PageRange::EMPTY);
        });
    }

    #[test]
    fn image_can_end_within_a_page() {
        assuming_page_size(|| {
            let image = MemoryImage::new(0, &[7; 10]).unwrap();
            assert_eq!(image.range(), PageRange::new(0, page_size()));
            assert_eq!(image.bytes(0, 12), [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0, 0]);
        });
    }

    #[test]
    fn has_no_bytes_beyond_its_range() {
        let page = page_size();
        let mut memory = vec![0; 4 * page];
        memory[page..3 * page].fill(7);
        let image = MemoryImage::new(0, &memory).unwrap();
        assert!(image.bytes(page, page).is_empty());
        let bytes = |start, end| std::panic::catch_unwind(|| image.bytes(start, end).len());
        assert_eq!(bytes(page, 3 * page).unwrap(), 2 * page);
        for (start, end) in [(0, 2 * page), (2 * page, 4 * page), (2 * page, page)] {
            assert!(bytes(start, end).is_err(), "{start}..{end}");
        }
        let zero = MemoryImage::zero();
        assert!(zero.bytes(0, 0).is_empty());
    }
}
