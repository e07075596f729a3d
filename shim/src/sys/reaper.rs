//! Exits of child processes: those that the shim starts, and those that it inherits as the
//! subreaper when the OCI runtime that started them exits. One place reaps them all, so that no
//! zombie stays and no exit is lost.

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

/// The exit code of a process whose exit was not seen: that of a killed process.
pub(crate) const KILLED_EXIT_CODE: u32 = 128 + 9;

/// How a process exited.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Exit {
    /// Its exit status, or 128 plus the signal's number.
    pub(crate) code: u32,
    /// When the shim saw the exit.
    pub(crate) at: Timestamp,
}

impl Exit {
    /// An exit of which only the time is known.
    pub(crate) fn unknown() -> Self {
        Self {
            code: KILLED_EXIT_CODE,
            at: time::now(),
        }
    }

    fn from_status(status: WaitStatus) -> Self {
        let signal = || status.terminating_signal().map(|signal| 128 + signal);
        let code = status.exit_status().or_else(signal);
        Self {
            code: code.map_or(KILLED_EXIT_CODE, i32::cast_unsigned),
            at: time::now(),
        }
    }
}

/// Reaps exited children.
#[derive(Debug, Default)]
pub(crate) struct Reaper(Mutex<ReaperState>);

#[derive(Debug, Default)]
struct ReaperState {
    expected: HashMap<u32, ExpectedExit>,
    /// Exits of processes that have no waiter yet. They are kept while a spawn is pending, as one
    /// of them may be its child's.
    unclaimed: HashMap<u32, Exit>,
    pending_spawns: usize,
}

/// A process that is being started and whose PID is not known yet. No exit is forgotten until this
/// is dropped.
#[derive(Debug)]
pub(crate) struct PendingSpawn(Arc<Reaper>);

/// A running child.
#[derive(Debug)]
pub(crate) struct Child {
    /// Its PID.
    pub(crate) pid: u32,
    /// Its exit.
    pub(crate) exit: ExitWaiter,
}

impl Child {
    /// Kills it, unless it was reaped: its PID may belong to another process then.
    pub(crate) fn kill(&self) {
        let runs = !self.exit.reaped.is_set();
        if let Some(pid) = Pid::from_raw(self.pid.cast_signed()).filter(|_| runs) {
            // It may be dying already.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The future exit of a process.
#[derive(Debug)]
pub(crate) struct ExitWaiter {
    exit: oneshot::Receiver<Exit>,
    reaped: ReapedFlag,
}

/// Whether a process was reaped: from then on its PID may belong to another process.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReapedFlag(Arc<AtomicBool>);

impl ReapedFlag {
    /// Returns whether it was reaped. The answer holds until the next `await` of the thread that
    /// reaps.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct ExpectedExit {
    exit: oneshot::Sender<Exit>,
    reaped: ReapedFlag,
}

impl ExitWaiter {
    /// Waits for the exit.
    pub(crate) async fn wait(mut self) -> Exit {
        self.exited().await
    }

    /// Waits for the exit, and can be cancelled. The exit is reported once.
    pub(crate) async fn exited(&mut self) -> Exit {
        (&mut self.exit).await.unwrap_or_else(|_| Exit::unknown())
    }

    /// Returns a flag for those who do not wait.
    pub(crate) fn reaped(&self) -> ReapedFlag {
        self.reaped.clone()
    }
}

impl Reaper {
    /// Makes this process the subreaper of its descendants and reaps from now on. Must be called
    /// within the tokio runtime.
    ///
    /// # Errors
    /// The kernel rejects it.
    pub(crate) fn start() -> io::Result<Arc<Self>> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let mut exits = signal(SignalKind::child())?;
        let reaper = Arc::new(Self::default());
        let this = Arc::clone(&reaper);
        tokio::spawn(async move {
            while exits.recv().await.is_some() {
                this.reap();
            }
        });
        Ok(reaper)
    }

    /// Announces a process whose PID will be known later.
    pub(crate) fn pending_spawn(self: &Arc<Self>) -> PendingSpawn {
        self.state().pending_spawns += 1;
        PendingSpawn(Arc::clone(self))
    }

    /// Starts a child.
    ///
    /// # Errors
    /// That of [`Command::spawn`].
    pub(crate) fn spawn(self: &Arc<Self>, command: &mut Command) -> io::Result<Child> {
        let pending = self.pending_spawn();
        // The reaper waits for the child, and not its handle.
        let pid = command.spawn()?.id();
        Ok(Child {
            pid,
            exit: pending.claim(pid),
        })
    }

    fn state(&self) -> MutexGuard<'_, ReaperState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reap(&self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            self.record_exit(
                pid.as_raw_nonzero().get().cast_unsigned(),
                Exit::from_status(status),
            );
        }
    }

    /// Passes the exit of a reaped process on to its waiters.
    pub(crate) fn record_exit(&self, pid: u32, exit: Exit) {
        let mut state = self.state();
        if let Some(waited) = state.expected.remove(&pid) {
            waited.reaped.0.store(true, Ordering::Relaxed);
            // The receiver may be gone.
            let _ = waited.exit.send(exit);
        } else if state.pending_spawns > 0 {
            state.unclaimed.insert(pid, exit);
        }
    }
}

