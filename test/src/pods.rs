//! Pods: a private containerd with its Kubernetes interface, asked by `crictl` as a kubelet asks.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::bridge::Bridge;
use crate::command::{self, Finished};
use crate::containerd::{self, Containerd, Version};
use crate::http::{self, Answer};
use crate::image::Image;
use crate::network::Network;
use crate::{groups, wait, workspace};

/// The longest that containerd may take for what `crictl` asks.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// The longest that a `crictl` command may take.
const CRICTL_LIMIT: Duration = Duration::from_secs(60);

/// The longest wait for the interface.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The namespace that the Kubernetes interface keeps its containers in.
const NAMESPACE: &str = "k8s.io";

/// The runtime as the documentation has it.
pub const WWS: &str = "wws";

/// The runtime as k3s configures it.
pub const K3S: &str = "wws-k3s";

/// The runtime by the path of its shim, of which containerd 2 then asks what it can do; its OCI
/// runtime can map IDs.
pub const BY_PATH: &str = "wws-by-path";

/// A containerd for pods. All that belongs to it ends with it.
#[derive(Debug)]
pub struct Pods {
    crictl: PathBuf,
    // Dropped in this order.
    containerd: Containerd,
    network: Network,
}

/// A pod that runs.
#[derive(Debug)]
pub struct Pod {
    /// What containerd calls it.
    pub id: String,
    /// Its address on the bridge.
    pub address: Ipv4Addr,
    config: PathBuf,
    /// CRI's `NamespaceOption`, which its containers have, too.
    namespaces: Value,
}

impl Pods {
    /// Starts a containerd of `version` with its Kubernetes interface; `pause` is a static program
    /// that waits for ever when its first argument is `pause`.
    ///
    /// # Errors
    /// As of [`Containerd::start`]; `crictl` or the network plugins are missing.
    pub fn start(version: Version, pause: &str) -> Result<Self> {
        let crictl = workspace::client("crictl")?;
        let network = Network::new(Bridge::new()?)?;
        let containerd = Containerd::start_with(version, NAMESPACE, |directory| {
            network.write(&directory.join("cni"))?;
            config(directory, version)
        })?;
        let image = Image::native("pause", pause)?.entrypoint(&["/program", "pause"]);
        image.import(&containerd)?;
        let pods = Self {
            crictl,
            containerd,
            network,
        };
        pods.wait_until_up()?;
        Ok(pods)
    }

    /// Its containerd.
    #[must_use]
    pub fn containerd(&self) -> &Containerd {
        &self.containerd
    }

    /// Restarts its containerd, and waits until pods are known again.
    ///
    /// # Errors
    /// It does not end or does not come up.
    pub fn restart(&mut self) -> Result<()> {
        self.containerd.restart()?;
        self.wait_until_up()
    }

