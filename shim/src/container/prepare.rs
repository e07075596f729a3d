//! The preparation of a bundle for the OCI runtime: mounts the root file system and rewrites the
//! specification.

use std::fs;
use std::path::Path;

use containerd_shim_protos::api::Mount;

use super::code::{ContainerCode, ContainerCompiler};
use crate::containerd::options::Options;
use crate::error::{PathContext, Result};
use crate::oci::bundle;
use crate::oci::entrypoint::{self, Entrypoint};
use crate::oci::mount;
use crate::oci::server::{SERVER_NAME, ServedProject};
use crate::oci::spec::Spec;
use crate::runc;
use crate::server::ServerProgram;

/// A directory that exists where systemd runs.
const SYSTEMD: &str = "/run/systemd/system";

/// A prepared bundle.
pub(super) struct Prepared {
    /// The options, completed by the specification.
    pub(super) options: Options,
    /// What it serves, if it is a container of workers.
    pub(super) project: Option<ServedProject>,
    /// The code to precompile.
    pub(super) code: Option<ContainerCompiler>,
    /// Whether processes outlive the init process.
    pub(super) shares_pids: bool,
    /// The path of the cgroup; empty if the OCI runtime chooses.
    pub(super) cgroups_path: String,
}

/// Prepares a bundle: `mounts` are those of the root file system, `server` is what it runs,
/// and `code` is where the compiled code of the container may be. A failure leaves mounts and code
/// for the teardown.
///
/// # Errors
/// A mount or the specification is broken, or the server is missing.
pub(super) fn prepare(
    bundle: &Path,
    mut options: Options,
    mounts: &[Mount],
    server: &ServerProgram,
    code: Option<ContainerCode>,
) -> Result<Prepared> {
    let mut spec = Spec::read(bundle)?;
    let view = spec.view(bundle);
    let root = bundle.join(bundle::ROOTFS);
    if !mounts.is_empty() {
        fs::create_dir_all(&root).with_path("create", &root)?;
    }
    mount::mount_all(mounts, &root)?;
    let by_systemd = || runc::is_systemd_path(spec.cgroups_path(), Path::new(SYSTEMD));
    options.systemd_cgroup = Some(options.systemd_cgroup.unwrap_or_else(by_systemd));
    bundle::save_options(bundle, &options)?;
    let (entrypoint, arguments) = entrypoint::resolve(&view)?;
    let mut planned = None;
    let project = match entrypoint {
        Entrypoint::Program => None,
        Entrypoint::Command => {
            let server = server.path()?;
            spec.set_arguments(arguments)?;
            let path = spec.call_server(&server)?;
            spec.write(bundle)?;
            Some(ServedProject {
                server: path,
                path: view.working_directory.clone(),
                arguments: Vec::new(),
                has_own_server: false,
                has_shell: view.has_shell()?,
            })
        }
        Entrypoint::Workers(path) | Entrypoint::Worker(path) => {
            let server = server.path()?;
            let has_own_server = view.has_command(SERVER_NAME)?;
            let has_shell = view.has_shell()?;
            spec.set_arguments(arguments)?;
            let memory = spec.memory_limit();
            let project = code.and_then(|code| Some((code, view.open_project(&path)?)));
            planned = project.and_then(|(code, project)| {
                ContainerCompiler::plan(code, &server, project, memory)
            });
            let links = planned.as_ref().map(|planned| &*planned.code().links);
            let arguments = spec.arguments_after_entrypoint();
            let server = spec.serve(&server, &path, links)?;
            spec.write(bundle)?;
            Some(ServedProject {
                server,
                path,
                arguments,
                has_own_server,
                has_shell,
            })
        }
    };
    Ok(Prepared {
        shares_pids: spec.shares_pids(),
        cgroups_path: spec.cgroups_path().to_owned(),
        options,
        project,
        code: planned,
    })
}
