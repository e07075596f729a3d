//! Kubernetes: a node with its control plane, in namespaces of their own
//! (`test/kubernetes/node.sh`).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{env, process, thread};

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use crate::command::{self, Finished};
use crate::http::{self, Answer};
use crate::image::Image;
use crate::{wait, workspace};

/// The node's address in its network.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

/// The longest that one `kubectl` command may take.
pub const LIMIT: Duration = Duration::from_secs(120);

/// The longest wait for pods to be ready: the first start on a node compiles their code.
pub const READY_LIMIT: Duration = Duration::from_secs(300);

/// The longest that a node takes to come up or to end.
const NODE_LIMIT: Duration = Duration::from_secs(300);

/// A node that is ready. All that belongs to it ends with it.
#[derive(Debug)]
pub struct Cluster {
    node: PathBuf,
}

impl Cluster {
    /// Starts a node with containerd, etcd and all parts of Kubernetes; `pause` is a static program
    /// that waits for ever when its first argument is `pause`.
    ///
    /// # Errors
    /// Something is not built, or a part does not come up: the ends of the logs.
    pub fn start(pause: &str) -> Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "wws-kube-{}-{}",
            process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        workspace::kubernetes()?;
        let cluster = Self {
            node: env::temp_dir().join(name),
        };
        cluster.node_sh(["up"])?;
        cluster.import(Image::native("pause", pause)?.entrypoint(&["/program", "pause"]))?;
        cluster.kubectl(&["label", "node", "node", "wws.runtime/installed=true"])?;
        let class = workspace::root().join("deploy/kubernetes/runtimeclass.yaml");
        cluster.kubectl(&["apply", "-f", &class.to_string_lossy()])?;
        // Pods want it, and it is made a moment later.
        wait::until("the default account", LIMIT, || {
            let account = cluster.try_kubectl(&["get", "serviceaccount", "default"])?;
            Ok(account.status.success().then_some(()))
        })?;
        Ok(cluster)
    }

    /// The directory of the node's files.
    #[must_use]
    pub fn directory(&self) -> &PathBuf {
        &self.node
    }

    /// Starts or stops one of its daemons.
    ///
    /// # Errors
    /// It does not come up, or does not end.
    pub fn daemon(&self, action: &str, name: &str) -> Result<()> {
        self.node_sh([action, name])
    }

    /// A program in the node, to be completed.
    ///
    /// # Errors
    /// Something is not built.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = self.script()?;
        command.arg("in").arg(program);
        Ok(command)
    }

    /// A `kubectl` command line, to be completed.
    ///
    /// # Errors
    /// Kubernetes is not built.
    pub fn kubectl_command(&self) -> Result<Command> {
        let mut command = self.command(workspace::kubernetes()?)?;
        command
            .args(["kubectl", "--kubeconfig"])
            .arg(self.node.join("kubeconfig"));
        Ok(command)
    }

    /// Runs `kubectl` to its end, whatever that is.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<Finished> {
        command::run(self.kubectl_command()?.args(arguments), LIMIT)
    }

    /// Has `kubectl` wait for something.
    fn wait(&self, arguments: &[&str]) -> Result<String> {
        let limit = format!("--timeout={}s", wait::patience(READY_LIMIT).as_secs());
        let mut command = self.kubectl_command()?;
        command.args(arguments).arg(limit);
        command::run(&mut command, 2 * READY_LIMIT)?.success()
    }

    /// Runs `kubectl` and returns its standard output, trimmed.
    ///
    /// # Errors
    /// It fails: what it wrote.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self
            .try_kubectl(arguments)?
            .success()
            .with_context(|| format!("kubectl {}", arguments.join(" ")))?;
        Ok(output.trim().to_owned())
    }

    /// Applies an object.
    ///
    /// # Errors
    /// The API refuses it.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let mut input = tempfile::tempfile()?;
        input.write_all(object.to_string().as_bytes())?;
        input.rewind()?;
        let mut command = self.kubectl_command()?;
        command.args(["apply", "-f", "-"]);
        let finished = command::run_with(&mut command, Stdio::from(input), LIMIT)?;
        finished.success().map(drop)
    }

    /// Imports an image. The answer is the name to run it by.
    ///
    /// # Errors
    /// containerd refuses it.
    pub fn import(&self, image: Image) -> Result<String> {
        let (name, tar) = image.write(&self.node)?;
        self.import_archive(&tar)?;
        Ok(name)
    }

    /// Imports the images of an archive.
    ///
    /// # Errors
    /// containerd refuses them.
    pub fn import_archive(&self, tar: &std::path::Path) -> Result<()> {
        let mut command = self.command("ctr")?;
        command
            .arg("--address")
            .arg(self.node.join("c.sock"))
            .args([
                "--namespace",
                "k8s.io",
                "image",
                "import",
                "--local",
                "--all-platforms",
            ])
            .arg(tar);
        command::run(&mut command, LIMIT)?.success().map(drop)
    }

    /// Waits until the pod `name` is ready.
    ///
    /// # Errors
    /// It is not in time: how it stands.
    pub fn wait_ready(&self, name: &str) -> Result<()> {
        let pod = format!("pod/{name}");
        let ready = self.wait(&["wait", "--for=condition=Ready", &pod]);
        ready.map(drop).with_context(|| {
            let pod = self.try_kubectl(&["describe", "pod", name]);
            let log = self.try_kubectl(&["logs", name, "--all-containers"]);
            let text = |finished: Result<Finished>| {
                finished.map_or_else(|e| format!("{e:#}"), |f| f.stdout + &f.stderr)
            };
            format!("{}\n{}", text(pod), text(log))
        })
    }

    /// Waits until a rollout is complete.
    ///
    /// # Errors
    /// It is not in time.
    pub fn wait_rolled_out(&self, deployment: &str) -> Result<()> {
        let name = format!("deployment/{deployment}");
        self.wait(&["rollout", "status", &name]).map(drop)
    }

    /// What a JSON path of `kind/name` says.
    ///
    /// # Errors
    /// There is no such object.
    pub fn field(&self, object: &str, path: &str) -> Result<String> {
        self.kubectl(&["get", object, "-o", &format!("jsonpath={{{path}}}")])
    }

    /// Waits until `field` is what `is_wanted` wants.
    ///
    /// # Errors
    /// It is not in time: what it was at last.
    pub fn wait_for_field(
        &self,
        object: &str,
        path: &str,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let mut last = String::new();
        let found = wait::until(&format!("{object} {path}"), LIMIT, || {
            let finished =
                self.try_kubectl(&["get", object, "-o", &format!("jsonpath={{{path}}}")])?;
            last = finished.stdout.trim().to_owned();
            Ok((finished.status.success() && is_wanted(&last)).then(|| last.clone()))
        });
        found.with_context(|| format!("it was {last:?}"))
    }

    /// Does `work` in a thread that is in the node's network.
    ///
    /// # Errors
    /// The network cannot be entered, and what `work` fails with.
    pub fn in_network<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let first = fs::read_to_string(self.node.join("first.pid"))?;
        let network = File::open(format!("/proc/{}/ns/net", first.trim()))?;
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(
                    std::os::fd::AsFd::as_fd(&network),
                    Some(LinkNameSpaceType::Network),
                )?;
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Gets `path` of a server in the node's network, which may need a while to answer.
    ///
    /// # Errors
    /// It does not answer in time.
    pub fn get(&self, address: Ipv4Addr, port: u16, path: &str) -> Result<Answer> {
        self.in_network(|| {
            wait::until(
                &format!("an answer of {address}:{port}{path}"),
                LIMIT,
                || Ok(http::get_from(address, port, path).ok()),
            )
        })
    }

    /// The address of the pod `name`.
    ///
    /// # Errors
    /// It has none.
    pub fn pod_address(&self, name: &str) -> Result<Ipv4Addr> {
        let address = self.field(&format!("pod/{name}"), ".status.podIP")?;
        address
            .parse()
            .with_context(|| format!("{name}: {address:?}"))
    }

    /// Process numbers of shims, in the node.
    ///
    /// # Errors
    /// `pgrep` cannot be run.
    pub fn shims(&self) -> Result<Vec<String>> {
        let mut command = self.command("pgrep")?;
        command.args(["-f", "containerd-shim-wws-v1 -namespace"]);
        let found = command::run(&mut command, LIMIT)?;
        Ok(found.stdout.lines().map(str::to_owned).collect())
    }

    /// Fails unless, within a while, no shim, no mount of a container and no cgroup of a pod is
    /// left.
    ///
    /// # Errors
    /// What is left.
    pub fn expect_nothing_left(&self) -> Result<()> {
        let mut left = String::new();
        let gone = wait::until("nothing left", LIMIT, || {
            let mut command = self.command("sh")?;
            command.args([
                "-c",
                "pgrep -af [c]ontainerd-shim-wws-v1; grep /rootfs \
                /proc/self/mountinfo; ls -d /sys/fs/cgroup/*/$0/kubepods/*/pod* \
                /sys/fs/cgroup/*/$0/kubepods/pod* 2> /dev/null",
            ]);
            command.arg(self.node.file_name().unwrap_or_default());
            left = command::run(&mut command, LIMIT)?.stdout;
            Ok(left.trim().is_empty().then_some(()))
        });
        gone.with_context(|| left)
    }

    fn script(&self) -> Result<Command> {
        let mut command = Command::new(workspace::root().join("test/kubernetes/node.sh"));
        let seconds = wait::patience(NODE_LIMIT / 2).as_secs();
        command
            .env("NODE", &self.node)
            .env("PROGRAMS", workspace::programs()?)
            .env("TOOLS", workspace::root().join("target/tools"))
            .env("PATIENCE", seconds.to_string());
        if let Some(store) = env::var_os("WWS_TEST_STORE") {
            command.env("STORE", store);
        }
        Ok(command)
    }

    fn node_sh<const N: usize>(&self, arguments: [&str; N]) -> Result<()> {
        let mut command = self.script()?;
        let finished = command::run(command.args(arguments), NODE_LIMIT)?;
        if !finished.status.success() {
            bail!(
                "node.sh {arguments:?}: {}{}",
                finished.stdout,
                finished.stderr
            );
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking()
            && let Ok(finished) = self.try_kubectl(&["get", "events,pods", "--all-namespaces"])
        {
            eprintln!("{}", finished.stdout);
        }
        if let Err(error) = self.node_sh(["down"]) {
            eprintln!("clearing up after the node: {error:#}");
        }
    }
}
