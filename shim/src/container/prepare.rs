//! What is done to a bundle before the OCI runtime sees it.

use std::fs;
use std::path::Path;

use containerd_shim_protos::api::Mount;

use super::code::{Code, Project};
use crate::containerd::options::Options;
use crate::error::{Error, OnPath, Result};
use crate::oci::bundle;
use crate::oci::entrypoint::Entry;
use crate::oci::mount;
use crate::oci::server::{SERVER_NAME, Workers};
use crate::oci::spec::Spec;
use crate::runc;
use crate::sys::log;

/// Where the kernel tells which files it has which programs for.
const BINFMT_MISC: &str = "/proc/sys/fs/binfmt_misc";

/// A directory that is there where systemd runs.
const SYSTEMD: &str = "/run/systemd/system";

/// What a specification says that matters later.
pub(super) struct Prepared {
    /// The options, completed by what the specification says.
    pub(super) options: Options,
    /// What it serves, if it is a container of workers.
    pub(super) workers: Option<Workers>,
    /// Its code, to be compiled ahead.
    pub(super) code: Option<(Code, Project)>,
    /// Whether its processes outlive its first one.
    pub(super) shares_pids: bool,
}

/// Mounts the root file system and rewrites the specification. Undone when something fails.
///
/// # Errors
/// A mount, the specification, or our server is missing.
pub(super) fn prepare(
    bundle: &Path,
    mut options: Options,
    mounts: &[Mount],
    server: &Path,
    code: Option<Code>,
) -> Result<Prepared> {
    let root = bundle.join("rootfs");
    if !mounts.is_empty() {
        fs::create_dir_all(&root).on("create", &root)?;
    }
    mount::mount_all(mounts, &root)?;
    let prepared = (|| {
        let mut spec = Spec::read(bundle)?;
        let by_systemd = || runc::is_systemd_path(spec.cgroups_path(), Path::new(SYSTEMD));
        options.systemd_cgroup = Some(options.systemd_cgroup.unwrap_or_else(by_systemd));
        bundle::save_options(bundle, &options)?;
        let mut ahead = None;
        let (entry, arguments) = spec.entry(bundle)?;
        let workers = match entry {
            Entry::Program => None,
            Entry::Module(path) => {
                expect_registered(&path)?;
                None
            }
            Entry::Command => {
                check_server(server)?;
                spec.set_arguments(arguments)?;
                let path = spec.call_server(server)?;
                spec.write(bundle)?;
                Some(Workers {
                    server: path,
                    folder: spec.working_directory().to_path_buf(),
                    arguments: Vec::new(),
                    has_own: false,
                    has_shell: spec.has_shell(bundle)?,
                })
            }
            Entry::Workers(folder) => {
                check_server(server)?;
                let has_own = spec.has_command(bundle, SERVER_NAME)?;
                let has_shell = spec.has_shell(bundle)?;
                spec.set_arguments(arguments)?;
                ahead = code.and_then(|code| plan(&spec, bundle, &folder, code));
                let links = ahead.as_ref().map(|(code, _)| code.links.as_path());
                let arguments = spec.after_entry_point();
                let path = spec.serve(server, &folder, links)?;
                spec.write(bundle)?;
                Some(Workers {
                    server: path,
                    folder,
                    arguments,
                    has_own,
                    has_shell,
                })
            }
        };
        Ok(Prepared {
            shares_pids: spec.shares_pids(),
            options,
            workers,
            code: ahead,
        })
    })();
    if prepared.is_err() {
        mount::unmount_all(&root)?;
    }
    prepared
}

fn check_server(server: &Path) -> Result<()> {
    if server.is_file() {
        return Ok(());
    }
    Err(Error::Other(format!(
        "the server {} is missing: install `wws` beside containerd-shim-wws-v1",
        server.display()
    )))
}

/// Fails for an entry point that is a WebAssembly module, unless the kernel has a program registered that runs modules.
fn expect_registered(module: &Path) -> Result<()> {
    let registered = fs::read_dir(BINFMT_MISC).into_iter().flatten().flatten();
    let mut texts = registered.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    if texts.any(|text| text.contains("magic 0061736d") || text.contains("extension .wasm")) {
        return Ok(());
    }
    let directory = module.parent().unwrap_or(module);
    // The words that clients know: Docker makes exit code 126 of them.
    Err(Error::InvalidArgument(format!(
        "OCI runtime create failed: exec: {:?}: permission denied: a WebAssembly module is no program; name the directory that it is in, whose workers are served: ENTRYPOINT [{:?}]",
        module.display().to_string(),
        directory.display().to_string()
    )))
}

/// What is compiled ahead. Nothing, where the machine does not let us: the server does without.
fn plan(spec: &Spec, bundle: &Path, folder: &Path, code: Code) -> Option<(Code, Project)> {
    let host = spec.host_folder(bundle, folder).ok().flatten()?;
    let project = Project {
        folder: host,
        is_root: folder == Path::new("/"),
    };
    match code.make() {
        Ok(()) => Some((code, project)),
        // No room, read-only, ...: as it was with the last container, and as it will be with the next.
        Err(error) => {
            log::debug!("compile ahead: {error}");
            None
        }
    }
}
