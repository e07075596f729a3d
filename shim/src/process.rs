//! The processes of a container that containerd knows: the init process, and those that exec adds.

pub(crate) mod console;

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use containerd_shim_protos::api::{StateResponse, Status};
use containerd_shim_protos::protobuf::{EnumOrUnknown, MessageField};
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::process::console::Console;
use crate::stdio::config::StdioConfig;
use crate::stdio::copying::OutputCopy;
use crate::stdio::input::Input;
use crate::stdio::logger;
use crate::sys::reaper::{Child, Exit, ExitWaiter, ReapedFlag};

/// How long the output of an exited process may take to be copied to a reader that is slow or has
/// stopped, and how long processes that outlive an exec may go on writing to its streams.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// The same limit for a terminal.
const TERMINAL_DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// The exit code of a process that could not be started.
const NEVER_RAN: u32 = 255;

/// The phase of a process's life.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Phase {
    /// Described, but not created.
    Added,
    /// Created; it waits to be started.
    Created(u32),
    /// Running.
    Running(u32),
    /// It could not be started, and never will be. Those who wait get this exit.
    Failed(Exit),
    /// Exited.
    Exited(u32, Exit),
}

/// The role of a process in its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessRole {
    /// The init process, which is created and then started.
    Init,
    /// A process that exec adds, and that is created when it is started.
    Exec,
}

/// A process of a container.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its role in the container.
    pub(crate) role: ProcessRole,
    /// The streams that its client asked for.
    pub(crate) stdio: StdioConfig,
    /// Its standard input.
    pub(crate) input: Input,
    /// Held during the start, so that the exit is published after the start.
    pub(crate) start_lock: AsyncMutex<()>,
    phase: watch::Sender<Phase>,
    /// Whether the PID may belong to another process, once there is a PID.
    reaped: OnceLock<ReapedFlag>,
    resources: Mutex<ProcessResources>,
}

/// What belongs to a running process.
#[derive(Debug, Default)]
pub(crate) struct ProcessResources {
    /// The log program that takes its output.
    pub(crate) logger: Option<Child>,
    /// The copying of its output.
    pub(crate) copying: Vec<OutputCopy>,
    /// Its terminal.
    pub(crate) console: Option<Console>,
}

impl Process {
    /// Creates a description.
    pub(crate) fn new(role: ProcessRole, stdio: StdioConfig) -> Self {
        Self {
            role,
            stdio,
            input: Input::default(),
            start_lock: AsyncMutex::new(()),
            phase: watch::Sender::new(Phase::Added),
            reaped: OnceLock::new(),
            resources: Mutex::new(ProcessResources::default()),
        }
    }

    /// Returns its phase.
    pub(crate) fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Notes that it has a PID and, in the future, the exit `end`.
    pub(crate) fn set_spawned(&self, phase: Phase, end: &ExitWaiter) {
        // This is called once.
        let _ = self.reaped.set(end.reaped());
        self.set_phase(phase);
    }

    /// Notes that it is created or running.
    pub(crate) fn set_phase(&self, phase: Phase) {
        // An exit is final.
        self.phase.send_if_modified(|now| {
            let alive = !matches!(now, Phase::Exited(..) | Phase::Failed(_));
            if alive {
                *now = phase;
            }
            alive
        });
    }

    /// Notes that it has exited.
    pub(crate) fn mark_exited(&self, exit: Exit) {
        let pid = self.pid();
        self.phase.send_replace(Phase::Exited(pid, exit));
        self.input.close();
    }

    /// Notes that it could not be started, and wakes those who wait.
    pub(crate) fn mark_failed(&self) {
        self.set_phase(Phase::Failed(Exit {
            code: NEVER_RAN,
            ..Exit::unknown()
        }));
        self.input.release();
    }

    /// Returns its PID; 0 before there is one.
    pub(crate) fn pid(&self) -> u32 {
        match *self.phase.borrow() {
            Phase::Added | Phase::Failed(_) => 0,
            Phase::Created(pid) | Phase::Running(pid) | Phase::Exited(pid, _) => pid,
        }
    }

    /// Returns its exit, if it has exited.
    pub(crate) fn exit(&self) -> Option<Exit> {
        match &*self.phase.borrow() {
            Phase::Exited(_, exit) => Some(exit.clone()),
            _ => None,
        }
    }

