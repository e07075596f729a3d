//! What is done to a bundle before the OCI runtime sees it.

use std::fs;
use std::path::{Path, PathBuf};

use containerd_shim_protos::api::Mount;

use crate::code::{Code, Project};
use crate::entry::Entry;
use crate::error::{Error, OnPath, Result};
use crate::options::Options;
use crate::spec::Spec;
use crate::{bundle, exec, log, mount, runc};

/// What a container of workers serves, and by which program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Workers {
    /// Our server's path in the container.
    pub(crate) server: &'static str,
    /// The project's folder in the container.
    pub(crate) folder: PathBuf,
    /// The container's own PATH has a program of our server's name.
    pub(crate) has_own: bool,
}

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
        options.systemd_cgroup |= runc::is_systemd_path(spec.cgroups_path());
        bundle::save_options(bundle, &options)?;
        let mut ahead = None;
        let workers = match spec.entry(bundle)? {
            Entry::Program => None,
            Entry::Workers(folder) => {
                if !server.is_file() {
                    return Err(Error::Other(format!(
                        "the server {} is missing: install `wws` beside containerd-shim-wws-v1",
                        server.display()
                    )));
                }
                let has_own = spec.has_command(bundle, exec::NAME)?;
                ahead = code.and_then(|code| plan(&spec, bundle, &folder, code));
                let links = ahead.as_ref().map(|(code, _)| code.links.as_path());
                let path = spec.serve(server, &folder, links)?;
                spec.write(bundle)?;
                Some(Workers {
                    server: path,
                    folder,
                    has_own,
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
