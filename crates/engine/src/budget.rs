//! Memory that all guests share: a counted amount, waited for by new calls, refused to growing ones.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::ResourceLimiter;

use crate::image_of::WASM_PAGE;

/// Linear memory that guests may use at once, in Wasm pages.
#[derive(Clone)]
pub(crate) struct Budget {
    pages: Arc<Semaphore>,
    total: u32,
}

impl Budget {
    pub(crate) fn new(bytes: u64) -> Self {
        // More than address space can hold is no bound at all; the type of a permit count is u32.
        let total = u32::try_from(bytes / WASM_PAGE).unwrap_or(u32::MAX).max(1);
        Self {
            pages: Arc::new(Semaphore::new(total as usize)),
            total,
        }
    }

    /// The whole of it, in bytes.
    pub(crate) fn total(&self) -> u64 {
        u64::from(self.total) * WASM_PAGE
    }

    /// What nobody uses, in bytes.
    pub(crate) fn free(&self) -> u64 {
        self.pages.available_permits() as u64 * WASM_PAGE
    }

    /// Waits until `bytes` are free; calls get their memory in the order in which they asked.
    pub(crate) async fn reserve(&self, bytes: u64) -> Option<Share> {
        let pages = u32::try_from(bytes.div_ceil(WASM_PAGE)).ok()?;
        if pages > self.total {
            return None;
        }
        let permit = match self.pages.clone().try_acquire_many_owned(pages) {
            Ok(permit) => permit,
            Err(_) => self.pages.clone().acquire_many_owned(pages).await.ok()?,
        };
        Some(Share {
            budget: self.clone(),
            permit,
        })
    }
}

/// A call's part of the budget; free again when dropped.
pub(crate) struct Share {
    budget: Budget,
    permit: OwnedSemaphorePermit,
}

impl Share {
    fn bytes(&self) -> u64 {
        self.permit.num_permits() as u64 * WASM_PAGE
    }

    /// Makes the share `bytes` large, if so much is free.
    fn grow_to(&mut self, bytes: u64) -> bool {
        let Some(more) = bytes.checked_sub(self.bytes()) else {
            return true;
        };
        let Ok(pages) = u32::try_from(more.div_ceil(WASM_PAGE)) else {
            return false;
        };
        match self.budget.pages.clone().try_acquire_many_owned(pages) {
            Ok(permit) => {
                self.permit.merge(permit);
                true
            }
            Err(_) => false,
        }
    }
}

/// What a guest may take of the host's memory.
pub(crate) struct Quota {
    pub(crate) share: Share,
    pub(crate) memory: u64,
    pub(crate) table_elements: u32,
    /// What was refused, for the log: a guest that gets no memory ends in its own words.
    pub(crate) refused: Option<Refused>,
}

/// Why memory was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The guest's own limit.
    Limit,
    /// The limit of all guests together.
    Budget,
    /// Too many table elements.
    Table,
}

impl ResourceLimiter for Quota {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let desired = desired as u64;
        if desired > self.memory {
            self.refused = Some(Refused::Limit);
            return Ok(false);
        }
        if !self.share.grow_to(desired) {
            self.refused = Some(Refused::Budget);
            return Ok(false);
        }
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > self.table_elements as usize {
            self.refused = Some(Refused::Table);
            return Ok(false);
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        1
    }

    fn memories(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        16
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_call_waits_until_another_gives_its_memory_back() {
        let budget = Budget::new(10 * WASM_PAGE);
        let first = budget.reserve(8 * WASM_PAGE).await.unwrap();
        let second = tokio::spawn({
            let budget = budget.clone();
            async move { budget.reserve(5 * WASM_PAGE).await.map(|s| s.bytes()) }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        assert_eq!(second.await.unwrap(), Some(5 * WASM_PAGE));
    }

    #[tokio::test]
    async fn what_can_never_be_had_is_refused_at_once() {
        assert!(
            Budget::new(10 * WASM_PAGE)
                .reserve(11 * WASM_PAGE)
                .await
                .is_none()
        );
    }

    #[tokio::test]
    async fn growth_beyond_what_is_free_is_refused_and_leaves_the_share_as_it_was() {
        let budget = Budget::new(10 * WASM_PAGE);
        let _other = budget.reserve(4 * WASM_PAGE).await.unwrap();
        let mut share = budget.reserve(2 * WASM_PAGE).await.unwrap();
        assert!(share.grow_to(6 * WASM_PAGE));
        assert!(!share.grow_to(7 * WASM_PAGE));
        assert_eq!(share.bytes(), 6 * WASM_PAGE);
    }
}
