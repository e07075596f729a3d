//! Calls of the OCI runtime: `runc`, or what the options name.

pub(crate) mod call;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use self::call::{Call, Log, New};
use crate::cgroup;
use crate::containerd::options::Options;
use crate::error::{Error, Result};
use crate::oci::spec::Spec;
use crate::sys::reaper::Reaper;

/// The folder of the OCI runtime's state, where no option names another. The namespace is added.
const ROOT: &str = "/run/containerd/wws";

/// The OCI runtime, where no option names another.
const DEFAULT_PROGRAM: &str = "runc";

/// The OCI runtime as one container needs it.
#[derive(Debug, Clone)]
pub(crate) struct Runc {
    options: Options,
    root: PathBuf,
    bundle: PathBuf,
    debug: bool,
}

impl Runc {
    /// The OCI runtime for a container of `namespace`.
    pub(crate) fn new(options: Options, namespace: &str, bundle: &Path, debug: bool) -> Self {
        let root = if options.root.is_empty() {
            Path::new(ROOT)
        } else {
            Path::new(&options.root)
        };
        Self {
            root: root.join(namespace),
            options,
            bundle: bundle.to_path_buf(),
            debug,
        }
    }

    /// Makes the container of the bundle; its first process waits.
    ///
    /// # Errors
    /// As the OCI runtime says.
    pub(crate) async fn create(&self, reaper: &Arc<Reaper>, id: &str, new: New<'_>) -> Result<()> {
        let mut call = self.call("create");
        call.command.arg("--bundle").arg(&self.bundle);
        if self.options.no_pivot_root {
            call.command.arg("--no-pivot");
        }
        if self.options.no_new_keyring {
            call.command.arg("--no-new-keyring");
        }
        call.process(new);
        call.command.arg(id);
        call.run(reaper).await
    }

    /// Lets the first process go.
    ///
    /// # Errors
    /// As the OCI runtime says.
    pub(crate) async fn start(&self, reaper: &Arc<Reaper>, id: &str) -> Result<()> {
        self.simple(reaper, "start", &[id]).await
    }

    /// Starts another process, which the file `process` describes.
    ///
    /// # Errors
    /// As the OCI runtime says.
    pub(crate) async fn exec(
        &self,
        reaper: &Arc<Reaper>,
        id: &str,
        process: &Path,
        new: New<'_>,
    ) -> Result<()> {
        let mut call = self.call("exec");
        call.command.arg("--detach").arg("--process").arg(process);
        call.process(new);
        call.command.arg(id);
        call.run(reaper).await
    }

    /// Sends a signal to the first process, or to all.
    ///
    /// # Errors
    /// As the OCI runtime says.
    pub(crate) async fn kill(
        &self,
        reaper: &Arc<Reaper>,
        id: &str,
        signal: u32,
        all: bool,
    ) -> Result<()> {
        let signal = signal.to_string();
        if all {
            self.simple(reaper, "kill", &["--all", id, &signal]).await
        } else {
            self.simple(reaper, "kill", &[id, &signal]).await
        }
    }

