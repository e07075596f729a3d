//! containerd's task service: turns its requests into operations on containers.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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

use crate::container::{Container, ShimContext, create};
use crate::containerd::identifier::check_identifier;
use crate::error::{Error, Result};
use crate::stdio::config::StdioConfig;
use crate::sys::{log, memory};
use crate::trace::Span;

/// The task service. Clones share their state.
#[derive(Debug, Clone)]
pub(crate) struct Service(Arc<ServiceState>);

#[derive(Debug)]
struct ServiceState {
    context: Arc<ShimContext>,
    /// `None` reserves the identifier of a container that is being created.
    containers: Mutex<HashMap<String, Option<Arc<Container>>>>,
    shutdown: Notify,
    was_used: AtomicBool,
    /// A process was started: the shim may rest soon.
    started: Notify,
}

/// Where containerd names the span of its call.
const TRACEPARENT: &str = "traceparent";

/// How long after a start a shim rests. Clients ask for the state of what they started first.
const REST_DELAY: Duration = Duration::from_secs(2);

impl Service {
    /// Creates a service without containers.
    pub(crate) fn new(context: Arc<ShimContext>) -> Self {
        Self(Arc::new(ServiceState {
            context,
            containers: Mutex::default(),
            shutdown: Notify::new(),
            was_used: AtomicBool::new(false),
            started: Notify::new(),
        }))
    }

    /// Waits until containerd does not need this shim any more.
    pub(crate) async fn wait_for_shutdown(&self) {
        self.0.shutdown.notified().await;
    }

    /// Returns memory to the OS some time after each start. There is no timer in between.
    pub(crate) async fn rest_after_starts(&self) {
        loop {
            self.0.started.notified().await;
            tokio::time::sleep(REST_DELAY).await;
            memory::rest();
        }
    }

    /// Returns whether containerd has asked for a container.
    pub(crate) fn was_used(&self) -> bool {
        self.0.was_used.load(Ordering::Relaxed)
    }

