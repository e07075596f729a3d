//! A private containerd.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, geteuid};

use crate::command::{self, Finished};
use crate::leftovers::{Before, Leftovers};
use crate::mark::{CONFIG, Mark, SOCKET};
use crate::{daemon, docker, wait, workspace};

/// The longest wait for containerd to answer, or to end.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The longest that a `ctr` command may take.
pub const CTR_LIMIT: Duration = Duration::from_secs(30);

/// The Kubernetes interface, by its names in all versions.
const PODS: [&str; 3] = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.runtime",
    "io.containerd.cri.v1.images",
];

/// Plugins that these tests have no use for: they print warnings.
const DISABLED: [&str; 5] = [
    "io.containerd.nri.v1.nri",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.zfs",
];

/// A version of containerd that the tests know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 1.6, of Debian 12: speaks the second version of the task interface.
    V1_6,
    /// 1.7, of Debian 13: chooses the version by what the shim answers.
    V1_7,
    /// 2.1: prefers the third version.
    V2_1,
    /// 2.3, with long-term support: pulls and imports by its transfer service.
    V2_3,
    /// 2.4, the newest.
    V2_4,
}

impl Version {
    /// Those that come as packages, oldest first; `make test` has them.
    pub const PACKAGED: [Self; 3] = [Self::V1_6, Self::V1_7, Self::V2_1];

    /// The one that tests run under to which the version is the same.
    pub const MAIN: Self = Self::V1_7;

    fn prefix(self) -> &'static str {
        match self {
            Self::V1_6 => "containerd-1.6",
            Self::V1_7 => "containerd-1.7",
            Self::V2_1 => "containerd-2.1",
            Self::V2_3 => "containerd-2.3",
            Self::V2_4 => "containerd-2.4",
        }
    }

    /// The prefix of its programs.
    fn programs(self) -> Result<PathBuf> {
        match self {
            Self::V1_6 | Self::V1_7 | Self::V2_1 => workspace::tools(self.prefix()),
            Self::V2_3 | Self::V2_4 => workspace::built(self.prefix()),
        }
    }

    /// The prefix of the runc of its time: Docker 29 asks for a namespace of time, which 1.1 does
    /// not know.
    fn runc(self) -> Result<PathBuf> {
        match self {
            Self::V1_6 | Self::V1_7 | Self::V2_1 => workspace::tools("runc"),
            Self::V2_3 | Self::V2_4 => workspace::built("runc-1.5"),
        }
    }
}

/// A running containerd with its own directories and sockets. All that belongs to it ends with it.
#[derive(Debug)]
pub struct Containerd {
    version: Version,
    mark: Mark,
    namespace: String,
    shares_code: bool,
    before: Before,
    programs: PathBuf,
    snapshotter: &'static str,
    daemon: Child,
}

impl Containerd {
    /// Starts a containerd of `version` and waits until it answers.
    ///
    /// # Errors
    /// Not root, something is not built or unpacked, or containerd does not come up: then the end
    /// of its log.
    pub fn start(version: Version) -> Result<Self> {
        Self::launch(version, None, false, &[], |_| Ok(String::new()))
    }

    /// The same, whose shims keep compiled code where all tests that want it do (`WWS_TEST_STORE`,
    /// where it is set): for images with interpreters.
    ///
    /// # Errors
    /// As of [`Containerd::start`].
    pub fn start_sharing_code(version: Version) -> Result<Self> {
        Self::launch(version, None, true, &[], |_| Ok(String::new()))
    }

    /// The same, with `variables` in its environment, which its shims inherit, until a
    /// [`restart`](Self::restart).
    ///
    /// # Errors
    /// As of [`Containerd::start`].
    pub fn start_with_variables(version: Version, variables: &[(&str, &str)]) -> Result<Self> {
        Self::launch(version, None, true, variables, |_| Ok(String::new()))
    }

    /// The same, with more in its configuration: what `configure` answers, who gets the directory.
    ///
    /// # Errors
    /// As of [`Containerd::start`], and what `configure` fails with.
    pub fn start_configured(
        version: Version,
        configure: impl FnOnce(&Path) -> Result<String>,
    ) -> Result<Self> {
        Self::launch(version, None, false, &[], configure)
    }

    /// The same, with its Kubernetes interface, whose containers are in `namespace`. `configure`
    /// gets the directory, and answers what the configuration says of it.
    ///
    /// # Errors
    /// As of [`Containerd::start`], and what `configure` fails with.
    pub fn start_with(
        version: Version,
        namespace: &str,
        configure: impl FnOnce(&Path) -> Result<String>,
    ) -> Result<Self> {
        Self::launch(version, Some(namespace), false, &[], configure)
    }

