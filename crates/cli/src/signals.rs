//! Signals: the first stop signal stops the server gracefully, the second one exits at once.
//!
//! The init process of a container ignores signals without a handler, and inherits orphans.

use std::{
    future::{pending, poll_fn},
    io::{self, IsTerminal},
    process,
    task::Poll,
};

use rustix::process::{WaitOptions, getpid, wait};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that stop a server: what Docker, Kubernetes and systemd send, and what images of
/// other servers name as their stop signal (nginx: `SIGQUIT`; systemd: `SIGRTMIN+3`, which is 37
/// for whoever sends it by name).
const STOPPING: [(&str, i32); 4] = [
    ("SIGTERM", libc::SIGTERM),
    ("SIGINT", libc::SIGINT),
    ("SIGQUIT", libc::SIGQUIT),
    ("SIGRTMIN+3", 37),
];

/// Other signals that terminate a process by default.
const WITHOUT_MEANING: [i32; 2] = [libc::SIGUSR1, libc::SIGUSR2];

/// The signals that stop a server.
pub(crate) struct Signals(Vec<(Signal, &'static str, i32)>);

impl Signals {
    /// Installs the handlers. Needs a runtime.
    pub(crate) fn install() -> io::Result<Self> {
        let mut stopping = Vec::with_capacity(STOPPING.len() + 1);
        for (name, number) in STOPPING {
            stopping.push((signal(SignalKind::from_raw(number))?, name, number));
        }
        for number in WITHOUT_MEANING {
            // An installed handler stays.
            drop(signal(SignalKind::from_raw(number))?);
        }
        let hangup = signal(SignalKind::hangup())?;
        if io::stdin().is_terminal() || io::stderr().is_terminal() {
            // The terminal is closed.
            stopping.push((hangup, "SIGHUP", libc::SIGHUP));
        } else {
            tokio::spawn(ignore(hangup));
        }
        if getpid().is_init() {
            let children = signal(SignalKind::child())?;
            tokio::spawn(reap(children));
        }
        Ok(Self(stopping))
    }

    /// Waits for a signal. Returns its name and number.
    pub(crate) async fn next(&mut self) -> (&'static str, i32) {
        let received = poll_fn(|context| {
            let mut open = false;
            for (signal, name, number) in &mut self.0 {
                match signal.poll_recv(context) {
                    Poll::Ready(Some(())) => return Poll::Ready(Some((*name, *number))),
                    Poll::Ready(None) => {}
                    Poll::Pending => open = true,
                }
            }
            if open {
                Poll::Pending
            } else {
                Poll::Ready(None)
            }
        });
        match received.await {
            Some(received) => received,
            // The runtime has ended, and this task with it.
            None => pending().await,
        }
    }

    /// Exits at the next signal.
    pub(crate) fn end_at_next(mut self) {
        tokio::spawn(async move {
            let (_, number) = self.next().await;
            process::exit(128 + number);
        });
    }
}

/// Logs that a server does not reload.
async fn ignore(mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        tracing::info!("SIGHUP is ignored: restart the server to load the project again");
    }
}

/// Reaps orphans. The server starts no processes.
async fn reap(mut children: Signal) {
    while children.recv().await.is_some() {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    }
}
