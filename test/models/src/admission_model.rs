//! Calls that enter, wait, give up and leave.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use shuttle::future::block_on;
use shuttle::rand::Rng;

use crate::admission::{Admission, AdmissionBounds, AdmissionError, WorkerBounds, WorkerPlaces};
use crate::check;
use crate::sync::{Arc, AtomicUsize, Ordering, thread};

const SLOTS: u32 = 2;
const QUEUE: u32 = 4;

fn admission(workers: usize, timeout: Duration) -> Arc<WorkerPlaces> {
    let admission = Admission::new(AdmissionBounds {
        concurrency: SLOTS,
        queue: QUEUE,
        timeout,
        memory: 8,
    });
    let bounds = WorkerBounds {
        concurrency: 0,
        memory: 1,
    };
    let routes = ["/0", "/1", "/2", "/3"].into_iter().take(workers);
    Arc::new(admission.places(routes.map(|route| (route, bounds))))
}

/// Counts the calls that run, each until the counter is dropped.
struct RunningCall(Arc<AtomicUsize>);

impl RunningCall {
    fn new(running: &Arc<AtomicUsize>) -> Self {
        let before = running.fetch_add(1, Ordering::SeqCst);
        assert!(before < SLOTS as usize, "more calls run than slots are");
        Self(running.clone())
    }
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Checks that nobody runs or waits: all slots are free, then the whole queue.
fn is_empty(admission: &Arc<WorkerPlaces>) {
    let enter = |admission: &Arc<WorkerPlaces>| {
        let admission = admission.clone();
        let mut entering = Box::pin(async move { admission.enter(0).await });
        let polled = block_on(std::future::poll_fn(|context| {
            Poll::Ready(entering.as_mut().poll(context))
        }));
        (polled, entering)
    };
    let running: Vec<_> = (0..SLOTS).map(|_| enter(admission)).collect();
    assert!(running.iter().all(|(polled, _)| polled.is_ready()));
    let waiting: Vec<_> = (0..QUEUE).map(|_| enter(admission)).collect();
    assert!(waiting.iter().all(|(polled, _)| polled.is_pending()));
    let (polled, _) = enter(admission);
    assert!(matches!(polled, Poll::Ready(Err(AdmissionError::Full))));
    // The waiting ones first, or they get the slots.
    drop(waiting);
    drop(running);
}

/// Every call that waits gets a slot: one that did not would wait forever, which shuttle reports.
pub fn waiting_calls_get_free_slots() {
    check(|| {
        let admission = admission(2, Duration::MAX);
        let running = Arc::new(AtomicUsize::new(0));
        let calls: Vec<_> = [0, 0, 1, 1]
            .map(|worker| {
                let (admission, running) = (admission.clone(), running.clone());
                thread::spawn(move || {
                    let permit = block_on(admission.enter(worker)).expect("a place in the queue");
                    let call = RunningCall::new(&running);
                    thread::yield_now();
                    drop(call);
                    drop(permit);
                })
            })
            .into();
        for call in calls {
            call.join().expect("a call");
        }
    });
}

/// Calls that time out or are dropped, at any moment, keep no slot and no place.
pub fn calls_that_give_up_leave_nothing() {
    check(|| {
        let admission = admission(1, Duration::from_secs(1));
        let running = Arc::new(AtomicUsize::new(0));
        let calls: Vec<_> = (0..4)
            .map(|_| {
                let (admission, running) = (admission.clone(), running.clone());
                let gives_up = shuttle::rand::thread_rng().gen_bool(0.5);
                thread::spawn(move || {
                    block_on(async {
                        let mut entering = pin!(admission.enter(0));
                        if gives_up {
                            let first = std::future::poll_fn(|context| {
                                Poll::Ready(entering.as_mut().poll(context))
                            });
                            if let Poll::Ready(Ok(_permit)) = first.await {
                                let _call = RunningCall::new(&running);
                                thread::yield_now();
                            }
                            thread::yield_now();
                        } else if let Ok(_permit) = entering.await {
                            let _call = RunningCall::new(&running);
                            thread::yield_now();
                        }
                    });
                })
            })
            .collect();
        for call in calls {
            call.join().expect("a call");
        }
        is_empty(&admission);
    });
}
