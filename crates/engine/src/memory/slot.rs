//! Address space for one linear memory, mapped once and reset between calls.

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};

use super::{Image, PAGE, dirty, page_up};

/// A reservation with an image in it.
///
/// ```text
/// base         image          accessible             reserved                    + guard
///  | zeros, rw | file, rw, private | zeros, rw | PROT_NONE ...                              |
/// ```
///
/// `accessible` is the size of the memory that uses the slot: whatever an earlier one grew to, the next traps beyond its own size, and
/// finds zeros in a page that it grows.
pub(crate) struct Slot {
    base: *mut u8,
    total: usize,
    reserved: usize,
    accessible: usize,
    /// Address space that the slot was made for; a module that wants another one needs another slot.
    guard: usize,
}

// SAFETY: the mapping belongs to this slot alone, and whoever holds the slot.
unsafe impl Send for Slot {}
// SAFETY: as above; `&Slot` gives nothing but numbers and the base address.
unsafe impl Sync for Slot {}

impl Slot {
    /// Reserves `reserved` bytes and a guard region, and maps the image.
    pub(crate) fn new(image: &Image, reserved: usize, guard: usize) -> std::io::Result<Self> {
        let total = reserved
            .checked_add(guard)
            .ok_or(std::io::ErrorKind::OutOfMemory)?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                total,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let mut slot = Self {
            base: base.cast(),
            total,
            reserved,
            accessible: 0,
            guard,
        };
        // A huge page would make a reset write 2 MiB where 4 KiB were touched.
        // SAFETY: advice about our own mapping; a kernel without huge pages refuses it, which is as good.
        let _ = unsafe { rustix::mm::madvise(base, total, Advice::LinuxNoHugepage) };
        let range = image.range();
        if let Some(file) = image.file() {
            if range.end > reserved {
                return Err(std::io::ErrorKind::OutOfMemory.into());
            }
            // SAFETY: MAP_FIXED inside of the mapping made above (`range.end <= reserved`), in whole pages.
            unsafe {
                rustix::mm::mmap(
                    slot.base.add(range.start).cast(),
                    range.len(),
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
                    file,
                    0,
                )
            }?;
            slot.protect(0, range.start)?;
            slot.accessible = range.end;
        }
        Ok(slot)
    }

    /// Was the slot made for such a memory?
    pub(crate) fn fits(&self, reserved: usize, guard: usize) -> bool {
        self.reserved == reserved && self.guard == guard
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.base
    }

    pub(crate) fn reserved(&self) -> usize {
        self.reserved
    }

    fn protect(&self, from: usize, to: usize) -> std::io::Result<()> {
        if to > from {
            // SAFETY: our own mapping, `to <= reserved`, made accessible and not less so.
            unsafe {
                rustix::mm::mprotect(
                    self.base.add(from).cast(),
                    to - from,
                    MprotectFlags::READ | MprotectFlags::WRITE,
                )
            }?;
        }
        Ok(())
    }

    /// Makes the first `bytes` accessible.
    pub(crate) fn grow(&mut self, bytes: usize) -> std::io::Result<()> {
        let bytes = page_up(bytes);
        if bytes > self.reserved {
            return Err(std::io::ErrorKind::OutOfMemory.into());
        }
        if bytes > self.accessible {
            self.protect(self.accessible, bytes)?;
            self.accessible = bytes;
        }
        Ok(())
    }

