//! Processes that exec adds to a container.

use std::fs;
use std::sync::Arc;

use containerd_shim_protos::api::ProcessInfo;
use containerd_shim_protos::protobuf::well_known_types::any::Any;

use super::exec_spec;
use super::launch::Launch;
use super::{Container, Exec, Operation};
use crate::error::{Error, PathContext, Result};
use crate::process::{Phase, Process, ProcessRole};
use crate::runc;
use crate::runc::call::NewProcess;
use crate::stdio::config::StdioConfig;
use crate::sys::reaper::Exit;

impl Container {
    /// Adds a process, which is not started yet.
    ///
    /// # Errors
    /// The identifier is in use, the description is broken, or the container is paused or has
    /// exited.
    pub(crate) fn add_exec(&self, id: &str, stdio: StdioConfig, spec: &Any) -> Result<()> {
        self.require(Operation::Exec)?;
        let spec = exec_spec::rewrite(&spec.value, stdio.terminal, self.project.as_ref())?;
        let mut execs = self.execs();
        if execs.contains_key(id) {
            return Err(Error::already_exists(format!(
                "container {} already has a process {id}",
                self.id
            )));
        }
        let process = Arc::new(Process::new(ProcessRole::Exec, stdio));
        execs.insert(id.to_owned(), Arc::new(Exec { process, spec }));
        Ok(())
    }

    /// Starts a process. `on_started` is called with the PID before the exit is published.
    ///
    /// # Errors
    /// The process was started before, or the OCI runtime fails.
    pub(crate) async fn start_exec(
        self: &Arc<Self>,
        id: &str,
        on_started: impl FnOnce(u32),
    ) -> Result<u32> {
        let exec = self.exec(id)?;
        self.require(Operation::Exec)?;
        let process = &exec.process;
        let _starting = process.start_lock.lock().await;
        if process.phase() != Phase::Added {
            return Err(Error::failed_precondition(format!(
                "process {id} has been started before"
            )));
        }
        let file = |kind: &str| self.bundle.join(format!("wws-exec-{id}.{kind}"));
        let (spec, pid_file) = (file("json"), file("pid"));
        fs::write(&spec, &exec.spec).with_path("write", &spec)?;
        let reaper = &self.context.reaper;
        let pending = reaper.pending_spawn();
        let result = async {
            let launch = Launch::new(process, &self.options, &self.context, &self.id).await?;
            let run =
                async |new: NewProcess<'_>| self.runc.exec(reaper, &self.id, &spec, new).await;
            let resources = launch.run(&pid_file, run).await?;
            Ok((resources, runc::read_pid(&pid_file)?))
        };
        let result = result.await;
        for file in [&spec, &pid_file] {
            // Not needed any more. The OCI runtime may not have written the PID.
            let _ = fs::remove_file(file);
        }
        let (resources, pid) = match result {
            Ok(started) => started,
            Err(error) => {
                process.mark_failed();
                return Err(error);
            }
        };
        process.set_resources(resources);
        process.input.start();
        let exit = pending.claim(pid);
        process.set_spawned(Phase::Running(pid), &exit);
        on_started(pid);
        self.follow_exec(id, Arc::clone(process), exit);
        Ok(pid)
    }

    /// Removes a process that has exited or was never started.
    ///
    /// # Errors
    /// The process runs or does not exist.
    pub(crate) async fn delete_exec(&self, id: &str) -> Result<(u32, Exit)> {
        let exec = self.exec(id)?;
        let process = &exec.process;
        let exit = match process.phase() {
            Phase::Exited(_, exit) | Phase::Failed(exit) => exit,
            Phase::Added => {
                let exit = Exit {
                    code: 0,
                    ..Exit::unknown()
                };
                // Wakes those who wait.
                process.mark_exited(exit.clone());
                exit
            }
            Phase::Created(_) | Phase::Running(_) => {
                return Err(Error::failed_precondition(format!(
                    "process {id} is running"
                )));
            }
        };
        process.release().await;
        self.execs().remove(id);
        Ok((process.pid(), exit))
    }

    /// Lists the processes of the container.
    ///
    /// # Errors
    /// The cgroup is not known.
    pub(crate) fn processes(&self) -> Result<Vec<ProcessInfo>> {
        let execs = self.execs();
        let info = |pid: u32| {
            let exec = execs.iter().find(|(_, exec)| exec.process.pid() == pid);
            ProcessInfo {
                pid,
                info: exec.map(|(id, _)| exec_spec::process_details(id)).into(),
                ..ProcessInfo::default()
            }
        };
        let mut processes = self.cgroup()?.processes();
        if processes.is_empty() {
            // When containerd starts, it removes a shim without processes, and loses the exit code.
            processes.push(self.init.pid());
        }
        Ok(processes.into_iter().map(info).collect())
    }
}
