//! Admission control: which calls run now, wait or are rejected.
//!
//! A bounded number of calls runs at once, and a bounded number waits for a bounded time. No worker
//! can take all of it: a worker may run as many calls as slots are free, and the same holds for its
//! part of the queue. The first of several slow workers gets half of the slots, the next one half
//! of the rest, so that some stay free for another (the dynamic threshold of Choudhury and Hahne,
//! 1998). The only worker of a project gets all slots.
//!
//! Workers keep their place when the project is loaded again, by their routes: calls of the old and
//! of the new generation count together.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::sync::{Arc, Mutex, MutexGuard, PoisonError, oneshot, timeout};

/// Bounds of admission.
#[derive(Clone, Debug)]
pub(crate) struct AdmissionBounds {
    /// Calls that run at once.
    pub(crate) concurrency: u32,
    /// Calls that wait.
    pub(crate) queue: u32,
    /// The longest wait.
    pub(crate) timeout: Duration,
    /// Bytes that calls may begin with.
    pub(crate) memory: u64,
}

/// The bounds of one worker's calls.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WorkerBounds {
    /// Calls that run at once; 0 sets no bound.
    pub(crate) concurrency: u32,
    /// Bytes that each call begins with.
    pub(crate) memory: u64,
}

/// The calls at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AdmissionLoad {
    pub(crate) running: u32,
    pub(crate) concurrency: u32,
    pub(crate) waiting: u32,
    pub(crate) queue: u32,
}

/// Why a call was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AdmissionError {
    #[error("the queue is full (`server.queue`)")]
    Full,
    #[error("no place within the time (`server.queue_timeout`)")]
    Timeout,
}

/// Admits calls of all workers.
pub(crate) struct Admission {
    bounds: AdmissionBounds,
    state: Mutex<AdmissionState>,
}

#[derive(Default)]
struct AdmissionState {
    running: u32,
    /// Bytes that the running calls began with.
    memory: u64,
    waiting: u32,
    next: u64,
    /// Whether the latest generation has several workers.
    shared: bool,
    workers: Vec<WorkerCalls>,
    /// The places of workers by their routes.
    routes: HashMap<String, usize>,
    /// Workers with waiting calls, in the order of their turns.
    turns: VecDeque<usize>,
}

/// The calls of one worker.
#[derive(Default)]
struct WorkerCalls {
    /// Generations that have the worker. Without any, and without calls, its place is free.
    generations: u32,
    bounds: WorkerBounds,
    running: u32,
    /// By number, ascending.
    waiters: VecDeque<Waiter>,
}

/// A call that waits, as the queue has it.
struct Waiter {
    number: u64,
    /// Bytes that the call begins with.
    memory: u64,
    grant: oneshot::Sender<()>,
}

impl WorkerCalls {
    fn is_free(&self) -> bool {
        self.generations == 0 && self.running == 0 && self.waiters.is_empty()
    }
}

/// The places of a generation's workers, in their order, until this is dropped.
pub(crate) struct WorkerPlaces {
    admission: Arc<Admission>,
    places: Vec<usize>,
}

impl WorkerPlaces {
    /// Waits for a slot to run a call of the worker with this index.
    pub(crate) async fn enter(&self, worker: usize) -> Result<CallPermit, AdmissionError> {
        self.admission.enter(self.places[worker]).await
    }
}

impl Drop for WorkerPlaces {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        for place in &self.places {
            state.workers[*place].generations -= 1;
        }
        let AdmissionState {
            workers, routes, ..
        } = &mut *state;
        routes.retain(|_, place| workers[*place].generations > 0);
    }
}

/// The right to run a call, until it is dropped.
pub(crate) struct CallPermit {
    admission: Arc<Admission>,
    worker: usize,
    /// Bytes that the call began with.
    memory: u64,
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        self.admission.leave(self.worker, self.memory);
    }
}

/// A waiting call. Dropping it gives up its place in the queue, or the slot that it got meanwhile.
struct WaitingCall {
    /// `None` once the slot was taken over.
    admission: Option<Arc<Admission>>,
    worker: usize,
    number: u64,
    /// Bytes that the call begins with.
    memory: u64,
}

impl Drop for WaitingCall {
    fn drop(&mut self) {
        let Some(admission) = &self.admission else {
            return;
        };
        let mut state = admission.lock();
        let calls = &mut state.workers[self.worker];
        match calls
            .waiters
            .binary_search_by_key(&self.number, |waiter| waiter.number)
        {
            Ok(index) => {
                calls.waiters.remove(index);
                state.waiting -= 1;
            }
            Err(_) => {
                drop(state);
                admission.leave(self.worker, self.memory);
            }
        }
    }
}

