//! The memory of compilations. A container that compiles what does not fit its memory is killed,
//! and again after each restart: it leaves that to the host, and serves its other workers
//! meanwhile.

use std::sync::{Condvar, Mutex, PoisonError};

use wws_engine::{LoadError, LoadErrorKind, compile_memory};

use crate::memory;

/// What the compilations of a process may take together.
pub(crate) struct CompileMemory {
    /// Bytes that the process may use; `None` if it compiles whatever is needed.
    available: Option<u64>,
    /// Bytes that the process holds.
    held: fn() -> u64,
    /// Threads that compile a module.
    threads: usize,
    /// Bytes that the compilations in progress may take.
    reserved: Mutex<u64>,
    freed: Condvar,
}

/// The memory of one compilation, until this is dropped.
pub(crate) struct ReservedMemory<'a> {
    of: &'a CompileMemory,
    bytes: u64,
}

impl CompileMemory {
    pub(crate) fn new(available: Option<u64>, threads: usize) -> Self {
        Self {
            available,
            held: memory::held,
            threads,
            reserved: Mutex::default(),
            freed: Condvar::new(),
        }
    }

    /// Waits for the memory that compiling `wasm` takes.
    ///
    /// # Errors
    /// There is not so much, even if nothing else is compiled.
    pub(crate) fn reserve(&self, wasm: &[u8]) -> Result<ReservedMemory<'_>, LoadError> {
        let Some(available) = self.available else {
            return Ok(ReservedMemory { of: self, bytes: 0 });
        };
        let bytes = compile_memory(wasm, self.threads);
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = available.saturating_sub((self.held)());
            if *reserved + bytes <= left {
                *reserved += bytes;
                return Ok(ReservedMemory { of: self, bytes });
            }
            if *reserved == 0 {
                return Err(LoadError::new(
                    LoadErrorKind::CompileMemory,
                    format!(
                        "compiling it may take {} MiB of memory, and {} MiB are left",
                        bytes >> 20,
                        left >> 20
                    ),
                ));
            }
            let waited = self.freed.wait(reserved);
            reserved = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for ReservedMemory<'_> {
    fn drop(&mut self) {
        let mut reserved = self
            .of
            .reserved
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *reserved -= self.bytes;
        self.of.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rejects_a_compilation_that_never_fits_and_waits_for_memory() {
        // No module: what it takes is its size, and what any compilation does.
        let wasm = vec![0; 32 << 20];
        let one = compile_memory(&wasm, 2);
        let with = |available: u64| CompileMemory {
            held: || 1 << 20,
            ..CompileMemory::new(Some(available), 2)
        };
        assert!(CompileMemory::new(None, 2).reserve(&wasm).is_ok());
        let little = with(one);
        let error = little.reserve(&wasm).err().unwrap();
        assert_eq!(error.kind(), LoadErrorKind::CompileMemory);
        assert!(
            error.message().contains("MiB of memory"),
            "{}",
            error.message()
        );
        // Room for one.
        let memory = with(one + one / 2);
        let first = memory.reserve(&wasm).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| memory.reserve(&wasm).map(drop));
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(!second.is_finished());
            drop(first);
            second.join().unwrap().unwrap();
        });
    }
}
