//! Address space for one linear memory, mapped once and reset between calls.

use std::io;

use crate::memory::dirty;
use crate::memory::image::MemoryImage;
use crate::memory::mapping::Mapping;
use crate::memory::page::{PageRange, page_size, page_up};

/// A reservation with an image in it.
///
/// ```text
/// base         image          accessible             reserved                    + guard
///  | zeros, rw | file, rw, private | zeros, rw | PROT_NONE ...                              |
/// ```
///
/// What is accessible is the size of the memory that uses the slot: whatever an earlier one grew
/// to, the next traps beyond its own size, and finds zeros in a page that it grows.
pub(crate) struct Slot {
    /// Accessible from its start, and never beyond `reserved`.
    mapping: Mapping,
    reserved: usize,
    /// Address space that the slot was made for; a module that wants another one needs another
    /// slot.
    guard: usize,
}

impl Slot {
    /// Reserves `reserved` bytes and a guard region, and maps the image.
    pub(crate) fn new(image: &MemoryImage, reserved: usize, guard: usize) -> io::Result<Self> {
        let total = reserved
            .checked_add(guard)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let mut mapping = Mapping::reserve(total)?;
        if let Some(file) = image.file() {
            let range = image.range();
            if range.end() > reserved {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            mapping.map_file(range, file.file())?;
            mapping.allow(PageRange::new(0, range.start()))?;
        }
        Ok(Self {
            mapping,
            reserved,
            guard,
        })
    }

    /// Whether the slot was made for such a memory.
    pub(crate) fn fits(&self, reserved: usize, guard: usize) -> bool {
        self.reserved == reserved && self.guard == guard
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.mapping.base()
    }

    pub(crate) fn reserved(&self) -> usize {
        self.reserved
    }

    /// Bytes that can be read and written.
    fn accessible(&self) -> usize {
        self.mapping.accessible().end()
    }

    /// Makes the first `bytes` accessible.
    pub(crate) fn grow(&mut self, bytes: usize) -> io::Result<()> {
        let bytes = page_up(bytes);
        if bytes > self.reserved {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        if bytes > self.accessible() {
            self.mapping
                .allow(PageRange::new(self.accessible(), bytes))?;
        }
        Ok(())
    }

    /// Restores the image's bytes. Of what was written, `keep` bytes at most stay resident.
    ///
    /// # Errors
    /// The slot is in an unknown state then and must not be used again.
    pub(crate) fn reset(&mut self, image: &MemoryImage, keep: usize) -> io::Result<()> {
        let accessible = self.accessible();
        if accessible == 0 {
            return Ok(());
        }
        let base = self.mapping.base() as u64;
        let end = base + accessible as u64;
        let mut known = 0;
        let mut left = (keep / page_size()).max(1);
        // One look reports a bounded number of runs; what an interpreter wrote is scattered.
        while known < accessible && left > 0 {
            let dirty = dirty::find(base + known as u64, end, left);
            let mut pages = 0;
            for run in dirty.runs() {
                // The kernel reports whole pages within what was asked for.
                let (from, to) = ((run.start - base) as usize, (run.end - base) as usize);
                assert!(from <= to && to <= accessible);
                self.restore(image, from, to);
                pages += (to - from) / page_size();
            }
            let until = (dirty.known_until - base) as usize;
            if until <= known {
                break;
            }
            known = until;
            left = left.saturating_sub(pages);
        }
        if known < accessible {
            self.mapping.discard(PageRange::new(known, accessible))?;
        }
        Ok(())
    }

    /// Writes the image's bytes over `from..to`.
    fn restore(&mut self, image: &MemoryImage, from: usize, to: usize) {
        let range = image.range();
        // Zeros before the image, its bytes, zeros behind it.
        self.mapping.zero(from, to.min(range.start()));
        let (a, b) = (from.max(range.start()), to.min(range.end()));
        if a < b {
            self.mapping.write(a, image.bytes(a, b));
        }
        self.mapping.zero(from.max(range.end()), to);
    }

    /// Makes what lies beyond the first `bytes` inaccessible. The slot was reset before: what is
    /// made accessible again is zero.
    ///
    /// # Errors
    /// The slot must not be used again then.
    pub(crate) fn shrink(&mut self, bytes: usize) -> io::Result<()> {
        self.mapping.deny_from(page_up(bytes))
    }

    /// Returns all resident memory to the system; the mappings stay.
    pub(crate) fn release(&mut self) -> io::Result<()> {
        self.mapping.discard(self.mapping.accessible())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::memory::page::assuming_page_size;
    use std::os::fd::AsRawFd;

    use proptest::prelude::*;

    const RESERVED: usize = 1 << 26;
    const GUARD: usize = 1 << 16;

    fn image() -> (Vec<u8>, MemoryImage) {
        let mut memory = vec![0; 40 * page_size()];
        for (i, byte) in memory[20 * page_size()..30 * page_size()]
            .iter_mut()
            .enumerate()
        {
            *byte = (i * 31 % 251) as u8;
        }
        let image = MemoryImage::new(0, &memory).unwrap();
        (memory, image)
    }

    fn bytes(slot: &Slot, len: usize) -> &[u8] {
        assert!(len <= slot.accessible());
        // SAFETY: `from_raw_parts` asks for `len` bytes that can be read and do not change
        // meanwhile. They are accessible, and nothing writes to the slot while it is borrowed.
        unsafe { std::slice::from_raw_parts(slot.base(), len) }
    }

    fn write(slot: &mut Slot, at: usize, with: &[u8]) {
        slot.mapping.write(at, with);
    }

    #[test]
    fn slot_starts_with_the_images_bytes() {
        assuming_page_size(|| {
            let (memory, image) = image();
            let mut slot = Slot::new(&image, RESERVED, GUARD).unwrap();
            slot.grow(memory.len()).unwrap();
            assert_eq!(bytes(&slot, memory.len()), memory);
        });
    }

    #[test]
    fn reset_undoes_every_write() {
        assuming_page_size(|| {
            let (memory, image) = image();
            for keep in [0, page_size(), 5 * page_size(), 1 << 20] {
                let mut slot = Slot::new(&image, RESERVED, GUARD).unwrap();
                slot.grow(memory.len() + 100 * page_size()).unwrap();
                for at in [
                    0,
                    19 * page_size() + 4000,
                    25 * page_size(),
                    29 * page_size() + 4095,
                    39 * page_size(),
                ] {
                    write(&mut slot, at, &[0xAA; 200]);
                }
                write(&mut slot, memory.len(), &vec![0xBB; 100 * page_size()]);
                slot.reset(&image, keep).unwrap();
                assert_eq!(bytes(&slot, memory.len()), memory, "keep {keep}");
                assert!(
                    bytes(&slot, memory.len() + 100 * page_size())[memory.len()..]
                        .iter()
                        .all(|b| *b == 0),
                    "keep {keep}"
                );
            }
        });
    }

    #[test]
    fn shrunk_slot_is_inaccessible_beyond_and_zero_when_grown() {
        assuming_page_size(|| {
            let (memory, image) = image();
            let mut slot = Slot::new(&image, RESERVED, GUARD).unwrap();
            slot.grow(memory.len() + 100 * page_size()).unwrap();
            write(&mut slot, memory.len(), &vec![0xBB; 100 * page_size()]);
            slot.reset(&image, 1 << 20).unwrap();
            slot.shrink(memory.len()).unwrap();
            assert_eq!(slot.accessible(), memory.len());
            // The kernel reports it without a signal: it cannot read from there.
            let (_reader, writer) = rustix::pipe::pipe().unwrap();
            let beyond = slot.base().wrapping_add(memory.len());
            // SAFETY: `write` asks for a pointer that is only passed to the kernel, which checks
            // it.
            let written = unsafe { libc::write(writer.as_raw_fd(), beyond.cast(), page_size()) };
            assert_eq!(written, -1);
            let error = io::Error::last_os_error();
            assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
            slot.grow(memory.len() + 100 * page_size()).unwrap();
            let grown = &bytes(&slot, memory.len() + 100 * page_size())[memory.len()..];
            assert!(grown.iter().all(|byte| *byte == 0));
        });
    }

    #[test]
    fn reset_undoes_scattered_writes() {
        let image = MemoryImage::zero();
        let mut slot = Slot::new(&image, RESERVED, GUARD).unwrap();
        slot.grow(1000 * page_size()).unwrap();
        for round in 0..3 {
            for page in (0..1000).step_by(3) {
                write(&mut slot, page * page_size() + round, &[1]);
            }
            slot.reset(&image, 1 << 20).unwrap();
            assert!(bytes(&slot, 1000 * page_size()).iter().all(|b| *b == 0));
        }
    }

    #[test]
    fn reset_restores_image_pages_that_were_overwritten_with_zeros_or_only_read() {
        let (mut memory, _) = image();
        // A hole of the image's file.
        memory[25 * page_size()..26 * page_size()].fill(0);
        let image = MemoryImage::new(0, &memory).unwrap();
        let mut slot = Slot::new(&image, RESERVED, GUARD).unwrap();
        slot.grow(memory.len()).unwrap();
        for _ in 0..3 {
            assert_eq!(bytes(&slot, memory.len()), memory);
            write(&mut slot, 0, &vec![0; memory.len()]);
            slot.reset(&image, 1 << 20).unwrap();
        }
        assert_eq!(bytes(&slot, memory.len()), memory);
    }

    #[test]
    fn released_memory_has_the_images_bytes() {
        assuming_page_size(|| {
            let (memory, image) = image();
            let mut slot = Slot::new(&image, RESERVED, GUARD).unwrap();
            slot.grow(memory.len()).unwrap();
            write(&mut slot, 0, &vec![9; memory.len()]);
            slot.release().unwrap();
            assert_eq!(bytes(&slot, memory.len()), memory);
        });
    }

    #[test]
    fn rejects_growth_beyond_the_reservation() {
        let mut slot = Slot::new(&MemoryImage::zero(), RESERVED, GUARD).unwrap();
        assert!(slot.grow(RESERVED + 1).is_err());
        slot.grow(RESERVED).unwrap();
    }

    #[test]
    fn rejects_image_that_does_not_fit() {
        let image = MemoryImage::new(0, &vec![1; 8 * page_size()]).unwrap();
        assert!(Slot::new(&image, 4 * page_size(), GUARD).is_err());
    }

    /// Pages of the memory that the property below models.
    const PAGES: usize = 96;

    #[derive(Clone, Debug)]
    enum Operation {
        Grow(usize),
        Write { at: usize, byte: u8, len: usize },
        EndCall { keep: usize, minimum: usize },
        Release,
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let bytes = PAGES * page_size();
        prop_oneof![
            2 => (0..=bytes).prop_map(Operation::Grow),
            6 => (0..bytes, any::<u8>(), 0..3 * page_size())
                .prop_map(|(at, byte, len)| Operation::Write { at, byte, len }),
            2 => (0..=PAGES, 0..=bytes).prop_map(|(pages, minimum)| Operation::EndCall {
                keep: pages * page_size(),
                minimum,
            }),
            1 => Just(Operation::Release),
        ]
    }

    /// An image of few pages that are set, as a snapshot's.
    fn image_bytes() -> impl Strategy<Value = Vec<u8>> {
        let page = (0..PAGES / 2, any::<u8>());
        (
            0..=PAGES / 2 * page_size(),
            prop::collection::vec(page, 0..8),
        )
            .prop_map(|(len, pages)| {
                let mut bytes = vec![0; len];
                for (page, byte) in pages {
                    if let Some(at) = bytes.get_mut(page * page_size() + 5) {
                        *at = byte;
                    }
                }
                bytes
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn slot_equals_memory_image_after_any_calls(
            start in image_bytes(),
            operations in prop::collection::vec(operation(), 0..24),
        ) {
            let image = MemoryImage::new(0, &start).unwrap();
            let mut slot = Slot::new(&image, PAGES * page_size(), GUARD).unwrap();
            let initial: Vec<u8> = {
                let mut all = start;
                all.resize(PAGES * page_size(), 0);
                all
            };
            let mut model = initial.clone();
            for operation in operations {
                match operation {
                    Operation::Grow(bytes) => slot.grow(bytes).unwrap(),
                    Operation::Write { at, byte, len } => {
                        let end = (at + len).min(slot.accessible());
                        if at < end {
                            write(&mut slot, at, &vec![byte; end - at]);
                            model[at..end].fill(byte);
                        }
                    }
                    Operation::EndCall { keep, minimum } => {
                        slot.reset(&image, keep).unwrap();
                        slot.shrink(minimum.max(image.range().end())).unwrap();
                        model.clone_from(&initial);
                    }
                    Operation::Release => {
                        slot.release().unwrap();
                        model.clone_from(&initial);
                    }
                }
                let accessible = slot.accessible();
                prop_assert!(bytes(&slot, accessible) == &model[..accessible]);
            }
        }
    }
}
