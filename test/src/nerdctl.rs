//! `nerdctl` on a private containerd.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Pid;

use crate::bridge::Bridge;
use crate::command::{self, Finished};
use crate::containerd::{Containerd, Version};
use crate::network::Network;
use crate::workspace;

/// The longest that a command may take.
const LIMIT: Duration = Duration::from_secs(60);

/// `nerdctl` and its containerd. All that belongs to them ends with them.
#[derive(Debug)]
pub struct Nerdctl {
    program: PathBuf,
    // Dropped in this order.
    containerd: Containerd,
    network: Network,
}

impl Nerdctl {
    /// Starts a containerd of `version`.
    ///
    /// # Errors
    /// As of [`Containerd::start`]; `nerdctl` or the network plugins are missing.
    pub fn start(version: Version) -> Result<Self> {
        let program = workspace::client("nerdctl")?;
        let network = Network::new(Bridge::new()?)?;
        let containerd = Containerd::start_sharing_code(version)?;
        network.write(&containerd.directory().join("cni"))?;
        Ok(Self {
            program,
            containerd,
            network,
        })
    }

    /// Its containerd.
    #[must_use]
    pub fn containerd(&self) -> &Containerd {
        &self.containerd
    }

    /// A `nerdctl` command line, to be completed.
    ///
    /// # Errors
    /// Something is not built or unpacked.
    pub fn command(&self) -> Result<Command> {
        let directory = self.containerd.directory();
        let mut command = Command::new(&self.program);
        command
            .env("PATH", self.containerd.path()?)
            .env("NERDCTL_TOML", directory.join("nerdctl.toml"))
            .env("DOCKER_CONFIG", directory.join("client"))
            .arg("--address")
            .arg(self.containerd.socket())
            .args(["--namespace", &self.containerd.namespace()])
            .args(["--snapshotter", self.containerd.snapshotter()])
            .arg("--data-root")
            .arg(directory.join("nerdctl"))
            .arg("--cni-path")
            .arg(Network::plugins()?)
            .arg("--cni-netconfpath")
            .arg(directory.join("cni"))
            .args(["--cgroup-manager", "cgroupfs"]);
        Ok(command)
    }

    /// Runs `nerdctl` to its end, whatever that is.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn try_run(&self, arguments: &[&str]) -> Result<Finished> {
        command::run(self.command()?.args(arguments), LIMIT)
    }

    /// Runs `nerdctl` and returns its standard output, trimmed.
    ///
    /// # Errors
    /// It fails: what it wrote.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self
            .try_run(arguments)?
            .success()
            .with_context(|| format!("nerdctl {}", arguments.join(" ")))?;
        Ok(output.trim().to_owned())
    }

    /// What `nerdctl inspect --format` says of the container `name`.
    ///
    /// # Errors
    /// There is no such container.
    pub fn inspect(&self, name: &str, format: &str) -> Result<String> {
        self.run(&["inspect", "--format", format, name])
    }

    /// What the container `name` has written, both streams.
    ///
    /// # Errors
    /// There is no such container.
    pub fn logs(&self, name: &str) -> Result<String> {
        let finished = self.try_run(&["logs", name])?;
        let all = format!("{}{}", finished.stdout, finished.stderr);
        if !finished.status.success() {
            bail!("nerdctl logs {name}: {all}");
        }
        Ok(all)
    }

    /// The PID of the init process of the container `name`.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self, name: &str) -> Result<Pid> {
        let pid = self.inspect(name, "{{.State.Pid}}")?.parse()?;
        Pid::from_raw(pid).with_context(|| format!("{name} does not run"))
    }

    /// Fails unless, within seconds, nothing is left of any container: to be called when all are
    /// removed.
    ///
    /// # Errors
    /// What is left.
    pub fn expect_nothing_left(&self) -> Result<()> {
        self.containerd.expect_nothing_left()?;
        self.network.expect_no_ports()?;
        // Its own notes on containers.
        let notes = self.containerd.directory().join("nerdctl");
        for address in fs::read_dir(notes).into_iter().flatten().flatten() {
            let of_namespace = address
                .path()
                .join("containers")
                .join(self.containerd.namespace());
            let left: Vec<_> = fs::read_dir(of_namespace).into_iter().flatten().collect();
            if !left.is_empty() {
                bail!("nerdctl left {left:?}");
            }
        }
        Ok(())
    }
}
