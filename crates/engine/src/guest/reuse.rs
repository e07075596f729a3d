//! Instances that answer several requests, one after another, where a worker's author has asked for
//! it: what a request leaves behind is seen by the next.
//!
//! An instance waits here after it has answered, and is discarded once it has answered as many
//! requests as it may, was not needed for a while, or failed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::engine::Engine;

/// Instances of a worker that may wait for a request.
const MAX_IDLE: usize = 16;

/// How long an instance waits for a request.
const IDLE_TIME: Duration = Duration::from_secs(10);

/// An instance, and how many requests it has answered.
pub(crate) struct ReusedInstance<I> {
    pub(crate) instance: I,
    answered: u32,
}

impl<I> ReusedInstance<I> {
    pub(crate) fn new(instance: I) -> Self {
        Self {
            instance,
            answered: 0,
        }
    }

    /// Requests that the instance has answered.
    pub(crate) fn answered(&self) -> u32 {
        self.answered
    }

    /// The instance has answered so many more.
    pub(crate) fn has_answered(&mut self, more: u32) {
        self.answered += more;
    }
}

/// An instance that waits.
struct IdleInstance<I> {
    instance: ReusedInstance<I>,
    since: Instant,
}

/// The instances of a guest that may answer another request: none, unless its author has asked for
/// it.
pub(crate) struct Reuse<I>(Option<Arc<ReusePool<I>>>);

impl<I: Send + 'static> Reuse<I> {
    /// Each request has an instance of its own.
    pub(crate) fn never() -> Self {
        Self(None)
    }

    /// Lets an instance answer so many requests, one after another.
    pub(crate) fn allow(&mut self, engine: &Engine, requests: u32) {
        self.0 = Some(ReusePool::new(engine.clone(), requests));
    }

    /// Whether an instance may answer more than one request.
    pub(crate) fn is_allowed(&self) -> bool {
        self.0.is_some()
    }

    /// Requests that an instance answers.
    pub(crate) fn requests(&self) -> u32 {
        self.0.as_ref().map_or(1, |pool| pool.requests)
    }

    /// Takes the instance that was used last, and how long it has waited.
    pub(crate) fn take(&self) -> Option<(ReusedInstance<I>, Duration)> {
        self.0.as_ref()?.take()
    }

    /// Keeps an instance that has answered a request, as [`ReusePool::put`] does.
    pub(crate) fn put(&self, instance: ReusedInstance<I>) {
        if let Some(pool) = &self.0 {
            pool.put(instance);
        }
    }

    /// Throws instances away that wait for a request.
    pub(crate) fn trim(&self) {
        if let Some(pool) = &self.0 {
            pool.clear();
        }
    }
}

/// The waiting instances of a guest.
struct ReusePool<I> {
    engine: Engine,
    /// Requests that an instance answers.
    requests: u32,
    idle_time: Duration,
    waiting: Mutex<WaitingInstances<I>>,
}

struct WaitingInstances<I> {
    /// The one that waits longest is first.
    idle: Vec<IdleInstance<I>>,
    /// Whether a task throws away those that wait too long.
    is_swept: bool,
}