    fn launch(
        version: Version,
        namespace: Option<&str>,
        shares_code: bool,
        variables: &[(&str, &str)],
        configure: impl FnOnce(&Path) -> Result<String>,
    ) -> Result<Self> {
        if !geteuid().is_root() {
            bail!("starting containers takes root: run the tests by `make test`, which asks sudo");
        }
        for mark in Mark::abandoned()? {
            mark.clear()?;
        }
        let programs = version.programs()?.join("usr/bin");
        let path = path(version, &programs)?;
        let mark = Mark::new()?;
        let before = Before::now();
        let more = configure(&mark.directory())?;
        fs::write(
            config_file(&mark),
            config(&mark, namespace.is_some(), &more),
        )?;
        let mut command = daemon(&mark, &programs, &path, shares_code)?;
        command.envs(variables.iter().copied());
        let daemon = command.spawn().context("start containerd")?;
        let mut containerd = Self {
            version,
            namespace: namespace.map_or_else(|| mark.to_string(), str::to_owned),
            shares_code,
            mark,
            before,
            programs,
            snapshotter: "overlayfs",
            daemon,
        };
        containerd.wait_until_up()?;
        if !containerd.has_overlay()? {
            containerd.snapshotter = "native";
        }
        Ok(containerd)
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Its process number.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.daemon)
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        socket(&self.mark)
    }

    /// The search path that it and its shims have.
    ///
    /// # Errors
    /// Something is not built or unpacked.
    pub fn path(&self) -> Result<OsString> {
        path(self.version, &self.programs)
    }

    /// A directory of its own for files of a test; it ends with containerd.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.mark.directory()
    }

    /// The namespace of all its containers.
    #[must_use]
    pub fn namespace(&self) -> String {
        self.namespace.clone()
    }

    /// The word that all carries which belongs to it.
    #[must_use]
    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// The directory that containerd gives the task of the container `name`.
    #[must_use]
    pub fn bundle(&self, name: &str) -> PathBuf {
        self.directory()
            .join("state/io.containerd.runtime.v2.task")
            .join(self.namespace())
            .join(name)
    }

    /// What containerd and the shims have written to containerd's log.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(self.directory().join("log"))?).into_owned())
    }

    /// A `ctr` command line for this containerd, to be completed.
    #[must_use]
    pub fn ctr_command(&self) -> Command {
        let mut command = Command::new(self.programs.join("ctr"));
        command
            .arg("--address")
            .arg(socket(&self.mark))
            .args(["--namespace", &self.namespace()]);
        command
    }

    /// The start of a `ctr` command line for this containerd, as one would type it.
    #[must_use]
    pub fn command_line(&self) -> String {
        let (program, socket) = (self.programs.join("ctr"), socket(&self.mark));
        format!(
            "{} --address {} --namespace {}",
            program.display(),
            socket.display(),
            self.namespace
        )
    }

    /// The version that containerd itself answers.
    ///
    /// # Errors
    /// It does not answer.
    pub fn server_version(&self) -> Result<String> {
        let answer = self.ctr(&["version"])?;
        let server = answer.split("Server:").nth(1).unwrap_or_default();
        let version = server
            .lines()
            .find_map(|line| line.trim().strip_prefix("Version:"));
        Ok(version
            .context("`ctr version` names no server")?
            .trim()
            .to_owned())
    }

    /// Runs `ctr` to its end, whatever that is.
    ///
    /// # Errors
    /// It does not end within [`CTR_LIMIT`].
    pub fn try_ctr(&self, arguments: &[&str]) -> Result<Finished> {
        command::run(self.ctr_command().args(arguments), CTR_LIMIT)
    }

    /// Runs `ctr` and returns its standard output.
    ///
    /// # Errors
    /// It fails: what it wrote.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String> {
        self.try_ctr(arguments)?
            .success()
            .with_context(|| format!("ctr {}", arguments.join(" ")))
    }

    /// Imports the images of a tar file, for whatever platform they are.
    ///
    /// # Errors
    /// The file is not there or no image.
    pub fn import(&self, tar: &Path) -> Result<()> {
        let tar = tar.to_str().context("a path that is not UTF-8")?;
        // Their transfer service imports for other platforms, but does not unpack for them.
        let local: &[&str] = match self.version {
            Version::V2_3 | Version::V2_4 => &["--local"],
            Version::V1_6 | Version::V1_7 | Version::V2_1 => &[],
        };
        let all = ["--all-platforms", "--snapshotter", self.snapshotter, tar];
        self.ctr(&[&["image", "import"], local, &all].concat())
            .map(drop)
    }

    /// The snapshotter that works on this machine's file system.
    #[must_use]
    pub fn snapshotter(&self) -> &'static str {
        self.snapshotter
    }

    /// The shims' process numbers.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn shims(&self) -> Result<Vec<Pid>> {
        let shims = self
            .mark
            .processes()?
            .into_iter()
            .filter(|(_, command)| command.contains("containerd-shim-"));
        Ok(shims.map(|(pid, _)| pid).collect())
    }

    /// The process numbers of its containers and their shims.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn of_containers(&self) -> Result<Vec<Pid>> {
        let mut found = self.mark.processes()?;
        found.retain(|(_, command)| !self.is_daemon(command));
        Ok(found.into_iter().map(|(pid, _)| pid).collect())
    }

    /// What its containers have left on this machine so far.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn leftovers(&self) -> Result<Leftovers> {
        Leftovers::find(&self.mark, &self.before, |command| self.is_daemon(command))
    }

    /// Fails unless, within seconds, nothing is left of any container: to be called when all are
    /// deleted.
    ///
    /// # Errors
    /// What is left.
    pub fn expect_nothing_left(&self) -> Result<()> {
        Leftovers::expect_none(&self.mark, &self.before, |command| self.is_daemon(command))
    }

    /// Ends containerd and starts it again on the same directories. Containers go on meanwhile.
    ///
    /// # Errors
    /// It does not end or does not come up.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start_again()
    }

    /// Starts it again after [`Containerd::stop`], on the same directories.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start_again(&mut self) -> Result<()> {
        let mut command = daemon(
            &self.mark,
            &self.programs,
            &path(self.version, &self.programs)?,
            self.shares_code,
        )?;
        self.daemon = command.spawn().context("start containerd")?;
        self.wait_until_up()
    }

    /// Ends it; containers go on.
    ///
    /// # Errors
    /// It does not end by itself.
    pub fn stop(&mut self) -> Result<()> {
        daemon::stop(&mut self.daemon, "containerd", START_LIMIT)
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let up = wait::until("containerd up", START_LIMIT, || {
            if let Some(status) = self.daemon.try_wait()? {
                bail!("containerd ended: {status}");
            }
            Ok(self.try_ctr(&["version"])?.status.success().then_some(()))
        });
        up.with_context(|| tail(&self.log().unwrap_or_default()))
    }

    fn has_overlay(&self) -> Result<bool> {
        let plugins = self.ctr(&["plugins", "ls"])?;
        Ok(plugins
            .lines()
            .any(|line| line.contains(" overlayfs ") && line.trim_end().ends_with("ok")))
    }

    fn is_daemon(&self, command: &str) -> bool {
        let directory = self.directory();
        [CONFIG, docker::CONFIG]
            .iter()
            .any(|config| command.contains(&directory.join(config).display().to_string()))
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "the end of containerd's log:\n{}",
                tail(&self.log().unwrap_or_default())
            );
        }
        // In this order containerd has no chance to start something for a container that dies.
        let stopped = self.stop();
        if let Err(error) = stopped.and_then(|()| self.mark.clear()) {
            eprintln!("clearing up after containerd: {error:#}");
        }
    }
}

