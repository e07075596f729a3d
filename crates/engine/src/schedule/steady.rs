//! Calls that may stay in the fast lane although they use much of a CPU: those that pass a large
//! body on in short polls.
//!
//! Between two polls others get their turn, so what such a call costs them is a poll now and then.
//! In the slow lane each piece of the body would wake a thread of another runtime on its way in and
//! on its way out, which takes a third of the CPU time of an echo. There is one place for each CPU,
//! so that a request waits for one such poll at most; calls without a place move to the slow lane.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// The mean time of the polls of a steady call: a quarter of what an instance may run at a time.
const MEAN_POLL: Duration = Duration::from_micros(250);

/// The places of an engine.
pub(crate) struct SteadyPlaces {
    free: AtomicUsize,
}

impl Default for SteadyPlaces {
    fn default() -> Self {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        Self {
            free: AtomicUsize::new(cpus),
        }
    }
}

impl SteadyPlaces {
    fn take(self: &Arc<Self>) -> Option<SteadyPlace> {
        let one_less = |free: usize| free.checked_sub(1);
        self.free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .ok()?;
        Some(SteadyPlace(self.clone()))
    }
}

/// A place, which is free again when this is dropped.
struct SteadyPlace(Arc<SteadyPlaces>);

impl Drop for SteadyPlace {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Ordering::Relaxed);
    }
}

/// What is known of the polls of one call.
pub(crate) struct Steadiness {
    places: Arc<SteadyPlaces>,
    place: Option<SteadyPlace>,
    polls: u32,
    time: Duration,
}

impl Steadiness {
    pub(crate) fn new(places: Arc<SteadyPlaces>) -> Self {
        Self {
            places,
            place: None,
            polls: 0,
            time: Duration::ZERO,
        }
    }

    /// Records a poll that took `time`.
    pub(crate) fn polled(&mut self, time: Duration) {
        self.polls = self.polls.saturating_add(1);
        self.time += time;
    }

    /// Whether the call, which uses much of a CPU, has a place or gets one.
    pub(crate) fn may_stay(&mut self) -> bool {
        if self.time > MEAN_POLL.saturating_mul(self.polls) {
            self.place = None;
        } else if self.place.is_none() {
            self.place = self.places.take();
        }
        self.place.is_some()
    }

    /// The call uses little of a CPU: it needs no place.
    pub(crate) fn rests(&mut self) {
        self.place = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(100);
    const LONG: Duration = Duration::from_millis(1);

    #[test]
    fn calls_of_short_polls_stay_while_there_are_places() {
        let places = Arc::new(SteadyPlaces {
            free: AtomicUsize::new(2),
        });
        let call = |time| {
            let mut call = Steadiness::new(places.clone());
            call.polled(time);
            call
        };
        let (mut first, mut second, mut third) = (call(SHORT), call(SHORT), call(SHORT));
        assert!(!call(LONG).may_stay());
        assert!(first.may_stay() && first.may_stay() && second.may_stay());
        assert!(!third.may_stay());
        second.rests();
        assert!(third.may_stay());
        assert!(!second.may_stay());
        drop(first);
        assert!(second.may_stay());
    }

    #[test]
    fn a_call_whose_polls_become_long_loses_its_place() {
        let places = Arc::new(SteadyPlaces {
            free: AtomicUsize::new(1),
        });
        let mut call = Steadiness::new(places.clone());
        call.polled(SHORT);
        assert!(call.may_stay());
        call.polled(LONG);
        assert!(!call.may_stay());
        let mut other = Steadiness::new(places);
        other.polled(SHORT);
        assert!(other.may_stay());
    }
}