    /// Gives the memory the image's bytes again. Of what was written, `keep` bytes at most stay resident.
    ///
    /// # Errors
    /// The slot is in an unknown state then and must not be used again.
    pub(crate) fn reset(&mut self, image: &Image, keep: usize) -> std::io::Result<()> {
        let base = self.base as u64;
        let end = base + self.accessible as u64;
        if self.accessible == 0 {
            return Ok(());
        }
        let mut known = 0;
        let mut left = (keep / PAGE).max(1);
        // One look reports a bounded number of runs; what an interpreter wrote is scattered.
        while known < self.accessible && left > 0 {
            let found = dirty::find(base + known as u64, end, left);
            let mut pages = 0;
            for run in found.runs() {
                // The kernel reports whole pages within what was asked for.
                let (from, to) = ((run.start - base) as usize, (run.end - base) as usize);
                assert!(from <= to && to <= self.accessible);
                self.restore(image, from, to);
                pages += (to - from) / PAGE;
            }
            let until = (found.known_until - base) as usize;
            if until <= known {
                break;
            }
            known = until;
            left = left.saturating_sub(pages);
        }
        if known < self.accessible {
            // SAFETY: our own private mapping: the next access finds the file's bytes, or zeros.
            unsafe {
                rustix::mm::madvise(
                    self.base.add(known).cast(),
                    self.accessible - known,
                    Advice::LinuxDontNeed,
                )
            }?;
        }
        Ok(())
    }

    /// Writes the image's bytes over `from..to`.
    fn restore(&mut self, image: &Image, from: usize, to: usize) {
        let range = image.range();
        // Zeros before the image, its bytes, zeros behind it.
        self.zero(from, to.min(range.start));
        let (a, b) = (from.max(range.start), to.min(range.end));
        if a < b {
            let bytes = image.bytes(a..b);
            // SAFETY: `a..b` lies within the accessible part (asserted by the caller), nobody else uses the slot, and the image's own
            // mapping is another one.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(a), b - a) };
        }
        self.zero(from.max(range.end), to);
    }

    fn zero(&mut self, from: usize, to: usize) {
        if from < to {
            // SAFETY: within the accessible part, and nobody else uses the slot.
            unsafe { std::ptr::write_bytes(self.base.add(from), 0, to - from) };
        }
    }

    /// Makes what lies beyond the first `bytes` inaccessible. The slot was reset before: what is made accessible again is zero.
    ///
    /// # Errors
    /// The slot must not be used again then.
    pub(crate) fn shrink(&mut self, bytes: usize) -> std::io::Result<()> {
        let bytes = page_up(bytes);
        if bytes < self.accessible {
            // SAFETY: our own mapping, within `accessible`, which lies within `reserved`; nobody uses the slot.
            unsafe {
                rustix::mm::mprotect(
                    self.base.add(bytes).cast(),
                    self.accessible - bytes,
                    MprotectFlags::empty(),
                )
            }?;
            self.accessible = bytes;
        }
        Ok(())
    }

    /// Gives all resident memory back to the system; the mappings stay.
    pub(crate) fn release(&mut self) -> std::io::Result<()> {
        if self.accessible > 0 {
            // SAFETY: as in `reset`.
            unsafe {
                rustix::mm::madvise(self.base.cast(), self.accessible, Advice::LinuxDontNeed)
            }?;
        }
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: our own mapping; the instance that used it is gone, since it owned the slot.
        let _ = unsafe { rustix::mm::munmap(self.base.cast(), self.total) };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const RESERVED: usize = 1 << 26;
    const GUARD: usize = 1 << 16;

    fn image() -> (Vec<u8>, Image) {
        let mut memory = vec![0; 40 * PAGE];
        for (i, byte) in memory[20 * PAGE..30 * PAGE].iter_mut().enumerate() {
            *byte = (i * 31 % 251) as u8;
        }
        let image = Image::new(0, &memory).unwrap();
        (memory, image)
    }

    fn bytes(slot: &Slot, len: usize) -> &[u8] {
        // SAFETY: the tests ask for accessible bytes only.
        unsafe { std::slice::from_raw_parts(slot.base(), len) }
    }

    fn write(slot: &Slot, at: usize, with: &[u8]) {
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(with.as_ptr(), slot.base().add(at), with.len()) }
    }

    #[test]
    fn a_slot_starts_with_the_images_bytes() {
        let (memory, image) = image();
        let mut slot = Slot::new(&image, RESERVED, GUARD).unwrap();
        slot.grow(memory.len()).unwrap();
        assert_eq!(bytes(&slot, memory.len()), memory);
    }

