//! Pages of memory, and ranges of whole pages.

/// Size of a host page. Memory is mapped and reset by pages; x86_64 has no other base size.
pub(crate) const PAGE: usize = 4096;

/// Linear memory is counted in such pages.
pub(crate) const WASM_PAGE: u64 = 65_536;

/// Rounds up to whole pages.
pub(crate) const fn page_up(bytes: usize) -> usize {
    bytes.next_multiple_of(PAGE)
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
        assert!(start <= end && start.is_multiple_of(PAGE) && end.is_multiple_of(PAGE));
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