    /// Stops all processes where they are.
    ///
    /// # Errors
    /// As the OCI runtime says.
    pub(crate) async fn pause(&self, reaper: &Arc<Reaper>, id: &str) -> Result<()> {
        self.simple(reaper, "pause", &[id]).await
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// As the OCI runtime says.
    pub(crate) async fn resume(&self, reaper: &Arc<Reaper>, id: &str) -> Result<()> {
        self.simple(reaper, "resume", &[id]).await
    }

    /// Changes limits; `resources` is a file.
    ///
    /// # Errors
    /// As the OCI runtime says.
    pub(crate) async fn update(
        &self,
        reaper: &Arc<Reaper>,
        id: &str,
        resources: &Path,
    ) -> Result<()> {
        let mut call = self.call("update");
        call.command.arg("--resources").arg(resources).arg(id);
        call.run(reaper).await
    }

    /// Removes the container, ending what runs in it. One that is not there is no error.
    ///
    /// # Errors
    /// As the OCI runtime says.
    pub(crate) async fn delete(&self, reaper: &Arc<Reaper>, id: &str) -> Result<()> {
        self.simple(reaper, "delete", &["--force", id]).await
    }

    /// The same without a runtime and a collector of children.
    ///
    /// # Errors
    /// As the OCI runtime says.
    pub(crate) fn delete_now(&self, id: &str) -> Result<()> {
        let mut call = self.call("delete");
        call.command.args(["--force", id]);
        call.run_now()
    }

    /// Removes the control groups that an OCI runtime has made which died before it had noted the container: [`Self::delete`] knows
    /// nothing of them.
    pub(crate) fn remove_empty_groups(&self) {
        // systemd removes its own.
        if self.options.systemd_cgroup != Some(true)
            && let Ok(spec) = Spec::read(&self.bundle)
        {
            cgroup::remove_empty(spec.cgroups_path());
        }
    }

    /// What the OCI runtime can do, in its own JSON; `None` if it cannot say.
    pub(crate) fn features(&self) -> Option<Vec<u8>> {
        let output = Command::new(self.program())
            .arg("features")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        output.status.success().then_some(output.stdout)
    }

    async fn simple(&self, reaper: &Arc<Reaper>, verb: &str, arguments: &[&str]) -> Result<()> {
        let mut call = self.call(verb);
        call.command.args(arguments);
        call.run(reaper).await
    }

    fn program(&self) -> &str {
        oci_runtime(&self.options.binary_name)
    }

    fn call(&self, verb: &str) -> Call {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let log = Log(self
            .bundle
            .join(format!("wws-{verb}-{}-{number}.log", std::process::id())));
        let mut command = Command::new(self.program());
        if self.bundle.is_dir() {
            // As with containerd's own shim: wrappers of runc look for `config.json` where they are called.
            command.current_dir(&self.bundle);
        }
        command
            .arg("--root")
            .arg(&self.root)
            .arg("--log")
            .arg(&log.0)
            .args(["--log-format", "json"]);
        if self.options.systemd_cgroup == Some(true) {
            command.arg("--systemd-cgroup");
        }
        if self.debug {
            command.arg("--debug");
        }
        command
            .arg(verb)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // That of containerd itself: runc would take it for the container's.
            .env_remove("NOTIFY_SOCKET");
        Call {
            verb: verb.to_owned(),
            program: self.program().to_owned(),
            command,
            log,
        }
    }
}

/// The OCI runtime that `BinaryName` means. K3s writes the path of the shim itself there, which is no OCI runtime.
fn oci_runtime(name: &str) -> &str {
    let file = Path::new(name).file_name().unwrap_or_default();
    if name.is_empty() || file.as_encoded_bytes().starts_with(b"containerd-shim-") {
        DEFAULT_PROGRAM
    } else {
        name
    }
}

/// Reads the process number that the OCI runtime wrote.
///
/// # Errors
/// The file is not there or holds no number.
pub(crate) fn read_pid(file: &Path) -> Result<u32> {
    let text = fs::read_to_string(file)
        .map_err(|error| Error::io(format_args!("read {}", file.display()), error))?;
    text.trim()
        .parse()
        .map_err(|error| Error::Other(format!("{}: {error}", file.display())))
}

/// Whether systemd makes the cgroup at this path, where no option says so: the path has systemd's form and systemd runs.
pub(crate) fn is_systemd_path(cgroups_path: &str, systemd: &Path) -> bool {
    // `slice:prefix:name`, as Docker and CRI write it; anything else is a directory.
    !cgroups_path.starts_with('/') && cgroups_path.split(':').count() == 3 && systemd.is_dir()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_a_path_in_three_parts_is_systemds_and_only_where_it_runs() {
        let runs = tempfile::tempdir().unwrap();
        let is_systemds = |path| is_systemd_path(path, runs.path());
        assert!(is_systemds("system.slice:docker:abc"));
        assert!(is_systemds("kubepods-besteffort.slice:cri-containerd:abc"));
        for path in ["/default/a:b:c", "/default/abc", ""] {
            assert!(!is_systemds(path), "{path}");
        }
        assert!(!is_systemd_path(
            "system.slice:docker:abc",
            Path::new("/no/such")
        ));
    }

    #[test]
    fn the_path_of_a_shim_is_no_oci_runtime() {
        for name in [
            "",
            "/usr/bin/containerd-shim-wws-v1",
            "/var/lib/rancher/k3s/data/current/bin/containerd-shim-wws-v1",
            "containerd-shim-runc-v2",
        ] {
            assert_eq!(oci_runtime(name), "runc", "{name}");
        }
        for name in ["crun", "/usr/bin/crun", "/opt/containerd-shim-x/runc"] {
            assert_eq!(oci_runtime(name), name);
        }
    }

    #[test]
    fn a_missing_runtime_is_named() {
        let folder = std::env::temp_dir();
        let options = Options {
            binary_name: "no-such-oci-runtime".to_owned(),
            ..Options::default()
        };
        let error = Runc::new(options, "n", &folder, false)
            .delete_now("c")
            .unwrap_err();
        assert!(
            matches!(&error, Error::NoRuntime(text) if text.contains("\"no-such-oci-runtime\" is not installed")),
            "{error:?}"
        );
    }
}
