//! Hands slots to wasmtime, and takes them back.

use std::{
    cell::RefCell,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use super::{Image, slot::Slot};
use crate::account::SharedCharge;

thread_local! {
    /// The image of the instance that this thread is making. wasmtime's interface has no other way to tell.
    static NEXT: RefCell<Option<Next>> = const { RefCell::new(None) };
}

/// What the next memory is made of.
struct Next {
    image: Arc<Image>,
    charge: SharedCharge,
}

/// Runs `make`, in which this thread instantiates a module whose memory starts as `image`. The memory keeps its `charge` until it was
/// reset: whatever else of the call is dropped before, nobody is given memory that is still in use.
pub(crate) fn with_image<T>(
    image: &Arc<Image>,
    charge: &SharedCharge,
    make: impl FnOnce() -> T,
) -> T {
    struct Restore(Option<Next>);
    impl Drop for Restore {
        fn drop(&mut self) {
            NEXT.set(self.0.take());
        }
    }
    let _restore = Restore(NEXT.replace(Some(Next {
        image: image.clone(),
        charge: charge.clone(),
    })));
    make()
}

/// The slots of a process.
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    /// Bytes of written memory that a waiting slot may keep resident.
    keep: usize,
    /// Slots that may wait for a call.
    max_idle: usize,
    idle: AtomicUsize,
    /// Images that may hold waiting slots.
    images: Mutex<Vec<Weak<Image>>>,
}

impl Shared {
    fn images(&self) -> Vec<Arc<Image>> {
        self.images
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }

    /// A place for one more waiting slot. The image that has most of them gives one up for it where all are taken, so that
    /// what was called once doesn't keep what is called often from waiting.
    fn place(self: &Arc<Self>) -> Place {
        if self.idle.load(Ordering::Relaxed) >= self.max_idle {
            let most = self.images().into_iter().max_by_key(|image| image.idle());
            drop(most.and_then(|image| image.take_oldest()));
        }
        // The limit may be passed by as many slots as there are threads: it bounds memory, not correctness.
        self.idle.fetch_add(1, Ordering::Relaxed);
        Place(self.clone())
    }
}

/// One of the places of waiting slots; free again when dropped.
struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.idle.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A slot that waits for a call.
pub(super) struct Waiting {
    slot: Slot,
    _place: Place,
}

impl Pool {
    /// A pool whose waiting slots are `max_idle` at most and keep `keep` bytes each.
    pub(crate) fn new(max_idle: usize, keep: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                keep,
                max_idle,
                idle: AtomicUsize::new(0),
                images: Mutex::default(),
            }),
        }
    }

    /// Makes the image known, so that its waiting slots are found.
    pub(crate) fn register(&self, image: &Arc<Image>) {
        let mut images = self
            .shared
            .images
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        images.retain(|image| image.strong_count() > 0);
        images.push(Arc::downgrade(image));
    }

    /// Gives the memory of all waiting slots back to the system.
    pub(crate) fn trim(&self) {
        for image in self.shared.images() {
            for mut waiting in image.drain_idle() {
                if waiting.slot.release().is_ok() {
                    image.put_idle(waiting);
                }
            }
        }
    }
}

