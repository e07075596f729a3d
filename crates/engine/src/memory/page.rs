//! Pages of memory, and ranges of whole pages.

/// Size of a host page, in bytes. Memory is mapped and reset by pages; x86_64 has one size.
#[cfg(all(target_arch = "x86_64", not(test)))]
pub(crate) const fn page_size() -> usize {
    4096
}

/// Size of a host page, in bytes. Memory is mapped and reset by pages; a kernel for arm64 is built
/// for pages of 4, 16 or 64 KiB.
#[cfg(all(not(target_arch = "x86_64"), not(test)))]
pub(crate) fn page_size() -> usize {
    rustix::param::page_size()
}

/// Size of a host page, or what [`assuming_page_size`] says.
#[cfg(test)]
pub(crate) fn page_size() -> usize {
    ASSUMED.get().unwrap_or_else(rustix::param::page_size)
}

#[cfg(test)]
thread_local! {
    static ASSUMED: std::cell::Cell<Option<usize>> = const { std::cell::Cell::new(None) };
}

/// Runs a test with each size of pages that a host may have and that its kernel's divides.
#[cfg(test)]
pub(crate) fn assuming_page_size(test: impl Fn()) {
    for size in [4 << 10, 16 << 10, 64 << 10] {
        if size % rustix::param::page_size() == 0 {
            ASSUMED.set(Some(size));
            test();
        }
    }
    ASSUMED.set(None);
}

/// Whether [`page_size`] is not the kernel's.
#[cfg(test)]
pub(crate) fn is_assumed() -> bool {
    page_size() != rustix::param::page_size()
}

/// Linear memory is counted in such pages. No host has larger ones.
pub(crate) const WASM_PAGE: u64 = 65_536;

/// Rounds up to whole pages.
pub(crate) fn page_up(bytes: usize) -> usize {
    bytes.next_multiple_of(page_size())
}

/// A range of whole pages of a mapping, as offsets from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageRange {
    start: usize,
    end: usize,
}

impl PageRange {
    pub(crate) const EMPTY: Self = Self { start: 0, end: 0 };

    /// The pages from `start` to `end`.
    ///
    /// # Panics
    /// The offsets do not begin pages, or are in the wrong order.
    pub(crate) fn new(start: usize, end: usize) -> Self {
        let is_page = |at: usize| at.is_multiple_of(page_size());
        assert!(start <= end && is_page(start) && is_page(end));
        Self { start, end }
    }

    pub(crate) fn start(self) -> usize {
        self.start
    }

    pub(crate) fn end(self) -> usize {
        self.end
    }

    /// Bytes in the range.
    pub(crate) fn len(self) -> usize {
        self.end - self.start
    }

    pub(crate) fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether the bytes from `start` to `end` lie in the range.
    pub(crate) fn contains(self, start: usize, end: usize) -> bool {
        self.start <= start && start <= end && end <= self.end
    }
}
