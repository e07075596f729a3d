//! A process that containerd knows of: a container's first one, or one that was added by exec.

pub(crate) mod console;

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use containerd_shim_protos::api::{StateResponse, Status};
use containerd_shim_protos::protobuf::{EnumOrUnknown, MessageField};
use tokio::sync::{Mutex as Gate, watch};
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::process::console::Console;
use crate::stdio::config::Wanted;
use crate::stdio::copying::Copying;
use crate::stdio::input::Input;
use crate::stdio::logger;
use crate::sys::reaper::{Child, Exit, Gone, Waiter};

/// How long output of a process that has exited may take to be copied to a reader that is slow or has stopped, and how long processes
/// that outlive an exec may go on writing to its streams.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// The same for a terminal.
const TERMINAL_DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// The exit code of a process that could not be started.
const NEVER_RAN: u32 = 255;

/// Where a process is in its life.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Phase {
    /// Described, not made.
    Added,
    /// Made; it waits to be let go.
    Created(u32),
    /// It runs.
    Running(u32),
    /// It could not be started, and never will be. Those who wait for it are told this exit.
    Failed(Exit),
    /// It is gone.
    Ended(u32, Exit),
}

/// What a process is to its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Its first one, which is made and then started.
    Init,
    /// One that was added, and is made when it starts.
    Exec,
}

/// One process.
#[derive(Debug)]
pub(crate) struct Process {
    /// What it is to its container.
    pub(crate) role: Role,
    /// Its streams, as its client wants them.
    pub(crate) wanted: Wanted,
    /// What holds its input open.
    pub(crate) input: Input,
    /// Held while it is started, so that its end is told after its start.
    pub(crate) gate: Gate<()>,
    phase: watch::Sender<Phase>,
    /// Whether its number is not its own any more, from when it has one.
    gone: OnceLock<Gone>,
    resources: Mutex<Resources>,
}

/// What belongs to a running process.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    /// The program that takes its output.
    pub(crate) logger: Option<Child>,
    /// What takes it elsewhere.
    pub(crate) copying: Vec<Copying>,
    /// Its terminal.
    pub(crate) console: Option<Console>,
}

impl Process {
    /// One that is only described so far.
    pub(crate) fn new(role: Role, wanted: Wanted) -> Self {
        Self {
            role,
            wanted,
            input: Input::default(),
            gate: Gate::new(()),
            phase: watch::Sender::new(Phase::Added),
            gone: OnceLock::new(),
            resources: Mutex::new(Resources::default()),
        }
    }

    /// Where it is in its life.
    pub(crate) fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Notes that it has a number, and the end that this number will come to.
    pub(crate) fn begin(&self, phase: Phase, end: &Waiter) {
        // It begins once.
        let _ = self.gone.set(end.gone());
        self.advance(phase);
    }

    /// Notes that it is made or runs.
    pub(crate) fn advance(&self, phase: Phase) {
        // An end is final.
        self.phase.send_if_modified(|now| {
            let alive = !matches!(now, Phase::Ended(..) | Phase::Failed(_));
            if alive {
                *now = phase;
            }
            alive
        });
    }

    /// Notes that it has ended.
    pub(crate) fn end(&self, exit: Exit) {
        let pid = self.pid();
        self.phase.send_replace(Phase::Ended(pid, exit));
        self.input.close();
    }

    /// Notes that it could not be started: who waits for it must not wait for ever.
    pub(crate) fn fail(&self) {
        self.advance(Phase::Failed(Exit {
            code: NEVER_RAN,
            ..Exit::unknown()
        }));
        self.input.release();
    }

    /// Its number; 0 before there is one.
    pub(crate) fn pid(&self) -> u32 {
        match *self.phase.borrow() {
            Phase::Added | Phase::Failed(_) => 0,
            Phase::Created(pid) | Phase::Running(pid) | Phase::Ended(pid, _) => pid,
        }
    }