    /// Where the logs of containers are, by the names of their files.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.containerd.directory().join("logs")
    }

    /// A `crictl` command line, to be completed.
    #[must_use]
    pub fn command(&self) -> Command {
        let endpoint = format!("unix://{}", self.containerd.socket().display());
        let mut command = Command::new(&self.crictl);
        command
            .arg("--config")
            .arg(self.containerd.directory().join("crictl.yaml"))
            .args(["--runtime-endpoint", &endpoint])
            .args(["--image-endpoint", &endpoint])
            .arg(format!(
                "--timeout={}s",
                wait::patience(CALL_LIMIT).as_secs()
            ));
        command
    }

    /// Runs `crictl` to its end, whatever that is.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn try_crictl(&self, arguments: &[&str]) -> Result<Finished> {
        command::run(self.command().args(arguments), CRICTL_LIMIT)
    }

    /// Runs `crictl` and returns its standard output, trimmed.
    ///
    /// # Errors
    /// It fails: what it wrote.
    pub fn crictl(&self, arguments: &[&str]) -> Result<String> {
        let output = self
            .try_crictl(arguments)?
            .success()
            .with_context(|| format!("crictl {}", arguments.join(" ")))?;
        Ok(output.trim().to_owned())
    }

    /// Starts a pod of our runtime, called `name`, with its own network. Its cgroup is below
    /// the mark.
    ///
    /// # Errors
    /// containerd refuses.
    pub fn run_pod(&self, name: &str) -> Result<Pod> {
        self.run_pod_of(name, WWS, json!({}))
    }

    /// The same, of the runtime that is called `handler`, whose namespaces are `more` than its own.
    ///
    /// # Errors
    /// containerd refuses.
    pub fn run_pod_of(&self, name: &str, handler: &str, more: Value) -> Result<Pod> {
        let config = self.containerd.directory().join(format!("{name}.json"));
        fs::create_dir_all(self.logs())?;
        let namespaces = namespaces(&more);
        let text = json!({
            "metadata": { "name": name, "namespace": "default", "uid": name, "attempt": 1 },
            "hostname": name,
            "log_directory": self.logs(),
            "linux": {
                "cgroup_parent": self.containerd.mark().group("kubepods-"),
                "security_context": { "namespace_options": namespaces },
            },
        });
        fs::write(&config, text.to_string())?;
        let path = config.to_string_lossy();
        let id = self.crictl(&["runp", "--runtime", handler, &path])?;
        let pod = self.inspect("inspectp", &id)?;
        let address = pod["status"]["network"]["ip"].as_str().unwrap_or_default();
        let address = address
            .parse()
            .with_context(|| format!("the pod's address in {pod}"))?;
        Ok(Pod {
            id,
            address,
            config,
            namespaces,
        })
    }

    /// Makes a container of `pod`, called `name`, from `image`; `linux` is CRI's
    /// `LinuxContainerConfig`, `env` its variables.
    ///
    /// # Errors
    /// containerd refuses.
    pub fn create(
        &self,
        pod: &Pod,
        name: &str,
        image: &str,
        env: &[(&str, &str)],
        linux: Value,
    ) -> Result<String> {
        self.create_with(pod, name, image, env, linux, json!({}))
    }

    /// The same, with `more` of CRI's `ContainerConfig`: mounts, arguments.
    ///
    /// # Errors
    /// containerd refuses.
    pub fn create_with(
        &self,
        pod: &Pod,
        name: &str,
        image: &str,
        env: &[(&str, &str)],
        mut linux: Value,
        more: Value,
    ) -> Result<String> {
        linux["security_context"]["namespace_options"] = pod.namespaces.clone();
        let env: Vec<_> = env
            .iter()
            .map(|(key, value)| json!({ "key": key, "value": value }))
            .collect();
        let mut text = json!({
            "metadata": { "name": name },
            "image": { "image": image },
            "envs": env,
            "log_path": format!("{name}.log"),
            "linux": linux,
        });
        merge(&mut text, &more);
        let file = self.containerd.directory().join(format!("{name}.json"));
        fs::write(&file, text.to_string())?;
        let (file, of_pod) = (file.to_string_lossy(), pod.config.to_string_lossy());
        self.crictl(&["create", &pod.id, &file, &of_pod])
    }

    /// What `crictl inspect` (or `inspectp`) says of `id`.
    ///
    /// # Errors
    /// There is no such thing.
    pub fn inspect(&self, command: &str, id: &str) -> Result<Value> {
        let text = self.crictl(&[command, "--output", "json", id])?;
        serde_json::from_str(&text).with_context(|| format!("crictl {command} answered {text}"))
    }

    /// What `crictl logs` says of a container, both streams.
    ///
    /// # Errors
    /// There is no such container.
    pub fn log(&self, id: &str) -> Result<String> {
        let finished = self.try_crictl(&["logs", id])?;
        let all = format!("{}{}", finished.stdout, finished.stderr);
        if !finished.status.success() {
            bail!("crictl logs {id}: {all}");
        }
        Ok(all)
    }

    /// How a container stands: its state, exit code and reason.
    ///
    /// # Errors
    /// There is no such container.
    pub fn state(&self, id: &str) -> Result<String> {
        let status = &self.inspect("inspect", id)?["status"];
        let word = |name: &str| status[name].as_str().unwrap_or_default().to_owned();
        let code = &status["exitCode"];
        Ok(format!("{} {code} {}", word("state"), word("reason"))
            .trim()
            .to_owned())
    }

    /// The PID of a container's init process.
    ///
    /// # Errors
    /// There is no such container.
    pub fn pid(&self, id: &str) -> Result<u64> {
        let inspected = self.inspect("inspect", id)?;
        inspected["info"]["pid"].as_u64().context("no pid")
    }

    /// Asks the pod's server on `port` until it answers.
    ///
    /// # Errors
    /// It does not within seconds: the logs of all containers.
    pub fn get(&self, pod: &Pod, port: u16, path: &str) -> Result<Answer> {
        let answer = wait::until("an answer", crate::container::LIMIT, || {
            Ok(http::get_from(pod.address, port, path).ok())
        });
        answer.with_context(|| self.all_logs())
    }

    /// Stops and removes a pod with all its containers.
    ///
    /// # Errors
    /// containerd refuses.
    pub fn remove(&self, pod: &Pod) -> Result<()> {
        self.crictl(&["stopp", &pod.id])?;
        self.crictl(&["rmp", &pod.id]).map(drop)
    }

    /// Fails unless, within seconds, nothing is left of any pod: to be called when all are removed.
    ///
    /// # Errors
    /// What is left.
    pub fn expect_nothing_left(&self) -> Result<()> {
        self.containerd.expect_nothing_left()?;
        self.network.expect_no_ports()
    }

    fn all_logs(&self) -> String {
        let mut all = String::new();
        for entry in fs::read_dir(self.logs()).into_iter().flatten().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            all += &format!("{}:\n{text}", entry.file_name().display());
        }
        all
    }

    fn wait_until_up(&self) -> Result<()> {
        fs::write(self.containerd.directory().join("crictl.yaml"), "")?;
        let mut last = String::new();
        let up = wait::until("the Kubernetes interface up", START_LIMIT, || {
            let info = self.try_crictl(&["info"])?;
            last = format!("{}{}", info.stdout, info.stderr);
            let ready = info.status.success()
                && serde_json::from_str::<Value>(&info.stdout).is_ok_and(|info| {
                    let conditions = info["status"]["conditions"].as_array();
                    // Others are warnings, as of what a later version will not have.
                    ["RuntimeReady", "NetworkReady"].iter().all(|wanted| {
                        let is_met = |one: &Value| one["type"] == *wanted && one["status"] == true;
                        conditions.is_some_and(|all| all.iter().any(is_met))
                    })
                });
            Ok(ready.then_some(()))
        });
        up.with_context(|| {
            let log = self.containerd.log().unwrap_or_default();
            format!("{last}\n{}", containerd::tail(&log))
        })
    }
}