    /// Waits for its exit.
    pub(crate) async fn wait(&self) -> Exit {
        let mut phase = self.phase.subscribe();
        let ended = phase
            .wait_for(|phase| matches!(phase, Phase::Exited(..) | Phase::Failed(_)))
            .await;
        match ended.as_deref() {
            Ok(Phase::Exited(_, exit) | Phase::Failed(exit)) => exit.clone(),
            _ => Exit::unknown(),
        }
    }

    /// Takes over what belongs to it.
    pub(crate) fn set_resources(&self, resources: ProcessResources) {
        *self.resources() = resources;
    }

    /// Changes the size of its terminal.
    ///
    /// # Errors
    /// A size that a terminal cannot have.
    pub(crate) fn resize(&self, width: u32, height: u32) -> Result<()> {
        let size = |number: u32| {
            u16::try_from(number).map_err(|_| {
                Error::invalid_argument(format!("a terminal of {width} x {height} characters"))
            })
        };
        match &self.resources().console {
            Some(console) => console.resize(size(width)?, size(height)?),
            // As containerd's own shim: without a terminal, a size is no error.
            None => Ok(()),
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It has not been created or has exited, or there is no such signal.
    pub(crate) fn kill(&self, signal: u32) -> Result<()> {
        let pid = match self.phase() {
            Phase::Added | Phase::Failed(_) => {
                return Err(Error::failed_precondition(
                    "process not created: it has not been started",
                ));
            }
            Phase::Exited(..) => return Err(already_finished()),
            // Reaped, but the exit is not published yet: that waits for the start.
            Phase::Created(_) | Phase::Running(_)
                if self.reaped.get().is_some_and(ReapedFlag::is_set) =>
            {
                return Err(already_finished());
            }
            Phase::Created(pid) | Phase::Running(pid) => pid.cast_signed(),
        };
        let signal = signal
            .try_into()
            .ok()
            .filter(|signal| (0..=64).contains(signal))
            .ok_or_else(|| Error::invalid_argument(format!("there is no signal {signal}")))?;
        // SAFETY: `kill` has no memory contract. The PID must still be that of the child: a child
        // keeps its PID until it is reaped, and this very thread reaps.
        if unsafe { libc::kill(pid, signal) } == 0 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ESRCH) => Err(already_finished()),
            _ => Err(Error::io(format_args!("send signal {signal}"), error)),
        }
    }

    /// Closes its streams and releases what belongs to it, once its output is copied. The output of
    /// processes that outlive an exec is copied for a bounded time more; none outlives the init
    /// process.
    pub(crate) async fn release(&self) {
        self.input.release();
        let mut resources = std::mem::take(&mut *self.resources());
        if let Some(console) = resources.console {
            console.finish(TERMINAL_DRAIN_LIMIT).await;
        }
        let deadline = Instant::now() + DRAIN_LIMIT;
        resources.copying.iter_mut().for_each(OutputCopy::end);
        for mut copying in resources.copying {
            copying.drain(deadline).await;
            if self.role == ProcessRole::Exec {
                copying.linger(DRAIN_LIMIT);
            }
        }
        if let Some(logger) = resources.logger {
            logger::release_logger(logger);
        }
    }

    /// Returns its state for containerd.
    pub(crate) fn state(&self) -> StateResponse {
        let phase = self.phase();
        let mut state = StateResponse {
            pid: self.pid(),
            status: EnumOrUnknown::new(match phase {
                Phase::Added | Phase::Created(_) | Phase::Failed(_) => Status::CREATED,
                Phase::Running(_) => Status::RUNNING,
                Phase::Exited(..) => Status::STOPPED,
            }),
            stdin: self.stdio.stdin.clone(),
            stdout: self.stdio.stdout.clone(),
            stderr: self.stdio.stderr.clone(),
            terminal: self.stdio.terminal,
            ..StateResponse::default()
        };
        if let Phase::Exited(_, exit) = phase {
            state.exit_status = exit.code;
            state.exited_at = MessageField::some(exit.at);
        }
        state
    }

