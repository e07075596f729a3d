//! Operations on a created container.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use containerd_shim_protos::protobuf::well_known_types::any::Any;

use super::teardown::{RuntimeDeletion, StepFailure, Teardown};
use super::{Container, Operation};
use crate::error::{Error, ErrorCode, PathContext, Result};
use crate::process::{Phase, already_finished};
use crate::sys::log;
use crate::sys::reaper::Exit;

impl Container {
    /// Starts the init process. `on_started` is called with the PID before the exit is published.
    ///
    /// # Errors
    /// The init process was started before, or the OCI runtime fails.
    pub(crate) async fn start(&self, on_started: impl FnOnce(u32)) -> Result<u32> {
        let _changing = self.change_lock.lock().await;
        let _starting = self.init.start_lock.lock().await;
        let Phase::Created(pid) = self.init.phase() else {
            let state = match self.init.phase() {
                Phase::Exited(..) => "has exited",
                _ => "has been started before",
            };
            return Err(Error::failed_precondition(format!(
                "container {} {state}",
                self.id
            )));
        };
        self.init.input.start();
        self.runc.start(&self.context.reaper, &self.id).await?;
        self.init.set_phase(Phase::Running(pid));
        on_started(pid);
        Ok(pid)
    }

    /// Sends a signal to a process, or to all processes of the container.
    ///
    /// # Errors
    /// The process has exited, or the OCI runtime fails.
    pub(crate) async fn kill(&self, exec: &str, signal: u32, all: bool) -> Result<()> {
        let process = self.process(exec)?;
        let kills_frozen = self.paused() && signal == libc::SIGKILL.cast_unsigned();
        if exec.is_empty() && (all || kills_frozen) {
            let exited = process.exit().is_some();
            if exited && !self.shares_pids {
                // The kernel has killed all other processes with the init process.
                return if all { Ok(()) } else { Err(already_finished()) };
            }
            // The OCI runtime finds all processes, and thaws frozen ones so that they die.
            let reaper = &self.context.reaper;
            return match self.runc.kill(reaper, &self.id, signal, all).await {
                Err(error) if error.code() == ErrorCode::NotFound && exited && all => Ok(()),
                killed => killed,
            };
        }
        process.kill(signal)
    }

    /// Freezes all processes.
    ///
    /// # Errors
    /// The state does not allow it, or the OCI runtime fails.
    pub(crate) async fn pause(&self) -> Result<()> {
        let _changing = self.change_lock.lock().await;
        self.require(Operation::Pause)?;
        self.runc.pause(&self.context.reaper, &self.id).await?;
        self.paused.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Thaws all processes.
    ///
    /// # Errors
    /// The state does not allow it, or the OCI runtime fails.
    pub(crate) async fn resume(&self) -> Result<()> {
        let _changing = self.change_lock.lock().await;
        self.require(Operation::Resume)?;
        self.runc.resume(&self.context.reaper, &self.id).await?;
        self.paused.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Changes limits.
    ///
    /// # Errors
    /// The OCI runtime fails.
    pub(crate) async fn update(&self, resources: &Any) -> Result<()> {
        let _changing = self.change_lock.lock().await;
        let file = self.bundle.join("wws-update.json");
        fs::write(&file, &resources.value).with_path("write", &file)?;
        let reaper = &self.context.reaper;
        let result = self.runc.update(reaper, &self.id, &file).await;
        // The file is not needed any more.
        let _ = fs::remove_file(&file);
        result
    }

    /// Removes the container, which must not run. Can be called again if it fails.
    ///
    /// # Errors
    /// The container runs, or a step of the teardown fails.
    pub(crate) async fn delete(&self) -> Result<(u32, Exit)> {
        let _changing = self.change_lock.lock().await;
        if matches!(self.init.phase(), Phase::Running(_)) {
            return Err(Error::failed_precondition(format!(
                "container {} is running",
                self.id
            )));
        }
        let execs: Vec<_> = self.execs().values().cloned().collect();
        let execs = execs.iter().map(|exec| Arc::clone(&exec.process));
        let teardown = Teardown {
            id: &self.id,
            bundle: &self.bundle,
            runc: &self.runc,
            deletion: RuntimeDeletion::Required(&self.context.reaper),
            cgroups_path: &self.cgroups_path,
            code: self.code.as_ref(),
            compile_task: self.compile_task.as_ref(),
            processes: std::iter::once(Arc::clone(&self.init))
                .chain(execs)
                .collect(),
        };
        for StepFailure { step, error } in teardown.run().await {
            if step.must_succeed() {
                return Err(error);
            }
            log::warning!("delete {}: {error:#}", self.id);
        }
        self.execs().clear();
        Ok((self.init.pid(), self.init.wait().await))
    }
}
