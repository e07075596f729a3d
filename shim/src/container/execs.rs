//! Processes that are added to a container.

use std::fs;
use std::sync::Arc;

use containerd_shim_protos::api::ProcessInfo;
use containerd_shim_protos::protobuf::well_known_types::any::Any;

use super::exec_spec;
use super::launch::Launch;
use super::{Change, Container, Exec};
use crate::error::{Error, OnPath, Result};
use crate::process::{Phase, Process, Role};
use crate::runc;
use crate::runc::call::New;
use crate::stdio::config::Wanted;
use crate::sys::reaper::Exit;

impl Container {
    /// Describes another process.
    ///
    /// # Errors
    /// The name is taken, or the description broken; the container is paused or has ended.
    pub(crate) fn add(&self, id: &str, wanted: Wanted, spec: &Any) -> Result<()> {
        self.expect(Change::Exec)?;
        let spec = exec_spec::rewrite(&spec.value, wanted.terminal, self.workers.as_ref())?;
        let mut execs = self.execs();
        if execs.contains_key(id) {
            return Err(Error::AlreadyExists(format!(
                "container {} has a process {id} already",
                self.id
            )));
        }
        let process = Arc::new(Process::new(Role::Exec, wanted));
        execs.insert(id.to_owned(), Arc::new(Exec { process, spec }));
        Ok(())
    }

    /// Starts a process that was added, and tells by `started` before anything of its end is told.
    ///
    /// # Errors
    /// As the OCI runtime says.
    pub(crate) async fn start_exec(
        self: &Arc<Self>,
        id: &str,
        started: impl FnOnce(u32),
    ) -> Result<u32> {
        let exec = self.exec(id)?;
        self.expect(Change::Exec)?;
        let process = &exec.process;
        let _starting = process.gate.lock().await;
        if process.phase() != Phase::Added {
            return Err(Error::FailedPrecondition(format!(
                "process {id} has been started before"
            )));
        }
        let file = |kind: &str| self.bundle.join(format!("wws-exec-{id}.{kind}"));
        let (spec, pid_file) = (file("json"), file("pid"));
        fs::write(&spec, &exec.spec).on("write", &spec)?;
        let reaper = &self.shared.reaper;
        let birth = reaper.birth();
        let result = async {
            let launch = Launch::new(process, &self.options, &self.shared, &self.id).await?;
            let run = async |new: New<'_>| self.runc.exec(reaper, &self.id, &spec, new).await;
            let resources = launch.run(&pid_file, run).await?;
            Ok((resources, runc::read_pid(&pid_file)?))
        };
        let result = result.await;
        for file in [&spec, &pid_file] {
            // Of no use any more; there may be none.
            let _ = fs::remove_file(file);
        }
        let (resources, pid) = match result {
            Ok(started) => started,
            Err(error) => {
                process.fail();
                return Err(error);
            }
        };
        process.keep(resources);
        process.input.start();
        let end = birth.claim(pid);
        process.begin(Phase::Running(pid), &end);
        started(pid);
        self.follow(id, Arc::clone(process), end);
        Ok(pid)
    }

    /// Removes a process that was added and has ended, or never begun.
    ///
    /// # Errors
    /// It runs, or there is no such.
    pub(crate) async fn delete_exec(&self, id: &str) -> Result<(u32, Exit)> {
        let exec = self.exec(id)?;
        let process = &exec.process;
        let exit = match process.phase() {
            Phase::Ended(_, exit) | Phase::Failed(exit) => exit,
            Phase::Added => {
                let exit = Exit {
                    code: 0,
                    ..Exit::unknown()
                };
                // Whoever waits for it must not wait for ever.
                process.end(exit.clone());
                exit
            }
            Phase::Created(_) | Phase::Running(_) => {
                return Err(Error::FailedPrecondition(format!("process {id} runs")));
            }
        };
        process.release().await;
        self.execs().remove(id);
        Ok((process.pid(), exit))
    }

    /// Its processes.
    ///
    /// # Errors
    /// Its control groups are not known.
    pub(crate) fn processes(&self) -> Result<Vec<ProcessInfo>> {
        let execs = self.execs();
        let info = |pid: u32| {
            let exec = execs.iter().find(|(_, exec)| exec.process.pid() == pid);
            ProcessInfo {
                pid,
                info: exec.map(|(id, _)| exec_spec::details(id)).into(),
                ..ProcessInfo::default()
            }
        };
        let mut processes = self.cgroup()?.processes();
        if processes.is_empty() {
            // containerd takes a shim without processes for one to be removed when it starts, and the exit code with it.
            processes.push(self.init.pid());
        }
        Ok(processes.into_iter().map(info).collect())
    }
}
