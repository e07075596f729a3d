//! Follows the processes of a container until they exit, and publishes the exits.

use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::events::task::{TaskExit, TaskOOM};
use containerd_shim_protos::protobuf::MessageField;

use super::Container;
use crate::cgroup::oom::OomWatch;
use crate::error::Error;
use crate::process::{Phase, Process};
use crate::sys::log;
use crate::sys::reaper::{Exit, ExitWaiter};

/// How long the exit of a container waits for the exits of its execs.
const EXECS_LIMIT: Duration = Duration::from_secs(5);

impl Container {
    /// Waits in the background for the exit of the init process, and until then for the container
    /// to run out of memory.
    pub(super) fn follow_init(self: Arc<Self>, exit: ExitWaiter) {
        let mut watch = self.cgroup.as_ref().and_then(|cgroup| {
            let failed = |error: &Error| log::debug!("memory of {}: {error:#}", self.id);
            OomWatch::new(cgroup).inspect_err(failed).ok()
        });
        tokio::spawn(async move {
            let publish_oom = || {
                self.context.events.send(&TaskOOM {
                    container_id: self.id.clone(),
                    ..TaskOOM::default()
                });
            };
            let exit = exit.wait();
            tokio::pin!(exit);
            let exit = loop {
                let next = async {
                    match &mut watch {
                        Some(watch) => watch.next().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    // In this order: the cgroup with its count may be removed soon after the exit.
                    biased;
                    kill = next => match kill {
                        Some(()) => publish_oom(),
                        None => watch = None,
                    },
                    exit = &mut exit => break exit,
                }
            };
            if watch.is_some_and(|mut watch| watch.has_new_kill()) {
                publish_oom();
            }
            if self.shares_pids {
                // Without a PID namespace, the kernel does not kill the other processes.
                let kill = self.runc.kill(&self.context.reaper, &self.id, 9, true);
                if let Err(error) = kill.await {
                    log::debug!("kill the processes of {}: {error:#}", self.id);
                }
            }
            let execs_exited = tokio::time::timeout(EXECS_LIMIT, self.wait_for_execs());
            if execs_exited.await.is_err() {
                log::warning!(
                    "container {} has exited {} s ago and its execs have not: its exit is \
                     published before theirs",
                    self.id,
                    EXECS_LIMIT.as_secs()
                );
            }
            self.publish_exit(&self.id, &self.init, exit).await;
        });
    }

    /// Waits until the exits of all started execs are published. The exit of the container must be
    /// the last one, as clients forget the container with it.
    async fn wait_for_execs(&self) {
        let execs: Vec<_> = self.execs().values().cloned().collect();
        for exec in execs {
            // Waits for a start that is under way.
            drop(exec.process.start_lock.lock().await);
            if matches!(exec.process.phase(), Phase::Running(_)) {
                exec.process.wait().await;
            }
        }
    }

    /// Waits in the background for the exit of a process that exec added.
    pub(super) fn follow_exec(self: &Arc<Self>, id: &str, process: Arc<Process>, exit: ExitWaiter) {
        let (container, id) = (Arc::clone(self), id.to_owned());
        tokio::spawn(async move {
            let exit = exit.wait().await;
            container.publish_exit(&id, &process, exit).await;
        });
    }

    async fn publish_exit(&self, id: &str, process: &Process, exit: Exit) {
        // The start is published first.
        let _started = process.start_lock.lock().await;
        self.context.events.send(&TaskExit {
            container_id: self.id.clone(),
            id: id.to_owned(),
            pid: process.pid(),
            exit_status: exit.code,
            exited_at: MessageField::some(exit.at.clone()),
            ..TaskExit::default()
        });
        process.mark_exited(exit);
    }
}
