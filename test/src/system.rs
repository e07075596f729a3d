//! The machine's own Docker, containerd and systemd, of a guest that is made for these tests and
//! thrown away.
//!
//! Nothing here is private, so nothing here runs elsewhere: `make test-vm` says by `WWS_TEST_GUEST`
//! where that is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Pid;
use tempfile::TempDir;

use crate::command::{self, Finished};
use crate::container::LIMIT;
use crate::groups;
use crate::http::{self, Answer};
use crate::image::Image;
use crate::port;
use crate::wait;

/// The longest that a command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// How long the last things may take to go.
const GONE_LIMIT: Duration = Duration::from_secs(10);

/// Where containerd and shims leave things of a container.
const DIRECTORIES: [&str; 4] = [
    "/run/containerd/s",
    "/run/containerd/wws/moby",
    "/run/containerd/wws/default",
    "/run/containerd/io.containerd.runtime.v2.task/moby",
];

/// What cgroups and units of containers have in their names.
const NAMES: [&str; 3] = ["docker-", "wws-", "ctr-"];

/// A machine without containers.
#[derive(Debug)]
pub struct System {
    directory: TempDir,
}

impl System {
    /// Removes the containers that a failed test left.
    ///
    /// # Errors
    /// This is no guest made for that, or its daemons do not answer.
    pub fn new() -> Result<Self> {
        ensure!(
            std::env::var_os("WWS_TEST_GUEST").is_some(),
            "this test takes a machine to itself: run it by `make test-vm`"
        );
        ensure!(groups::by_systemd(), "neither systemd nor cgroup v2");
        let system = Self {
            directory: tempfile::tempdir()?,
        };
        wait::until("Docker up", LIMIT, || {
            let asked = command::run(Command::new("docker").arg("version"), COMMAND_LIMIT)?;
            Ok(asked.status.success().then_some(()))
        })?;
        for id in system.docker(&["ps", "--all", "--quiet"])?.lines() {
            system.docker(&["rm", "--force", id])?;
        }
        for id in system.ctr(&["container", "ls", "--quiet"])?.lines() {
            // A container may have no task.
            run("ctr", &["task", "rm", "--force", id])?;
            system.ctr(&["container", "rm", id])?;
        }
        Ok(system)
    }

    /// A directory for files of a test.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Runs `docker` to its end and returns its standard output, trimmed.
    ///
    /// # Errors
    /// It fails: what it wrote.
    pub fn docker(&self, words: &[&str]) -> Result<String> {
        output("docker", words)
    }

    /// Runs `ctr` to its end and returns its standard output, trimmed.
    ///
    /// # Errors
    /// It fails: what it wrote.
    pub fn ctr(&self, words: &[&str]) -> Result<String> {
        output("ctr", words)
    }

    /// Runs `systemctl` to its end and returns its standard output, trimmed.
    ///
    /// # Errors
    /// It fails: what it wrote.
    pub fn systemctl(&self, words: &[&str]) -> Result<String> {
        output("systemctl", words)
    }

    /// What systemd says of a unit's property. Of a unit that is not there it says what holds
    /// without one.
    ///
    /// # Errors
    /// systemd does not answer.
    pub fn property(&self, unit: &str, property: &str) -> Result<String> {
        self.systemctl(&["show", "--value", "--property", property, unit])
    }

    /// Has Docker load an image; the answer is its name.
    ///
    /// # Errors
    /// Docker refuses it.
    pub fn load(&self, image: Image) -> Result<String> {
        let (name, tar) = image.write(self.directory())?;
        self.docker(&["load", "--input", &tar.to_string_lossy()])?;
        Ok(name)
    }

    /// Has containerd import an image; the answer is its name.
    ///
    /// # Errors
    /// containerd refuses it.
    pub fn import(&self, image: Image) -> Result<String> {
        let (name, tar) = image.write(self.directory())?;
        self.ctr(&["image", "import", "--all-platforms", &tar.to_string_lossy()])?;
        Ok(name)
    }

    /// `docker run --detach` under our runtime, published on the port that is returned.
    ///
    /// # Errors
    /// Docker refuses.
    pub fn run(&self, name: &str, options: &[&str], image: &str) -> Result<u16> {
        let port = port::free()?;
        let publish = format!("127.0.0.1:{port}:3000");
        let mut words = vec!["run", "--detach", "--name", name];
        words.extend(["--runtime=io.containerd.wws.v1", "--publish", &publish]);
        words.extend(options);
        words.push(image);
        self.docker(&words)?;
        Ok(port)
    }

