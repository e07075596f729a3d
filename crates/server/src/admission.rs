//! Who may run now, who waits, who is sent away.
//!
//! A bounded number of calls runs at once, a bounded number waits for a bounded time. No worker takes all of it from the others: it may
//! run as many calls as places are free beside them, and the same holds for its part of the queue. The first of several slow
//! workers gets half of the places, the next half of the rest: some stay free for one more (the dynamic threshold of Choudhury
//! and Hahne, 1998). A worker that is alone in its project gets all.
//!
//! The same holds for the memory that calls begin with, from a worker's second call on: one call of each worker may always wait for
//! its memory.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;

/// Bounds of admission.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    /// Calls at once.
    pub(crate) concurrency: u32,
    /// Calls that wait.
    pub(crate) queue: u32,
    /// Longest wait.
    pub(crate) timeout: Duration,
    /// Bytes that calls may begin with.
    pub(crate) memory: u64,
    pub(crate) workers: Vec<WorkerBounds>,
}

/// What is known of a worker's calls.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WorkerBounds {
    /// Calls at once; 0 is no bound of its own.
    pub(crate) concurrency: u32,
    /// Bytes that each call begins with.
    pub(crate) memory: u64,
}

/// Why a call was sent away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the queue is full (`server.queue`)")]
    Full,
    #[error("no place within the time (`server.queue_timeout`)")]
    Timeout,
}

/// The door.
pub(crate) struct Admission {
    bounds: Bounds,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: u32,
    /// Bytes that the running calls began with.
    memory: u64,
    waiting: u32,
    next: u64,
    lanes: Vec<Lane>,
    /// Workers that have calls waiting, in the order of their turns.
    turns: VecDeque<usize>,
}

/// One worker's calls.
#[derive(Default)]
struct Lane {
    running: u32,
    /// By number, ascending.
    waiters: VecDeque<(u64, oneshot::Sender<()>)>,
}

/// A running call's place; free again when dropped.
pub(crate) struct Permit {
    door: Arc<Admission>,
    worker: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.door.leave(self.worker);
    }
}

/// A waiting call. Dropped, it gives up its place in the queue, or the place to run that it was given meanwhile.
struct Waiting {
    /// `None` once its place to run was taken over.
    door: Option<Arc<Admission>>,
    worker: usize,
    number: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(door) = &self.door else { return };
        let mut state = door.lock();
        let lane = &mut state.lanes[self.worker];
        match lane
            .waiters
            .binary_search_by_key(&self.number, |(number, _)| *number)
        {
            Ok(index) => {
                lane.waiters.remove(index);
                state.waiting -= 1;
            }
            Err(_) => {
                drop(state);
                door.leave(self.worker);
            }
        }
    }
}

impl Admission {
    pub(crate) fn new(bounds: Bounds) -> Arc<Self> {
        let lanes = bounds.workers.iter().map(|_| Lane::default()).collect();
        Arc::new(Self {
            bounds,
            state: Mutex::new(State {
                lanes,
                ..State::default()
            }),
        })
    }