impl Admission {
    pub(crate) fn new(bounds: AdmissionBounds) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            state: Mutex::default(),
        })
    }

    /// Gives the workers of a generation their places: that of the worker which had the route
    /// before, or another one. From now on these bounds hold.
    pub(crate) fn places<'a>(
        self: &Arc<Self>,
        workers: impl ExactSizeIterator<Item = (&'a str, WorkerBounds)>,
    ) -> WorkerPlaces {
        let mut state = self.lock();
        state.shared = workers.len() > 1;
        let AdmissionState {
            workers: all,
            routes,
            ..
        } = &mut *state;
        let is_free = |(_, calls): &(usize, &WorkerCalls)| calls.is_free();
        let free = all.iter().enumerate().filter(is_free);
        let mut free: Vec<usize> = free.map(|(place, _)| place).collect();
        let mut places = Vec::with_capacity(workers.len());
        for (route, bounds) in workers {
            let place = match routes.get(route) {
                Some(place) => *place,
                None => {
                    let place = free.pop().unwrap_or_else(|| {
                        all.push(WorkerCalls::default());
                        all.len() - 1
                    });
                    routes.insert(route.to_owned(), place);
                    place
                }
            };
            all[place].generations += 1;
            all[place].bounds = bounds;
            places.push(place);
        }
        WorkerPlaces {
            admission: self.clone(),
            places,
        }
    }

    /// Locks the state. Nothing panics while the lock is held.
    fn lock(&self) -> MutexGuard<'_, AdmissionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn running(&self) -> u32 {
        self.lock().running
    }

    /// The calls that run and wait now, and how many may.
    pub(crate) fn load(&self) -> AdmissionLoad {
        let state = self.lock();
        AdmissionLoad {
            running: state.running,
            concurrency: self.bounds.concurrency,
            waiting: state.waiting,
            queue: self.bounds.queue,
        }
    }

    /// Waits for a slot to run a call of the worker at a place.
    async fn enter(self: &Arc<Self>, worker: usize) -> Result<CallPermit, AdmissionError> {
        let (mut waiting, granted) = {
            let mut state = self.lock();
            // Earlier calls go first.
            if state.workers[worker].waiters.is_empty() && self.may_run(&state, worker) {
                let memory = state.workers[worker].bounds.memory;
                Self::run(&mut state, worker, memory);
                return Ok(CallPermit {
                    admission: self.clone(),
                    worker,
                    memory,
                });
            }
            if !self.may_wait(&state, worker) {
                return Err(AdmissionError::Full);
            }
            let (grant, granted) = oneshot::channel();
            let number = state.next;
            state.next += 1;
            state.waiting += 1;
            if state.workers[worker].waiters.is_empty() && !state.turns.contains(&worker) {
                state.turns.push_back(worker);
            }
            let memory = state.workers[worker].bounds.memory;
            state.workers[worker].waiters.push_back(Waiter {
                number,
                memory,
                grant,
            });
            (
                WaitingCall {
                    admission: Some(self.clone()),
                    worker,
                    number,
                    memory,
                },
                granted,
            )
        };
        match timeout(self.bounds.timeout, granted).await {
            Ok(Ok(())) => {
                let admission = waiting.admission.take().unwrap_or_else(|| self.clone());
                Ok(CallPermit {
                    admission,
                    worker,
                    memory: waiting.memory,
                })
            }
            // The sender is kept until it is used.
            Ok(Err(_)) | Err(_) => Err(AdmissionError::Timeout),
        }
    }

    fn may_run(&self, state: &AdmissionState, worker: usize) -> bool {
        let calls = &state.workers[worker];
        let own = calls.bounds.concurrency;
        let free = self.bounds.concurrency.saturating_sub(state.running);
        free > 0
            && (own == 0 || calls.running < own)
            && (!state.shared || calls.running <= free && self.leaves_memory(state, calls))
    }

    /// Whether one more call leaves other workers as much memory as this worker has then.
    fn leaves_memory(&self, state: &AdmissionState, calls: &WorkerCalls) -> bool {
        let more = calls.bounds.memory;
        let own = u64::from(calls.running) * more;
        calls.running == 0 || own + more <= self.bounds.memory.saturating_sub(state.memory)
    }

    fn may_wait(&self, state: &AdmissionState, worker: usize) -> bool {
        let free = self.bounds.queue.saturating_sub(state.waiting);
        let waiting = u32::try_from(state.workers[worker].waiters.len()).unwrap_or(u32::MAX);
        free > 0 && (!state.shared || waiting <= free)
    }

    fn run(state: &mut AdmissionState, worker: usize, memory: u64) {
        state.running += 1;
        state.memory += memory;
        state.workers[worker].running += 1;
    }

    fn leave(&self, worker: usize, memory: u64) {
        let mut state = self.lock();
        state.running -= 1;
        state.memory -= memory;
        state.workers[worker].running -= 1;
        if state.waiting > 0 {
            self.fill(&mut state);
        }
    }

    /// Gives free slots to waiting calls, worker by worker in turn.
    fn fill(&self, state: &mut AdmissionState) {
        let mut tries = state.turns.len();
        while tries > 0 && state.running < self.bounds.concurrency {
            tries -= 1;
            let Some(worker) = state.turns.pop_front() else {
                return;
            };
            if self.may_run(state, worker)
                && let Some(waiter) = state.workers[worker].waiters.pop_front()
            {
                state.waiting -= 1;
                Self::run(state, worker, waiter.memory);
                // Without a receiver, `WaitingCall` is being dropped and passes the slot on.
                let _ = waiter.grant.send(());
                tries = state.turns.len() + 1;
            }
            if !state.workers[worker].waiters.is_empty() {
                state.turns.push_back(worker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn admission(concurrency: u32, queue: u32, workers: &[u32]) -> Arc<WorkerPlaces> {
        let workers = workers.iter().map(|concurrency| WorkerBounds {
            concurrency: *concurrency,
            memory: 0,
        });
        with_memory(concurrency, queue, 0, workers.collect())
    }

    fn with_memory(
        concurrency: u32,
        queue: u32,
        memory: u64,
        workers: Vec<WorkerBounds>,
    ) -> Arc<WorkerPlaces> {
        let admission = Admission::new(AdmissionBounds {
            concurrency,
            queue,
            timeout: Duration::from_millis(200),
            memory,
        });
        let routes: Vec<_> = (0..workers.len()).map(|at| format!("/{at}")).collect();
        let workers = routes.iter().map(String::as_str).zip(workers);
        Arc::new(admission.places(workers))
    }

    #[tokio::test]
    async fn counts_calls_of_two_generations_together() {
        let first = with_memory(4, 8, 0, vec![WorkerBounds::default(); 2]);
        let admission = first.admission.clone();
        let bounds = |concurrency, memory| WorkerBounds {
            concurrency,
            memory,
        };
        // `/1` is left out, `/2` is new, and `/0` may run one call.
        let old = (first.enter(0).await.unwrap(), first.enter(1).await.unwrap());
        let second = admission.places([("/0", bounds(1, 7)), ("/2", bounds(0, 5))].into_iter());
        assert_eq!(second.enter(0).await.err(), Some(AdmissionError::Timeout));
        let new = second.enter(1).await.unwrap();
        assert_eq!(admission.running(), 3);
        assert_eq!(admission.lock().workers.len(), 3);
        drop(first);
        drop(old);
        let again = second.enter(0).await.unwrap();
        assert_eq!(admission.lock().memory, 7 + 5);
        // The place of `/1` is free now.
        let third = admission.places([("/3", bounds(0, 1))].into_iter());
        assert_eq!(admission.lock().workers.len(), 3);
        drop((new, again, second, third));
        let state = admission.lock();
        assert_eq!((state.running, state.memory, state.routes.len()), (0, 0, 0));
        assert!(state.workers.iter().all(WorkerCalls::is_free));
    }

    #[tokio::test]
    async fn a_worker_leaves_memory_for_the_calls_of_others() {
        let costs = [6, 5].map(|memory| WorkerBounds {
            concurrency: 0,
            memory,
        });
        let admission = with_memory(128, 8, 35, costs.to_vec());
        let mut held = Vec::new();
        while let Ok(permit) = admission.enter(0).await {
            held.push(permit);
        }
        assert_eq!(held.len(), 3);
        let other = admission.enter(1).await.unwrap();
        drop(other);
        held.pop();
        assert!(admission.enter(0).await.is_ok());
    }

    #[tokio::test]
    async fn one_call_may_begin_with_more_than_is_left_for_it() {
        let costs = [30, 30].map(|memory| WorkerBounds {
            concurrency: 0,
            memory,
        });
        let admission = with_memory(128, 8, 35, costs.to_vec());
        let _first = admission.enter(0).await.unwrap();
        assert!(admission.enter(0).await.is_err());
        assert!(admission.enter(1).await.is_ok());
        let alone = with_memory(128, 8, 35, costs[..1].to_vec());
        let _first = alone.enter(0).await.unwrap();
        assert!(alone.enter(0).await.is_ok());
    }

    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn passes_slots_on_in_order() {
        let admission = admission(2, 2, &[0]);
        let (first, _second) = (
            admission.enter(0).await.unwrap(),
            admission.enter(0).await.unwrap(),
        );
        let third = tokio::spawn({
            let admission = admission.clone();
            async move { admission.enter(0).await }
        });
        settle().await;
        let fourth = tokio::spawn({
            let admission = admission.clone();
            async move { admission.enter(0).await }
        });
        settle().await;
        assert_eq!(admission.enter(0).await.err(), Some(AdmissionError::Full));
        drop(first);
        settle().await;
        assert!(third.is_finished() && !fourth.is_finished());
        drop(third.await.unwrap().unwrap());
        assert!(fourth.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn rejects_calls_that_wait_too_long() {
        let admission = admission(1, 1, &[0]);
        let running = admission.enter(0).await.unwrap();
        assert_eq!(
            admission.enter(0).await.err(),
            Some(AdmissionError::Timeout)
        );
        assert_eq!(admission.admission.lock().waiting, 0);
        drop(running);
        drop(admission.enter(0).await.unwrap());
        assert_eq!(admission.admission.running(), 0);
    }

    #[tokio::test]
    async fn dropping_a_waiting_call_frees_its_place() {
        let admission = admission(1, 8, &[0]);
        let running = admission.enter(0).await.unwrap();
        let waiting = tokio::spawn({
            let admission = admission.clone();
            async move { admission.enter(0).await }
        });
        settle().await;
        waiting.abort();
        settle().await;
        assert_eq!(admission.admission.lock().waiting, 0);
        // Granted and dropped before it was looked at.
        let waiting = tokio::spawn({
            let admission = admission.clone();
            async move { admission.enter(0).await }
        });
        settle().await;
        drop(running);
        waiting.abort();
        settle().await;
        assert_eq!(admission.admission.running(), 0);
        assert!(admission.enter(0).await.is_ok());
    }

    #[tokio::test]
    async fn applies_the_bound_of_a_worker() {
        let admission = admission(10, 10, &[1, 0]);
        let _running = admission.enter(0).await.unwrap();
        assert_eq!(
            admission.enter(0).await.err(),
            Some(AdmissionError::Timeout)
        );
        assert!(admission.enter(1).await.is_ok());
    }

    #[tokio::test]
    async fn flooded_workers_leave_slots_for_others() {
        let admission = admission(128, 1024, &[0; 5]);
        let mut held = Vec::new();
        let mut waiting = Vec::new();
        for worker in 0..4 {
            for _ in 0..2000 {
                let admission = admission.clone();
                let mut entering = Box::pin(async move { admission.enter(worker).await });
                let polled = std::future::poll_fn(|context| {
                    std::task::Poll::Ready(entering.as_mut().poll(context))
                });
                match polled.await {
                    std::task::Poll::Ready(Ok(permit)) => held.push(permit),
                    std::task::Poll::Ready(Err(refused)) => {
                        assert_eq!(refused, AdmissionError::Full)
                    }
                    std::task::Poll::Pending => waiting.push(entering),
                }
            }
        }
        assert!(held.len() > 100, "{}", held.len());
        for _ in 0..4 {
            held.push(admission.enter(4).await.unwrap());
        }
    }

    #[tokio::test]
    async fn workers_take_turns() {
        let admission = admission(1, 100, &[0, 0]);
        let running = admission.enter(0).await.unwrap();
        let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
        for worker in [0, 0, 0, 1] {
            let (admission, sender) = (admission.clone(), sender.clone());
            tokio::spawn(async move {
                let permit = admission.enter(worker).await.unwrap();
                sender.send(worker).unwrap();
                drop(permit);
            });
            settle().await;
        }
        drop(running);
        let mut got = Vec::new();
        for _ in 0..4 {
            got.push(order.recv().await.unwrap());
        }
        assert_eq!(got, [0, 1, 0, 0]);
    }
}
