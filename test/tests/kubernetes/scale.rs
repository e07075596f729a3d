//! Deployments that a HorizontalPodAutoscaler scales.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use wws_test::cluster::{ADDRESS, Cluster, LIMIT, READY_LIMIT};
use wws_test::{http, wait, workspace};

use crate::{PORT, container, delete, pod, probe};

/// The manifest of `deploy/kubernetes/metrics` as it is, and its metric as docs/operate/metrics.md
/// has Prometheus' adapter make it, which `pod-metrics` takes the place of.
pub(crate) fn adds_pods_by_the_slots_in_use(cluster: &Cluster) -> Result<()> {
    let group = "custom.metrics.k8s.io";
    serve_api(cluster, "pod-metrics", group, "v1beta2", 4444)?;
    let slots = json!({ "env": [
        { "name": "TOKEN", "value": "t" },
        { "name": "VERSION", "value": "v1" },
        { "name": "WWS_ADMIN", "value": "0.0.0.0:9090" },
        { "name": "WWS_CONCURRENCY", "value": "2" },
    ] });
    let service = deploy(cluster, "user-generation", 2, slots)?;
    let manifest = workspace::root().join("deploy/kubernetes/metrics/hpa.yaml");
    cluster.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?;
    wait::until("an idle metric", READY_LIMIT, || {
        let path = ".status.currentMetrics[0].pods.current.averageValue";
        Ok((cluster.field("hpa/user-generation", path)? == "0").then_some(()))
    })?;
    // More calls than both pods have slots. They wait: no CPU time would show them.
    under_load(cluster, service, "sleep=1000", 8, || {
        wait_for_pods(cluster, "user-generation", |pods| pods > 2)
    })?;
    delete(cluster, "hpa/user-generation")?;
    delete(cluster, "deployment/user-generation")?;
    delete(cluster, "service/user-generation")
}

/// By CPU time, as deploy/kubernetes/example.yaml has it: metrics-server reads it from the
/// kubelet's `/metrics/resource`.
pub(crate) fn adds_and_removes_pods_by_their_cpu_time(cluster: &Cluster) -> Result<()> {
    serve_api(cluster, "metrics-server", "metrics.k8s.io", "v1beta1", 4445)?;
    let requests = json!({ "resources": { "requests": { "cpu": "50m", "memory": "16Mi" } } });
    let service = deploy(cluster, "busy", 1, requests)?;
    wait::until("the CPU time that the kubelet reports", LIMIT, || {
        let path = "/api/v1/nodes/node/proxy/metrics/resource";
        let metrics = cluster.kubectl(&["get", "--raw", path])?;
        let found = metrics.lines().any(|line| {
            line.starts_with("container_cpu_usage_seconds_total{container=\"workers\"")
                && line.contains("pod=\"busy-")
        });
        Ok(found.then_some(()))
    })?;
    cluster.apply(&json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": { "name": "busy" },
        "spec": {
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "busy" },
            "minReplicas": 1, "maxReplicas": 3,
            "metrics": [{ "type": "Resource", "resource": {
                "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 70 },
            } }],
            "behavior": { "scaleDown": { "stabilizationWindowSeconds": 5 } },
        },
    }))?;
    let used = ".status.currentMetrics[0].resource.current.averageUtilization";
    wait::until("the idle pod's use of the CPU", READY_LIMIT, || {
        let percent = cluster.field("hpa/busy", used)?;
        Ok(percent
            .parse()
            .is_ok_and(|percent: u32| percent < 70)
            .then_some(()))
    })?;
    under_load(cluster, service, "var=TOKEN", 4, || {
        wait_for_pods(cluster, "busy", |pods| pods == 3)
    })?;
    println!("{}", cluster.kubectl(&["top", "pods"])?);
    wait_for_pods(cluster, "busy", |pods| pods == 1)?;
    wait::until("one pod", READY_LIMIT, || {
        let pods = cluster.field("pods", ".items[*].metadata.name")?;
        Ok((pods.split_whitespace().count() == 1).then_some(()))
    })?;
    let restarts = cluster.field("pods", ".items[*].status.containerStatuses[*].restartCount")?;
    assert_eq!(restarts, "0");
    delete(cluster, "hpa/busy")?;
    delete(cluster, "deployment/busy")?;
    delete(cluster, "service/busy")
}

