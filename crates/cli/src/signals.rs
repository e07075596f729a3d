//! Signals: the first SIGTERM or SIGINT stops the server, the second ends it at once.
//!
//! As the first process of a container a signal without a handler would be ignored, and orphans become ours.

use std::{future::pending, io, process};

use rustix::process::{WaitOptions, getpid, wait};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a server.
pub(crate) struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    /// Installs the handlers. Within a runtime.
    pub(crate) fn install() -> io::Result<Self> {
        let signals = Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        };
        if getpid().is_init() {
            let children = signal(SignalKind::child())?;
            tokio::spawn(reap(children));
        }
        Ok(signals)
    }

    /// Waits for one. Returns its name and number.
    pub(crate) async fn next(&mut self) -> (&'static str, i32) {
        let (received, name) = tokio::select! {
            received = self.term.recv() => (received, ("SIGTERM", 15)),
            received = self.int.recv() => (received, ("SIGINT", 2)),
        };
        match received {
            Some(()) => name,
            // The runtime is gone, and this with it.
            None => pending().await,
        }
    }

    /// Ends the process at the next signal.
    pub(crate) fn end_at_next(mut self) {
        tokio::spawn(async move {
            let (_, number) = self.next().await;
            process::exit(128 + number);
        });
    }
}

/// Takes leave of orphans. We start no processes of our own.
async fn reap(mut children: Signal) {
    while children.recv().await.is_some() {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    }
}
