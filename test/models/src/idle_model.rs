//! Calls that take slots and give them back, while images come and go and memory is trimmed.

use shuttle::rand::Rng;

use crate::check;
use crate::idle::{IdleBound, IdleSlots};
use crate::sync::{Arc, AtomicUsize, Ordering, thread};

const MAX: usize = 2;

/// A slot, counted until it is dropped.
struct CountedSlot(Arc<AtomicUsize>);

impl CountedSlot {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for CountedSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Makes a call: takes a waiting slot or a new one, and lets it wait afterwards.
fn call(bound: &IdleBound<CountedSlot>, image: &IdleSlots<CountedSlot>, slots: &Arc<AtomicUsize>) {
    let slot = image.take().unwrap_or_else(|| CountedSlot::new(slots));
    thread::yield_now();
    bound.put(image, slot);
}

/// Whatever happens at once, the first call afterwards is within the bound again, and no place is
/// lost.
pub fn waiting_slots_return_to_the_bound() {
    check(|| {
        let slots = Arc::new(AtomicUsize::new(0));
        let bound = Arc::new(IdleBound::new(MAX));
        let images = [(); 2].map(|()| {
            let image = Arc::new(IdleSlots::new());
            bound.register(&image);
            image
        });
        let threads: Vec<_> = (0..4)
            .map(|number| {
                let (bound, slots) = (bound.clone(), slots.clone());
                let image = images[number % 2].clone();
                thread::spawn(move || match number {
                    3 => bound.trim(|_| shuttle::rand::thread_rng().gen_bool(0.5)),
                    _ => (0..2).for_each(|_| call(&bound, &image, &slots)),
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("a thread");
        }
        let waiting = || images.iter().map(|image| image.count()).sum::<usize>();
        assert_eq!(waiting(), slots.load(Ordering::SeqCst));
        call(&bound, &images[0], &slots);
        assert!(waiting() <= MAX, "{} slots wait", waiting());
        // With the images their slots go, and the places of these are free.
        drop(images);
        assert_eq!(slots.load(Ordering::SeqCst), 0);
        let image = Arc::new(IdleSlots::new());
        bound.register(&image);
        for _ in 0..MAX + 1 {
            bound.put(&image, CountedSlot::new(&slots));
        }
        assert_eq!(image.count(), MAX);
    });
}