    /// Waits until `path` is answered on `port` of 127.0.0.1.
    ///
    /// # Errors
    /// No answer within seconds: the journal of containerd and Docker.
    pub fn get(&self, port: u16, path: &str) -> Result<Answer> {
        let answer = wait::until("an answer", LIMIT, || Ok(http::get(port, path).ok()));
        answer.with_context(|| {
            let words = ["--unit=docker", "--unit=containerd", "--lines=30"];
            output("journalctl", &words).unwrap_or_default()
        })
    }

    /// What `docker inspect --format` says of the container `name`.
    ///
    /// # Errors
    /// There is no such container.
    pub fn inspect(&self, name: &str, format: &str) -> Result<String> {
        self.docker(&["inspect", "--format", format, name])
    }

    /// The PID of the init process of Docker's container `name`.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self, name: &str) -> Result<Pid> {
        let pid = self.inspect(name, "{{.State.Pid}}")?.parse()?;
        Pid::from_raw(pid).with_context(|| format!("{name} does not run"))
    }

    /// Waits until Docker's container `name` has ended: its code, and whether memory ran out.
    ///
    /// # Errors
    /// It does not within seconds.
    pub fn ended(&self, name: &str) -> Result<String> {
        wait::until(&format!("the end of {name}"), LIMIT, || {
            let format = "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}";
            let state = self.inspect(name, format)?;
            Ok(state.strip_prefix("exited ").map(ToOwned::to_owned))
        })
    }

    /// The process number of the shim of the container with this `id`.
    ///
    /// # Errors
    /// There is none.
    pub fn shim(&self, id: &str) -> Result<Pid> {
        let found = processes()?.into_iter().find_map(|(pid, command)| {
            let ours = command.contains("containerd-shim-wws-v1") && command.contains(id);
            ours.then(|| Pid::from_raw(pid)).flatten()
        });
        found.with_context(|| format!("no shim of {id}"))
    }

    /// Fails unless, within seconds, nothing is left of any container: to be called when all are
    /// removed.
    ///
    /// # Errors
    /// What is left.
    pub fn expect_nothing_left(&self) -> Result<()> {
        let mut last = Vec::new();
        let gone = wait::until("nothing left behind", GONE_LIMIT, || {
            last = leftovers()?;
            Ok(last.is_empty().then_some(()))
        });
        gone.with_context(|| format!("left behind:\n  {}", last.join("\n  ")))
    }
}

/// Processes, groups, scopes, mounts, sockets, bundles, network devices: all of containers.
///
/// # Errors
/// `/proc` or systemd cannot be asked.
pub fn leftovers() -> Result<Vec<String>> {
    let mut left = Vec::new();
    for (pid, command) in processes()? {
        if command.contains("containerd-shim-") || command.contains("serve-container") {
            left.push(format!("process {pid} {command}"));
        }
    }
    for group in groups_below(Path::new(groups::TOP)) {
        left.push(format!("cgroup {}", group.display()));
    }
    let mut words = vec!["list-units", "--all", "--plain", "--no-legend"];
    words.push("--type=scope");
    for unit in output("systemctl", &words)?.lines() {
        if NAMES.iter().any(|name| unit.starts_with(name)) {
            left.push(format!("unit {unit}"));
        }
    }
    for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
        let point = line.split(' ').nth(4).unwrap_or_default();
        if point.contains("io.containerd.runtime.v2.task") || point.contains("/netns/") {
            // Docker's own, for the host's network.
            if !point.ends_with("/netns/default") {
                left.push(format!("mount {point}"));
            }
        }
    }
    for directory in DIRECTORIES.iter().map(Path::new) {
        left.extend(entries(directory).map(|path| format!("file {}", path.display())));
    }
    for device in entries(Path::new("/sys/class/net")) {
        if device.join("brport").exists() {
            left.push(format!("network device {}", device.display()));
        }
    }
    Ok(left)
}

fn processes() -> Result<Vec<(i32, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may have ended.
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        found.push((pid, command));
    }
    Ok(found)
}

fn groups_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for group in entries(directory).filter(|path| path.is_dir()) {
        let name = group.file_name().unwrap_or_default().to_string_lossy();
        let of_container = NAMES.iter().any(|word| name.starts_with(word));
        if of_container && !name.ends_with(".slice") {
            found.push(group);
        } else {
            found.extend(groups_below(&group));
        }
    }
    found
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

fn run(program: &str, words: &[&str]) -> Result<Finished> {
    command::run(Command::new(program).args(words), COMMAND_LIMIT)
}

fn output(program: &str, words: &[&str]) -> Result<String> {
    let finished = run(program, words)?;
    if !finished.status.success() {
        bail!("{program} {}: {finished:?}", words.join(" "));
    }
    Ok(finished.stdout.trim().to_owned())
}
