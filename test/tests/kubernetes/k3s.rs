//! A node as k3s configures it by itself: the runtime of containerd, and the RuntimeClass.

use std::fs;

use anyhow::Result;
use serde_json::json;
use wws_test::cluster::Cluster;
use wws_test::image::Image;
use wws_test::workspace;

use crate::{NATIVE, PORT, ask, container, helm, native, pod, probe};

/// Sources: `findWasiRuntimes` in `pkg/agent/containerd/runtimes.go` and `manifests/runtimes.yaml`
/// of k3s 1.29.3 and newer.
pub(crate) fn pods_run_as_k3s_configures_them(cluster: &Cluster) -> Result<()> {
    helm::forget_the_runtime(cluster)?;
    // k3s labels no node.
    cluster.kubectl(&["label", "node", "node", "wws.runtime/installed-"])?;
    let file = cluster.directory().join("containerd.toml");
    let configuration = fs::read_to_string(&file)?;
    let shim = workspace::programs()?.join("containerd-shim-wws-v1");
    let runtime = r#"[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.wws"#;
    let section = format!(
        "{runtime}]\nruntime_type = \"io.containerd.wws.v1\"\n\
         {runtime}.options]\nBinaryName = {shim:?}\nSystemdCgroup = false\n"
    );
    fs::write(&file, format!("{configuration}\n{section}"))?;
    helm::restart_containerd(cluster)?;
    cluster.apply(&json!({
        "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
        "metadata": { "name": "wws" }, "handler": "wws",
    }))?;

    let image = probe(cluster)?;
    let program = cluster.import(Image::native("native", NATIVE)?)?;
    let containers = json!([
        container("workers", &image, json!({})),
        native(
            "side-car",
            &program,
            &["/program"],
            json!({
                "env": [{ "name": "PORT", "value": "3001" }],
            })
        ),
    ]);
    cluster.apply(&pod("served", containers, json!({})))?;
    cluster.wait_ready("served")?;
    let address = cluster.pod_address("served")?;
    assert_eq!(ask(cluster, address, "var=TOKEN")?, (200, "t".to_owned()));
    assert_eq!(cluster.get(address, PORT + 1, "/")?.text(), "native\n");
    // The class says neither where pods run nor what they cost.
    for field in ["overhead", "nodeSelector"] {
        let value = cluster.field("pod/served", &format!(".spec.{field}"))?;
        assert_eq!(value, "", "{field}");
    }
    cluster.kubectl(&["delete", "pod/served", "--timeout=120s"])?;

    // The chart does not take a class over that is another's, and does without its own.
    let refused = helm::try_install(cluster, &[])?;
    assert!(
        !refused.status.success() && refused.stderr.contains("RuntimeClass \"wws\""),
        "{refused:?}"
    );
    helm::try_install(cluster, &["--set", "runtimeClass.create=false"])?.success()?;

    // Ours adds to that of k3s; from then on, pods run on labelled nodes alone.
    let ours = workspace::root().join("deploy/kubernetes/runtimeclass.yaml");
    cluster.kubectl(&["apply", "-f", &ours.to_string_lossy()])?;
    let memory = cluster.field("runtimeclass/wws", ".overhead.podFixed.memory")?;
    assert_eq!(memory, "16Mi");
    cluster.kubectl(&["label", "node", "node", "wws.runtime/installed=true"])?;
    cluster.apply(&pod(
        "labelled",
        json!([container("workers", &image, json!({}))]),
        json!({}),
    ))?;
    cluster.wait_ready("labelled")?;
    cluster
        .kubectl(&["delete", "pod/labelled", "--timeout=120s"])
        .map(drop)
}