    #[test]
    fn a_reset_undoes_every_write_whatever_may_stay_resident() {
        let (memory, image) = image();
        for keep in [0, PAGE, 5 * PAGE, 1 << 20] {
            let mut slot = Slot::new(&image, RESERVED, GUARD).unwrap();
            slot.grow(memory.len() + 100 * PAGE).unwrap();
            for at in [0, 19 * PAGE + 4000, 25 * PAGE, 29 * PAGE + 4095, 39 * PAGE] {
                write(&slot, at, &[0xAA; 200]);
            }
            write(&slot, memory.len(), &vec![0xBB; 100 * PAGE]);
            slot.reset(&image, keep).unwrap();
            assert_eq!(bytes(&slot, memory.len()), memory, "keep {keep}");
            assert!(
                bytes(&slot, memory.len() + 100 * PAGE)[memory.len()..]
                    .iter()
                    .all(|b| *b == 0),
                "keep {keep}"
            );
        }
    }

    #[test]
    fn a_shrunk_slot_is_inaccessible_beyond_and_zero_when_it_grows_again() {
        let (memory, image) = image();
        let mut slot = Slot::new(&image, RESERVED, GUARD).unwrap();
        slot.grow(memory.len() + 100 * PAGE).unwrap();
        write(&slot, memory.len(), &vec![0xBB; 100 * PAGE]);
        slot.reset(&image, 1 << 20).unwrap();
        slot.shrink(memory.len()).unwrap();
        // The kernel says so without a signal: it cannot read from there.
        let beyond = unsafe_slice(&slot, memory.len(), PAGE);
        let (_reader, writer) = rustix::pipe::pipe().unwrap();
        assert_eq!(
            rustix::io::write(&writer, beyond),
            Err(rustix::io::Errno::FAULT)
        );
        slot.grow(memory.len() + 100 * PAGE).unwrap();
        let grown = &bytes(&slot, memory.len() + 100 * PAGE)[memory.len()..];
        assert!(grown.iter().all(|byte| *byte == 0));
    }

    /// Bytes that may be inaccessible: only for system calls.
    fn unsafe_slice(slot: &Slot, at: usize, len: usize) -> &[u8] {
        // SAFETY: within the reservation; the kernel looks at it, not the program.
        unsafe { std::slice::from_raw_parts(slot.base().add(at), len) }
    }

    #[test]
    fn many_scattered_writes_are_all_undone() {
        let image = Image::zero();
        let mut slot = Slot::new(&image, RESERVED, GUARD).unwrap();
        slot.grow(1000 * PAGE).unwrap();
        for round in 0..3 {
            for page in (0..1000).step_by(3) {
                write(&slot, page * PAGE + round, &[1]);
            }
            slot.reset(&image, 1 << 20).unwrap();
            assert!(bytes(&slot, 1000 * PAGE).iter().all(|b| *b == 0));
        }
    }

    #[test]
    fn released_memory_holds_the_images_bytes_again() {
        let (memory, image) = image();
        let mut slot = Slot::new(&image, RESERVED, GUARD).unwrap();
        slot.grow(memory.len()).unwrap();
        write(&slot, 0, &vec![9; memory.len()]);
        slot.release().unwrap();
        assert_eq!(bytes(&slot, memory.len()), memory);
    }

    #[test]
    fn growth_beyond_the_reservation_is_refused() {
        let mut slot = Slot::new(&Image::zero(), RESERVED, GUARD).unwrap();
        assert!(slot.grow(RESERVED + 1).is_err());
        slot.grow(RESERVED).unwrap();
    }

    #[test]
    fn an_image_that_does_not_fit_is_refused() {
        let image = Image::new(0, &[1; 8 * PAGE]).unwrap();
        assert!(Slot::new(&image, 4 * PAGE, GUARD).is_err());
    }
}
