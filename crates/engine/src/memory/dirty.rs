//! Which pages of a private mapping were written? The kernel knows: an anonymous page is there instead of the file's
//! or the zero page.
//!
//! Source: `Documentation/admin-guide/mm/pagemap.rst` of Linux.

use std::{fs::File, os::unix::fs::FileExt, sync::OnceLock};

use super::PAGE;

/// A run of written pages, as addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Run {
    pub(crate) start: u64,
    pub(crate) end: u64,
    categories: u64,
}

/// How many runs one look reports. Beyond them the rest of the range counts as unknown.
pub(crate) const RUNS: usize = 64;

/// What was found in a range.
pub(crate) struct Found {
    runs: [Run; RUNS],
    len: usize,
    /// Where the look ended; from here on nothing is known.
    pub(crate) known_until: u64,
}

impl Found {
    fn new(start: u64) -> Self {
        Self {
            runs: [Run {
                start: 0,
                end: 0,
                categories: 0,
            }; RUNS],
            len: 0,
            known_until: start,
        }
    }

    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs[..self.len]
    }
}

/// The kernel's view of our pages.
enum Source {
    /// `PAGEMAP_SCAN`, Linux 6.7.
    Scan(File),
    /// Reading `/proc/self/pagemap`.
    Read(File),
    /// Neither: everything must be thrown away.
    None,
}

/// Beyond so many pages, reading their entries costs more than throwing the memory away.
const READ_PAGES: usize = 2048;

fn source() -> &'static Source {
    static SOURCE: OnceLock<Source> = OnceLock::new();
    SOURCE.get_or_init(|| {
        let Ok(file) = File::open("/proc/self/pagemap") else {
            return Source::None;
        };
        let probe = 0u64;
        let at = (std::ptr::from_ref(&probe) as u64) & !(PAGE as u64 - 1);
        let mut found = Found::new(at);
        if scan(&file, at, at + PAGE as u64, 0, &mut found) {
            Source::Scan(file)
        } else if read(&file, at, at + PAGE as u64, 1, &mut Found::new(at)) {
            Source::Read(file)
        } else {
            Source::None
        }
    })
}

/// Finds the written pages from `start` to `end` (addresses of whole pages), `max_pages` of them at most.
pub(crate) fn find(start: u64, end: u64, max_pages: usize) -> Found {
    let mut found = Found::new(start);
    let ok = match source() {
        Source::Scan(file) => scan(file, start, end, max_pages as u64, &mut found),
        Source::Read(file) => read(file, start, end, max_pages, &mut found),
        Source::None => false,
    };
    if !ok {
        found = Found::new(start);
    }
    found
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
struct Scan<'a>(&'a mut ScanArg);

// SAFETY: the opcode is `_IOWR('f', 16, struct pm_scan_arg)`, and the pointer is to such a struct, which outlives the call and whose
// `vec`/`vec_len` name an array of `struct page_region` (our `Run`).
unsafe impl rustix::ioctl::Ioctl for Scan<'_> {
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

fn scan(file: &File, start: u64, end: u64, max_pages: u64, found: &mut Found) -> bool {
    let mut arg = ScanArg {
        size: size_of::<ScanArg>() as u64,
        flags: 0,
        start,
        end,
        walk_end: 0,
        vec: found.runs.as_mut_ptr() as u64,
        vec_len: RUNS as u64,
        max_pages,
        // Neither the file's page nor the zero page ...
        category_inverted: IS_FILE | IS_ZERO_PAGE,
        category_mask: IS_FILE | IS_ZERO_PAGE,
        // ... but a page: a written one may have gone to swap.
        category_anyof_mask: IS_PRESENT | IS_SWAPPED,
        return_mask: 0,
    };
    // SAFETY: see `Scan`; the ioctl only reads the page table and writes to `runs`.
    match unsafe { rustix::ioctl::ioctl(file, Scan(&mut arg)) } {
        Ok(runs) if runs <= RUNS => {
            found.len = runs;
            found.known_until = arg.walk_end.clamp(start, end);
            true
        }
        _ => false,
    }
}

