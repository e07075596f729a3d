//! Slots that wait for a call, within a bound for the whole process.

use crate::sync::{Arc, AtomicUsize, Mutex, MutexGuard, Ordering, PoisonError, Weak};

/// The waiting slots of one image.
pub(crate) struct IdleSlots<S> {
    /// The slot used last, whose cache is warm, is taken first.
    waiting: Mutex<Vec<WaitingSlot<S>>>,
}

/// A slot that waits for a call.
struct WaitingSlot<S> {
    slot: S,
    _place: IdlePlace,
}

/// A place for a waiting slot, free again when dropped.
struct IdlePlace(Arc<AtomicUsize>);

impl Drop for IdlePlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<S> IdleSlots<S> {
    pub(crate) fn new() -> Self {
        Self {
            waiting: Mutex::new(Vec::new()),
        }
    }

    /// Takes the slot that was used last.
    pub(crate) fn take(&self) -> Option<S> {
        let last = self.waiting().pop();
        last.map(|waiting| waiting.slot)
    }

    /// Takes the slot that has waited longest.
    fn take_oldest(&self) -> Option<WaitingSlot<S>> {
        let mut waiting = self.waiting();
        (!waiting.is_empty()).then(|| waiting.remove(0))
    }

    /// How many slots wait.
    pub(crate) fn count(&self) -> usize {
        self.waiting().len()
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<WaitingSlot<S>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The waiting slots of a process.
pub(crate) struct IdleBound<S> {
    /// Slots that may wait for a call.
    max: usize,
    count: Arc<AtomicUsize>,
    /// Images that may hold waiting slots.
    images: Mutex<Vec<Weak<IdleSlots<S>>>>,
}

impl<S> IdleBound<S> {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            count: Arc::new(AtomicUsize::new(0)),
            images: Mutex::new(Vec::new()),
        }
    }

    /// How many slots wait.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Registers an image, so that its waiting slots can be found.
    pub(crate) fn register(&self, image: &Arc<IdleSlots<S>>) {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.retain(|image| image.strong_count() > 0);
        images.push(Arc::downgrade(image));
    }

    fn images(&self) -> Vec<Arc<IdleSlots<S>>> {
        self.images
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }

    /// Lets a slot wait for a call of its image. While no place is free, drops slots of the image
    /// that has most, so that modules that were called once do not displace those that are called
    /// often.
    pub(crate) fn put(&self, image: &IdleSlots<S>, slot: S) {
        while self.count.load(Ordering::Relaxed) >= self.max {
            let most = self.images().into_iter().max_by_key(|image| image.count());
            if most.and_then(|image| image.take_oldest()).is_none() {
                break;
            }
        }
        // Threads that do this at once, or while memory is trimmed, can exceed the bound by one
        // slot each until the next call, which costs memory only.
        self.count.fetch_add(1, Ordering::Relaxed);
        let place = IdlePlace(self.count.clone());
        image.waiting().push(WaitingSlot {
            slot,
            _place: place,
        });
    }

    /// Calls `release` with every waiting slot, and drops those for which it returns false.
    pub(crate) fn trim(&self, mut release: impl FnMut(&mut S) -> bool) {
        for image in self.images() {
            // Calls find no slot meanwhile, rather than wait.
            let waiting = std::mem::take(&mut *image.waiting());
            for mut waiting in waiting {
                if release(&mut waiting.slot) {
                    image.waiting().push(waiting);
                }
            }
        }
    }
}