impl PendingSpawn {
    /// Announces that the process has the PID `pid`, and returns its exit, which may have happened
    /// already.
    pub(crate) fn claim(&self, pid: u32) -> ExitWaiter {
        let (sender, exit) = oneshot::channel();
        let reaped = ReapedFlag::default();
        let mut state = self.0.state();
        if let Some(exit) = state.unclaimed.remove(&pid) {
            reaped.0.store(true, Ordering::Relaxed);
            drop(sender.send(exit));
        } else {
            let waited = ExpectedExit {
                exit: sender,
                reaped: reaped.clone(),
            };
            state.expected.insert(pid, waited);
        }
        ExitWaiter { exit, reaped }
    }
}

impl Drop for PendingSpawn {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.pending_spawns -= 1;
        if state.pending_spawns == 0 {
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
    #[allow(clippy::zombie_processes, reason = "waited for by PID")]
    fn converts_statuses_to_the_exit_codes_of_shells() {
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
            assert_eq!(Exit::from_status(status).code, code, "{script}");
        }
    }

    #[tokio::test]
    async fn keeps_an_exit_that_comes_before_the_pid_is_known() {
        let reaper = Arc::new(Reaper::default());
        let pending = reaper.pending_spawn();
        reaper.record_exit(7, exit(3));
        assert_eq!(pending.claim(7).wait().await, exit(3));
    }

    #[tokio::test]
    async fn delivers_an_exit_that_comes_after_the_pid_is_known() {
        let reaper = Arc::new(Reaper::default());
        let waiter = reaper.pending_spawn().claim(7);
        reaper.record_exit(7, exit(0));
        assert_eq!(waiter.wait().await, exit(0));
        assert!(reaper.state().expected.is_empty());
    }

    #[test]
    #[allow(clippy::zombie_processes, reason = "waited for by PID")]
    fn kills_a_child_only_until_it_is_reaped() {
        let reaper = Arc::new(Reaper::default());
        let spawned = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&spawned);
        let gone = Child {
            pid: spawned.id(),
            exit: reaper.pending_spawn().claim(spawned.id()),
        };
        reaper.record_exit(spawned.id(), exit(0));
        // From the point of view of this child, the PID belongs to another process now.
        gone.kill();
        let state = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        assert!(state.unwrap().is_none());
        let child = Child {
            pid: spawned.id(),
            exit: reaper.pending_spawn().claim(spawned.id()),
        };
        child.kill();
        let ended = rustix::process::waitpid(Some(pid), WaitOptions::empty());
        let (_, status) = ended.unwrap().unwrap();
        assert_eq!(Exit::from_status(status).code, KILLED_EXIT_CODE);
    }

    #[test]
    fn sets_the_flag_as_soon_as_a_process_is_reaped() {
        let reaper = Arc::new(Reaper::default());
        let waiter = reaper.pending_spawn().claim(7);
        let reaped = waiter.reaped();
        assert!(!reaped.is_set());
        // No waiter yet.
        reaper.record_exit(7, exit(0));
        assert!(reaped.is_set());
        let pending = reaper.pending_spawn();
        reaper.record_exit(8, exit(0));
        assert!(
            pending.claim(8).reaped().is_set(),
            "reaped before the PID was known"
        );
    }

    #[tokio::test]
    async fn forgets_exits_of_unknown_processes() {
        let reaper = Arc::new(Reaper::default());
        let pending = reaper.pending_spawn();
        reaper.record_exit(8, exit(0));
        drop(pending);
        assert!(reaper.state().unclaimed.is_empty());
        reaper.record_exit(9, exit(0));
        assert!(reaper.state().unclaimed.is_empty());
    }
}
