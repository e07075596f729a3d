//! The files that a component holds open.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Weak};

use crate::host::open_files::{FileBudget, FileReservation};

/// Most streams of files at once: each may keep a thread busy.
const MAX_STREAMS: u32 = 64;

/// Files that a component holds open.
pub(super) struct ComponentFiles {
    pub(super) streams: FileBudget,
    of_call: FileBudget,
    of_all: FileBudget,
    /// By the number of the descriptor's resource.
    pub(super) open: HashMap<u32, Arc<OpenFile>>,
    /// Files whose descriptor was dropped while streams of WASI 0.3 were there.
    pub(super) streaming: Vec<(Weak<File>, Arc<OpenFile>)>,
}

/// A file that counts.
pub(super) struct OpenFile {
    _of_call: FileReservation,
    _of_all: FileReservation,
}

impl ComponentFiles {
    pub(super) fn new(limit: u32, of_all: FileBudget) -> Self {
        Self {
            streams: FileBudget::new(MAX_STREAMS),
            of_call: FileBudget::new(limit),
            of_all,
            open: HashMap::new(),
            streaming: Vec::new(),
        }
    }

    pub(super) fn reserve(&mut self) -> Option<Arc<OpenFile>> {
        self.streaming.retain(|(file, _)| file.strong_count() > 0);
        Some(Arc::new(OpenFile {
            _of_call: self.of_call.reserve()?,
            _of_all: self.of_all.reserve()?,
        }))
    }
}