    /// How it ended, if it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        match &*self.phase.borrow() {
            Phase::Ended(_, exit) => Some(exit.clone()),
            _ => None,
        }
    }

    /// Waits for its end. Any number may.
    pub(crate) async fn wait(&self) -> Exit {
        let mut phase = self.phase.subscribe();
        let ended = phase
            .wait_for(|phase| matches!(phase, Phase::Ended(..) | Phase::Failed(_)))
            .await;
        match ended.as_deref() {
            Ok(Phase::Ended(_, exit) | Phase::Failed(exit)) => exit.clone(),
            _ => Exit::unknown(),
        }
    }

    /// Takes over what belongs to it.
    pub(crate) fn keep(&self, resources: Resources) {
        *self.resources() = resources;
    }

    /// Changes its terminal's size.
    ///
    /// # Errors
    /// It has none, or not that large.
    pub(crate) fn resize(&self, width: u32, height: u32) -> Result<()> {
        let size = |number: u32| {
            u16::try_from(number).map_err(|_| {
                Error::InvalidArgument(format!("a terminal of {width} x {height} characters"))
            })
        };
        match &self.resources().console {
            Some(console) => console.resize(size(width)?, size(height)?),
            // As of containerd's own shim: a size for a process without a terminal is no error.
            None => Ok(()),
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It has not begun or has ended, or there is no such signal.
    pub(crate) fn kill(&self, signal: u32) -> Result<()> {
        let pid = match self.phase() {
            Phase::Added | Phase::Failed(_) => {
                return Err(Error::FailedPrecondition(
                    "process not created: it has not been started".to_owned(),
                ));
            }
            Phase::Ended(..) => return Err(finished()),
            // Collected, and its end not told yet: that waits for its start to be told.
            Phase::Created(_) | Phase::Running(_) if self.gone.get().is_some_and(Gone::now) => {
                return Err(finished());
            }
            Phase::Created(pid) | Phase::Running(pid) => pid.cast_signed(),
        };
        let signal = signal
            .try_into()
            .ok()
            .filter(|signal| (0..=64).contains(signal))
            .ok_or_else(|| Error::InvalidArgument(format!("there is no signal {signal}")))?;
        // SAFETY: a plain system call. The number is still that of our child, which was not collected: that is done in this very
        // thread.
        if unsafe { libc::kill(pid, signal) } == 0 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ESRCH) => Err(finished()),
            _ => Err(Error::io(format_args!("send signal {signal}"), error)),
        }
    }

    /// Closes its streams and lets go what belonged to it, once its output is where it was to go. The output of processes that
    /// outlive it is taken for a bounded time more, unless it is the first one, without which there are none.
    pub(crate) async fn release(&self) {
        self.input.release();
        let mut resources = std::mem::take(&mut *self.resources());
        if let Some(console) = resources.console {
            console.finish(TERMINAL_DRAIN_LIMIT).await;
        }
        let deadline = Instant::now() + DRAIN_LIMIT;
        resources.copying.iter_mut().for_each(Copying::end);
        for mut copying in resources.copying {
            copying.drain(deadline).await;
            if self.role == Role::Exec {
                copying.linger(DRAIN_LIMIT);
            }
        }
        if let Some(logger) = resources.logger {
            logger::dismiss(logger);
        }
    }

    /// What containerd wants to know of it.
    pub(crate) fn state(&self) -> StateResponse {
        let phase = self.phase();
        let mut state = StateResponse {
            pid: self.pid(),
            status: EnumOrUnknown::new(match phase {
                Phase::Added | Phase::Created(_) | Phase::Failed(_) => Status::CREATED,
                Phase::Running(_) => Status::RUNNING,
                Phase::Ended(..) => Status::STOPPED,
            }),
            stdin: self.wanted.stdin.clone(),
            stdout: self.wanted.stdout.clone(),
            stderr: self.wanted.stderr.clone(),
            terminal: self.wanted.terminal,
            ..StateResponse::default()
        };
        if let Phase::Ended(_, exit) = phase {
            state.exit_status = exit.code;
            state.exited_at = MessageField::some(exit.at);
        }
        state
    }

    /// Where it is in its life, in words for the log.
    pub(crate) fn describe(&self) -> String {
        match self.phase() {
            Phase::Added => "not started".to_owned(),
            Phase::Created(pid) => format!("created, process {pid}"),
            Phase::Running(pid) => format!("runs, process {pid}"),
            Phase::Failed(_) => "could not be started".to_owned(),
            Phase::Ended(pid, exit) => format!("exited with {}, was process {pid}", exit.code),
        }
    }

    fn resources(&self) -> std::sync::MutexGuard<'_, Resources> {
        self.resources
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error of a signal that comes too late.
pub(crate) fn finished() -> Error {
    Error::NotFound("process already finished".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::reaper::Reaper;
    use std::sync::Arc;

    fn exit(code: u32) -> Exit {
        Exit {
            code,
            ..Exit::unknown()
        }
    }

    #[tokio::test]
    async fn all_who_wait_learn_the_end() {
        let process = Arc::new(Process::new(Role::Init, Wanted::default()));
        let waiter = |process: &Arc<Process>| {
            let process = Arc::clone(process);
            tokio::spawn(async move { process.wait().await.code })
        };
        let early = [waiter(&process), waiter(&process), waiter(&process)];
        process.advance(Phase::Running(7));
        process.end(exit(3));
        for waiter in early {
            assert_eq!(waiter.await.unwrap(), 3);
        }
        assert_eq!(waiter(&process).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn one_that_could_not_be_started_wakes_its_waiters_and_stays_created() {
        let process = Arc::new(Process::new(Role::Exec, Wanted::default()));
        let waiter = Arc::clone(&process);
        let waiter = tokio::spawn(async move { waiter.wait().await.code });
        tokio::task::yield_now().await;
        process.fail();
        assert_eq!(waiter.await.unwrap(), 255);
        let state = process.state();
        assert_eq!(state.status.enum_value(), Ok(Status::CREATED));
        assert_eq!((state.pid, state.exit_status), (0, 0));
        assert!(matches!(process.kill(9), Err(Error::FailedPrecondition(_))));
        process.advance(Phase::Running(7));
        assert!(matches!(process.phase(), Phase::Failed(_)));
    }

    #[test]
    fn an_end_is_final() {
        let process = Process::new(Role::Init, Wanted::default());
        process.advance(Phase::Created(7));
        process.end(exit(137));
        process.advance(Phase::Running(7));
        assert_eq!(process.phase(), Phase::Ended(7, process.exit().unwrap()));
        let state = process.state();
        assert_eq!(state.status.enum_value(), Ok(Status::STOPPED));
        assert_eq!((state.pid, state.exit_status), (7, 137));
        assert!(matches!(process.kill(15), Err(Error::NotFound(_))));
    }

    #[test]
    #[allow(clippy::zombie_processes, reason = "waited for by its number")]
    fn a_signal_never_reaches_another_process_that_got_the_number() {
        let reaper = Arc::new(Reaper::default());
        let mut other = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let process = Process::new(Role::Init, Wanted::default());
        let birth = reaper.birth();
        // Collected, its end not yet told: the number is another's.
        reaper.ended(other.id(), exit(0));
        let end = birth.claim(other.id());
        process.begin(Phase::Running(other.id()), &end);
        let killed = process.kill(9);
        std::thread::sleep(Duration::from_millis(100));
        let alive = other.try_wait().unwrap().is_none();
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(matches!(killed, Err(Error::NotFound(_))), "{killed:?}");
        assert!(alive);
    }

    #[test]
    fn a_signal_needs_a_process_and_a_number_that_there_is() {
        let process = Process::new(Role::Init, Wanted::default());
        assert!(matches!(process.kill(9), Err(Error::FailedPrecondition(_))));
        process.advance(Phase::Running(std::process::id()));
        assert!(matches!(process.kill(65), Err(Error::InvalidArgument(_))));
        assert!(matches!(
            process.kill(u32::MAX),
            Err(Error::InvalidArgument(_))
        ));
        assert_eq!(process.kill(0), Ok(()));
    }
}