// SAFETY: a slot is `reserved` bytes that only this memory uses until it is dropped, followed by `guard` bytes that are never mapped
// (`Slot::new` makes both, nothing is ever made accessible beyond `reserved`); its bytes are zeros, or the image's, which
// takes the place of the module's data segments.
unsafe impl MemoryCreator for Pool {
    fn new_memory(
        &self,
        _ty: MemoryType,
        minimum: usize,
        _maximum: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        // A module has one memory with an image; another memory (a table of host objects, say) starts as zeros.
        let (image, charge) = match NEXT.take() {
            Some(next) => (next.image, Some(next.charge)),
            None => (Arc::new(Image::zero()), None),
        };
        // A snapshot's memory may have grown since its module started.
        let minimum = minimum.max(image.size().next_multiple_of(65_536));
        let reserved = reserved.unwrap_or(minimum).max(minimum);
        let waiting = image.take_idle().map(|waiting| waiting.slot);
        let slot = match waiting.filter(|slot| slot.fits(reserved, guard)) {
            Some(slot) => Ok(slot),
            None => Slot::new(&image, reserved, guard),
        };
        let mut slot = slot.map_err(|error| format!("no address space for a guest: {error}"))?;
        slot.grow(minimum)
            .map_err(|error| format!("no memory for a guest: {error}"))?;
        Ok(Box::new(Memory {
            size: minimum,
            minimum,
            slot: Some(slot),
            image,
            pool: self.shared.clone(),
            _charge: charge,
        }))
    }
}

/// A slot in use.
struct Memory {
    size: usize,
    /// What it started with, and the next one will.
    minimum: usize,
    /// There until the memory is dropped.
    slot: Option<Slot>,
    image: Arc<Image>,
    pool: Arc<Shared>,
    /// Dropped after the slot was reset.
    _charge: Option<SharedCharge>,
}

// SAFETY: the base never moves while the memory lives, and the first `byte_size` bytes are accessible (`Slot::grow` came before).
unsafe impl LinearMemory for Memory {
    fn byte_size(&self) -> usize {
        self.size
    }

    fn byte_capacity(&self) -> usize {
        self.slot.as_ref().map_or(0, Slot::reserved)
    }

    fn grow_to(&mut self, size: usize) -> wasmtime::Result<()> {
        let slot = self
            .slot
            .as_mut()
            .ok_or_else(|| wasmtime::Error::msg("the memory has no slot"))?;
        slot.grow(size)?;
        self.size = size;
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.slot.as_ref().map_or(std::ptr::null_mut(), Slot::base)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let Some(mut slot) = self.slot.take() else {
            return;
        };
        let reset = slot.reset(&self.image, self.pool.keep);
        if reset.and_then(|()| slot.shrink(self.minimum)).is_ok() {
            let place = self.pool.place();
            self.image.put_idle(Waiting {
                slot,
                _place: place,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GUARD: usize = 1 << 16;

    fn image(pool: &Pool) -> Arc<Image> {
        let image = Arc::new(Image::zero());
        pool.register(&image);
        image
    }

    /// So many calls at once.
    fn call(pool: &Pool, image: &Arc<Image>, count: usize) {
        let account = crate::account::Account::new(1 << 20);
        let charge = account.nothing().shared(0, &account);
        let memories: Vec<_> = (0..count)
            .map(|_| {
                with_image(image, &charge, || {
                    let ty = MemoryType::new(1, None);
                    pool.new_memory(ty, 1 << 16, None, Some(1 << 20), GUARD)
                        .unwrap()
                })
            })
            .collect();
        drop(memories);
    }

    #[test]
    fn slots_wait_for_the_next_call_within_the_limit() {
        let pool = Pool::new(2, 1 << 20);
        let image = image(&pool);
        call(&pool, &image, 3);
        assert_eq!(image.idle(), 2);
        call(&pool, &image, 1);
        assert_eq!(image.idle(), 2);
    }

    #[test]
    fn places_are_free_again_when_their_module_is_gone() {
        let pool = Pool::new(1, 1 << 20);
        for _ in 0..3 {
            let image = image(&pool);
            call(&pool, &image, 1);
            assert_eq!(image.idle(), 1);
        }
        assert_eq!(pool.shared.idle.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_was_called_once_gives_its_place_to_what_is_called_now() {
        let pool = Pool::new(2, 1 << 20);
        let (cold, hot) = (image(&pool), image(&pool));
        call(&pool, &cold, 2);
        call(&pool, &hot, 1);
        assert_eq!((cold.idle(), hot.idle()), (1, 1));
        assert_eq!(pool.shared.idle.load(Ordering::Relaxed), 2);
    }
}