    /// Describes its phase for the log.
    pub(crate) fn describe(&self) -> String {
        match self.phase() {
            Phase::Added => "not started".to_owned(),
            Phase::Created(pid) => format!("created, process {pid}"),
            Phase::Running(pid) => format!("runs, process {pid}"),
            Phase::Failed(_) => "could not be started".to_owned(),
            Phase::Exited(pid, exit) => format!("exited with {}, was process {pid}", exit.code),
        }
    }

    fn resources(&self) -> std::sync::MutexGuard<'_, ProcessResources> {
        self.resources
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the error of a signal that comes after the exit.
pub(crate) fn already_finished() -> Error {
    Error::not_found("process already finished")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::error::ErrorCode;
    use crate::sys::reaper::Reaper;
    use std::sync::Arc;

    fn kill_code(process: &Process, signal: u32) -> ErrorCode {
        process.kill(signal).unwrap_err().code()
    }

    fn exit(code: u32) -> Exit {
        Exit {
            code,
            ..Exit::unknown()
        }
    }

    #[tokio::test]
    async fn all_waiters_get_the_exit() {
        let process = Arc::new(Process::new(ProcessRole::Init, StdioConfig::default()));
        let waiter = |process: &Arc<Process>| {
            let process = Arc::clone(process);
            tokio::spawn(async move { process.wait().await.code })
        };
        let early = [waiter(&process), waiter(&process), waiter(&process)];
        process.set_phase(Phase::Running(7));
        process.mark_exited(exit(3));
        for waiter in early {
            assert_eq!(waiter.await.unwrap(), 3);
        }
        assert_eq!(waiter(&process).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_failed_start_wakes_waiters_and_stays_created() {
        let process = Arc::new(Process::new(ProcessRole::Exec, StdioConfig::default()));
        let waiter = Arc::clone(&process);
        let waiter = tokio::spawn(async move { waiter.wait().await.code });
        tokio::task::yield_now().await;
        process.mark_failed();
        assert_eq!(waiter.await.unwrap(), 255);
        let state = process.state();
        assert_eq!(state.status.enum_value(), Ok(Status::CREATED));
        assert_eq!((state.pid, state.exit_status), (0, 0));
        assert_eq!(kill_code(&process, 9), ErrorCode::FailedPrecondition);
        process.set_phase(Phase::Running(7));
        assert!(matches!(process.phase(), Phase::Failed(_)));
    }

    #[test]
    fn an_exit_is_final() {
        let process = Process::new(ProcessRole::Init, StdioConfig::default());
        process.set_phase(Phase::Created(7));
        process.mark_exited(exit(137));
        process.set_phase(Phase::Running(7));
        assert_eq!(process.phase(), Phase::Exited(7, process.exit().unwrap()));
        let state = process.state();
        assert_eq!(state.status.enum_value(), Ok(Status::STOPPED));
        assert_eq!((state.pid, state.exit_status), (7, 137));
        assert_eq!(kill_code(&process, 15), ErrorCode::NotFound);
    }

    #[test]
    #[allow(clippy::zombie_processes, reason = "waited for by PID")]
    fn sends_no_signal_to_a_reused_pid() {
        let reaper = Arc::new(Reaper::default());
        let mut other = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let process = Process::new(ProcessRole::Init, StdioConfig::default());
        let pending = reaper.pending_spawn();
        // Reaped, and the exit is not published yet: the PID belongs to another process.
        reaper.record_exit(other.id(), exit(0));
        let end = pending.claim(other.id());
        process.set_spawned(Phase::Running(other.id()), &end);
        let killed = process.kill(9);
        std::thread::sleep(Duration::from_millis(100));
        let alive = other.try_wait().unwrap().is_none();
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(killed.unwrap_err().code(), ErrorCode::NotFound);
        assert!(alive);
    }

    #[test]
    fn kill_requires_a_process_and_a_valid_signal() {
        let process = Process::new(ProcessRole::Init, StdioConfig::default());
        assert_eq!(kill_code(&process, 9), ErrorCode::FailedPrecondition);
        process.set_phase(Phase::Running(std::process::id()));
        assert_eq!(kill_code(&process, 65), ErrorCode::InvalidArgument);
        assert_eq!(kill_code(&process, u32::MAX), ErrorCode::InvalidArgument);
        process.kill(0).unwrap();
    }
}
