//! The creation of a container.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use containerd_shim_protos::api::CreateTaskRequest;
use tokio::sync::Mutex as Gate;
use tokio::task::AbortHandle;

use super::code::{Code, Compiling};
use super::launch::Launch;
use super::prepare::{Prepared, prepare};
use super::teardown::{undo, unmount};
use super::{Container, Shared};
use crate::cgroup::Cgroup;
use crate::containerd::options::Options;
use crate::error::{Error, Result};
use crate::oci::bundle;
use crate::process::{Phase, Process, Role};
use crate::runc::{self, Runc};
use crate::stdio::config::Wanted;
use crate::sys::log;
use crate::sys::thread::beside;

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
