//! The creation of a container.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use containerd_shim_protos::api::CreateTaskRequest;
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::AbortHandle;

use super::code::{Compilation, ContainerCode, ContainerCompiler};
use super::launch::Launch;
use super::prepare::{Prepared, prepare};
use super::teardown::{RuntimeDeletion, Teardown};
use super::{Container, ShimContext};
use crate::cgroup::Cgroup;
use crate::containerd::identifier::check_identifier;
use crate::containerd::options::Options;
use crate::error::{Error, ErrorCode, Result};
use crate::oci::bundle;
use crate::process::{Phase, Process, ProcessRole};
use crate::runc::{self, Runc};
use crate::stdio::config::StdioConfig;
use crate::sys::log;
use crate::sys::reaper::Reaper;
use crate::sys::thread::spawn_blocking;
use crate::trace::Span;

/// Creates the container; its init process waits for the start. `on_created` is called with the
/// PID before the exit is published. A failed create is torn down.
///
/// # Errors
/// A mount, the specification, a stream or the OCI runtime fails.
pub(crate) async fn create(
    context: Arc<ShimContext>,
    request: CreateTaskRequest,
    span: &Span,
    on_created: impl FnOnce(u32),
) -> Result<Arc<Container>> {
    let code = ContainerCode::for_container(&context.namespace, &request.id);
    if !request.checkpoint.is_empty() {
        return Err(Error::unimplemented(
            "this runtime cannot restore containers from checkpoints",
        ));
    }
    check_identifier("the container ID", &request.id)?;
    let options = Options::from_any(request.options.as_ref())?;
    let bundle = PathBuf::from(&request.bundle);
    let preparing = {
        let (bundle, options, code) = (bundle.clone(), options.clone(), code.clone());
        let (mounts, server) = (request.rootfs.clone(), Arc::clone(&context.server));
        move || prepare(&bundle, options, &mounts, &server, code)
    };
    let part = span.part("prepare bundle");
    let prepared = spawn_blocking(preparing).await;
    part.end(&prepared);
    let runc = |options| Runc::new(options, &context.namespace, &bundle, context.debug);
    let (error, runc, cgroups_path, deletion) = match prepared {
        Err(error) => (
            error,
            runc(options),
            String::new(),
            RuntimeDeletion::Skipped,
        ),
        Ok(prepared) => {
            let runc = runc(prepared.options.clone());
            let cgroups_path = prepared.cgroups_path.clone();
            let part = span.part("runtime create");
            let launched = launch(&context, &request, runc.clone(), prepared, on_created).await;
            part.end(&launched);
            let error = match launched {
                Ok(container) => return Ok(container),
                Err(error) => error,
            };
            let deletion = match error.code() {
                // The identifier belongs to another container, or nothing was created.
                ErrorCode::AlreadyExists | ErrorCode::RuntimeMissing => RuntimeDeletion::Skipped,
                _ => RuntimeDeletion::Retried(&context.reaper),
            };
            (error, runc, cgroups_path, deletion)
        }
    };
    let teardown = Teardown {
        id: &request.id,
        bundle: &bundle,
        runc: &runc,
        deletion,
        cgroups_path: &cgroups_path,
        code: code.as_ref(),
        compile_task: None,
        processes: Vec::new(),
    };
    let _part = span.part("clean up");
    for failure in teardown.run().await {
        log::warning!("clean up after {}: {:#}", request.id, failure.error);
    }
    Err(error)
}

/// Creates the container of a prepared bundle with the OCI runtime.
async fn launch(
    context: &Arc<ShimContext>,
    request: &CreateTaskRequest,
    runc: Runc,
    prepared: Prepared,
    on_created: impl FnOnce(u32),
) -> Result<Arc<Container>> {
    let (reaper, bundle_path) = (&context.reaper, PathBuf::from(&request.bundle));
    let stdio = StdioConfig {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    };
    let init = Arc::new(Process::new(ProcessRole::Init, stdio));
    let code = prepared
        .code
        .as_ref()
        .map(|compiler| compiler.code().clone());
    let compiling = prepared.code.map(|compiler| {
        let first = compiler.start(reaper);
        (compiler, first)
    });
    let pid_file = bundle_path.join(bundle::INIT_PID);
    let pending = reaper.pending_spawn();
    let launch = Launch::new(&init, &prepared.options, context, &request.id).await?;
    let resources = launch
        .run(&pid_file, async |new| {
            runc.create(reaper, &request.id, new).await
        })
        .await?;
    let pid = runc::read_pid(&pid_file)?;
    init.set_resources(resources);
    let exit = pending.claim(pid);
    init.set_spawned(Phase::Created(pid), &exit);
    let compile_task =
        compiling.map(|compiling| watch_compilation(compiling, &init, &request.id, reaper));
    let cgroup = Cgroup::of_process(pid)
        .inspect_err(|error| log::warning!("cgroup of {}: {error:#}", request.id))
        .ok();
    let container = Arc::new(Container {
        id: request.id.clone(),
        bundle: bundle_path,
        init,
        context: Arc::clone(context),
        options: prepared.options,
        runc,
        cgroup,
        cgroups_path: prepared.cgroups_path,
        project: prepared.project,
        shares_pids: prepared.shares_pids,
        code,
        compile_task,
        paused: AtomicBool::new(false),
        change_lock: AsyncMutex::new(()),
        execs: Mutex::default(),
    });
    on_created(pid);
    container.clone().follow_init(exit);
    Ok(container)
}

/// Waits in the background for the compiler of a container's code, until the container exits.
/// `start` does not wait, as a deletion and other containers of the pod would wait too: the server
/// waits.
fn watch_compilation(
    (compiler, first): (ContainerCompiler, Option<Compilation>),
    init: &Arc<Process>,
    id: &str,
    reaper: &Arc<Reaper>,
) -> AbortHandle {
    let (init, id, reaper) = (Arc::clone(init), id.to_owned(), Arc::clone(reaper));
    let task = tokio::spawn(async move {
        tokio::select! {
            () = compiler.finish(first, &id, &reaper) => {}
            _ = init.wait() => {}
        }
    });
    task.abort_handle()
}
