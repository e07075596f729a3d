//! Mappings that are owned by a value: made with it, unmapped with it, and changed only through it.
//!
//! All of `mmap`, `munmap`, `mprotect` and `madvise` is here, and all writes by the host to memory
//! that it mapped.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;

use rustix::fs::SealFlags;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};

use crate::memory::page::{PageRange, page_size, page_up};

/// Reserved address space, of which one range of pages can be read and written.
///
/// [`Self::base`] must only be dereferenced within the accessible range, while the mapping
/// lives, and not while a method that takes `&mut self` runs.
pub(crate) struct Mapping {
    base: *mut u8,
    len: usize,
    accessible: PageRange,
}

// SAFETY: `Send` asks that another thread may own the value. The mapping belongs to the process,
// not to a thread, and no other value unmaps or changes it.
unsafe impl Send for Mapping {}
// SAFETY: `Sync` asks that threads may share `&Mapping`. Its methods read nothing but the fields;
// all that change the mapping take `&mut self`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Reserves at least `len` bytes. No byte is accessible, and no page becomes a huge
    /// page: a call that touches 4 KiB would cost 2 MiB.
    pub(crate) fn reserve(len: usize) -> io::Result<Self> {
        let len = page_up(len);
        // SAFETY: `mmap` asks that no memory in use is replaced. Without MAP_FIXED, and with a null
        // hint, the kernel chooses addresses that are free.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        // SAFETY: `madvise` asks that the advice does not change memory in use. The mapping is new
        // and ours, and this advice changes no contents. Kernels without huge pages reject it,
        // which is as good.
        let _ = unsafe { rustix::mm::madvise(base, len, Advice::LinuxNoHugepage) };
        Ok(Self {
            base: base.cast(),
            len,
            accessible: PageRange::EMPTY,
        })
    }

    /// The mapping's first address.
    pub(crate) fn base(&self) -> *mut u8 {
        self.base
    }

    /// Bytes of address space.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The pages that can be read and written.
    pub(crate) fn accessible(&self) -> PageRange {
        self.accessible
    }

    /// Maps the start of `file` over `range`, copy-on-write, and makes the range accessible.
    pub(crate) fn map_file(&mut self, range: PageRange, file: &OwnedFd) -> io::Result<()> {
        let accessible = self.extended(range);
        // SAFETY: `mmap` with MAP_FIXED asks that what it replaces is not in use. `extended`
        // checked that `range` lies in this mapping, which is borrowed exclusively. Writes stay
        // private, so the file's other users see none.
        unsafe {
            rustix::mm::mmap(
                self.address(range),
                range.len(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
                file,
                0,
            )
        }?;
        self.accessible = accessible;
        Ok(())
    }

    /// Makes `range` accessible, which must touch what is accessible already. It holds zeros if it
    /// never was, or if it was discarded.
    pub(crate) fn allow(&mut self, range: PageRange) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let accessible = self.extended(range);
        // SAFETY: `mprotect` asks that no access is made that the new protection forbids. It
        // forbids none, and `extended` checked that `range` lies in this mapping.
        unsafe {
            rustix::mm::mprotect(
                self.address(range),
                range.len(),
                MprotectFlags::READ | MprotectFlags::WRITE,
            )
        }?;
        self.accessible = accessible;
        Ok(())
    }

    /// Makes the accessible pages from the offset `end` on inaccessible. Their contents stay.
    pub(crate) fn deny_from(&mut self, end: usize) -> io::Result<()> {
        let keep = PageRange::new(self.accessible.start(), end);
        if end >= self.accessible.end() {
            return Ok(());
        }
        let range = PageRange::new(end, self.accessible.end());
        // SAFETY: `mprotect` asks that no access is made that the new protection forbids. `range`
        // lies in this mapping, which is borrowed exclusively; later accesses of ours are checked
        // against `accessible`.
        unsafe { rustix::mm::mprotect(self.address(range), range.len(), MprotectFlags::empty()) }?;
        self.accessible = keep;
        Ok(())
    }

    /// Returns the memory of `range` to the system: the next access finds the mapped file's bytes,
    /// or zeros.
    pub(crate) fn discard(&mut self, range: PageRange) -> io::Result<()> {
        assert!(range.end() <= self.len);
        // SAFETY: `madvise` asks that contents which this advice changes are not in use. `range`
        // lies in this mapping, which is private and borrowed exclusively.
        unsafe { rustix::mm::madvise(self.address(range), range.len(), Advice::LinuxDontNeed) }?;
        Ok(())
    }

    /// Writes `bytes` at the offset `at`.
    ///
    /// # Panics
    /// Not all of it is accessible.
    pub(crate) fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(self.accessible.contains(at, at + bytes.len()));
        // SAFETY: `copy_nonoverlapping` asks for `bytes.len()` bytes that can be read and as many
        // that can be written and are others. The assertion keeps the latter accessible, the borrow
        // is exclusive, and no reference to this mapping's bytes is ever handed out.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(at), bytes.len());
        }
    }

    /// Writes zeros from the offset `from` up to `to`; none if that is not behind it.
    ///
    /// # Panics
    /// Not all of it is accessible.
    pub(crate) fn zero(&mut self, from: usize, to: usize) {
        if from >= to {
            return;
        }
        assert!(self.accessible.contains(from, to));
        // SAFETY: `write_bytes` asks for `to - from` bytes that can be written. The assertion keeps
        // them accessible, and the borrow is exclusive.
        unsafe { std::ptr::write_bytes(self.base.add(from), 0, to - from) };
    }

    fn address(&self, range: PageRange) -> *mut std::ffi::c_void {
        self.base.wrapping_add(range.start()).cast()
    }

    /// The accessible pages together with `range`.
    fn extended(&self, range: PageRange) -> PageRange {
        assert!(range.end() <= self.len);
        let own = self.accessible;
        if own.is_empty() {
            return range;
        }
        assert!(range.start() <= own.end() && own.start() <= range.end());
        PageRange::new(own.start().min(range.start()), own.end().max(range.end()))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `munmap` requires that the memory is no longer used. The value owned the mapping,
        // and its base may be dereferenced only while it lives.
        let _ = unsafe { rustix::mm::munmap(self.base.cast(), self.len) };
    }
}

