//! Ends of child processes: those that we start, and those that become ours because the OCI runtime that started them is gone
//! (we are their subreaper). One place collects them all, so that none stays a zombie and none is lost.

use std::collections::HashMap;
use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::sys::time;

/// The code of a process that is gone without our having seen its end: as of one that was killed.
pub(crate) const KILLED: u32 = 128 + 9;

/// How a process ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Exit {
    /// Its status, or 128 and the signal's number.
    pub(crate) code: u32,
    /// When we saw it.
    pub(crate) at: Timestamp,
}

impl Exit {
    /// An end of which only the time is known.
    pub(crate) fn unknown() -> Self {
        Self {
            code: KILLED,
            at: time::now(),
        }
    }

    fn of(status: WaitStatus) -> Self {
        let signal = || status.terminating_signal().map(|signal| 128 + signal);
        let code = status.exit_status().or_else(signal);
        Self {
            code: code.map_or(KILLED, i32::cast_unsigned),
            at: time::now(),
        }
    }
}

/// The collector of ended children.
#[derive(Debug, Default)]
pub(crate) struct Reaper(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<u32, Waited>,
    /// Ends of processes that nobody waits for yet. Kept while a birth is under way: one of them may be its child's.
    unclaimed: HashMap<u32, Exit>,
    births: usize,
}

/// The start of a process whose number is not known yet. Until it is dropped no end is forgotten.
#[derive(Debug)]
pub(crate) struct Birth(Arc<Reaper>);

/// A child that runs.
#[derive(Debug)]
pub(crate) struct Child {
    /// Its process number.
    pub(crate) pid: u32,
    /// Its end.
    pub(crate) exit: Waiter,
}

