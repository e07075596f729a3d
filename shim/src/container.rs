//! A container: from a bundle to its removal.

pub(crate) mod code;
mod exec_spec;
mod execs;
mod follow;
mod launch;
mod prepare;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use tokio::sync::Mutex as Gate;
use tokio::task::AbortHandle;

use crate::cgroup::Cgroup;
use crate::cgroup::stats;
use crate::container::code::{Code, Compiling};
use crate::containerd::events::Events;
use crate::containerd::options::Options;
use crate::error::{Error, OnPath, Result};
use crate::oci::bundle;
use crate::oci::mount;
use crate::process::{Phase, Process, Role, finished};
use crate::runc::{self, Runc};
use crate::stdio::Wanted;
use crate::sys::log;
use crate::sys::reaper::{Exit, Reaper};
use crate::sys::thread::beside;

use execs::Exec;
use launch::Launch;
pub(crate) use prepare::Workers;
use prepare::{Prepared, prepare};

/// How often, and how long after one another, it is tried to undo a creation that failed.
const UNDO_ATTEMPTS: u32 = 10;
const UNDO_PAUSE: Duration = Duration::from_millis(200);

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
    /// Makes the container; its first process waits, and `made_as` is called with its number before anything of its end is
    /// told. What was made is undone when something fails.
    ///
    /// # Errors
    /// A mount, the specification, a stream, or what the OCI runtime says.
    pub(crate) async fn create(
        shared: Arc<Shared>,
        request: CreateTaskRequest,
        made_as: impl FnOnce(u32),
    ) -> Result<Arc<Self>> {
        if !request.checkpoint.is_empty() {
            return Err(Error::Unimplemented(
                "containers cannot be restored from checkpoints by this runtime".to_owned(),
            ));
        }
        let bundle = PathBuf::from(&request.bundle);
        let options = Options::from_any(request.options.as_ref())?;
        let mounts = request.rootfs.clone();
        let server = shared.server.clone();
        let folder = bundle.clone();
        let code = Code::of(&shared.namespace, &request.id);
        let planned = code.clone();
        let prepare = move || prepare(&folder, options, &mounts, &server, planned);
        let prepared = beside(prepare).await.inspect_err(|_| {
            // It may have failed after this was made.
            code.iter().for_each(Code::remove);
        })?;
        let runc = Runc::new(
            prepared.options.clone(),
            &shared.namespace,
            &bundle,
            shared.debug,
        );
        let made = Self::make(&shared, &request, &bundle, &runc, prepared, made_as).await;
        if let Err(error) = &made {
            // Another's of this name stays, and what is not installed has made nothing.
            if !matches!(error, Error::AlreadyExists(_) | Error::NoRuntime(_)) {
                undo(&shared.reaper, &runc, &request.id).await;
            }
            code.iter().for_each(Code::remove);
            if let Err(error) = unmount(bundle.join("rootfs")).await {
                log::warning!("clear up after {}: {error}", request.id);
            }
        }
        made
    }

    async fn make(
        shared: &Arc<Shared>,
        request: &CreateTaskRequest,
        bundle: &Path,
        runc: &Runc,
        prepared: Prepared,
        made_as: impl FnOnce(u32),
    ) -> Result<Arc<Self>> {
        let reaper = &shared.reaper;
        let wanted = Wanted {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let init = Arc::new(Process::new(Role::Init, wanted));
        let (code, compiling) = match prepared.code {
            Some((code, project)) => {
                let compiling = code.compile(&shared.server, project, reaper);
                (Some(code), compiling)
            }
            None => (None, None),
        };
        let pid_file = bundle.join(bundle::INIT_PID);
        let birth = reaper.birth();
        let launch = Launch::new(&init, &prepared.options, shared, &request.id).await?;
        let resources = launch
            .run(&pid_file, async |new| {
                runc.create(reaper, &request.id, new).await
            })
            .await?;
        let pid = runc::read_pid(&pid_file)?;
        init.keep(resources);
        let end = birth.claim(pid);
        init.begin(Phase::Created(pid), &end);
        let compiling = compiling.map(|compiling| follow(compiling, &init, &request.id));
        let cgroup = Cgroup::of(pid)
            .inspect_err(|error| log::warning!("control groups of {}: {error}", request.id))
            .ok();
        let container = Arc::new(Self {
            id: request.id.clone(),
            bundle: bundle.to_path_buf(),
            init,
            shared: Arc::clone(shared),
            options: prepared.options,
            runc: runc.clone(),
            cgroup,
            workers: prepared.workers,
            shares_pids: prepared.shares_pids,
            code,
            compiling,
            paused: AtomicBool::new(false),
            gate: Gate::new(()),
            execs: Mutex::default(),
        });
        made_as(pid);
        container.clone().follow_init(end);
        Ok(container)
    }

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

    /// Whether it is paused.
    pub(crate) fn paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
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

    /// What it uses.
    ///
    /// # Errors
    /// Its control groups are not known.
    pub(crate) fn stats(&self) -> Result<Any> {
        stats::read(self.cgroup()?)
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

    fn cgroup(&self) -> Result<&Cgroup> {
        self.cgroup.as_ref().ok_or_else(|| {
            Error::NotFound(format!("the control groups of {} are not known", self.id))
        })
    }
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

/// Waits for the compiler of a container's code until the container ends. Its start does not: whoever deletes the container, or
/// starts others of its pod, would wait too. The server in it waits.
fn follow(compiling: Compiling, init: &Arc<Process>, id: &str) -> AbortHandle {
    let (init, id) = (Arc::clone(init), id.to_owned());
    let task = tokio::spawn(async move {
        tokio::select! {
            () = compiling.finish(&id) => {}
            _ = init.wait() => {}
        }
    });
    task.abort_handle()
}

/// Removes what the OCI runtime made of a container whose creation failed. The first error is the one to tell.
async fn undo(reaper: &Arc<Reaper>, runc: &Runc, id: &str) {
    for attempt in 1.. {
        let Err(error) = runc.delete(reaper, id).await else {
            break;
        };
        if attempt == UNDO_ATTEMPTS || matches!(error, Error::NoRuntime(_)) {
            log::warning!("clear up after {id}: {error}");
            break;
        }
        // Where the host has no process left, there may be one soon: the failed runtime's own are ending.
        tokio::time::sleep(UNDO_PAUSE).await;
    }
    runc.remove_empty_groups();
}

async fn unmount(root: PathBuf) -> Result<()> {
    let path = root.clone();
    match beside(move || mount::unmount_all(&path)).await {
        Ok(()) => Ok(()),
        // Without a thread to be had, right here: a mount that stays would be worse than the others' wait.
        Err(_) => mount::unmount_all(&root),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
