//! Operations on a container that is there.

use std::fs;
use std::sync::atomic::Ordering;

use containerd_shim_protos::protobuf::well_known_types::any::Any;

use super::teardown::unmount;
use super::{Change, Container};
use crate::error::{Error, OnPath, Result};
use crate::process::{Phase, finished};
use crate::sys::reaper::Exit;

impl Container {
    /// Lets the first process go, and tells by `started` before anything of its end is told.
    ///
    /// # Errors
    /// As the OCI runtime says.
    pub(crate) async fn start(&self, started: impl FnOnce(u32)) -> Result<u32> {
        let _changing = self.gate.lock().await;
        let _starting = self.init.gate.lock().await;
        let Phase::Created(pid) = self.init.phase() else {
            let state = match self.init.phase() {
                Phase::Ended(..) => "has ended",
                _ => "has been started before",
            };
            return Err(Error::FailedPrecondition(format!(
                "container {} {state}",
                self.id
            )));
        };
        self.init.input.start();
        self.runc.start(&self.shared.reaper, &self.id).await?;
        self.init.advance(Phase::Running(pid));
        started(pid);
        Ok(pid)
    }

    /// Sends a signal to a process, or to all of the container.
    ///
    /// # Errors
    /// The process has ended, or as the OCI runtime says.
    pub(crate) async fn kill(&self, exec: &str, signal: u32, all: bool) -> Result<()> {
        let process = self.process(exec)?;
        let frozen = self.paused() && signal == libc::SIGKILL.cast_unsigned();
        if exec.is_empty() && (all || frozen) {
            let exited = process.exit().is_some();
            if exited && !self.shares_pids {
                // All that ran in it has gone with its first process.
                return if all { Ok(()) } else { Err(finished()) };
            }
            // The OCI runtime finds all, and wakes those that are frozen to die.
            let reaper = &self.shared.reaper;
            return match self.runc.kill(reaper, &self.id, signal, all).await {
                Err(Error::NotFound(_)) if exited && all => Ok(()),
                killed => killed,
            };
        }
        process.kill(signal)
    }

    /// Stops all processes where they are.
    ///
    /// # Errors
    /// As the OCI runtime says.
    pub(crate) async fn pause(&self) -> Result<()> {
        let _changing = self.gate.lock().await;
        self.expect(Change::Pause)?;
        self.runc.pause(&self.shared.reaper, &self.id).await?;
        self.paused.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// As the OCI runtime says.
    pub(crate) async fn resume(&self) -> Result<()> {
        let _changing = self.gate.lock().await;
        self.expect(Change::Resume)?;
        self.runc.resume(&self.shared.reaper, &self.id).await?;
        self.paused.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Changes limits.
    ///
    /// # Errors
    /// As the OCI runtime says.
    pub(crate) async fn update(&self, resources: &Any) -> Result<()> {
        let _changing = self.gate.lock().await;
        let file = self.bundle.join("wws-update.json");
        fs::write(&file, &resources.value).on("write", &file)?;
        let result = self.runc.update(&self.shared.reaper, &self.id, &file).await;
        // Of no use any more.
        let _ = fs::remove_file(&file);
        result
    }

    /// Removes the container, which must not run.
    ///
    /// # Errors
    /// It runs, or as the OCI runtime says.
    pub(crate) async fn delete(&self) -> Result<(u32, Exit)> {
        let _changing = self.gate.lock().await;
        if matches!(self.init.phase(), Phase::Running(_)) {
            return Err(Error::FailedPrecondition(format!(
                "container {} runs",
                self.id
            )));
        }
        if let Some(compiling) = &self.compiling {
            compiling.abort();
        }
        self.runc.delete(&self.shared.reaper, &self.id).await?;
        // One that was never started ends only now.
        let exit = self.init.wait().await;
        self.init.release().await;
        let execs: Vec<_> = self.execs().drain().collect();
        for (_, exec) in execs {
            exec.process.release().await;
        }
        if let Some(code) = &self.code {
            code.remove();
        }
        unmount(self.bundle.join("rootfs")).await?;
        Ok((self.init.pid(), exit))
    }
}
