//! Signals: the first stop signal stops the server gracefully, the second one exits at once. SIGHUP
//! has the project loaded again.
//!
//! The init process of a container ignores signals without a handler, and inherits orphans.

use std::{
    future::{pending, poll_fn},
    io::{self, IsTerminal},
    process,
    sync::Arc,
    task::Poll,
};

use rustix::process::{WaitOptions, getpid, wait};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

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

/// The signals of a server.
pub(crate) struct Signals {
    stopping: Vec<(Signal, &'static str, i32)>,
    hangup: Signal,
    /// Whether the server was started on a terminal.
    had_terminal: bool,
    reload: Arc<Notify>,
}

fn has_terminal() -> bool {
    io::stdin().is_terminal() || io::stderr().is_terminal()
}

impl Signals {
    /// Installs the handlers. Needs a runtime.
    pub(crate) fn install() -> io::Result<Self> {
        let mut stopping = Vec::with_capacity(STOPPING.len());
        for (name, number) in STOPPING {
            stopping.push((signal(SignalKind::from_raw(number))?, name, number));
        }
        for number in WITHOUT_MEANING {
            // An installed handler stays.
            drop(signal(SignalKind::from_raw(number))?);
        }
        let hangup = signal(SignalKind::hangup())?;
        if getpid().is_init() {
            let children = signal(SignalKind::child())?;
            tokio::spawn(reap(children));
        }
        Ok(Self {
            stopping,
            hangup,
            had_terminal: has_terminal(),
            reload: Arc::default(),
        })
    }

    /// Notified when the project is to be loaded again, while [`Self::next`] waits.
    pub(crate) fn reload_requests(&self) -> Arc<Notify> {
        self.reload.clone()
    }

    /// Waits for a signal that stops the server. Returns its name and number.
    pub(crate) async fn next(&mut self) -> (&'static str, i32) {
        let received = poll_fn(|context| {
            let mut open = false;
            for (signal, name, number) in &mut self.stopping {
                match signal.poll_recv(context) {
                    Poll::Ready(Some(())) => return Poll::Ready(Some((*name, *number))),
                    Poll::Ready(None) => {}
                    Poll::Pending => open = true,
                }
            }
            while let Poll::Ready(Some(())) = self.hangup.poll_recv(context) {
                // A terminal that is closed sends the same signal.
                if self.had_terminal && !has_terminal() {
                    return Poll::Ready(Some(("SIGHUP", libc::SIGHUP)));
                }
                self.reload.notify_one();
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

/// Reaps orphans. The server starts no processes.
async fn reap(mut children: Signal) {
    while children.recv().await.is_some() {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    }
}