fn read(file: &File, start: u64, end: u64, max_pages: usize, found: &mut Found) -> bool {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const FILE: u64 = 1 << 61;
    let pages = (end - start) as usize / PAGE;
    if pages > READ_PAGES {
        return false;
    }
    let mut entries = vec![0u8; pages * 8];
    if file
        .read_exact_at(&mut entries, start / PAGE as u64 * 8)
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
            match found.runs[..found.len].last_mut() {
                Some(run) if run.end == at => run.end += PAGE as u64,
                _ if found.len == RUNS => break,
                _ => {
                    found.runs[found.len] = Run {
                        start: at,
                        end: at + PAGE as u64,
                        categories: 0,
                    };
                    found.len += 1;
                }
            }
        }
        at += PAGE as u64;
    }
    found.known_until = at;
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::mm::{MapFlags, ProtFlags};

    struct Map(*mut u8, usize);
    impl Map {
        fn new(pages: usize) -> Self {
            // SAFETY: a new anonymous mapping at an address of the kernel's choice.
            let base = unsafe {
                rustix::mm::mmap_anonymous(
                    std::ptr::null_mut(),
                    pages * PAGE,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::PRIVATE | MapFlags::NORESERVE,
                )
            }
            .unwrap();
            Self(base.cast(), pages * PAGE)
        }
        fn range(&self) -> (u64, u64) {
            (self.0 as u64, self.0 as u64 + self.1 as u64)
        }
        fn write(&self, page: usize) {
            // SAFETY: within the mapping.
            unsafe { self.0.add(page * PAGE + 7).write_volatile(1) }
        }
        fn read(&self, page: usize) -> u8 {
            // SAFETY: within the mapping.
            unsafe { self.0.add(page * PAGE).read_volatile() }
        }
    }
    impl Drop for Map {
        fn drop(&mut self) {
            // SAFETY: our own mapping, used by nobody any more.
            unsafe { rustix::mm::munmap(self.0.cast(), self.1) }.unwrap();
        }
    }

    fn pages(found: &Found, start: u64) -> Vec<u64> {
        found
            .runs()
            .iter()
            .flat_map(|r| (r.start..r.end).step_by(PAGE))
            .map(|a| (a - start) / PAGE as u64)
            .collect()
    }

    #[test]
    fn written_pages_are_found_and_only_they() {
        let map = Map::new(100);
        for page in [0, 1, 2, 50, 99] {
            map.write(page);
        }
        let (start, end) = map.range();
        let found = find(start, end, 1000);
        assert_eq!(pages(&found, start), [0, 1, 2, 50, 99]);
        assert_eq!(found.known_until, end);
    }

    #[test]
    fn the_older_way_finds_them_too() {
        let map = Map::new(100);
        for page in [3, 4, 98] {
            map.write(page);
        }
        let (start, end) = map.range();
        let file = File::open("/proc/self/pagemap").unwrap();
        let mut found = Found::new(start);
        assert!(read(&file, start, end, 1000, &mut found));
        assert_eq!(pages(&found, start), [3, 4, 98]);
        assert_eq!(found.known_until, end);
    }

    #[test]
    fn pages_that_were_only_read_are_not_reported_by_the_scan() {
        let map = Map::new(10);
        assert_eq!(map.read(4), 0);
        map.write(5);
        let (start, end) = map.range();
        if let Source::Scan(_) = source() {
            assert_eq!(pages(&find(start, end, 100), start), [5]);
        }
    }

    #[test]
    fn a_look_ends_at_the_bound_of_pages_and_says_where() {
        let map = Map::new(64);
        (0..64).for_each(|page| map.write(page));
        let (start, end) = map.range();
        let found = find(start, end, 10);
        assert_eq!(pages(&found, start).len(), 10);
        assert_eq!(found.known_until, start + 10 * PAGE as u64);
        let file = File::open("/proc/self/pagemap").unwrap();
        let mut found = Found::new(start);
        assert!(read(&file, start, end, 10, &mut found));
        assert_eq!(found.known_until, start + 10 * PAGE as u64);
    }

    #[test]
    fn more_runs_than_fit_end_the_look_early() {
        let map = Map::new(RUNS * 4);
        (0..RUNS * 2).for_each(|i| map.write(i * 2));
        let (start, end) = map.range();
        let found = find(start, end, 10_000);
        assert!(found.runs().len() <= RUNS);
        assert!(found.known_until < end);
        let file = File::open("/proc/self/pagemap").unwrap();
        let mut found = Found::new(start);
        assert!(read(&file, start, end, 10_000, &mut found));
        assert_eq!(found.runs().len(), RUNS);
        assert_eq!(found.known_until, start + RUNS as u64 * 2 * PAGE as u64);
    }
}