/// Starts a daemon of the node and has the API serve its group.
fn serve_api(cluster: &Cluster, daemon: &str, group: &str, version: &str, port: u16) -> Result<()> {
    cluster.daemon("start", daemon)?;
    let metadata = json!({
        "name": daemon, "namespace": "kube-system",
        "labels": { "kubernetes.io/service-name": daemon },
    });
    let ports = |target: &str| json!([{ "name": "https", "port": port, target: port }]);
    for object in [
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": { "ports": ports("targetPort") },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
            "addressType": "IPv4",
            "endpoints": [{ "addresses": [ADDRESS.to_string()], "conditions": { "ready": true } }],
            "ports": [{ "name": "https", "port": port }],
        }),
        json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": { "name": format!("{version}.{group}") },
            "spec": {
                "group": group, "version": version, "insecureSkipTLSVerify": true,
                "groupPriorityMinimum": 100, "versionPriority": 100,
                "service": { "name": daemon, "namespace": "kube-system", "port": port },
            },
        }),
    ] {
        cluster.apply(&object)?;
    }
    let path = format!("/apis/{group}/{version}");
    wait::until(&path, READY_LIMIT, || {
        let answer = cluster.try_kubectl(&["get", "--raw", &path])?;
        Ok(answer.status.success().then_some(()))
    })
    .with_context(|| {
        let log = cluster.directory().join(format!("{daemon}.log"));
        std::fs::read_to_string(log).unwrap_or_default()
    })
}

/// Deploys the probe worker. Returns the address of its Service.
fn deploy(cluster: &Cluster, name: &str, replicas: u32, more: Value) -> Result<Ipv4Addr> {
    let image = probe(cluster)?;
    let mut workers = container("workers", &image, more);
    workers["readinessProbe"] = json!({ "tcpSocket": { "port": PORT }, "periodSeconds": 1 });
    let template = pod(name, json!([workers]), json!({}));
    cluster.apply(&json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": { "metadata": { "labels": { "app": name } }, "spec": template["spec"] },
        },
    }))?;
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "selector": { "app": name }, "ports": [{ "port": 80, "targetPort": "http" }] },
    }))?;
    cluster.wait_rolled_out(name)?;
    let address = cluster.field(&format!("service/{name}"), ".spec.clusterIP")?;
    Ok(address.parse()?)
}

/// Does `work` while `clients` ask again and again.
fn under_load(
    cluster: &Cluster,
    service: Ipv4Addr,
    query: &str,
    clients: usize,
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let stop = AtomicBool::new(false);
    let path = format!("/probe?{query}");
    thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                cluster.in_network(|| {
                    while !stop.load(Ordering::Relaxed) {
                        // A full queue is part of the load.
                        if http::get_from(service, 80, &path).is_err() {
                            thread::sleep(Duration::from_millis(100));
                        }
                    }
                    Ok(())
                })
            });
        }
        let done = work();
        stop.store(true, Ordering::Relaxed);
        done
    })
}

/// Waits until the autoscaler wants so many pods and all of them are ready.
fn wait_for_pods(
    cluster: &Cluster,
    deployment: &str,
    is_wanted: impl Fn(u32) -> bool,
) -> Result<()> {
    let name = format!("deployment/{deployment}");
    let waited = wait::until("the wanted number of pods", READY_LIMIT, || {
        let pods = cluster.field(&name, ".spec.replicas")?.parse()?;
        Ok(is_wanted(pods).then_some(pods))
    });
    let hpa = cluster.kubectl(&["get", "hpa", "--no-headers"])?;
    let pods = waited.with_context(|| {
        let described = cluster.kubectl(&["describe", "hpa"]);
        described.unwrap_or_default()
    })?;
    println!("{pods} pods: {hpa}");
    cluster.wait_rolled_out(deployment)
}