impl Child {
    /// Ends it, unless it has ended: its number may be another's by then.
    pub(crate) fn kill(&self) {
        let runs = !self.exit.gone.now();
        if let Some(pid) = Pid::from_raw(self.pid.cast_signed()).filter(|_| runs) {
            // Already dying.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The end of a process, to come.
#[derive(Debug)]
pub(crate) struct Waiter {
    exit: oneshot::Receiver<Exit>,
    gone: Gone,
}

/// Whether a process has been collected: from then on its number may be another's.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gone(Arc<AtomicBool>);

impl Gone {
    /// As of now. What follows in the same thread without an `await` can rely on it, as that thread collects.
    pub(crate) fn now(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Waited {
    exit: oneshot::Sender<Exit>,
    gone: Gone,
}

impl Waiter {
    /// Waits for it.
    pub(crate) async fn wait(mut self) -> Exit {
        self.ended().await
    }

    /// Waits for it, and can be given up. It is told once.
    pub(crate) async fn ended(&mut self) -> Exit {
        (&mut self.exit).await.unwrap_or_else(|_| Exit::unknown())
    }

    /// Whether it is over, for those who do not wait.
    pub(crate) fn gone(&self) -> Gone {
        self.gone.clone()
    }
}

impl Reaper {
    /// Makes this process the parent of its descendants' orphans, and collects from now on. To be called within the runtime.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(crate) fn start() -> io::Result<Arc<Self>> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let mut ended = signal(SignalKind::child())?;
        let reaper = Arc::new(Self::default());
        let collector = Arc::clone(&reaper);
        tokio::spawn(async move {
            while ended.recv().await.is_some() {
                collector.collect();
            }
        });
        Ok(reaper)
    }

    /// Announces a process whose number will be known later.
    pub(crate) fn birth(self: &Arc<Self>) -> Birth {
        self.state().births += 1;
        Birth(Arc::clone(self))
    }

    /// Starts a child.
    ///
    /// # Errors
    /// As of [`Command::spawn`].
    pub(crate) fn spawn(self: &Arc<Self>, command: &mut Command) -> io::Result<Child> {
        let birth = self.birth();
        // Not waited for by its handle: the collector does it.
        let pid = command.spawn()?.id();
        Ok(Child {
            pid,
            exit: birth.claim(pid),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect(&self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            self.ended(pid.as_raw_nonzero().get().cast_unsigned(), Exit::of(status));
        }
    }

    pub(crate) fn ended(&self, pid: u32, exit: Exit) {
        let mut state = self.state();
        if let Some(waited) = state.waiting.remove(&pid) {
            waited.gone.0.store(true, Ordering::Relaxed);
            // Nobody may want to know any more.
            let _ = waited.exit.send(exit);
        } else if state.births > 0 {
            state.unclaimed.insert(pid, exit);
        }
    }
}

impl Birth {
    /// The process is `pid`: its end, also if that has come already.
    pub(crate) fn claim(&self, pid: u32) -> Waiter {
        let (sender, exit) = oneshot::channel();
        let gone = Gone::default();
        let mut state = self.0.state();
        if let Some(exit) = state.unclaimed.remove(&pid) {
            gone.0.store(true, Ordering::Relaxed);
            drop(sender.send(exit));
        } else {
            let waited = Waited {
                exit: sender,
                gone: gone.clone(),
            };
            state.waiting.insert(pid, waited);
        }
        Waiter { exit, gone }
    }
}

impl Drop for Birth {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.births -= 1;
        if state.births == 0 {
            state.unclaimed = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn exit(code: u32) -> Exit {
        Exit {
            code,
            at: Timestamp::default(),
        }
    }

    #[test]
    #[allow(clippy::zombie_processes, reason = "waited for by its number")]
    fn statuses_become_the_codes_that_shells_show() {
        for (script, code) in [
            ("exit 0", 0),
            ("exit 78", 78),
            ("kill -TERM $$", 143),
            ("kill -KILL $$", 137),
        ] {
            let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            let pid = rustix::process::Pid::from_child(&child);
            let ended = rustix::process::waitpid(Some(pid), WaitOptions::empty());
            let (_, status) = ended.unwrap().unwrap();
            assert_eq!(Exit::of(status).code, code, "{script}");
        }
    }

    #[tokio::test]
    async fn an_end_before_its_process_is_known_is_kept() {
        let reaper = Arc::new(Reaper::default());
        let birth = reaper.birth();
        reaper.ended(7, exit(3));
        assert_eq!(birth.claim(7).wait().await, exit(3));
    }

    #[tokio::test]
    async fn an_end_after_its_process_is_known_arrives() {
        let reaper = Arc::new(Reaper::default());
        let waiter = reaper.birth().claim(7);
        reaper.ended(7, exit(0));
        assert_eq!(waiter.wait().await, exit(0));
        assert!(reaper.state().waiting.is_empty());
    }

    #[test]
    #[allow(clippy::zombie_processes, reason = "waited for by its number")]
    fn only_a_child_that_has_not_ended_is_killed() {
        let reaper = Arc::new(Reaper::default());
        let spawned = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&spawned);
        let gone = Child {
            pid: spawned.id(),
            exit: reaper.birth().claim(spawned.id()),
        };
        reaper.ended(spawned.id(), exit(0));
        // The number is another's now, as far as this child is concerned.
        gone.kill();
        let state = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        assert!(state.unwrap().is_none());
        let child = Child {
            pid: spawned.id(),
            exit: reaper.birth().claim(spawned.id()),
        };
        child.kill();
        let ended = rustix::process::waitpid(Some(pid), WaitOptions::empty());
        let (_, status) = ended.unwrap().unwrap();
        assert_eq!(Exit::of(status).code, KILLED);
    }

    #[test]
    fn a_process_is_gone_as_soon_as_it_is_collected() {
        let reaper = Arc::new(Reaper::default());
        let waiter = reaper.birth().claim(7);
        let gone = waiter.gone();
        assert!(!gone.now());
        // Nobody has waited for it yet.
        reaper.ended(7, exit(0));
        assert!(gone.now());
        let birth = reaper.birth();
        reaper.ended(8, exit(0));
        assert!(birth.claim(8).gone().now(), "gone before it was known");
    }

    #[tokio::test]
    async fn ends_of_strangers_are_forgotten() {
        let reaper = Arc::new(Reaper::default());
        let birth = reaper.birth();
        reaper.ended(8, exit(0));
        drop(birth);
        assert!(reaper.state().unclaimed.is_empty());
        reaper.ended(9, exit(0));
        assert!(reaper.state().unclaimed.is_empty());
    }
}