    /// Logs the state of all containers.
    pub(crate) fn report(&self) {
        let containers = self.containers();
        log::report!(
            "shim {}: {} containers, {} events wait for containerd",
            std::process::id(),
            containers.len(),
            self.context().events.waiting()
        );
        for (id, container) in &*containers {
            match container {
                Some(container) => container.report(),
                None => log::report!("container {id}: being created"),
            }
        }
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, Option<Arc<Container>>>> {
        let containers = &self.0.containers;
        containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn context(&self) -> &Arc<ShimContext> {
        &self.0.context
    }

    fn container(&self, id: &str) -> Result<Arc<Container>> {
        let found = self.containers().get(id).cloned().flatten();
        found.ok_or_else(|| Error::not_found(format!("this shim has no container {id}")))
    }

    /// Begins the span of a request for a container, or for an exec of it.
    fn span(&self, name: &'static str, context: &TtrpcContext, id: &str, exec: &str) -> Span {
        let sent = context.metadata.get(TRACEPARENT);
        let parent = sent.and_then(|values| values.first());
        let mut span = self
            .context()
            .tracer
            .begin(name, parent.map(String::as_str));
        span.set("container.id", id);
        span.set("containerd.namespace", &self.context().namespace);
        if !exec.is_empty() {
            span.set("containerd.exec.id", exec);
        }
        span
    }

    async fn create(
        self,
        request: api::CreateTaskRequest,
        span: Span,
    ) -> Result<api::CreateTaskResponse> {
        let created = self.create_container(request, &span).await;
        span.end(&created);
        created
    }

    async fn create_container(
        &self,
        request: api::CreateTaskRequest,
        span: &Span,
    ) -> Result<api::CreateTaskResponse> {
        self.0.was_used.store(true, Ordering::Relaxed);
        let id = request.id.clone();
        {
            let mut containers = self.containers();
            if containers.contains_key(&id) {
                return Err(Error::already_exists(format!(
                    "container {id} already exists"
                )));
            }
            containers.insert(id.clone(), None);
        }
        let reservation = ContainerReservation {
            service: self,
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
        let on_created = |pid: u32| {
            event.pid = pid;
            self.context().events.send(&event);
        };
        match create::create(Arc::clone(self.context()), request, span, on_created).await {
            Ok(container) => {
                let pid = container.init.pid();
                reservation.fill(container);
                Ok(api::CreateTaskResponse {
                    pid,
                    ..Default::default()
                })
            }
            Err(error) => {
                log::error!("create {id}: {error:#}");
                Err(error)
            }
        }
    }

    async fn start(self, request: api::StartRequest, span: Span) -> Result<api::StartResponse> {
        let started = self.start_process(request).await;
        span.end(&started);
        started
    }

    async fn start_process(&self, request: api::StartRequest) -> Result<api::StartResponse> {
        let container = self.container(&request.id)?;
        let events = &self.context().events;
        let container_id = request.id.clone();
        let pid = if request.exec_id.is_empty() {
            let on_started = |pid| {
                events.send(&TaskStart {
                    container_id,
                    pid,
                    ..TaskStart::default()
                });
            };
            container.start(on_started).await?
        } else {
            let on_started = |pid| {
                events.send(&TaskExecStarted {
                    container_id,
                    exec_id: request.exec_id.clone(),
                    pid,
                    ..TaskExecStarted::default()
                });
            };
            container.start_exec(&request.exec_id, on_started).await?
        };
        self.0.started.notify_one();
        Ok(api::StartResponse {
            pid,
            ..Default::default()
        })
    }

    async fn delete(self, request: api::DeleteRequest, span: Span) -> Result<api::DeleteResponse> {
        let deleted = self.delete_process(request).await;
        span.end(&deleted);
        deleted
    }

    async fn delete_process(&self, request: api::DeleteRequest) -> Result<api::DeleteResponse> {
        let container = self.container(&request.id)?;
        let (pid, exit) = if request.exec_id.is_empty() {
            let (pid, exit) = container.delete().await?;
            self.containers().remove(&request.id);
            self.context().events.send(&TaskDelete {
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
        check_identifier("the exec ID", &request.exec_id)?;
        let stdio = StdioConfig {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        container.add_exec(&request.exec_id, stdio, &request.spec)?;
        self.context().events.send(&TaskExecAdded {
            container_id: request.id,
            exec_id: request.exec_id,
            ..TaskExecAdded::default()
        });
        Ok(api::Empty::default())
    }

    async fn pause(self, request: api::PauseRequest) -> Result<api::Empty> {
        self.container(&request.id)?.pause().await?;
        self.context().events.send(&TaskPaused {
            container_id: request.id,
            ..TaskPaused::default()
        });
        Ok(api::Empty::default())
    }

    async fn resume(self, request: api::ResumeRequest) -> Result<api::Empty> {
        self.container(&request.id)?.resume().await?;
        self.context().events.send(&TaskResumed {
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

/// Reserves the identifier of a container that is being created. Dropped, it frees the identifier.
struct ContainerReservation<'a> {
    service: &'a Service,
    id: &'a str,
}

impl ContainerReservation<'_> {
    /// Replaces the reservation by the container.
    fn fill(self, container: Arc<Container>) {
        let mut containers = self.service.containers();
        containers.insert(self.id.to_owned(), Some(container));
    }
}

impl Drop for ContainerReservation<'_> {
    fn drop(&mut self) {
        let mut containers = self.service.containers();
        if let Some(None) = containers.get(self.id) {
            containers.remove(self.id);
        }
    }
}

/// Runs `work` to its end even if the client disconnects or cancels the request, so that no
/// container is left half created or half deleted.
async fn run_to_completion<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> ttrpc::Result<T> {
    let done = tokio::spawn(work).await;
    let result = done
        .unwrap_or_else(|error| Err(Error::unknown("the operation panicked").with_source(error)));
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
        context: &TtrpcContext,
        request: api::CreateTaskRequest,
    ) -> ttrpc::Result<api::CreateTaskResponse> {
        let span = self.span("shim.create", context, &request.id, "");
        run_to_completion(Self::create(self.clone(), request, span)).await
    }

    async fn start(
        &self,
        context: &TtrpcContext,
        request: api::StartRequest,
    ) -> ttrpc::Result<api::StartResponse> {
        let span = self.span("shim.start", context, &request.id, &request.exec_id);
        run_to_completion(Self::start(self.clone(), request, span)).await
    }

    async fn delete(
        &self,
        context: &TtrpcContext,
        request: api::DeleteRequest,
    ) -> ttrpc::Result<api::DeleteResponse> {
        let span = self.span("shim.delete", context, &request.id, &request.exec_id);
        run_to_completion(Self::delete(self.clone(), request, span)).await
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
        run_to_completion(Self::pause(self.clone(), request)).await
    }

    async fn resume(
        &self,
        _: &TtrpcContext,
        request: api::ResumeRequest,
    ) -> ttrpc::Result<api::Empty> {
        run_to_completion(Self::resume(self.clone(), request)).await
    }

    async fn checkpoint(
        &self,
        _: &TtrpcContext,
        request: api::CheckpointTaskRequest,
    ) -> ttrpc::Result<api::Empty> {
        Err(Error::unimplemented(format!(
            "container {}: this runtime does not support checkpoints; workers keep no \
             state between requests",
            request.id
        )))?
    }

    async fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> ttrpc::Result<api::Empty> {
        run_to_completion(Self::kill(self.clone(), request)).await
    }

    async fn exec(
        &self,
        _: &TtrpcContext,
        request: api::ExecProcessRequest,
    ) -> ttrpc::Result<api::Empty> {
        run_to_completion(Self::exec(self.clone(), request)).await
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
        run_to_completion(Self::update(self.clone(), request)).await
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
        // The shim of a pod stops with the last container.
        if request.now || self.containers().is_empty() {
            self.0.shutdown.notify_one();
        }
        Ok(api::Empty::default())
    }
}
