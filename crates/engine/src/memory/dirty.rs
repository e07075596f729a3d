//! Finds the pages of a private mapping that were written: the kernel has replaced the file's page
//! or the zero page by an anonymous one.
//!
//! The zero page counts as not written. Beyond an image it holds what the memory started with.
//! Within an image the kernel maps it for nothing that a guest does: a hole of the image's file
//! gets a page of the file once it is read, and zeros that are written are an anonymous page. Only
//! KSM (with `use_zero_pages`) would put it in the place of a page that was written, so the process
//! is taken out of KSM.
//!
//! Sources: `Documentation/admin-guide/mm/pagemap.rst` and `ksm.rst` of Linux.

use std::{fs::File, os::unix::fs::FileExt, sync::OnceLock};

use crate::memory::page::page_size;

/// A run of written pages, as addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct PageRun {
    /// Of the first byte.
    pub(crate) start: u64,
    /// Of the byte after the last.
    pub(crate) end: u64,
    categories: u64,
}

/// Most runs that one call reports. The rest of the range is unknown then.
pub(crate) const MAX_RUNS: usize = 64;

/// The written pages of a range.
pub(crate) struct DirtyPages {
    runs: [PageRun; MAX_RUNS],
    len: usize,
    /// The address up to which the pages are known.
    pub(crate) known_until: u64,
}

impl DirtyPages {
    fn new(start: u64) -> Self {
        Self {
            runs: [PageRun {
                start: 0,
                end: 0,
                categories: 0,
            }; MAX_RUNS],
            len: 0,
            known_until: start,
        }
    }

    pub(crate) fn runs(&self) -> &[PageRun] {
        &self.runs[..self.len]
    }

    /// Whether all pages from `start` to `end` were written.
    fn is_all_written(&self, start: u64, end: u64) -> bool {
        let whole = |run: &PageRun| run.start == start && run.end == end;
        self.known_until == end && self.len == 1 && whole(&self.runs[0])
    }
}

/// How the kernel reports written pages.
enum PagemapSource {
    /// `PAGEMAP_SCAN`, Linux 6.7.
    Scan(File),
    /// Reading `/proc/self/pagemap`.
    Read(File),
    /// Not at all: every page counts as written.
    None,
}

/// Most pages whose entries are read. For more, discarding the memory is cheaper.
const READ_PAGES: usize = 2048;

fn source() -> &'static PagemapSource {
    static SOURCE: OnceLock<PagemapSource> = OnceLock::new();
    SOURCE.get_or_init(|| {
        let pagemap = File::open("/proc/self/pagemap");
        let Some(file) = pagemap.ok().filter(|_| leave_ksm()) else {
            return PagemapSource::None;
        };
        // What is reported is trusted only if it is true of a page that was written: an emulator
        // may show the pages of other addresses.
        let probe = std::hint::black_box([1u8]);
        let page = page_size() as u64;
        let at = (std::ptr::from_ref(&probe) as u64) & !(page - 1);
        let mut dirty = DirtyPages::new(at);
        if scan(&file, at, at + page, 0, &mut dirty) {
            if dirty.is_all_written(at, at + page) {
                return PagemapSource::Scan(file);
            }
        } else if read(&file, at, at + page, 1, &mut dirty) && dirty.is_all_written(at, at + page) {
            return PagemapSource::Read(file);
        }
        PagemapSource::None
    })
}

/// Whether the process takes part in KSM, which merges equal pages. Kernels before 6.4 know of no
/// such processes: one can only advise to merge ranges itself.
fn is_in_ksm() -> bool {
    let unused: libc::c_ulong = 0;
    // SAFETY: `prctl` asks for an operation and the arguments that belong to it. This one takes
    // numbers, which must be 0, and no pointer.
    unsafe { libc::prctl(libc::PR_GET_MEMORY_MERGE, unused, unused, unused, unused) == 1 }
}

/// Puts the process into KSM, or takes it out. Returns whether that succeeded.
fn set_in_ksm(is_in: bool) -> bool {
    let (is_in, unused) = (libc::c_ulong::from(is_in), 0 as libc::c_ulong);
    // SAFETY: `prctl` asks for an operation and the arguments that belong to it. This one takes
    // numbers, of which all but the first must be 0, and no pointer. Pages keep their contents.
    unsafe { libc::prctl(libc::PR_SET_MEMORY_MERGE, is_in, unused, unused, unused) == 0 }
}