/// Returns the resident pages of a mapped file to the system: the next access finds the same bytes
/// in the page cache.
///
/// # Safety
/// All whole pages of `range` are those of a file, and neither the file nor the mapping is ever
/// written to.
pub(crate) unsafe fn release_file_pages(range: Range<*const u8>) {
    let from = range.start.addr().next_multiple_of(page_size());
    let to = range.end.addr() / page_size() * page_size();
    let Some(len) = to.checked_sub(from).filter(|len| *len > 0) else {
        return;
    };
    let start = range.start.with_addr(from).cast_mut().cast();
    // SAFETY: `madvise` asks that contents which this advice changes are not in use. The caller
    // promises that it changes none. A failure costs only memory.
    let _ = unsafe { rustix::mm::madvise(start, len, Advice::LinuxDontNeed) };
}

/// A file in memory that cannot be changed any more, and its bytes.
pub(crate) struct SealedFile {
    file: OwnedFd,
    bytes: *const u8,
    len: usize,
}

// SAFETY: `Send` asks that another thread may own the value. The mapping belongs to the process,
// not to a thread.
unsafe impl Send for SealedFile {}
// SAFETY: `Sync` asks that threads may share `&SealedFile`. Its bytes are only read, and the seals
// keep everybody from writing to them.
unsafe impl Sync for SealedFile {}

impl SealedFile {
    /// Seals a memfd of `len` bytes, which are whole pages, and maps it.
    pub(crate) fn new(file: OwnedFd, len: usize) -> io::Result<Self> {
        // `FUTURE_WRITE`, as nothing has the new file mapped: `WRITE` would fail with EBUSY while
        // the kernel holds one of its pages for a moment, which it does where memory is short.
        rustix::fs::fcntl_add_seals(
            &file,
            SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE,
        )?;
        if u64::try_from(rustix::fs::fstat(&file)?.st_size) != Ok(len as u64) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: `mmap` asks that no memory in use is replaced. Without MAP_FIXED, and with a null
        // hint, the kernel chooses addresses that are free.
        let bytes = unsafe {
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
            file,
            bytes: bytes.cast_const().cast(),
            len,
        })
    }

    pub(crate) fn file(&self) -> &OwnedFd {
        &self.file
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `from_raw_parts` asks for `len` bytes that can be read and do not change while
        // they are borrowed. They are mapped until `self` is dropped, lie within the file, and the
        // file is sealed against writing and shrinking.
        unsafe { std::slice::from_raw_parts(self.bytes, self.len) }
    }
}

impl Drop for SealedFile {
    fn drop(&mut self) {
        // SAFETY: `munmap` requires that the memory is no longer used. All references to it borrow
        // from `self`.
        let _ = unsafe { rustix::mm::munmap(self.bytes.cast_mut().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::memory::page::page_size;

    #[test]
    #[should_panic(expected = "accessible")]
    fn rejects_write_beyond_accessible_pages() {
        let mut mapping = Mapping::reserve(4 * page_size()).unwrap();
        mapping.allow(PageRange::new(0, page_size())).unwrap();
        mapping.write(page_size() - 1, &[1, 2]);
    }

    #[test]
    fn rejects_file_that_can_still_be_written() {
        let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, page_size() as u64).unwrap();
        assert!(SealedFile::new(file, page_size()).is_err());
    }

    #[test]
    fn seals_a_file_whose_pages_the_kernel_holds() {
        let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("test", flags).unwrap();
        let bytes = vec![7; page_size()];
        assert_eq!(rustix::io::pwrite(&file, &bytes, 0), Ok(bytes.len()));
        let (_reader, writer) = rustix::pipe::pipe().unwrap();
        let held = rustix::pipe::splice(
            &file,
            Some(&mut 0),
            &writer,
            None,
            page_size(),
            rustix::pipe::SpliceFlags::empty(),
        );
        assert_eq!(held, Ok(page_size()));
        let sealed = SealedFile::new(file, page_size()).unwrap();
        assert_eq!(sealed.bytes(), bytes);
        assert!(rustix::io::pwrite(sealed.file(), &[8], 0).is_err());
        // SAFETY: `mmap` asks that no memory in use is replaced, and the kernel chooses addresses
        // that are free.
        let mapped = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                page_size(),
                ProtFlags::WRITE,
                MapFlags::SHARED,
                sealed.file(),
                0,
            )
        };
        assert!(mapped.is_err());
    }

    #[test]
    fn rejects_file_of_other_length() {
        let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("test", flags).unwrap();
        rustix::fs::ftruncate(&file, page_size() as u64).unwrap();
        assert!(SealedFile::new(file, 2 * page_size()).is_err());
    }
}
