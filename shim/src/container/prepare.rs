//! The preparation of a bundle for the OCI runtime: mounts the root file system and rewrites the
//! specification.

use std::fs;
use std::path::Path;

use containerd_shim_protos::api::Mount;

use super::code::{ContainerCode, ProjectDirectory};
use crate::containerd::options::Options;
use crate::error::{Error, PathContext, Result};
use crate::oci::bundle;
use crate::oci::entrypoint::{self, Entrypoint};
use crate::oci::mount;
use crate::oci::server::{SERVER_NAME, ServedProject};
use crate::oci::spec::Spec;
use crate::oci::view::ContainerView;
use crate::runc;
use crate::sys::log;

/// The directory in which the kernel lists the interpreters of file formats.
const BINFMT_MISC: &str = "/proc/sys/fs/binfmt_misc";

/// A directory that exists where systemd runs.
const SYSTEMD: &str = "/run/systemd/system";

/// A prepared bundle.
pub(super) struct Prepared {
    /// The options, completed by the specification.
    pub(super) options: Options,
    /// What it serves, if it is a container of workers.
    pub(super) project: Option<ServedProject>,
    /// The code to precompile.
    pub(super) code: Option<(ContainerCode, ProjectDirectory)>,
    /// Whether processes outlive the init process.
    pub(super) shares_pids: bool,
    /// The path of the cgroup; empty if the OCI runtime chooses.
    pub(super) cgroups_path: String,
}

/// Prepares a bundle: `mounts` are those of the root file system, `server` is a file of the host, and
/// `code` is where the compiled code of the container may be. A failure leaves mounts and code for the
/// teardown.
///
/// # Errors
/// A mount or the specification is broken, or the server is missing.
pub(super) fn prepare(
    bundle: &Path,
    mut options: Options,
    mounts: &[Mount],
    server: &Path,
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
        Entrypoint::Module(path) => {
            require_interpreter(&path)?;
            None
        }
        Entrypoint::Command => {
            require_server(server)?;
            spec.set_arguments(arguments)?;
            let path = spec.call_server(server)?;
            spec.write(bundle)?;
            Some(ServedProject {
                server: path,
                directory: view.working_directory.clone(),
                arguments: Vec::new(),
                has_own_server: false,
                has_shell: view.has_shell()?,
            })
        }
        Entrypoint::Workers(directory) => {
            require_server(server)?;
            let has_own_server = view.has_command(SERVER_NAME)?;
            let has_shell = view.has_shell()?;
            spec.set_arguments(arguments)?;
            planned = code.and_then(|code| plan_code(&view, &directory, code));
            let links = planned.as_ref().map(|(code, _)| code.links.as_path());
            let arguments = spec.arguments_after_entrypoint();
            let path = spec.serve(server, &directory, links)?;
            spec.write(bundle)?;
            Some(ServedProject {
                server: path,
                directory,
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

fn require_server(server: &Path) -> Result<()> {
    if server.is_file() {
        return Ok(());
    }
    Err(Error::unknown(format!(
        "the server {} is missing: install `wws` beside containerd-shim-wws-v1",
        server.display()
    )))
}

/// Fails for an entry point that is a WebAssembly module, unless the kernel has an interpreter for
/// modules.
fn require_interpreter(module: &Path) -> Result<()> {
    let registered = fs::read_dir(BINFMT_MISC).into_iter().flatten().flatten();
    let mut texts = registered.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    if texts.any(|text| text.contains("magic 0061736d") || text.contains("extension .wasm")) {
        return Ok(());
    }
    let directory = module.parent().unwrap_or(module);
    // Clients know these words: Docker turns them into exit code 126.
    Err(Error::invalid_argument(format!(
        "OCI runtime create failed: exec: {:?}: permission denied: a WebAssembly module is not a \
         program; name its directory, whose workers are served: ENTRYPOINT [{:?}]",
        module.display().to_string(),
        directory.display().to_string()
    )))
}

/// Plans the precompilation of a project. Returns `None` if the host does not allow it: then the
/// server compiles.
fn plan_code(
    view: &ContainerView,
    directory: &Path,
    code: ContainerCode,
) -> Option<(ContainerCode, ProjectDirectory)> {
    let project = ProjectDirectory {
        directory: view.open_directory(directory).ok().flatten()?,
        is_root: directory == Path::new("/"),
    };
    match code.create_links() {
        Ok(()) => Some((code, project)),
        // A full or read-only disk, for example: it would fail for all containers.
        Err(error) => {
            log::debug!("precompile: {error:#}");
            None
        }
    }
}