/// Takes the process out of KSM. A parent can have put it there, as systemd's `MemoryKSM=` does.
/// Returns whether no page is merged from now on.
fn leave_ksm() -> bool {
    !is_in_ksm() || set_in_ksm(false)
}

/// Finds the written pages from the address `start` to `end`, at most `max_pages` of them.
pub(crate) fn find(start: u64, end: u64, max_pages: usize) -> DirtyPages {
    let mut dirty = DirtyPages::new(start);
    #[cfg(test)]
    if crate::memory::page::is_assumed() {
        return dirty;
    }
    let ok = match source() {
        PagemapSource::Scan(file) => scan(file, start, end, max_pages as u64, &mut dirty),
        PagemapSource::Read(file) => read(file, start, end, max_pages, &mut dirty),
        PagemapSource::None => false,
    };
    if !ok {
        dirty = DirtyPages::new(start);
    }
    dirty
}

/// Argument of the ioctl: `struct pm_scan_arg` of `linux/fs.h`.
#[repr(C)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
const IS_ZERO_PAGE: u64 = 1 << 5;

/// The ioctl, in the form that rustix wants.
struct ScanIoctl<'a>(&'a mut ScanArg);

// SAFETY: `Ioctl` asks for an opcode with the argument that belongs to it. The opcode is
// `_IOWR('f', 16, struct pm_scan_arg)`, and `as_ptr` returns a pointer to such a struct, which is
// borrowed for the call.
unsafe impl rustix::ioctl::Ioctl for ScanIoctl<'_> {
    type Output = usize;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> rustix::ioctl::Opcode {
        rustix::ioctl::opcode::read_write::<ScanArg>(b'f', 16)
    }

    fn as_ptr(&mut self) -> *mut rustix::ffi::c_void {
        std::ptr::from_mut::<ScanArg>(self.0).cast()
    }

    unsafe fn output_from_ptr(
        out: rustix::ioctl::IoctlOutput,
        _: *mut rustix::ffi::c_void,
    ) -> rustix::io::Result<usize> {
        Ok(usize::try_from(out).unwrap_or(0))
    }
}

fn scan(file: &File, start: u64, end: u64, max_pages: u64, dirty: &mut DirtyPages) -> bool {
    let mut arg = ScanArg {
        size: size_of::<ScanArg>() as u64,
        flags: 0,
        start,
        end,
        walk_end: 0,
        vec: dirty.runs.as_mut_ptr() as u64,
        vec_len: MAX_RUNS as u64,
        max_pages,
        // Neither the file's page nor the zero page (see above) ...
        category_inverted: IS_FILE | IS_ZERO_PAGE,
        category_mask: IS_FILE | IS_ZERO_PAGE,
        // ... but a page: a written one may have gone to swap.
        category_anyof_mask: IS_PRESENT | IS_SWAPPED,
        return_mask: 0,
    };
    // SAFETY: `ioctl` asks for an operation that is right for the file and its argument. `file` is
    // a pagemap, and `arg.vec` leads to `arg.vec_len` elements of `dirty.runs`, which is borrowed
    // exclusively.
    match unsafe { rustix::ioctl::ioctl(file, ScanIoctl(&mut arg)) } {
        Ok(runs) if runs <= MAX_RUNS => {
            dirty.len = runs;
            dirty.known_until = arg.walk_end.clamp(start, end);
            true
        }
        _ => false,
    }
}

