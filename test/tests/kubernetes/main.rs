//! Workers in pods of a real Kubernetes: API, scheduler, controllers, kubelet and kube-proxy. `make
//! test-kubernetes` runs these: Kubernetes is built from its Go modules.

mod changes;
mod example;
mod helm;
mod k3s;
mod operate;
mod pods;
mod scale;

use std::net::Ipv4Addr;

use anyhow::Result;
use serde_json::{Value, json};
use wws_test::cluster::Cluster;
use wws_test::image::{Image, PROBE};

const NATIVE: &str = env!("CARGO_BIN_EXE_native-hello");
const TOOL: &str = env!("CARGO_BIN_EXE_native-tool");

/// Where a container of workers listens.
const PORT: u16 = 3000;

/// Runs scenarios, each on a node of its own, and looks that they leave nothing.
macro_rules! on_a_node {
    ($($file:ident: $name:ident),* $(,)?) => {
        $(#[test]
        #[ignore = "make test-kubernetes"]
        fn $name() -> Result<()> {
            let cluster = Cluster::start(NATIVE)?;
            $file::$name(&cluster)?;
            cluster.expect_nothing_left()
        })*
    };
}

on_a_node![
    example: the_example_is_deployed_as_documented,
    pods: configuration_and_secrets_reach_workers,
    pods: workers_come_from_a_configmap,
    pods: runs_beside_init_sidecar_native_and_debug_containers,
    pods: commands_logs_and_ports_are_reached,
    changes: a_rolling_update_fails_no_request,
    changes: a_pod_is_resized_in_place,
    operate: pods_survive_restarts_of_kubelet_and_containerd_and_are_drained,
    operate: reports_exits_and_restarts,
    scale: adds_pods_by_the_slots_in_use,
    scale: adds_and_removes_pods_by_their_cpu_time,
    helm: the_chart_is_installed_upgraded_and_removed,
    k3s: pods_run_as_k3s_configures_them,
];

/// The image of the probe worker, imported.
fn probe(cluster: &Cluster) -> Result<String> {
    let image = Image::probe(
        "probe",
        r#"
[vars]
TOKEN = "$TOKEN"
VERSION = "$VERSION"

[[folders]]
from = "./config"
to = "/config"

[[folders]]
from = "./secret"
to = "/secret"

[[folders]]
from = "./data"
to = "/data"
"#,
    )?;
    cluster.import(
        image
            .directory("config")?
            .directory("secret")?
            .directory("data")?,
    )
}

/// A container of workers of `image`, with `more` of its fields.
fn container(name: &str, image: &str, more: Value) -> Value {
    let mut container = json!({
        "name": name,
        "image": image,
        "imagePullPolicy": "Never",
        "env": [{ "name": "TOKEN", "value": "t" }, { "name": "VERSION", "value": "v1" }],
        "ports": [{ "name": "http", "containerPort": PORT }],
        "startupProbe": {
            "tcpSocket": { "port": PORT }, "periodSeconds": 1, "failureThreshold": 300,
        },
    });
    merge(&mut container, more);
    container
}

/// A native container of the static program `tool`, which does `command`.
fn native(name: &str, image: &str, command: &[&str], more: Value) -> Value {
    let mut container = json!({
        "name": name, "image": image, "imagePullPolicy": "Never", "command": command,
    });
    merge(&mut container, more);
    container
}

/// A pod of `containers`, with `more` of its specification.
fn pod(name: &str, containers: Value, more: Value) -> Value {
    let mut spec = json!({
        "runtimeClassName": "wws",
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": 10,
        "containers": containers,
    });
    merge(&mut spec, more);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": spec,
    })
}

fn merge(to: &mut Value, from: Value) {
    if let Value::Object(fields) = from {
        for (key, value) in fields {
            to[key] = value;
        }
    }
}

/// What the probe worker at `address` answers to `query`, with its status.
fn ask(cluster: &Cluster, address: Ipv4Addr, query: &str) -> Result<(u16, String)> {
    let answer = cluster.get(address, PORT, &format!("{PROBE}?{query}"))?;
    Ok((answer.status, answer.text()))
}

fn delete(cluster: &Cluster, object: &str) -> Result<()> {
    cluster
        .kubectl(&["delete", object, "--timeout=120s"])
        .map(drop)
}
