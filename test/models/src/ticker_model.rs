//! Guests that start and end while the clock falls asleep.

use crate::check;
use crate::sync::{Arc, Condvar, Mutex, thread};
use crate::ticker::Ticker;

/// The clock ticks for every guest, and its thread exits with the ticker. A clock that slept on
/// would leave a guest, or the model, waiting forever, which shuttle reports.
pub fn clock_ticks_for_every_guest() {
    check(|| {
        let ticks = Arc::new((Mutex::new(0_u32), Condvar::new()));
        let advance = {
            let ticks = ticks.clone();
            move || {
                *ticks.0.lock().expect("the ticks") += 1;
                ticks.1.notify_all();
                true
            }
        };
        let ticker = Arc::new(Ticker::start(advance).expect("a thread"));
        let guests = [(); 2].map(|()| {
            let (ticker, ticks) = (ticker.clone(), ticks.clone());
            thread::spawn(move || {
                for _ in 0..2 {
                    let _running = ticker.run();
                    let mut count = ticks.0.lock().expect("the ticks");
                    let first = *count;
                    while *count == first {
                        count = ticks.1.wait(count).expect("the ticks");
                    }
                }
            })
        });
        for guest in guests {
            guest.join().expect("a guest");
        }
    });
}