/// CRI's `NamespaceOption`: a PID namespace of each container's own, and `more`.
fn namespaces(more: &Value) -> Value {
    let mut all = json!({ "pid": 1 });
    merge(&mut all, more);
    all
}

/// Adds the fields of one object to another.
fn merge(to: &mut Value, from: &Value) {
    for (key, value) in from.as_object().into_iter().flatten() {
        to[key] = value.clone();
    }
}

/// The interface's part of containerd's configuration. containerd 2 reads that of version 1 and
/// translates it.
fn config(directory: &Path, version: Version) -> Result<String> {
    let plugins = Network::plugins()?;
    let shim = workspace::programs()?.join("containerd-shim-wws-v1");
    let (plugins, shim, directory) = (plugins.display(), shim.display(), directory.display());
    let systemd = groups::by_systemd();
    let runtimes = r#"[plugins."io.containerd.grpc.v1.cri".containerd.runtimes"#;
    let mut text = format!(
        r#"[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:latest"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
drain_exec_sync_io_timeout = "3s"
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{directory}/cni"
{runtimes}.runc]
runtime_type = "io.containerd.runc.v2"
{runtimes}.{WWS}]
runtime_type = "io.containerd.wws.v1"
{runtimes}.{WWS}.options]
Root = "{directory}/runc"
SystemdCgroup = {systemd}
# As k3s writes it by itself where it finds the shim.
{runtimes}.{K3S}]
runtime_type = "io.containerd.wws.v1"
{runtimes}.{K3S}.options]
BinaryName = "{shim}"
SystemdCgroup = {systemd}
"#
    );
    if version >= Version::V2_1 {
        text += &format!(
            r#"{runtimes}.{BY_PATH}]
runtime_type = "io.containerd.runc.v2"
runtime_path = "{shim}"
{runtimes}.{BY_PATH}.options]
Root = "{directory}/runc"
SystemdCgroup = {systemd}
"#
        );
        // Else that of the machine, which may know no ID maps.
        if let Ok(runc) = workspace::built("runc-1.5") {
            text += &format!("BinaryName = {:?}\n", runc.join("usr/sbin/runc"));
        }
    }
    Ok(text)
}