    /// Nothing panics while the lock is held.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn running(&self) -> u32 {
        self.lock().running
    }

    /// Waits for a place to run a call of `worker`.
    pub(crate) async fn enter(self: &Arc<Self>, worker: usize) -> Result<Permit, Refused> {
        let (mut waiting, granted) = {
            let mut state = self.lock();
            // Those who came earlier go first.
            if state.lanes[worker].waiters.is_empty() && self.may_run(&state, worker) {
                self.run(&mut state, worker);
                return Ok(Permit {
                    door: self.clone(),
                    worker,
                });
            }
            if !self.may_wait(&state, worker) {
                return Err(Refused::Full);
            }
            let (grant, granted) = oneshot::channel();
            let number = state.next;
            state.next += 1;
            state.waiting += 1;
            if state.lanes[worker].waiters.is_empty() && !state.turns.contains(&worker) {
                state.turns.push_back(worker);
            }
            state.lanes[worker].waiters.push_back((number, grant));
            (
                Waiting {
                    door: Some(self.clone()),
                    worker,
                    number,
                },
                granted,
            )
        };
        match tokio::time::timeout(self.bounds.timeout, granted).await {
            Ok(Ok(())) => {
                let door = waiting.door.take().unwrap_or_else(|| self.clone());
                Ok(Permit { door, worker })
            }
            // The sender is kept until it is used.
            Ok(Err(_)) | Err(_) => Err(Refused::Timeout),
        }
    }

    fn shared(&self) -> bool {
        self.bounds.workers.len() > 1
    }

    fn may_run(&self, state: &State, worker: usize) -> bool {
        let own = self.bounds.workers[worker].concurrency;
        let running = state.lanes[worker].running;
        let free = self.bounds.concurrency.saturating_sub(state.running);
        free > 0
            && (own == 0 || running < own)
            && (!self.shared() || running <= free && self.leaves_memory(state, worker))
    }

    /// Whether one more call leaves as much memory to other workers as this one then has.
    fn leaves_memory(&self, state: &State, worker: usize) -> bool {
        let running = u64::from(state.lanes[worker].running);
        let own = running * self.bounds.workers[worker].memory;
        let more = self.bounds.workers[worker].memory;
        running == 0 || own + more <= self.bounds.memory.saturating_sub(state.memory)
    }

    fn may_wait(&self, state: &State, worker: usize) -> bool {
        let free = self.bounds.queue.saturating_sub(state.waiting);
        let waiting = u32::try_from(state.lanes[worker].waiters.len()).unwrap_or(u32::MAX);
        free > 0 && (!self.shared() || waiting <= free)
    }

    fn run(&self, state: &mut State, worker: usize) {
        state.running += 1;
        state.memory += self.bounds.workers[worker].memory;
        state.lanes[worker].running += 1;
    }

    fn leave(&self, worker: usize) {
        let mut state = self.lock();
        state.running -= 1;
        state.memory -= self.bounds.workers[worker].memory;
        state.lanes[worker].running -= 1;
        if state.waiting > 0 {
            self.fill(&mut state);
        }
    }

    /// Gives free places to those who wait, worker by worker in turn.
    fn fill(&self, state: &mut State) {
        let mut tries = state.turns.len();
        while tries > 0 && state.running < self.bounds.concurrency {
            tries -= 1;
            let Some(worker) = state.turns.pop_front() else {
                return;
            };
            if self.may_run(state, worker)
                && let Some((_, grant)) = state.lanes[worker].waiters.pop_front()
            {
                state.waiting -= 1;
                self.run(state, worker);
                // Where nobody receives it, `Waiting` is being dropped and hands the place on.
                let _ = grant.send(());
                tries = state.turns.len() + 1;
            }
            if !state.lanes[worker].waiters.is_empty() {
                state.turns.push_back(worker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn door(concurrency: u32, queue: u32, workers: &[u32]) -> Arc<Admission> {
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
        Admission::new(Bounds {
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
        let door = with_memory(128, 8, 35, costs.to_vec());
        let mut held = Vec::new();
        while let Ok(permit) = door.enter(0).await {
            held.push(permit);
        }
        assert_eq!(held.len(), 3);
        let other = door.enter(1).await.unwrap();
        drop(other);
        held.pop();
        assert!(door.enter(0).await.is_ok());
    }

    #[tokio::test]
    async fn one_call_may_begin_with_more_than_is_left_for_it() {
        let costs = [30, 30].map(|memory| WorkerBounds {
            concurrency: 0,
            memory,
        });
        let door = with_memory(128, 8, 35, costs.to_vec());
        let _first = door.enter(0).await.unwrap();
        assert!(door.enter(0).await.is_err());
        assert!(door.enter(1).await.is_ok());
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
    async fn places_are_counted_and_handed_on_in_order() {
        let door = door(2, 2, &[0]);
        let (first, _second) = (door.enter(0).await.unwrap(), door.enter(0).await.unwrap());
        let third = tokio::spawn({
            let door = door.clone();
            async move { door.enter(0).await }
        });
        settle().await;
        let fourth = tokio::spawn({
            let door = door.clone();
            async move { door.enter(0).await }
        });
        settle().await;
        assert_eq!(door.enter(0).await.err(), Some(Refused::Full));
        drop(first);
        settle().await;
        assert!(third.is_finished() && !fourth.is_finished());
        drop(third.await.unwrap().unwrap());
        assert!(fourth.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn who_waits_too_long_is_sent_away_and_leaves_the_queue() {
        let door = door(1, 1, &[0]);
        let running = door.enter(0).await.unwrap();
        assert_eq!(door.enter(0).await.err(), Some(Refused::Timeout));
        assert_eq!(door.lock().waiting, 0);
        drop(running);
        drop(door.enter(0).await.unwrap());
        assert_eq!(door.running(), 0);
    }

    #[tokio::test]
    async fn a_call_that_is_dropped_while_it_waits_leaves_nothing() {
        let door = door(1, 8, &[0]);
        let running = door.enter(0).await.unwrap();
        let waiting = tokio::spawn({
            let door = door.clone();
            async move { door.enter(0).await }
        });
        settle().await;
        waiting.abort();
        settle().await;
        assert_eq!(door.lock().waiting, 0);
        // Granted and dropped before it was looked at.
        let waiting = tokio::spawn({
            let door = door.clone();
            async move { door.enter(0).await }
        });
        settle().await;
        drop(running);
        waiting.abort();
        settle().await;
        assert_eq!(door.running(), 0);
        assert!(door.enter(0).await.is_ok());
    }

    #[tokio::test]
    async fn a_worker_has_its_own_bound() {
        let door = door(10, 10, &[1, 0]);
        let _running = door.enter(0).await.unwrap();
        assert_eq!(door.enter(0).await.err(), Some(Refused::Timeout));
        assert!(door.enter(1).await.is_ok());
    }

    #[tokio::test]
    async fn flooded_workers_leave_places_for_another() {
        let door = door(128, 1024, &[0; 5]);
        let mut held = Vec::new();
        let mut waiting = Vec::new();
        for worker in 0..4 {
            for _ in 0..2000 {
                let door = door.clone();
                let mut entering = Box::pin(async move { door.enter(worker).await });
                let polled = std::future::poll_fn(|context| {
                    std::task::Poll::Ready(entering.as_mut().poll(context))
                });
                match polled.await {
                    std::task::Poll::Ready(Ok(permit)) => held.push(permit),
                    std::task::Poll::Ready(Err(refused)) => assert_eq!(refused, Refused::Full),
                    std::task::Poll::Pending => waiting.push(entering),
                }
            }
        }
        assert!(held.len() > 100, "{}", held.len());
        for _ in 0..4 {
            held.push(door.enter(4).await.unwrap());
        }
    }

    #[tokio::test]
    async fn workers_take_turns() {
        let door = door(1, 100, &[0, 0]);
        let running = door.enter(0).await.unwrap();
        let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
        for worker in [0, 0, 0, 1] {
            let (door, sender) = (door.clone(), sender.clone());
            tokio::spawn(async move {
                let permit = door.enter(worker).await.unwrap();
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
