//! Containers, from their creation to their removal.

pub(crate) mod code;
mod control;
pub(crate) mod create;
mod exec_spec;
mod execs;
mod follow;
mod launch;
mod prepare;
pub(crate) mod teardown;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::AbortHandle;

use self::code::ContainerCode;
use crate::cgroup::{Cgroup, stats};
use crate::containerd::events::EventQueue;
use crate::containerd::options::Options;
use crate::error::{Error, Result};
use crate::oci::server::ServedProject;
use crate::process::{Phase, Process};
use crate::runc::Runc;
use crate::server::ServerProgram;
use crate::sys::log;
use crate::sys::reaper::Reaper;
use crate::trace::Tracer;

/// What all containers of a shim share.
#[derive(Debug)]
pub(crate) struct ShimContext {
    /// containerd's namespace.
    pub(crate) namespace: String,
    /// The program `wws` on the host.
    pub(crate) server: Arc<ServerProgram>,
    /// Reports the exits of processes.
    pub(crate) reaper: Arc<Reaper>,
    /// Publishes events to containerd.
    pub(crate) events: Arc<EventQueue>,
    /// Records what is done for containers.
    pub(crate) tracer: Tracer,
    /// Whether the OCI runtime logs for debugging.
    pub(crate) debug: bool,
    /// The directory of sockets, whose path is short.
    pub(crate) sockets: PathBuf,
}

/// A container that the OCI runtime has created.
#[derive(Debug)]
pub(crate) struct Container {
    /// Its identifier.
    pub(crate) id: String,
    /// The directory that containerd made for it.
    pub(crate) bundle: PathBuf,
    /// Its init process.
    pub(crate) init: Arc<Process>,
    context: Arc<ShimContext>,
    options: Options,
    runc: Runc,
    cgroup: Option<Cgroup>,
    /// The path of the cgroup in the specification.
    cgroups_path: String,
    /// What it serves, if it is a container of workers.
    project: Option<ServedProject>,
    shares_pids: bool,
    code: Option<ContainerCode>,
    /// The task that waits for the compiler of the code.
    compile_task: Option<AbortHandle>,
    paused: AtomicBool,
    /// Held by operations that change the container as a whole.
    change_lock: AsyncMutex<()>,
    execs: Mutex<HashMap<String, Arc<Exec>>>,
}

impl Container {
    /// Returns a process: the init process if `exec` is empty, or that exec.
    ///
    /// # Errors
    /// The process does not exist.
    pub(crate) fn process(&self, exec: &str) -> Result<Arc<Process>> {
        if exec.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        self.exec(exec).map(|exec| Arc::clone(&exec.process))
    }

    /// Returns whether the container is paused.
    pub(crate) fn paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Returns the resource usage.
    ///
    /// # Errors
    /// The cgroup is not known.
    pub(crate) fn stats(&self) -> Result<Any> {
        stats::read(self.cgroup()?)
    }

    /// Logs the state of the container and its execs.
    pub(crate) fn report(&self) {
        let paused = if self.paused() { ", paused" } else { "" };
        log::report!("container {}: {}{paused}", self.id, self.init.describe());
        for (id, exec) in &*self.execs() {
            let state = exec.process.describe();
            log::report!("container {}, exec {id}: {state}", self.id);
        }
    }

    /// Fails if the state of the container does not allow `operation`.
    fn require(&self, operation: Operation) -> Result<()> {
        match operation.rejection(&self.init.phase(), self.paused()) {
            None => Ok(()),
            Some(state) => Err(Error::failed_precondition(format!(
                "cannot {} container {}: it {state}",
                operation.verb(),
                self.id
            ))),
        }
    }

    /// Returns a process that exec added.
    ///
    /// # Errors
    /// The process does not exist.
    fn exec(&self, id: &str) -> Result<Arc<Exec>> {
        let execs = self.execs();
        execs
            .get(id)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("container {} has no process {id}", self.id)))
    }

    /// Returns all processes that exec added.
    fn execs(&self) -> MutexGuard<'_, HashMap<String, Arc<Exec>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cgroup(&self) -> Result<&Cgroup> {
        self.cgroup
            .as_ref()
            .ok_or_else(|| Error::not_found(format!("the cgroup of {} is not known", self.id)))
    }
}

/// A process that exec added.
#[derive(Debug)]
struct Exec {
    /// The process.
    process: Arc<Process>,
    /// Its description for the OCI runtime.
    spec: Vec<u8>,
}

/// An operation that only some states of a container allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Exec,
    Pause,
    Resume,
}

impl Operation {
    fn verb(self) -> &'static str {
        match self {
            Self::Exec => "exec in",
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }

    /// Returns why the state of a container does not allow the operation.
    fn rejection(self, phase: &Phase, paused: bool) -> Option<&'static str> {
        match (self, phase) {
            (_, Phase::Exited(..)) => Some("has exited"),
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
    fn allows_the_operations_that_runc_allows() {
        let (created, running) = (Phase::Created(7), Phase::Running(7));
        let exited = Phase::Exited(7, Exit::unknown());
        for (operation, phase, paused, allowed) in [
            (Operation::Pause, &created, false, false),
            (Operation::Pause, &running, false, true),
            (Operation::Pause, &running, true, false),
            (Operation::Pause, &exited, false, false),
            (Operation::Resume, &created, false, false),
            (Operation::Resume, &running, false, false),
            (Operation::Resume, &running, true, true),
            (Operation::Resume, &exited, true, false),
            (Operation::Exec, &created, false, true),
            (Operation::Exec, &running, false, true),
            (Operation::Exec, &running, true, false),
            (Operation::Exec, &exited, false, false),
        ] {
            let rejection = operation.rejection(phase, paused);
            assert_eq!(
                rejection.is_none(),
                allowed,
                "{operation:?} {phase:?} {paused}"
            );
        }
    }
}
