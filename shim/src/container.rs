//! A container: from a bundle to its removal.

pub(crate) mod code;
mod control;
mod create;
mod exec_spec;
mod execs;
mod follow;
mod launch;
mod prepare;
mod teardown;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use tokio::sync::Mutex as Gate;
use tokio::task::AbortHandle;

use self::code::Code;
use crate::cgroup::{Cgroup, stats};
use crate::containerd::events::Events;
use crate::containerd::options::Options;
use crate::error::{Error, Result};
use crate::oci::server::Workers;
use crate::process::{Phase, Process};
use crate::runc::Runc;
use crate::sys::log;
use crate::sys::reaper::Reaper;

/// What all containers of a shim share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// containerd's namespace.
    pub(crate) namespace: String,
    /// Our server, on the host.
    pub(crate) server: PathBuf,
    /// Ends of processes.
    pub(crate) reaper: Arc<Reaper>,
    /// News for containerd.
    pub(crate) events: Arc<Events>,
    /// Whether to log more.
    pub(crate) debug: bool,
}

/// One container.
#[derive(Debug)]
pub(crate) struct Container {
    /// Its name.
    pub(crate) id: String,
    /// Its folder, of containerd's.
    pub(crate) bundle: PathBuf,
    /// Its first process.
    pub(crate) init: Arc<Process>,
    shared: Arc<Shared>,
    options: Options,
    runc: Runc,
    cgroup: Option<Cgroup>,
    workers: Option<Workers>,
    shares_pids: bool,
    code: Option<Code>,
    /// Waits for the compiler of the code.
    compiling: Option<AbortHandle>,
    paused: AtomicBool,
    /// Held by whatever changes the container as a whole.
    gate: Gate<()>,
    execs: Mutex<HashMap<String, Arc<Exec>>>,
}

impl Container {
    /// A process: the first one, or the one of `exec`.
    ///
    /// # Errors
    /// There is no such.
    pub(crate) fn process(&self, exec: &str) -> Result<Arc<Process>> {
        if exec.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        self.exec(exec).map(|exec| Arc::clone(&exec.process))
    }

    /// Whether it is paused.
    pub(crate) fn paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// What it uses.
    ///
    /// # Errors
    /// Its control groups are not known.
    pub(crate) fn stats(&self) -> Result<Any> {
        stats::read(self.cgroup()?)
    }

    /// Writes its state and that of its execs to the log.
    pub(crate) fn report(&self) {
        let paused = if self.paused() { ", paused" } else { "" };
        log::info!("container {}: {}{paused}", self.id, self.init.describe());
        for (id, exec) in &*self.execs() {
            log::info!(
                "container {}, exec {id}: {:?}",
                self.id,
                exec.process.phase()
            );
        }
    }

    /// Fails where the container's state does not allow `change`.
    fn expect(&self, change: Change) -> Result<()> {
        match change.refusal(&self.init.phase(), self.paused()) {
            None => Ok(()),
            Some(state) => Err(Error::FailedPrecondition(format!(
                "cannot {} container {}: it {state}",
                change.verb(),
                self.id
            ))),
        }
    }

    /// A process that was added.
    ///
    /// # Errors
    /// There is no such.
    fn exec(&self, id: &str) -> Result<Arc<Exec>> {
        let execs = self.execs();
        execs
            .get(id)
            .cloned()
            .ok_or_else(|| Error::NotFound(format!("container {} has no process {id}", self.id)))
    }

    /// All of them.
    fn execs(&self) -> MutexGuard<'_, HashMap<String, Arc<Exec>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cgroup(&self) -> Result<&Cgroup> {
        self.cgroup.as_ref().ok_or_else(|| {
            Error::NotFound(format!("the control groups of {} are not known", self.id))
        })
    }
}

/// A process that was added, and what it is to be.
#[derive(Debug)]
struct Exec {
    /// The process.
    process: Arc<Process>,
    spec: Vec<u8>,
}

/// A change of a container that only some of its states allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Exec,
    Pause,
    Resume,
}

impl Change {
    fn verb(self) -> &'static str {
        match self {
            Self::Exec => "exec in",
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }

    /// What is wrong with the state of a container, if it does not allow this.
    fn refusal(self, phase: &Phase, paused: bool) -> Option<&'static str> {
        match (self, phase) {
            (_, Phase::Ended(..)) => Some("has ended"),
            (Self::Resume, _) => (!paused).then_some("is not paused"),
            _ if paused => Some("is paused"),
            (Self::Pause, Phase::Created(_)) => Some("has not been started"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::reaper::Exit;

    #[test]
    fn a_state_allows_what_it_allows_under_runc() {
        let (created, running) = (Phase::Created(7), Phase::Running(7));
        let ended = Phase::Ended(7, Exit::unknown());
        for (change, phase, paused, allowed) in [
            (Change::Pause, &created, false, false),
            (Change::Pause, &running, false, true),
            (Change::Pause, &running, true, false),
            (Change::Pause, &ended, false, false),
            (Change::Resume, &created, false, false),
            (Change::Resume, &running, false, false),
            (Change::Resume, &running, true, true),
            (Change::Resume, &ended, true, false),
            (Change::Exec, &created, false, true),
            (Change::Exec, &running, false, true),
            (Change::Exec, &running, true, false),
            (Change::Exec, &ended, false, false),
        ] {
            let refusal = change.refusal(phase, paused);
            assert_eq!(refusal.is_none(), allowed, "{change:?} {phase:?} {paused}");
        }
    }
}
