//! The chart of `deploy/helm`, installed by Helm.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use wws_test::cluster::{Cluster, READY_LIMIT};
use wws_test::command::Finished;
use wws_test::image::Image;
use wws_test::one_file::{self, SHIM};
use wws_test::{command, wait, workspace};

use crate::{PORT, ask, container, pod, probe};

const CHART: &str = "deploy/helm/wws";

/// All that a user of the chart does: installs it, configures containerd as the installer's log
/// says, upgrades it while a pod runs, and removes it and the shim.
pub(crate) fn the_chart_is_installed_upgraded_and_removed(cluster: &Cluster) -> Result<()> {
    forget_the_runtime(cluster)?;
    let programs = cluster.directory().join("programs");
    let shim = programs.join(SHIM);
    cluster.import_archive(&workspace::image("wws-installer")?)?;
    let to = format!("installDirectory={}", programs.display());
    let set = ["--set", "image.tag=latest", "--set", &to];
    let namespace = ["--namespace", "wws", "--create-namespace"];
    helm(cluster, "install", &[&namespace[..], &set].concat())?;
    let first = fs::read(&shim)?;
    let files = || fs::read_dir(&programs).map(Iterator::count);
    assert_eq!(files()?, 1, "the shim and nothing else");

    configure(cluster, &shim)?;
    deploy(cluster, &probe(cluster)?)?;
    assert_eq!(shims(cluster)?, [shim.display().to_string()]);

    // An image of another version: the pod runs on with what it started with.
    let next = cluster.directory().join("next");
    fs::create_dir(&next)?;
    let packed = one_file::pack(&next, b"another version")?;
    let server = workspace::programs()?.join("wws");
    let image = Image::native("next-installer", &server.to_string_lossy())?
        .entrypoint(&["/program"])
        .file(SHIM, fs::read(&packed)?)?;
    let image = cluster.import(image)?;
    let (repository, tag) = image.rsplit_once(':').context("an image without a tag")?;
    let (repository, tag) = (
        format!("image.repository={repository}"),
        format!("image.tag={tag}"),
    );
    let set = ["--set", &repository, "--set", &tag, "--set", &to];
    helm(cluster, "upgrade", &[&namespace[..2], &set].concat())?;
    assert!(fs::read(&shim)? == fs::read(&packed)? && fs::read(&shim)? != first);
    is_answered(cluster)?;
    assert_eq!(
        shims(cluster)?,
        [format!("{} (deleted)", shim.display())],
        "the shim of the pod that runs"
    );
    let restarts = cluster.field("pods", ".items[*].status.containerStatuses[*].restartCount")?;
    assert_eq!(restarts, "0");
    cluster.kubectl(&["delete", "pods", "--all", "--timeout=120s"])?;
    cluster.wait_rolled_out("served")?;
    is_answered(cluster)?;
    assert_eq!(shims(cluster)?, [shim.display().to_string()]);

    // The chart is gone, and pods that run are served all the same.
    helm(cluster, "uninstall", &namespace[..2])?;
    is_answered(cluster)?;
    let kinds = "runtimeclasses,daemonsets,configmaps,secrets,serviceaccounts,roles,rolebindings";
    let left = cluster.kubectl(&[
        "get",
        kinds,
        "--all-namespaces",
        "--selector=app.kubernetes.io/managed-by=Helm",
        "--output=name",
    ])?;
    assert_eq!(left, "");
    wait::until("nothing in the chart's namespace", READY_LIMIT, || {
        let all = ["get", "all,secrets", "--namespace=wws", "--output=name"];
        Ok(cluster.kubectl(&all)?.is_empty().then_some(()))
    })?;
    cluster.kubectl(&["delete", "deployment/served", "--timeout=120s"])?;
    assert_eq!(files()?, 1, "pods that run may need the shim");
    remove_from_the_node(cluster, &programs)?;
    assert_eq!(files()?, 0);
    cluster.kubectl(&["delete", "namespace/wws", "--timeout=120s"])?;
    Ok(())
}

/// Takes away what the node knows of the runtime from the beginning.
pub(crate) fn forget_the_runtime(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["delete", "runtimeclass/wws", "--timeout=120s"])?;
    let file = cluster.directory().join("containerd.toml");
    let configuration = fs::read_to_string(&file)?;
    let (rest, _) = configuration
        .split_once("[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.wws]")
        .context("no runtime `wws`")?;
    fs::write(&file, rest)?;
    restart_containerd(cluster)
}

