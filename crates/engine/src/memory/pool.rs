//! The pool of slots: hands them to wasmtime, and takes them back.

use std::{cell::RefCell, sync::Arc};

use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use crate::memory::account::SharedCharge;
use crate::memory::idle::{IdleBound, IdleSlots};
use crate::memory::image::MemoryImage;
use crate::memory::slot::Slot;

thread_local! {
    /// The images of the instance that this thread creates. wasmtime's interface cannot pass them.
    static NEXT: RefCell<Option<NextMemories>> = const { RefCell::new(None) };
}

/// A memory that an instance is created with.
#[derive(Clone)]
pub(crate) struct ExpectedMemory {
    /// Bytes that the memory starts with, by its type.
    pub(crate) minimum: usize,
    pub(crate) image: Arc<PooledImage>,
}

/// What the next memories are created from.
struct NextMemories {
    images: NextImages,
    charge: SharedCharge,
}

enum NextImages {
    /// A module's only memory; `None` once it was created.
    One(Option<Arc<PooledImage>>),
    /// The memories of the modules in a component, by their size.
    Many(Arc<[ExpectedMemory]>),
}

impl NextImages {
    /// The image of a memory that starts with `minimum` bytes. Nothing is copied to a memory
    /// without any, such as the heap that wasmtime makes for garbage-collected objects.
    fn take(&mut self, minimum: usize) -> Option<Arc<PooledImage>> {
        if minimum == 0 {
            return None;
        }
        match self {
            Self::One(image) => image.take(),
            Self::Many(memories) => memories
                .iter()
                .find(|memory| memory.minimum == minimum)
                .map(|memory| memory.image.clone()),
        }
    }
}

/// Runs `make`, in which this thread instantiates a module whose memory starts as `image`. The
/// memory holds `charge` until it was reset, so that memory that is still in use is never free.
pub(crate) fn with_image<T>(
    image: &Arc<PooledImage>,
    charge: &SharedCharge,
    make: impl FnOnce() -> T,
) -> T {
    with_next(NextImages::One(Some(image.clone())), charge, make)
}

/// Runs `make`, in which this thread instantiates a component with these memories.
pub(crate) fn with_images<T>(
    memories: &Arc<[ExpectedMemory]>,
    charge: &SharedCharge,
    make: impl FnOnce() -> T,
) -> T {
    with_next(NextImages::Many(memories.clone()), charge, make)
}

fn with_next<T>(images: NextImages, charge: &SharedCharge, make: impl FnOnce() -> T) -> T {
    struct RestoreNext(Option<NextMemories>);
    impl Drop for RestoreNext {
        fn drop(&mut self) {
            NEXT.set(self.0.take());
        }
    }
    let _restore = RestoreNext(NEXT.replace(Some(NextMemories {
        images,
        charge: charge.clone(),
    })));
    make()
}

/// A memory image, and the slots that hold it and wait for a call.
pub(crate) struct PooledImage {
    image: MemoryImage,
    idle: Arc<IdleSlots<Slot>>,
}

impl PooledImage {
    pub(crate) fn new(image: MemoryImage) -> Self {
        Self {
            image,
            idle: Arc::new(IdleSlots::new()),
        }
    }

    #[cfg(test)]
    pub(crate) fn image(&self) -> &MemoryImage {
        &self.image
    }
}

/// The slots of a process.
pub(crate) struct Pool {
    /// Bytes of written memory that a waiting slot may keep resident.
    keep: usize,
    idle: Arc<IdleBound<Slot>>,
}

impl Pool {
    /// Creates a pool of at most `max_idle` waiting slots, which keep `keep` bytes each.
    pub(crate) fn new(max_idle: usize, keep: usize) -> Self {
        Self {
            keep,
            idle: Arc::new(IdleBound::new(max_idle)),
        }
    }

    /// Registers an image, so that its waiting slots can be found.
    pub(crate) fn register(&self, image: &Arc<PooledImage>) {
        self.idle.register(&image.idle);
    }

    /// Returns the memory of all waiting slots to the system.
    pub(crate) fn trim(&self) {
        self.idle.trim(|slot| slot.release().is_ok());
    }
}

// SAFETY: `MemoryCreator` asks for memories of `reserved` bytes with `guard` inaccessible bytes
// behind, whose accessible bytes are zero. `Slot::new` reserves both, `Slot::grow` makes nothing
// accessible beyond `reserved`, and `SlotMemory` owns the slot. Its bytes are zeros, or the
// image's, which replaces the data segments of the module that is instantiated.
unsafe impl MemoryCreator for Pool {
    fn new_memory(
        &self,
        _ty: MemoryType,
        minimum: usize,
        _maximum: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let (image, charge) = NEXT.with_borrow_mut(|next| match next {
            Some(next) => (next.images.take(minimum), Some(next.charge.clone())),
            None => (None, None),
        });
        let image = image.unwrap_or_else(|| Arc::new(PooledImage::new(MemoryImage::zero())));
        // A snapshot's memory may be larger than its module's minimum.
        let minimum = minimum.max(image.image.size().next_multiple_of(65_536));
        let reserved = reserved.unwrap_or(minimum).max(minimum);
        let waiting = image.idle.take();
        let slot = match waiting.filter(|slot| slot.fits(reserved, guard)) {
            Some(slot) => Ok(slot),
            // Kernels for arm64 may give a process 512 GiB of addresses: waiting slots make room.
            None => Slot::new(&image.image, reserved, guard).or_else(|_| {
                self.idle.trim(|_| false);
                Slot::new(&image.image, reserved, guard)
            }),
        };
        let mut slot = slot.map_err(|error| format!("no address space for a guest: {error}"))?;
        slot.grow(minimum)
            .map_err(|error| format!("no memory for a guest: {error}"))?;
        Ok(Box::new(SlotMemory {
            size: minimum,
            minimum,
            slot: Some(slot),
            image,
            keep: self.keep,
            idle: self.idle.clone(),
            _charge: charge,
        }))
    }
}