fn read(file: &File, start: u64, end: u64, max_pages: usize, dirty: &mut DirtyPages) -> bool {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const FILE: u64 = 1 << 61;
    let page_size = page_size() as u64;
    let pages = ((end - start) / page_size) as usize;
    if pages > READ_PAGES {
        return false;
    }
    let mut entries = vec![0u8; pages * 8];
    if file
        .read_exact_at(&mut entries, start / page_size * 8)
        .is_err()
    {
        return false;
    }
    let mut taken = 0;
    let mut at = start;
    for entry in entries.as_chunks::<8>().0 {
        let entry = u64::from_ne_bytes(*entry);
        if entry & (PRESENT | SWAPPED) != 0 && entry & FILE == 0 {
            if taken == max_pages {
                break;
            }
            taken += 1;
            match dirty.runs[..dirty.len].last_mut() {
                Some(run) if run.end == at => run.end += page_size,
                _ if dirty.len == MAX_RUNS => break,
                _ => {
                    dirty.runs[dirty.len] = PageRun {
                        start: at,
                        end: at + page_size,
                        categories: 0,
                    };
                    dirty.len += 1;
                }
            }
        }
        at += page_size;
    }
    dirty.known_until = at;
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::memory::mapping::Mapping;
    use crate::memory::page::PageRange;

    fn map(pages: usize) -> Mapping {
        let mut mapping = Mapping::reserve(pages * page_size()).unwrap();
        mapping
            .allow(PageRange::new(0, pages * page_size()))
            .unwrap();
        mapping
    }

    fn addresses(mapping: &Mapping) -> (u64, u64) {
        let start = mapping.base() as u64;
        (start, start + mapping.len() as u64)
    }

    fn write(mapping: &mut Mapping, page: usize) {
        mapping.write(page * page_size() + 7, &[1]);
    }

    fn pages(dirty: &DirtyPages, start: u64) -> Vec<u64> {
        dirty
            .runs()
            .iter()
            .flat_map(|r| (r.start..r.end).step_by(page_size()))
            .map(|a| (a - start) / page_size() as u64)
            .collect()
    }

    #[test]
    fn finds_exactly_the_written_pages() {
        let mut map = map(100);
        for page in [0, 1, 2, 50, 99] {
            write(&mut map, page);
        }
        let (start, end) = addresses(&map);
        let dirty = find(start, end, 1000);
        assert_eq!(pages(&dirty, start), [0, 1, 2, 50, 99]);
        assert_eq!(dirty.known_until, end);
    }

    #[test]
    fn finds_written_pages_by_reading() {
        let mut map = map(100);
        for page in [3, 4, 98] {
            write(&mut map, page);
        }
        let (start, end) = addresses(&map);
        let file = File::open("/proc/self/pagemap").unwrap();
        let mut dirty = DirtyPages::new(start);
        assert!(read(&file, start, end, 1000, &mut dirty));
        assert_eq!(pages(&dirty, start), [3, 4, 98]);
        assert_eq!(dirty.known_until, end);
    }

    #[test]
    fn scan_does_not_report_pages_that_were_only_read() {
        let mut map = map(10);
        let page = map.base().wrapping_add(4 * page_size());
        // SAFETY: `read_volatile` asks for a byte that can be read: page 4 of the 10 that `map`
        // made accessible.
        assert_eq!(unsafe { page.read_volatile() }, 0);
        write(&mut map, 5);
        let (start, end) = addresses(&map);
        if let PagemapSource::Scan(_) = source() {
            assert_eq!(pages(&find(start, end, 100), start), [5]);
        }
    }

    #[test]
    fn pages_are_not_merged() {
        // As a parent that runs with `MemoryKSM=`; it fails where the kernel has no such operation.
        if set_in_ksm(true) {
            assert!(is_in_ksm());
            assert!(leave_ksm());
            assert!(!is_in_ksm());
        }
        assert!(leave_ksm());
    }

    #[test]
    fn stops_at_the_limit_of_pages_and_reports_where() {
        let mut map = map(64);
        (0..64).for_each(|page| write(&mut map, page));
        let (start, end) = addresses(&map);
        let dirty = find(start, end, 10);
        assert_eq!(pages(&dirty, start).len(), 10);
        assert_eq!(dirty.known_until, start + 10 * page_size() as u64);
        let file = File::open("/proc/self/pagemap").unwrap();
        let mut dirty = DirtyPages::new(start);
        assert!(read(&file, start, end, 10, &mut dirty));
        assert_eq!(dirty.known_until, start + 10 * page_size() as u64);
    }

    #[test]
    fn stops_at_the_limit_of_runs() {
        let mut map = map(MAX_RUNS * 4);
        (0..MAX_RUNS * 2).for_each(|i| write(&mut map, i * 2));
        let (start, end) = addresses(&map);
        let dirty = find(start, end, 10_000);
        assert!(dirty.runs().len() <= MAX_RUNS);
        assert!(dirty.known_until < end);
        let file = File::open("/proc/self/pagemap").unwrap();
        let mut dirty = DirtyPages::new(start);
        assert!(read(&file, start, end, 10_000, &mut dirty));
        assert_eq!(dirty.runs().len(), MAX_RUNS);
        assert_eq!(
            dirty.known_until,
            start + MAX_RUNS as u64 * 2 * page_size() as u64
        );
    }
}
