//! Following the processes of a container to their ends.

use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::events::task::{TaskExit, TaskOOM};
use containerd_shim_protos::protobuf::MessageField;

use super::Container;
use crate::cgroup::oom;
use crate::error::Error;
use crate::process::{Phase, Process};
use crate::sys::log;
use crate::sys::reaper::{Exit, Waiter};

/// How long the exit of a container waits for those of its execs.
const EXECS_LIMIT: Duration = Duration::from_secs(5);

impl Container {
    /// Waits for the end of the first process, and until then for the container to run out of memory.
    pub(super) fn follow_init(self: Arc<Self>, exit: Waiter) {
        let mut watch = self.cgroup.as_ref().and_then(|cgroup| {
            let failed = |error: &Error| log::debug!("memory of {}: {error}", self.id);
            oom::Watch::new(cgroup).inspect_err(failed).ok()
        });
        tokio::spawn(async move {
            let out_of_memory = || {
                self.shared.events.send(&TaskOOM {
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
                    // In this order: the group, and its count, may be gone soon after the end.
                    biased;
                    happened = next => match happened {
                        Some(()) => out_of_memory(),
                        None => watch = None,
                    },
                    exit = &mut exit => break exit,
                }
            };
            if watch.is_some_and(|mut watch| watch.happened()) {
                out_of_memory();
            }
            if self.shares_pids {
                // No kernel ends its other processes for us.
                let kill = self.runc.kill(&self.shared.reaper, &self.id, 9, true);
                if let Err(error) = kill.await {
                    log::debug!("end the processes of {}: {error}", self.id);
                }
            }
            if tokio::time::timeout(EXECS_LIMIT, self.execs_told())
                .await
                .is_err()
            {
                log::warning!(
                    "container {} has exited {} s ago and its execs have not: its exit is published before theirs",
                    self.id,
                    EXECS_LIMIT.as_secs()
                );
            }
            self.ended(&self.id, &self.init, exit).await;
        });
    }

    /// Waits until the exits of all execs that have been started are published: that of the container is the last one, with which
    /// clients forget it.
    async fn execs_told(&self) {
        let execs: Vec<_> = self.execs().values().cloned().collect();
        for exec in execs {
            // One that is about to start, or about to fail to.
            drop(exec.process.gate.lock().await);
            if matches!(exec.process.phase(), Phase::Running(_)) {
                exec.process.wait().await;
            }
        }
    }

    /// Waits for the end of another process.
    pub(super) fn follow(self: &Arc<Self>, id: &str, process: Arc<Process>, exit: Waiter) {
        let (container, id) = (Arc::clone(self), id.to_owned());
        tokio::spawn(async move {
            let exit = exit.wait().await;
            container.ended(&id, &process, exit).await;
        });
    }

    async fn ended(&self, id: &str, process: &Process, exit: Exit) {
        // Its start, under way, is told first.
        let _started = process.gate.lock().await;
        self.shared.events.send(&TaskExit {
            container_id: self.id.clone(),
            id: id.to_owned(),
            pid: process.pid(),
            exit_status: exit.code,
            exited_at: MessageField::some(exit.at.clone()),
            ..TaskExit::default()
        });
        process.end(exit);
    }
}