/// A slot in use.
struct SlotMemory {
    size: usize,
    /// The size with which this memory and the next one start.
    minimum: usize,
    /// There until the memory is dropped.
    slot: Option<Slot>,
    image: Arc<PooledImage>,
    keep: usize,
    idle: Arc<IdleBound<Slot>>,
    /// Dropped after the slot was reset.
    _charge: Option<SharedCharge>,
}

// SAFETY: `LinearMemory` asks for a base that does not move and for `byte_size` accessible bytes. A
// slot's mapping never moves, and `new_memory` and `grow_to` called `Slot::grow` with that size.
unsafe impl LinearMemory for SlotMemory {
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

impl Drop for SlotMemory {
    fn drop(&mut self) {
        let Some(mut slot) = self.slot.take() else {
            return;
        };
        let reset = slot.reset(&self.image.image, self.keep);
        if reset.and_then(|()| slot.shrink(self.minimum)).is_ok() {
            self.idle.put(&self.image.idle, slot);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GUARD: usize = 1 << 16;

    fn image(pool: &Pool) -> Arc<PooledImage> {
        let image = Arc::new(PooledImage::new(MemoryImage::zero()));
        pool.register(&image);
        image
    }

    /// Makes `count` calls at once.
    fn call(pool: &Pool, image: &Arc<PooledImage>, count: usize) {
        let account = crate::memory::account::Account::new(1 << 20);
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
    fn memory_that_starts_empty_takes_no_image() {
        const PAGE: usize = 1 << 16;
        let pool = Pool::new(4, 1 << 20);
        let account = crate::memory::account::Account::new(1 << 20);
        let charge = account.nothing().shared(0, &account);
        let image = MemoryImage::new(0, &[7; PAGE]).unwrap();
        let image = Arc::new(PooledImage::new(image));
        pool.register(&image);
        let new = |minimum| {
            pool.new_memory(
                MemoryType::new(0, None),
                minimum,
                None,
                Some(1 << 20),
                GUARD,
            )
            .unwrap()
        };
        let first = |memory: &dyn LinearMemory| {
            assert_eq!(memory.byte_size(), PAGE);
            // SAFETY: `read` asks for a byte that can be read. `as_ptr` leads to `byte_size`
            // accessible bytes as long as the memory lives.
            unsafe { memory.as_ptr().read() }
        };
        // As wasmtime does for a module with garbage-collected objects: their heap first.
        let pooled = ExpectedMemory {
            minimum: PAGE,
            image: image.clone(),
        };
        let one = with_image(&image, &charge, || (new(0), new(PAGE)));
        let many = with_images(&[pooled].into(), &charge, || (new(0), new(PAGE)));
        for (mut heap, memory) in [one, many] {
            heap.grow_to(PAGE).unwrap();
            assert_eq!((first(&*heap), first(&*memory)), (0, 7));
        }
        // Nor does a slot of the heap wait for a memory.
        assert_eq!(image.idle.count(), 2);
        assert_eq!(pool.idle.count(), 2);
    }

    #[test]
    fn keeps_waiting_slots_within_the_limit() {
        let pool = Pool::new(2, 1 << 20);
        let image = image(&pool);
        call(&pool, &image, 3);
        assert_eq!(image.idle.count(), 2);
        call(&pool, &image, 1);
        assert_eq!(image.idle.count(), 2);
    }

    #[test]
    fn frees_places_with_their_module() {
        let pool = Pool::new(1, 1 << 20);
        for _ in 0..3 {
            let image = image(&pool);
            call(&pool, &image, 1);
            assert_eq!(image.idle.count(), 1);
        }
        assert_eq!(pool.idle.count(), 0);
    }

    #[test]
    fn image_with_most_slots_gives_up_a_place() {
        let pool = Pool::new(2, 1 << 20);
        let (cold, hot) = (image(&pool), image(&pool));
        call(&pool, &cold, 2);
        call(&pool, &hot, 1);
        assert_eq!((cold.idle.count(), hot.idle.count()), (1, 1));
        assert_eq!(pool.idle.count(), 2);
    }

    #[test]
    fn waiting_slots_make_room_where_addresses_are_few() {
        // Twice what a process can have with 48 bits.
        const SIZE: usize = 1 << 44;
        let pool = Pool::new(32, 1 << 20);
        let account = crate::memory::account::Account::new(1 << 20);
        let charge = account.nothing().shared(0, &account);
        for _ in 0..32 {
            let image = image(&pool);
            let memory = with_image(&image, &charge, || {
                pool.new_memory(MemoryType::new(1, None), 1 << 16, None, Some(SIZE), GUARD)
            });
            drop(memory.unwrap());
            // Its slot waits, and keeps its addresses, as long as the image.
            std::mem::forget(image);
        }
        assert!(pool.idle.count() > 0);
    }
}
