//! Instances of a command that are started before their request comes: each waits where it first
//! reads its standard input, answers one request, and is dropped.
//!
//! They serve interpreters that a project brings along, which take a tenth of a second to get there
//! and have no known point at which a snapshot could be taken. What a program does before it reads
//! is done once for each instance, with the instance's own random numbers, so nothing is shared.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::engine::Engine;
use crate::error::CallError;
use crate::guest::instance::PrintedOutput;
use crate::host::stdio::{AwaitedInput, PrestartInput};
use crate::schedule::cpu::CpuUsage;

/// Instances that wait for the requests of a worker which is called often.
const BUSY: usize = 4;

/// The same for a worker that was not called for a while.
const QUIET: usize = 1;

/// No start takes longer.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The run of an instance, to the end of its output.
pub(crate) type Run = BoxFuture<'static, Result<PrintedOutput, CallError>>;

/// Starts an instance that waits for its input.
pub(crate) type StartInstance = dyn Fn(AwaitedInput, Arc<CpuUsage>) -> Run + Send + Sync;

/// An instance that waits.
pub(crate) struct ParkedInstance {
    pub(crate) run: Run,
    pub(crate) input: oneshot::Sender<PrestartInput>,
    pub(crate) usage: Arc<CpuUsage>,
}

/// The prestarted instances of a guest.
pub(crate) struct PrestartPool {
    engine: Engine,
    start: Arc<StartInstance>,
    parked: Mutex<VecDeque<ParkedInstance>>,
    starting: AtomicUsize,
    /// A start ended before it read its input: prestarting would do the program's work without a
    /// request.
    useless: AtomicBool,
}

impl PrestartPool {
    /// A pool that starts its first instance now.
    pub(crate) fn new(engine: Engine, start: Arc<StartInstance>) -> Arc<Self> {
        let pool = Arc::new(Self {
            engine,
            start,
            parked: Mutex::default(),
            starting: AtomicUsize::new(0),
            useless: AtomicBool::new(false),
        });
        pool.fill(QUIET);
        pool
    }

    fn parked(&self) -> MutexGuard<'_, VecDeque<ParkedInstance>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an instance for a request, if one waits, and starts others in its place.
    pub(crate) fn take(self: &Arc<Self>) -> Option<ParkedInstance> {
        let taken = self.parked().pop_front();
        self.fill(BUSY);
        taken
    }

    /// Drops what a worker that is not called does not need.
    pub(crate) fn trim(&self) {
        let dropped: Vec<_> = {
            let mut parked = self.parked();
            let keep = parked.len().min(QUIET);
            parked.drain(keep..).collect()
        };
        drop(dropped);
    }

    fn fill(self: &Arc<Self>, target: usize) {
        while !self.useless.load(Relaxed)
            && self.parked().len() + self.starting.load(Relaxed) < target
            // Requests that came meanwhile are served before.
            && self.engine.has_room_to_prestart()
        {
            self.starting.fetch_add(1, Relaxed);
            let bring_up = bring_up(
                Arc::downgrade(self),
                self.engine.clone(),
                self.start.clone(),
            );
            if !self.engine.slow_lane().spawn(bring_up) {
                self.starting.fetch_sub(1, Relaxed);
                return;
            }
        }
    }
}

/// Brings an instance to where it reads its input.
async fn bring_up(pool: Weak<PrestartPool>, engine: Engine, start: Arc<StartInstance>) {
    let (sender, input) = oneshot::channel();
    let waits = Arc::new(AtomicBool::new(false));
    let usage = Arc::new(CpuUsage::default());
    let awaited = AwaitedInput {
        input,
        waits: waits.clone(),
    };
    let running = engine.ticker().run();
    let mut run = start(awaited, usage.clone());
    drop(start);
    let started = poll_fn(|context| match run.as_mut().poll(context) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending if waits.load(Relaxed) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    let started = tokio::time::timeout(START_TIMEOUT, started).await;
    drop(running);
    let Some(pool) = pool.upgrade() else {
        return;
    };
    if let Ok(None) = started {
        // CPU time used up to here belongs to no request.
        usage.reset();
        pool.parked().push_back(ParkedInstance {
            run,
            input: sender,
            usage,
        });
    } else {
        pool.useless.store(true, Relaxed);
    }
    pool.starting.fetch_sub(1, Relaxed);
}
