//! containerd's task service: what it asks of a shim, in terms of containers.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use containerd_shim_protos::api;
use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskIO, TaskPaused, TaskResumed,
    TaskStart,
};
use containerd_shim_protos::protobuf::{EnumOrUnknown, MessageField};
use containerd_shim_protos::shim_async::Task;
use containerd_shim_protos::ttrpc;
use containerd_shim_protos::ttrpc::r#async::TtrpcContext;
use tokio::sync::Notify;

use crate::container::{Container, Shared};
use crate::containerd::identifier::identifier;
use crate::error::{Error, Result};
use crate::stdio::config::Wanted;
use crate::sys::log;

/// The service. Clones are of the same.
#[derive(Debug, Clone)]
pub(crate) struct Service(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    /// `None` is one that is being made.
    containers: Mutex<HashMap<String, Option<Arc<Container>>>>,
    over: Notify,
    used: AtomicBool,
}

impl Service {
    /// One without containers.
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(Arc::new(Inner {
            shared,
            containers: Mutex::default(),
            over: Notify::new(),
            used: AtomicBool::new(false),
        }))
    }

    /// Waits until containerd has no more use for this shim.
    pub(crate) async fn over(&self) {
        self.0.over.notified().await;
    }

    /// Whether containerd has asked for a container.
    pub(crate) fn was_used(&self) -> bool {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Writes the state of all containers to the log.
    pub(crate) fn report(&self) {
        let containers = self.containers();
        log::info!(
            "shim {}: {} containers, {} events wait for containerd",
            std::process::id(),
            containers.len(),
            self.shared().events.waiting()
        );
        for (id, container) in &*containers {
            match container {
                Some(container) => container.report(),
                None => log::info!("container {id}: being created"),
            }
        }
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, Option<Arc<Container>>>> {
        let containers = &self.0.containers;
        containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    fn container(&self, id: &str) -> Result<Arc<Container>> {
        let found = self.containers().get(id).cloned().flatten();
        found.ok_or_else(|| Error::NotFound(format!("this shim has no container {id}")))
    }

    async fn create(self, request: api::CreateTaskRequest) -> Result<api::CreateTaskResponse> {
        self.0.used.store(true, Ordering::Relaxed);
        let id = request.id.clone();
        identifier("the container's name", &id)?;
        {
            let mut containers = self.containers();
            if containers.contains_key(&id) {
                return Err(Error::AlreadyExists(format!(
                    "container {id} is there already"
                )));
            }
            containers.insert(id.clone(), None);
        }
        let place = Place {
            service: &self,
            id: &id,
        };
        let mut event = TaskCreate {
            container_id: id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: MessageField::some(TaskIO {
                stdin: request.stdin.clone(),
                stdout: request.stdout.clone(),
                stderr: request.stderr.clone(),
                terminal: request.terminal,
                ..TaskIO::default()
            }),
            ..TaskCreate::default()
        };
        let announce = |pid: u32| {
            event.pid = pid;
            self.shared().events.send(&event);
        };
        match Container::create(Arc::clone(self.shared()), request, announce).await {
            Ok(container) => {
                let pid = container.init.pid();
                place.take(container);
                Ok(api::CreateTaskResponse {
                    pid,
                    ..Default::default()
                })
            }
            Err(error) => {
                log::error!("create {id}: {error}");
                Err(error)
            }
        }
    }

    async fn start(self, request: api::StartRequest) -> Result<api::StartResponse> {
        let container = self.container(&request.id)?;
        let events = &self.shared().events;
        let container_id = request.id.clone();
        let pid = if request.exec_id.is_empty() {
            let started = |pid| {
                events.send(&TaskStart {
                    container_id,
                    pid,
                    ..TaskStart::default()
                });
            };
            container.start(started).await?
        } else {
            let started = |pid| {
                events.send(&TaskExecStarted {
                    container_id,
                    exec_id: request.exec_id.clone(),
                    pid,
                    ..TaskExecStarted::default()
                });
            };
            container.start_exec(&request.exec_id, started).await?
        };
        Ok(api::StartResponse {
            pid,
            ..Default::default()
        })
    }

    async fn delete(self, request: api::DeleteRequest) -> Result<api::DeleteResponse> {
        let container = self.container(&request.id)?;
        let (pid, exit) = if request.exec_id.is_empty() {
            let (pid, exit) = container.delete().await?;
            self.containers().remove(&request.id);
            self.shared().events.send(&TaskDelete {
                container_id: request.id,
                pid,
                exit_status: exit.code,
                exited_at: MessageField::some(exit.at.clone()),
                ..TaskDelete::default()
            });
            (pid, exit)
        } else {
            container.delete_exec(&request.exec_id).await?
        };
        Ok(api::DeleteResponse {
            pid,
            exit_status: exit.code,
            exited_at: MessageField::some(exit.at),
            ..Default::default()
        })
    }

    async fn exec(self, request: api::ExecProcessRequest) -> Result<api::Empty> {
        let container = self.container(&request.id)?;
        identifier("the process's name", &request.exec_id)?;
        let wanted = Wanted {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        container.add(&request.exec_id, wanted, &request.spec)?;
        self.shared().events.send(&TaskExecAdded {
            container_id: request.id,
            exec_id: request.exec_id,
            ..TaskExecAdded::default()
        });
        Ok(api::Empty::default())
    }

    async fn pause(self, request: api::PauseRequest) -> Result<api::Empty> {
        self.container(&request.id)?.pause().await?;
        self.shared().events.send(&TaskPaused {
            container_id: request.id,
            ..TaskPaused::default()
        });
        Ok(api::Empty::default())
    }

    async fn resume(self, request: api::ResumeRequest) -> Result<api::Empty> {
        self.container(&request.id)?.resume().await?;
        self.shared().events.send(&TaskResumed {
            container_id: request.id,
            ..TaskResumed::default()
        });
        Ok(api::Empty::default())
    }

    async fn kill(self, request: api::KillRequest) -> Result<api::Empty> {
        let container = self.container(&request.id)?;
        container
            .kill(&request.exec_id, request.signal, request.all)
            .await?;
        Ok(api::Empty::default())
    }

    async fn update(self, request: api::UpdateTaskRequest) -> Result<api::Empty> {
        let container = self.container(&request.id)?;
        container.update(&request.resources).await?;
        Ok(api::Empty::default())
    }

    fn state(&self, request: api::StateRequest) -> Result<api::StateResponse> {
        let container = self.container(&request.id)?;
        let mut state = container.process(&request.exec_id)?.state();
        state.bundle = container.bundle.display().to_string();
        if request.exec_id.is_empty()
            && container.paused()
            && state.status.enum_value() == Ok(api::Status::RUNNING)
        {
            state.status = EnumOrUnknown::new(api::Status::PAUSED);
        }
        state.id = request.id;
        state.exec_id = request.exec_id;
        Ok(state)
    }

    fn resize(&self, request: &api::ResizePtyRequest) -> Result<()> {
        let container = self.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        process.resize(request.width, request.height)
    }

    fn close_io(&self, request: &api::CloseIORequest) -> Result<()> {
        let process = self.container(&request.id)?.process(&request.exec_id)?;
        if request.stdin {
            process.input.close();
        }
        Ok(())
    }
}

/// The place of a container that is being made. Free again, unless it is taken.
struct Place<'a> {
    service: &'a Service,
    id: &'a str,
}

impl Place<'_> {
    fn take(self, container: Arc<Container>) {
        let mut containers = self.service.containers();
        containers.insert(self.id.to_owned(), Some(container));
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut containers = self.service.containers();
        if let Some(None) = containers.get(self.id) {
            containers.remove(self.id);
        }
    }
}

/// Goes through with `work` also when the one who asked for it goes away or loses patience midway: half a container is none.
async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> ttrpc::Result<T> {
    let done = tokio::spawn(work).await;
    let result = done.unwrap_or_else(|error| Err(Error::Other(error.to_string())));
    Ok(result?)
}

#[async_trait]
impl Task for Service {
    async fn state(
        &self,
        _: &TtrpcContext,
        request: api::StateRequest,
    ) -> ttrpc::Result<api::StateResponse> {
        Ok(Self::state(self, request)?)
    }

    async fn create(
        &self,
        _: &TtrpcContext,
        request: api::CreateTaskRequest,
    ) -> ttrpc::Result<api::CreateTaskResponse> {
        whole(Self::create(self.clone(), request)).await
    }

    async fn start(
        &self,
        _: &TtrpcContext,
        request: api::StartRequest,
    ) -> ttrpc::Result<api::StartResponse> {
        whole(Self::start(self.clone(), request)).await
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: api::DeleteRequest,
    ) -> ttrpc::Result<api::DeleteResponse> {
        whole(Self::delete(self.clone(), request)).await
    }

    async fn pids(
        &self,
        _: &TtrpcContext,
        request: api::PidsRequest,
    ) -> ttrpc::Result<api::PidsResponse> {
        let processes = self.container(&request.id)?.processes()?;
        Ok(api::PidsResponse {
            processes,
            ..Default::default()
        })
    }

    async fn pause(
        &self,
        _: &TtrpcContext,
        request: api::PauseRequest,
    ) -> ttrpc::Result<api::Empty> {
        whole(Self::pause(self.clone(), request)).await
    }

    async fn resume(
        &self,
        _: &TtrpcContext,
        request: api::ResumeRequest,
    ) -> ttrpc::Result<api::Empty> {
        whole(Self::resume(self.clone(), request)).await
    }

    async fn checkpoint(
        &self,
        _: &TtrpcContext,
        request: api::CheckpointTaskRequest,
    ) -> ttrpc::Result<api::Empty> {
        Err(Error::Unimplemented(format!(
            "container {}: checkpoints are not made by this runtime; workers keep no state between requests",
            request.id
        )))?
    }

    async fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> ttrpc::Result<api::Empty> {
        whole(Self::kill(self.clone(), request)).await
    }

    async fn exec(
        &self,
        _: &TtrpcContext,
        request: api::ExecProcessRequest,
    ) -> ttrpc::Result<api::Empty> {
        whole(Self::exec(self.clone(), request)).await
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: api::ResizePtyRequest,
    ) -> ttrpc::Result<api::Empty> {
        self.resize(&request)?;
        Ok(api::Empty::default())
    }

    async fn close_io(
        &self,
        _: &TtrpcContext,
        request: api::CloseIORequest,
    ) -> ttrpc::Result<api::Empty> {
        Self::close_io(self, &request)?;
        Ok(api::Empty::default())
    }

    async fn update(
        &self,
        _: &TtrpcContext,
        request: api::UpdateTaskRequest,
    ) -> ttrpc::Result<api::Empty> {
        whole(Self::update(self.clone(), request)).await
    }

    async fn wait(
        &self,
        _: &TtrpcContext,
        request: api::WaitRequest,
    ) -> ttrpc::Result<api::WaitResponse> {
        let process = self.container(&request.id)?.process(&request.exec_id)?;
        let exit = process.wait().await;
        Ok(api::WaitResponse {
            exit_status: exit.code,
            exited_at: MessageField::some(exit.at),
            ..Default::default()
        })
    }

    async fn stats(
        &self,
        _: &TtrpcContext,
        request: api::StatsRequest,
    ) -> ttrpc::Result<api::StatsResponse> {
        let stats = self.container(&request.id)?.stats()?;
        Ok(api::StatsResponse {
            stats: MessageField::some(stats),
            ..Default::default()
        })
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        request: api::ConnectRequest,
    ) -> ttrpc::Result<api::ConnectResponse> {
        let container = self.container(&request.id).ok();
        Ok(api::ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: container.map_or(0, |container| container.init.pid()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }

    async fn shutdown(
        &self,
        _: &TtrpcContext,
        request: api::ShutdownRequest,
    ) -> ttrpc::Result<api::Empty> {
        // A pod's shim goes with its last container.
        if request.now || self.containers().is_empty() {
            self.0.over.notify_one();
        }
        Ok(api::Empty::default())
    }
}
