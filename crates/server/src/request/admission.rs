//! Admission control: which calls run now, wait or are rejected.
//!
//! A bounded number of calls runs at once, and a bounded number waits for a bounded time. No worker
//! can take all of it: a worker may run as many calls as slots are free, and the same holds for its
//! part of the queue. The first of several slow workers gets half of the slots, the next one half
//! of the rest, so that some stay free for another (the dynamic threshold of Choudhury and Hahne,
//! 1998). The only worker of a project gets all slots.

use std::{collections::VecDeque, time::Duration};

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
    pub(crate) workers: Vec<WorkerBounds>,
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
    workers: Vec<WorkerCalls>,
    /// Workers with waiting calls, in the order of their turns.
    turns: VecDeque<usize>,
}

/// The calls of one worker.
#[derive(Default)]
struct WorkerCalls {
    running: u32,
    /// By number, ascending.
    waiters: VecDeque<(u64, oneshot::Sender<()>)>,
}

/// The right to run a call, until it is dropped.
pub(crate) struct CallPermit {
    admission: Arc<Admission>,
    worker: usize,
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        self.admission.leave(self.worker);
    }
}

/// A waiting call. Dropping it gives up its place in the queue, or the slot that it got meanwhile.
struct WaitingCall {
    /// `None` once the slot was taken over.
    admission: Option<Arc<Admission>>,
    worker: usize,
    number: u64,
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
            .binary_search_by_key(&self.number, |(number, _)| *number)
        {
            Ok(index) => {
                calls.waiters.remove(index);
                state.waiting -= 1;
            }
            Err(_) => {
                drop(state);
                admission.leave(self.worker);
            }
        }
    }
}

impl Admission {
    pub(crate) fn new(bounds: AdmissionBounds) -> Arc<Self> {
        let workers = bounds
            .workers
            .iter()
            .map(|_| WorkerCalls::default())
            .collect();
        Arc::new(Self {
            bounds,
            state: Mutex::new(AdmissionState {
                workers,
                ..AdmissionState::default()
            }),
        })
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

    /// Waits for a slot to run a call of `worker`.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        worker: usize,
    ) -> Result<CallPermit, AdmissionError> {
        let (mut waiting, granted) = {
            let mut state = self.lock();
            // Earlier calls go first.
            if state.workers[worker].waiters.is_empty() && self.may_run(&state, worker) {
                self.run(&mut state, worker);
                return Ok(CallPermit {
                    admission: self.clone(),
                    worker,
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
            state.workers[worker].waiters.push_back((number, grant));
            (
                WaitingCall {
                    admission: Some(self.clone()),
                    worker,
                    number,
                },
                granted,
            )
        };
        match timeout(self.bounds.timeout, granted).await {
            Ok(Ok(())) => {
                let admission = waiting.admission.take().unwrap_or_else(|| self.clone());
                Ok(CallPermit { admission, worker })
            }
            // The sender is kept until it is used.
            Ok(Err(_)) | Err(_) => Err(AdmissionError::Timeout),
        }
    }

    fn shared(&self) -> bool {
        self.bounds.workers.len() > 1
    }

    fn may_run(&self, state: &AdmissionState, worker: usize) -> bool {
        let own = self.bounds.workers[worker].concurrency;
        let running = state.workers[worker].running;
        let free = self.bounds.concurrency.saturating_sub(state.running);
        free > 0
            && (own == 0 || running < own)
            && (!self.shared() || running <= free && self.leaves_memory(state, worker))
    }

    /// Whether one more call leaves other workers as much memory as this worker has then.
    fn leaves_memory(&self, state: &AdmissionState, worker: usize) -> bool {
        let running = u64::from(state.workers[worker].running);
        let own = running * self.bounds.workers[worker].memory;
        let more = self.bounds.workers[worker].memory;
        running == 0 || own + more <= self.bounds.memory.saturating_sub(state.memory)
    }

    fn may_wait(&self, state: &AdmissionState, worker: usize) -> bool {
        let free = self.bounds.queue.saturating_sub(state.waiting);
        let waiting = u32::try_from(state.workers[worker].waiters.len()).unwrap_or(u32::MAX);
        free > 0 && (!self.shared() || waiting <= free)
    }

    fn run(&self, state: &mut AdmissionState, worker: usize) {
        state.running += 1;
        state.memory += self.bounds.workers[worker].memory;
        state.workers[worker].running += 1;
    }

    fn leave(&self, worker: usize) {
        let mut state = self.lock();
        state.running -= 1;
        state.memory -= self.bounds.workers[worker].memory;
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
                && let Some((_, grant)) = state.workers[worker].waiters.pop_front()
            {
                state.waiting -= 1;
                self.run(state, worker);
                // Without a receiver, `WaitingCall` is being dropped and passes the slot on.
                let _ = grant.send(());
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

    fn admission(concurrency: u32, queue: u32, workers: &[u32]) -> Arc<Admission> {
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
    ) -> Arc<Admission> {
        Admission::new(AdmissionBounds {
            concurrency,
            queue,
            timeout: Duration::from_millis(200),
            memory,
            workers,
        })
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
        assert_eq!(admission.lock().waiting, 0);
        drop(running);
        drop(admission.enter(0).await.unwrap());
        assert_eq!(admission.running(), 0);
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
        assert_eq!(admission.lock().waiting, 0);
        // Granted and dropped before it was looked at.
        let waiting = tokio::spawn({
            let admission = admission.clone();
            async move { admission.enter(0).await }
        });
        settle().await;
        drop(running);
        waiting.abort();
        settle().await;
        assert_eq!(admission.running(), 0);
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