fn socket(mark: &Mark) -> PathBuf {
    mark.directory().join(SOCKET)
}

fn config_file(mark: &Mark) -> PathBuf {
    mark.directory().join(CONFIG)
}

fn config(mark: &Mark, pods: bool, more: &str) -> String {
    let directory = mark.directory();
    let (directory, socket) = (directory.display(), socket(mark));
    let socket = socket.display();
    let pods: &[&str] = if pods { &[] } else { &PODS };
    let disabled: Vec<_> = DISABLED.iter().chain(pods).collect();
    format!(
        r#"version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = {disabled:?}
[grpc]
address = "{socket}"
[ttrpc]
address = "{socket}.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
path = "{directory}/opt"
{more}"#
    )
}

/// The search path of containerd and its shims: our programs, the version's, the pinned runc, the
/// system's.
fn path(version: Version, programs: &Path) -> Result<OsString> {
    let runc = version.runc()?.join("usr/sbin");
    let ours = workspace::programs()?;
    let system = [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]
    .map(PathBuf::from);
    Ok(std::env::join_paths(
        [ours, programs.to_path_buf(), runc]
            .into_iter()
            .chain(system),
    )?)
}

fn daemon(mark: &Mark, programs: &Path, path: &OsString, shares_code: bool) -> Result<Command> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(mark.directory().join("log"))?;
    let mut command = Command::new(programs.join("containerd"));
    command
        .arg("--config")
        .arg(config_file(mark))
        .args(["--log-level", "info"])
        .env_clear()
        .env("PATH", path)
        .env("WWS_CODE_CACHE", store(mark, shares_code))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // An interrupt from the terminal is for the tests, not for containerd.
        .process_group(0);
    Ok(command)
}

/// Where shims keep compiled code: in the directory of this containerd, or where tests share it;
/// `WWS_TEST_SHARE_CODE` has all of them do so, on machines where compiling takes too long.
fn store(mark: &Mark, shares_code: bool) -> PathBuf {
    std::env::var_os("WWS_TEST_STORE")
        .filter(|_| shares_code || std::env::var_os("WWS_TEST_SHARE_CODE").is_some())
        .map_or_else(|| mark.directory().join("store"), PathBuf::from)
}

/// The last lines of a log.
pub(crate) fn tail(log: &str) -> String {
    const LINES: usize = 40;
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
