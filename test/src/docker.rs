//! A private Docker Engine, on a private containerd and with its own bridge.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Pid;
use serde_json::json;

use crate::bridge::{self, Bridge};
use crate::command::{self, Finished};
use crate::containerd::{self, Containerd, Version};
use crate::http::{self, Answer};
use crate::leftovers::Leftovers;
use crate::{daemon, wait, workspace};

/// The longest wait for the daemon to answer, or to end.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The longest that a `docker` command may take: building an image is the longest.
pub const DOCKER_LIMIT: Duration = Duration::from_secs(90);

/// The name of the daemon's configuration in containerd's directory.
pub const CONFIG: &str = "docker.json";

/// A version of Docker that the tests know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DockerVersion {
    /// 26.1, of Debian 13, with its containerd 1.7.
    V26,
    /// 28.5, of Debian 14, with its containerd 2.1.
    V28,
    /// 29, from its Go modules, with containerd 2.3: has the containerd image store by default.
    V29,
}

impl DockerVersion {
    fn prefix(self) -> &'static str {
        match self {
            Self::V26 => "docker-26",
            Self::V28 => "docker-28",
            Self::V29 => "docker-29",
        }
    }

    fn containerd(self) -> Version {
        match self {
            Self::V26 => Version::V1_7,
            Self::V28 => Version::V2_1,
            Self::V29 => Version::V2_3,
        }
    }
}

/// A running Docker Engine. All that belongs to it ends with it.
#[derive(Debug)]
pub struct Docker {
    version: DockerVersion,
    programs: PathBuf,
    daemon: Child,
    // Dropped in this order.
    containerd: Containerd,
    bridge: Bridge,
}

impl Docker {
    /// Starts containerd and dockerd of `version` and waits until they answer.
    ///
    /// # Errors
    /// Not root, something is not built or unpacked, or one of them does not come up: then the end
    /// of its log.
    pub fn start(version: DockerVersion) -> Result<Self> {
        let programs = workspace::tools(version.prefix())?.join("usr");
        // Before containerd looks at what there is.
        let bridge = Bridge::new()?;
        let containerd = Containerd::start_sharing_code(version.containerd())?;
        let directory = containerd.directory().join("docker");
        let plugins = directory.join("client/cli-plugins");
        fs::create_dir_all(&plugins)?;
        for plugin in ["docker-buildx", "docker-compose"] {
            let packaged = programs.join("libexec/docker/cli-plugins").join(plugin);
            symlink(packaged, plugins.join(plugin))?;
        }
        let mut config = config(&containerd, &bridge, &directory, &programs);
        if version != DockerVersion::V29 {
            config["features"] = json!({ "containerd-snapshotter": true });
        }
        fs::write(containerd.directory().join(CONFIG), config.to_string())?;
        let daemon = spawn(&containerd, &programs)?;
        let mut docker = Self {
            version,
            programs,
            daemon,
            containerd,
            bridge,
        };
        docker.wait_until_up()?;
        Ok(docker)
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> DockerVersion {
        self.version
    }

    /// Its containerd.
    #[must_use]
    pub fn containerd(&self) -> &Containerd {
        &self.containerd
    }

    /// Its containerd, to restart it.
    #[must_use]
    pub fn containerd_mut(&mut self) -> &mut Containerd {
        &mut self.containerd
    }

    /// The host's address that containers on the bridge reach.
    #[must_use]
    pub fn host(&self) -> Ipv4Addr {
        self.bridge.address()
    }

    /// A `docker` command line for this Docker, to be completed.
    #[must_use]
    pub fn command(&self) -> Command {
        let directory = self.containerd.directory().join("docker");
        let mut command = Command::new(self.programs.join("bin/docker"));
        command
            .env("DOCKER_HOST", format!("unix://{}/s", directory.display()))
            .env("DOCKER_CONFIG", directory.join("client"))
            .env_remove("DOCKER_CONTEXT");
        command
    }

    /// Runs `docker` to its end, whatever that is.
    ///
    /// # Errors
    /// It does not end within [`DOCKER_LIMIT`].
    pub fn try_docker(&self, arguments: &[&str]) -> Result<Finished> {
        command::run(self.command().args(arguments), DOCKER_LIMIT)
    }

    /// Runs `docker` and returns its standard output, trimmed.
    ///
    /// # Errors
    /// It fails: what it wrote.
    pub fn docker(&self, arguments: &[&str]) -> Result<String> {
        let output = self
            .try_docker(arguments)?
            .success()
            .with_context(|| format!("docker {}", arguments.join(" ")))?;
        Ok(output.trim().to_owned())
    }

    /// What `docker inspect --format` says of the container or image `name`.
    ///
    /// # Errors
    /// There is no such thing.
    pub fn inspect(&self, name: &str, format: &str) -> Result<String> {
        self.docker(&["inspect", "--format", format, name])
    }

    /// What the container `name` has written, both streams.
    ///
    /// # Errors
    /// There is no such container.
    pub fn logs(&self, name: &str) -> Result<String> {
        let finished = self.try_docker(&["logs", name])?;
        let all = format!("{}{}", finished.stdout, finished.stderr);
        if !finished.status.success() {
            bail!("docker logs {name}: {all}");
        }
        Ok(all)
    }

    /// Waits until `path` is answered on `port` of 127.0.0.1, by whatever status.
    ///
    /// # Errors
    /// No answer within seconds: the log of the container `name`.
    pub fn get(&self, name: &str, port: u16, path: &str) -> Result<Answer> {
        let answer = wait::until("an answer", crate::container::LIMIT, || {
            Ok(http::get(port, path).ok())
        });
        answer.with_context(|| format!("the log of {name}:\n{:?}", self.logs(name)))
    }

    /// The PID of the init process of the container `name`.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self, name: &str) -> Result<Pid> {
        let pid = self.inspect(name, "{{.State.Pid}}")?.parse()?;
        Pid::from_raw(pid).with_context(|| format!("{name} does not run"))
    }

