//! Restarts of what pods run on, drains, and ends.

use anyhow::Result;
use serde_json::json;
use wws_test::cluster::{Cluster, LIMIT};
use wws_test::image::Image;
use wws_test::{command, wait};

use crate::{ask, container, delete, pod, probe};

pub(crate) fn pods_survive_restarts_of_kubelet_and_containerd_and_are_drained(
    cluster: &Cluster,
) -> Result<()> {
    let image = probe(cluster)?;
    let template = pod(
        "steady",
        json!([container("workers", &image, json!({}))]),
        json!({}),
    );
    cluster.apply(&json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "steady" },
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": { "app": "steady" } },
            "template": { "metadata": { "labels": { "app": "steady" } }, "spec": template["spec"] },
        },
    }))?;
    cluster.wait_rolled_out("steady")?;
    let address = cluster.field("pods", ".items[0].status.podIP")?.parse()?;
    for daemon in ["kubelet", "containerd"] {
        cluster.daemon("stop", daemon)?;
        assert_eq!(
            ask(cluster, address, "var=TOKEN")?.1,
            "t",
            "without {daemon}"
        );
        cluster.daemon("start", daemon)?;
        wait::until("commands are run again", LIMIT, || {
            let routes =
                cluster.try_kubectl(&["exec", "deployment/steady", "--", "wws", "routes"])?;
            Ok(routes.status.success().then_some(()))
        })?;
    }
    let restarts = cluster.field("pods", ".items[*].status.containerStatuses[*].restartCount")?;
    assert_eq!(restarts, "0");

    // The kubelet makes the pod anew when its shim is gone.
    let shims = cluster.shims()?;
    assert_eq!(shims.len(), 1);
    let mut kill = cluster.command("kill")?;
    command::run(kill.args(["-9", &shims[0]]), LIMIT)?.success()?;
    wait::until("another shim", LIMIT, || {
        let now = cluster.shims()?;
        Ok((!now.is_empty() && now != shims).then_some(()))
    })?;
    cluster.wait_rolled_out("steady")?;

    cluster.kubectl(&[
        "drain",
        "node",
        "--ignore-daemonsets",
        "--force",
        "--timeout=120s",
    ])?;
    wait::until("no shim on the drained node", LIMIT, || {
        Ok(cluster.shims()?.is_empty().then_some(()))
    })?;
    cluster.kubectl(&["uncordon", "node"])?;
    cluster.wait_rolled_out("steady")?;
    delete(cluster, "deployment/steady")
}

pub(crate) fn reports_exits_and_restarts(cluster: &Cluster) -> Result<()> {
    let broken = Image::workers("broken").file("bad.wasm", "no module")?;
    let broken = cluster.import(broken)?;
    let workers = container(
        "workers",
        &broken,
        json!({ "terminationMessagePolicy": "FallbackToLogsOnError", "startupProbe": null }),
    );
    cluster.apply(&pod("broken", json!([workers]), json!({})))?;
    let ended = ".status.containerStatuses[0].lastState.terminated.exitCode";
    cluster.wait_for_field("pod/broken", ended, |code| code == "78")?;
    let message = ".status.containerStatuses[0].lastState.terminated.message";
    let message = cluster.field("pod/broken", message)?;
    assert!(message.contains("bad.wasm"), "{message}");
    let reason = ".status.containerStatuses[0].state.waiting.reason";
    cluster.wait_for_field("pod/broken", reason, |reason| reason == "CrashLoopBackOff")?;
    delete(cluster, "pod/broken")?;

    let image = probe(cluster)?;
    cluster.apply(&pod(
        "killed",
        json!([container("workers", &image, json!({}))]),
        json!({}),
    ))?;
    cluster.wait_ready("killed")?;
    let mut kill = cluster.command("pkill")?;
    command::run(kill.args(["-KILL", "-f", "dev/wws serve-container"]), LIMIT)?.success()?;
    let restarts = ".status.containerStatuses[0].restartCount";
    cluster.wait_for_field("pod/killed", restarts, |count| count == "1")?;
    cluster.wait_ready("killed")?;
    assert_eq!(
        ask(cluster, cluster.pod_address("killed")?, "var=TOKEN")?.1,
        "t"
    );
    let code = cluster.field(
        "pod/killed",
        ".status.containerStatuses[0].lastState.terminated.exitCode",
    )?;
    assert_eq!(code, "137");
    delete(cluster, "pod/killed")
}
