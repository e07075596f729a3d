//! Calls of the OCI runtime: `runc`, or the program that the options name.

pub(crate) mod call;
mod failure;

use std::fs;
use std::num::ParseIntError;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use self::call::{CallLog, NewProcess, RuntimeCall};
use crate::containerd::options::Options;
use crate::error::{Error, PathContext, Result};
use crate::sys::reaper::Reaper;

/// The default directory of the OCI runtime's state. The namespace is appended.
const STATE_ROOT: &str = "/run/containerd/wws";

/// The default OCI runtime.
const DEFAULT_PROGRAM: &str = "runc";

/// The OCI runtime, configured for one container.
#[derive(Debug, Clone)]
pub(crate) struct Runc {
    options: Options,
    root: PathBuf,
    bundle: PathBuf,
    debug: bool,
}

impl Runc {
    /// Configures the OCI runtime for a container of `namespace`.
    pub(crate) fn new(options: Options, namespace: &str, bundle: &Path, debug: bool) -> Self {
        let root = if options.root.is_empty() {
            Path::new(STATE_ROOT)
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

    /// Returns whether systemd creates and removes the cgroup of the container.
    pub(crate) fn uses_systemd(&self) -> bool {
        self.options.systemd_cgroup == Some(true)
    }

    /// Creates the container of the bundle; its init process waits for the start.
    ///
    /// # Errors
    /// That of the OCI runtime.
    pub(crate) async fn create(
        &self,
        reaper: &Arc<Reaper>,
        id: &str,
        new: NewProcess<'_>,
    ) -> Result<()> {
        let mut call = self.call("create");
        call.command.arg("--bundle").arg(&self.bundle);
        if self.options.no_pivot_root {
            call.command.arg("--no-pivot");
        }
        if self.options.no_new_keyring {
            call.command.arg("--no-new-keyring");
        }
        call.set_process(new);
        call.command.arg(id);
        call.run(reaper).await
    }

    /// Starts the init process.
    ///
    /// # Errors
    /// That of the OCI runtime.
    pub(crate) async fn start(&self, reaper: &Arc<Reaper>, id: &str) -> Result<()> {
        self.run_command(reaper, "start", &[id]).await
    }

    /// Starts another process, which the file `process` describes.
    ///
    /// # Errors
    /// That of the OCI runtime.
    pub(crate) async fn exec(
        &self,
        reaper: &Arc<Reaper>,
        id: &str,
        process: &Path,
        new: NewProcess<'_>,
    ) -> Result<()> {
        let mut call = self.call("exec");
        call.command.arg("--detach").arg("--process").arg(process);
        call.set_process(new);
        call.command.arg(id);
        call.run(reaper).await
    }

    /// Sends a signal to the init process, or to all processes.
    ///
    /// # Errors
    /// That of the OCI runtime.
    pub(crate) async fn kill(
        &self,
        reaper: &Arc<Reaper>,
        id: &str,
        signal: u32,
        all: bool,
    ) -> Result<()> {
        let signal = signal.to_string();
        let arguments = [id, &signal];
        if all {
            let arguments = ["--all", id, &signal];
            return self.run_command(reaper, "kill", &arguments).await;
        }
        self.run_command(reaper, "kill", &arguments).await
    }

    /// Freezes all processes.
    ///
    /// # Errors
    /// That of the OCI runtime.
    pub(crate) async fn pause(&self, reaper: &Arc<Reaper>, id: &str) -> Result<()> {
        self.run_command(reaper, "pause", &[id]).await
    }

    /// Thaws all processes.
    ///
    /// # Errors
    /// That of the OCI runtime.
    pub(crate) async fn resume(&self, reaper: &Arc<Reaper>, id: &str) -> Result<()> {
        self.run_command(reaper, "resume", &[id]).await
    }

    /// Changes limits; `resources` is a file.
    ///
    /// # Errors
    /// That of the OCI runtime.
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

    /// Deletes the container and kills its processes. A container that does not exist is no error.
    ///
    /// # Errors
    /// That of the OCI runtime.
    pub(crate) async fn delete(&self, reaper: &Arc<Reaper>, id: &str) -> Result<()> {
        self.run_command(reaper, "delete", &["--force", id]).await
    }

    /// Deletes the container as [`Self::delete`] does, without a reaper, and blocks the thread.
    ///
    /// # Errors
    /// That of the OCI runtime.
    pub(crate) fn delete_blocking(&self, id: &str) -> Result<()> {
        let mut call = self.call("delete");
        call.command.args(["--force", id]);
        call.run_blocking()
    }

    /// Returns the features of the OCI runtime, in its own JSON; `None` if it does not know the
    /// command.
    pub(crate) fn features(&self) -> Option<Vec<u8>> {
        let output = Command::new(self.program())
            .arg("features")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        output.status.success().then_some(output.stdout)
    }

    async fn run_command(
        &self,
        reaper: &Arc<Reaper>,
        verb: &str,
        arguments: &[&str],
    ) -> Result<()> {
        let mut call = self.call(verb);
        call.command.args(arguments);
        call.run(reaper).await
    }

    fn program(&self) -> &str {
        runtime_program(&self.options.binary_name)
    }

    fn call(&self, verb: &str) -> RuntimeCall {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let log = CallLog(
            self.bundle
                .join(format!("wws-{verb}-{}-{number}.log", std::process::id())),
        );
        let mut command = Command::new(self.program());
        if self.bundle.is_dir() {
            // As containerd's own shim: wrappers of runc read `config.json` in the working
            // directory.
            command.current_dir(&self.bundle);
        }
        command
            .arg("--root")
            .arg(&self.root)
            .arg("--log")
            .arg(&log.0)
            .args(["--log-format", "json"]);
        if self.uses_systemd() {
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
            // The variable is for containerd: runc would use it for the container.
            .env_remove("NOTIFY_SOCKET");
        RuntimeCall {
            verb: verb.to_owned(),
            program: self.program().to_owned(),
            command,
            log,
        }
    }
}

/// Returns the OCI runtime that `BinaryName` stands for. K3s sets the path of the shim itself,
/// which is not an OCI runtime.
fn runtime_program(name: &str) -> &str {
    let file = Path::new(name).file_name().unwrap_or_default();
    if name.is_empty() || file.as_encoded_bytes().starts_with(b"containerd-shim-") {
        DEFAULT_PROGRAM
    } else {
        name
    }
}

/// Reads the PID that the OCI runtime wrote.
///
/// # Errors
/// The file is missing or contains no number.
pub(crate) fn read_pid(file: &Path) -> Result<u32> {
    let text = fs::read_to_string(file).with_path("read", file)?;
    text.trim().parse().map_err(|error: ParseIntError| {
        Error::unknown(format!("read a PID from {}", file.display())).with_source(error)
    })
}

/// Returns whether systemd creates the cgroup at this path, where no option decides: the path has
/// systemd's form, and systemd runs.
pub(crate) fn is_systemd_path(cgroups_path: &str, systemd: &Path) -> bool {
    // `slice:prefix:name`, as Docker and CRI write it; anything else is a directory.
    !cgroups_path.starts_with('/') && cgroups_path.split(':').count() == 3 && systemd.is_dir()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::error::ErrorCode;

    #[test]
    fn recognizes_a_systemd_path_only_where_systemd_runs() {
        let systemd = tempfile::tempdir().unwrap();
        let is_systemds = |path| is_systemd_path(path, systemd.path());
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
    fn takes_the_path_of_a_shim_for_the_default_runtime() {
        for name in [
            "",
            "/usr/bin/containerd-shim-wws-v1",
            "/var/lib/rancher/k3s/data/current/bin/containerd-shim-wws-v1",
            "containerd-shim-runc-v2",
        ] {
            assert_eq!(runtime_program(name), "runc", "{name}");
        }
        for name in ["crun", "/usr/bin/crun", "/opt/containerd-shim-x/runc"] {
            assert_eq!(runtime_program(name), name);
        }
    }

    #[test]
    fn names_a_missing_runtime() {
        let directory = std::env::temp_dir();
        let options = Options {
            binary_name: "no-such-oci-runtime".to_owned(),
            ..Options::default()
        };
        let error = Runc::new(options, "n", &directory, false)
            .delete_blocking("c")
            .unwrap_err();
        assert_eq!(error.code(), ErrorCode::RuntimeMissing);
        assert!(
            error
                .to_string()
                .contains("\"no-such-oci-runtime\" is not installed"),
            "{error:?}"
        );
    }
}