    /// The end of the daemon's log.
    #[must_use]
    pub fn log(&self) -> String {
        let log = fs::read(self.containerd.directory().join("docker.log")).unwrap_or_default();
        containerd::tail(&String::from_utf8_lossy(&log))
    }

    /// Fails unless, within seconds, nothing is left of any container: to be called when all are
    /// removed.
    ///
    /// # Errors
    /// What is left.
    pub fn expect_nothing_left(&self) -> Result<()> {
        let directory = self.containerd.directory().join("docker");
        // The daemon's own, as long as it runs.
        let own = [directory.join("data"), directory.join("exec/netns/default")];
        let ports = Path::new("/sys/class/net").join(self.bridge.name());
        let ports = ports.join("brif");
        let mut last = Leftovers::default();
        let gone = wait::until("nothing left behind", crate::container::LIMIT, || {
            last = self.containerd.leftovers()?;
            last.mounts.retain(|point| !own.contains(point));
            // Others may use Docker meanwhile: what is on our bridge is ours.
            last.devices = fs::read_dir(&ports)?
                .map(|entry| Ok(entry?.path()))
                .collect::<Result<_>>()?;
            Ok(last.is_empty().then_some(()))
        });
        gone.with_context(|| format!("left behind:\n{last}"))
    }

    /// The devices of networks that were created and not removed, as by a test that failed.
    fn own_bridges(&self) -> Vec<String> {
        let list = ["network", "ls", "--quiet", "--filter", "type=custom"];
        let ids = self.docker(&list).unwrap_or_default();
        ids.lines().map(|id| format!("br-{id}")).collect()
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let up = wait::until("dockerd up", START_LIMIT, || {
            if let Some(status) = self.daemon.try_wait()? {
                bail!("dockerd ended: {status}");
            }
            Ok(self
                .try_docker(&["version"])?
                .status
                .success()
                .then_some(()))
        });
        up.with_context(|| self.log())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the end of dockerd's log:\n{}", self.log());
        }
        // The daemon leaves them, and the next one's routes could lead to them.
        let bridges = self.own_bridges();
        if let Err(error) = daemon::stop(&mut self.daemon, "dockerd", START_LIMIT) {
            eprintln!("clearing up after dockerd: {error:#}");
        }
        for bridge in bridges {
            if let Err(error) = bridge::remove(&bridge) {
                eprintln!("removing the bridge {bridge}: {error:#}");
            }
        }
    }
}

fn config(
    containerd: &Containerd,
    bridge: &Bridge,
    directory: &Path,
    programs: &Path,
) -> serde_json::Value {
    json!({
        "storage-driver": containerd.snapshotter(),
        "containerd": containerd.socket(),
        "containerd-namespace": containerd.namespace(),
        "cgroup-parent": containerd.mark().group(""),
        "data-root": directory.join("data"),
        "exec-root": directory.join("exec"),
        "pidfile": directory.join("pid"),
        "hosts": [format!("unix://{}/s", directory.display())],
        "group": "root",
        "bridge": bridge.name(),
        // For the networks of Compose: below those of our bridges.
        "default-address-pools": [{ "base": "172.31.0.0/17", "size": 24 }],
        // Published ports go through the proxy: the machine's packet filter is not ours to change.
        "iptables": false,
        "ip6tables": false,
        "ip-masq": false,
        "ip-forward": false,
        "userland-proxy-path": programs.join("sbin/docker-proxy"),
        // Any program: what `--init` puts before an entry point, and what must not run there
        // instead of workers.
        "init-path": "/bin/true",
    })
}

fn spawn(containerd: &Containerd, programs: &Path) -> Result<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(containerd.directory().join("docker.log"))?;
    let mut command = Command::new(programs.join("sbin/dockerd"));
    command
        .arg("--config-file")
        .arg(containerd.directory().join(CONFIG))
        .env_clear()
        .env("PATH", containerd.path()?)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    command.spawn().context("start dockerd")
}
