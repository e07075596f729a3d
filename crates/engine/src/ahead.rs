//! Instances of a command that were started before their request came: each waits where it first reads its standard input, answers
//! one request, and is gone.
//!
//! For interpreters that a project brings along: they take a tenth of a second to get there, and nobody but they know of a point
//! where a snapshot could be made. What a program does before it reads is done once for each instance, with the instance's own
//! random numbers, so nothing is shared.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use tokio::sync::oneshot;

use crate::{CallError, Guest, account::Charge, guest::Printed, lane::Usage, snapshot::Boxed};

/// Instances that wait for the requests of a worker which is asked often.
const BUSY: usize = 4;

/// The same where nobody has asked for a while.
const QUIET: usize = 1;

/// No start takes longer.
const START: Duration = Duration::from_secs(60);

/// What an instance waits for.
pub(crate) struct Input {
    pub(crate) stdin: Vec<u8>,
    pub(crate) charge: Charge,
    pub(crate) request_id: String,
}

/// An instance's side of waiting.
pub(crate) struct Awaited {
    pub(crate) input: oneshot::Receiver<Input>,
    /// Set when it waits.
    pub(crate) waits: Arc<AtomicBool>,
}

/// An instance that waits.
pub(crate) struct Parked {
    pub(crate) run: Boxed<'static, Result<Printed, CallError>>,
    pub(crate) input: oneshot::Sender<Input>,
    pub(crate) usage: Arc<Usage>,
}

/// The instances of a guest that were started ahead.
#[derive(Default)]
pub(crate) struct Ahead {
    parked: Mutex<VecDeque<Parked>>,
    starting: AtomicUsize,
    /// A start ended before it read its input: starting ahead would do the program's work without a request.
    useless: AtomicBool,
}

impl Ahead {
    fn parked(&self) -> std::sync::MutexGuard<'_, VecDeque<Parked>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An instance for a request, if one waits; and others are started in its place.
    pub(crate) fn take(self: &Arc<Self>, guest: &Guest) -> Option<Parked> {
        let taken = self.parked().pop_front();
        self.fill(guest, BUSY);
        taken
    }

    /// Starts the first.
    pub(crate) fn begin(self: &Arc<Self>, guest: &Guest) {
        self.fill(guest, QUIET);
    }

    /// Lets go of what a worker that nobody asks does not need.
    pub(crate) fn trim(&self) {
        let dropped: Vec<_> = {
            let mut parked = self.parked();
            let keep = parked.len().min(QUIET);
            parked.drain(keep..).collect()
        };
        drop(dropped);
    }

    fn fill(self: &Arc<Self>, guest: &Guest, wanted: usize) {
        while !self.useless.load(Relaxed)
            && self.parked().len() + self.starting.load(Relaxed) < wanted
            // Requests that came meanwhile are served before.
            && guest.engine().has_room_ahead()
        {
            self.starting.fetch_add(1, Relaxed);
            let (ahead, starting) = (Arc::downgrade(self), guest.clone().without_ahead());
            if !guest.engine().slow_lane().spawn(start(ahead, starting)) {
                self.starting.fetch_sub(1, Relaxed);
                return;
            }
        }
    }
}

/// Brings an instance to where it reads its input.
async fn start(ahead: Weak<Ahead>, guest: Guest) {
    let (sender, input) = oneshot::channel();
    let waits = Arc::new(AtomicBool::new(false));
    let usage = Arc::new(Usage::default());
    let awaited = Awaited {
        input,
        waits: waits.clone(),
    };
    let engine = guest.engine().clone();
    let running = engine.ticker().run();
    let mut run = guest.print_ahead(awaited, usage.clone());
    let started = poll_fn(|context| match run.as_mut().poll(context) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending if waits.load(Relaxed) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    let started = tokio::time::timeout(START, started).await;
    drop(running);
    let Some(ahead) = ahead.upgrade() else {
        return;
    };
    if let Ok(None) = started {
        // What it took to get here is nobody's request.
        usage.reset();
        ahead.parked().push_back(Parked {
            run,
            input: sender,
            usage,
        });
    } else {
        ahead.useless.store(true, Relaxed);
    }
    ahead.starting.fetch_sub(1, Relaxed);
}