/// Gives containerd what the installer's log says, for version 2.
fn configure(cluster: &Cluster, shim: &Path) -> Result<()> {
    let log = ["logs", "--namespace=wws", "daemonset/wws-installer"];
    let log = cluster.kubectl(&log)?;
    assert!(
        log.starts_with(&format!("{} installed", shim.display())),
        "{log}"
    );
    let (_, section) = log
        .split_once("# containerd 2 (version = 3)\n")
        .with_context(|| log.clone())?;
    let (section, _) = section.split_once("\n\n").with_context(|| log.clone())?;
    let file = cluster.directory().join("containerd.toml");
    let configuration = fs::read_to_string(&file)?;
    fs::write(&file, format!("{configuration}\n{section}\n"))?;
    restart_containerd(cluster)
}

pub(crate) fn restart_containerd(cluster: &Cluster) -> Result<()> {
    cluster.daemon("stop", "containerd")?;
    cluster.daemon("start", "containerd")
}

fn deploy(cluster: &Cluster, image: &str) -> Result<()> {
    let readiness = json!({
        "readinessProbe": { "tcpSocket": { "port": PORT }, "periodSeconds": 1 },
    });
    let template = pod(
        "served",
        json!([container("workers", image, readiness)]),
        json!({}),
    );
    cluster.apply(&json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "served" },
        "spec": {
            "selector": { "matchLabels": { "app": "served" } },
            "template": { "metadata": { "labels": { "app": "served" } }, "spec": template["spec"] },
        },
    }))?;
    cluster.wait_rolled_out("served")?;
    is_answered(cluster)
}

fn is_answered(cluster: &Cluster) -> Result<()> {
    let address = cluster.field("pods", ".items[0].status.podIP")?.parse()?;
    assert_eq!(ask(cluster, address, "var=TOKEN")?, (200, "t".to_owned()));
    Ok(())
}

/// The files that shims run from.
fn shims(cluster: &Cluster) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for pid in cluster.shims()? {
        let mut link = cluster.command("readlink")?;
        link.arg(format!("/proc/{pid}/exe"));
        let file = command::run(&mut link, READY_LIMIT)?.success()?;
        files.push(file.trim().to_owned());
    }
    Ok(files)
}

/// As docs/operate/kubernetes.md has it.
fn remove_from_the_node(cluster: &Cluster, programs: &Path) -> Result<()> {
    let to = format!("--to=/host{}", programs.display());
    let debug = [
        "debug",
        "node/node",
        "--image=localhost/wws-installer:latest",
        "--image-pull-policy=IfNotPresent",
        "--profile=general",
        "--attach",
        "--quiet",
        "--",
        "/wws",
        "install",
        "--remove",
        &to,
    ];
    let printed = cluster.kubectl(&debug)?;
    println!("{printed}");
    cluster
        .kubectl(&["delete", "pods", "--all", "--timeout=120s"])
        .map(drop)
}

/// Whether the API takes what the chart would install with these options: what Helm says if not.
pub(crate) fn try_install(cluster: &Cluster, options: &[&str]) -> Result<Finished> {
    let mut helm = helm_command(cluster, "install")?;
    helm.arg(workspace::root().join(CHART))
        .arg("--dry-run=server")
        .args(options);
    command::run(&mut helm, READY_LIMIT)
}

/// `helm ACTION wws`, to be completed.
fn helm_command(cluster: &Cluster, action: &str) -> Result<Command> {
    let mut helm = cluster.command(workspace::helm()?)?;
    for home in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        helm.env(home, cluster.directory().join("helm"));
    }
    helm.args([action, "wws", "--kubeconfig"])
        .arg(cluster.directory().join("kubeconfig"));
    Ok(helm)
}

/// Runs `helm ACTION wws` in the node and waits until what it changes is ready.
fn helm(cluster: &Cluster, action: &str, options: &[&str]) -> Result<()> {
    let mut helm = helm_command(cluster, action)?;
    if action != "uninstall" {
        helm.arg(workspace::root().join(CHART));
    }
    helm.args(options).args(["--wait", "--timeout=300s"]);
    let printed = command::run(&mut helm, 2 * READY_LIMIT)?.success()?;
    println!("{printed}");
    ensure!(!printed.is_empty(), "helm {action} prints nothing");
    if action == "uninstall" {
        return Ok(());
    }
    // Helm waits for all pods but those that `maxUnavailable` allows to be missing: on one node,
    // for none.
    let rollout = ["rollout", "status", "daemonset/wws-installer"];
    let bounds = ["--namespace=wws", "--timeout=100s"];
    cluster.kubectl(&[&rollout[..], &bounds].concat()).map(drop)
}