impl<I: Send + 'static> ReusePool<I> {
    /// A pool of instances that answer so many requests.
    fn new(engine: Engine, requests: u32) -> Arc<Self> {
        Self::with_idle_time(engine, requests, IDLE_TIME)
    }

    fn with_idle_time(engine: Engine, requests: u32, idle_time: Duration) -> Arc<Self> {
        Arc::new(Self {
            engine,
            requests,
            idle_time,
            waiting: Mutex::new(WaitingInstances {
                idle: Vec::new(),
                is_swept: false,
            }),
        })
    }

    fn waiting(&self) -> MutexGuard<'_, WaitingInstances<I>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the instance that was used last, and how long it has waited.
    fn take(&self) -> Option<(ReusedInstance<I>, Duration)> {
        let last = self.waiting().idle.pop()?;
        let waited = last.since.elapsed();
        // The sweep may be late on a busy machine.
        (waited < self.idle_time).then_some((last.instance, waited))
    }

    /// Keeps an instance that has answered a request, unless that was its last one, or its memory
    /// is needed for others.
    fn put(self: &Arc<Self>, mut instance: ReusedInstance<I>) {
        instance.answered += 1;
        if instance.answered >= self.requests || !self.engine.has_room_to_prestart() {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut waiting = self.waiting();
        let since = Instant::now();
        waiting.idle.push(IdleInstance { instance, since });
        let oldest = (waiting.idle.len() > MAX_IDLE).then(|| waiting.idle.remove(0));
        if !std::mem::replace(&mut waiting.is_swept, true) {
            runtime.spawn(sweep(Arc::downgrade(self), since + self.idle_time));
        }
        drop(waiting);
        // Outside of the lock: its memory is reset.
        drop(oldest);
    }

    /// Throws all waiting instances away.
    fn clear(&self) {
        let idle = std::mem::take(&mut self.waiting().idle);
        drop(idle);
    }

    /// Throws away those that have waited too long. Returns when the next one will have: never, if
    /// none is left.
    fn expire(&self) -> Option<Instant> {
        let mut waiting = self.waiting();
        let is_old = |idle: &IdleInstance<I>| idle.since.elapsed() >= self.idle_time;
        let count = waiting.idle.iter().take_while(|idle| is_old(idle)).count();
        let expired: Vec<_> = waiting.idle.drain(..count).collect();
        let next = waiting.idle.first().map(|idle| idle.since + self.idle_time);
        waiting.is_swept = next.is_some();
        drop(waiting);
        drop(expired);
        next
    }
}

/// Throws instances away when they have waited too long, until none waits.
async fn sweep<I: Send + 'static>(pool: Weak<ReusePool<I>>, mut next: Instant) {
    loop {
        tokio::time::sleep_until(next).await;
        let Some(pool) = pool.upgrade() else { return };
        match pool.expire() {
            Some(at) => next = at,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::engine::EngineOptions;

    fn pool(requests: u32, idle_time: Duration) -> Arc<ReusePool<Arc<()>>> {
        let engine = Engine::new(&EngineOptions::default()).unwrap();
        ReusePool::with_idle_time(engine, requests, idle_time)
    }

    #[tokio::test]
    async fn an_instance_is_used_as_often_as_it_may() {
        let pool = pool(3, IDLE_TIME);
        let mut instance = ReusedInstance::new(Arc::new(()));
        for _ in 0..2 {
            pool.put(instance);
            instance = pool.take().unwrap().0;
        }
        pool.put(instance);
        assert!(pool.take().is_none());
    }

    #[tokio::test]
    async fn reuses_the_most_recent_instance_and_bounds_their_number() {
        let pool = pool(100, IDLE_TIME);
        let all: Vec<_> = (0..=MAX_IDLE).map(|_| Arc::new(())).collect();
        for instance in &all {
            pool.put(ReusedInstance::new(instance.clone()));
        }
        let kept = |n: usize| Arc::strong_count(&all[n]) > 1;
        assert!(!kept(0) && kept(1));
        let last = pool.take().unwrap().0;
        assert!(Arc::ptr_eq(&last.instance, &all[MAX_IDLE]));
        pool.clear();
        assert!(!kept(1) && kept(MAX_IDLE));
        assert!(pool.take().is_none());
    }

    #[tokio::test]
    async fn idle_instances_are_dropped_after_their_time() {
        let pool = pool(100, Duration::from_millis(50));
        // The sweep ends when nothing waits, and begins again.
        for _ in 0..2 {
            let instances = [Arc::new(()), Arc::new(())];
            for instance in &instances {
                pool.put(ReusedInstance::new(instance.clone()));
            }
            let end = Instant::now() + Duration::from_secs(20);
            while instances.iter().any(|it| Arc::strong_count(it) > 1) {
                assert!(Instant::now() < end, "still there");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        pool.put(ReusedInstance::new(Arc::new(())));
        std::thread::sleep(Duration::from_millis(60));
        assert!(pool.take().is_none(), "the sweep was late");
    }
}
