//! Changes while requests come.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use wws_test::cluster::{Cluster, LIMIT};
use wws_test::{http, wait};

use crate::{PORT, container, delete, pod, probe};

/// A rollout with the `preStop` of deploy/kubernetes/example.yaml, while one client asks by a new
/// connection each time and another by one that it keeps as long as the server does.
pub(crate) fn a_rolling_update_fails_no_request(cluster: &Cluster) -> Result<()> {
    let image = probe(cluster)?;
    let workers = container(
        "workers",
        &image,
        json!({
            "lifecycle": { "preStop": { "sleep": { "seconds": 3 } } },
            "readinessProbe": { "tcpSocket": { "port": PORT }, "periodSeconds": 1 },
        }),
    );
    let template = pod(
        "rolled",
        json!([workers]),
        json!({ "terminationGracePeriodSeconds": 15 }),
    );
    cluster.apply(&json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "rolled" },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": "rolled" } },
            "strategy": { "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } },
            "template": {
                "metadata": { "labels": { "app": "rolled" } },
                "spec": template["spec"],
            },
        },
    }))?;
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "rolled" },
        "spec": {
            "selector": { "app": "rolled" },
            "ports": [{ "port": 80, "targetPort": "http" }],
        },
    }))?;
    cluster.wait_rolled_out("rolled")?;
    let service: Ipv4Addr = cluster
        .field("service/rolled", ".spec.clusterIP")?
        .parse()?;
    assert_eq!(cluster.get(service, 80, "/probe?var=VERSION")?.text(), "v1");

    let stop = AtomicBool::new(false);
    let (fresh, kept) = thread::scope(|scope| -> Result<_> {
        let fresh = scope.spawn(|| cluster.in_network(|| ask_anew(service, &stop)));
        let kept = scope.spawn(|| cluster.in_network(|| ask_on(service, &stop)));
        let rolled = cluster
            .kubectl(&["set", "env", "deployment/rolled", "VERSION=v2"])
            .and_then(|_| cluster.wait_rolled_out("rolled"))
            // The last old pod ends after the rollout is complete.
            .and_then(|()| {
                cluster.wait_for_field("pods", ".items[*].spec.containers[0].env[1].value", |all| {
                    all == "v2 v2"
                })
            });
        stop.store(true, Ordering::Relaxed);
        let join = |thread: thread::ScopedJoinHandle<'_, Result<usize>>| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let (fresh, kept) = (join(fresh), join(kept));
        rolled?;
        Ok((fresh?, kept?))
    })?;
    println!(
        "answered during the rollout: {fresh} by new connections, {kept} by kept ones; failed: 0"
    );
    assert!(fresh > 20 && kept > 20);
    assert_eq!(cluster.get(service, 80, "/probe?var=VERSION")?.text(), "v2");
    delete(cluster, "deployment/rolled")?;
    delete(cluster, "service/rolled")
}

/// Asks by new connections until `stop`. The answer is how often; what fails is an error.
fn ask_anew(service: Ipv4Addr, stop: &AtomicBool) -> Result<usize> {
    let mut answered = 0;
    while !stop.load(Ordering::Relaxed) {
        let answer = http::get_from(service, 80, "/probe?var=VERSION")
            .with_context(|| format!("after {answered} answers"))?;
        ensure!(
            answer.status == 200,
            "status {} after {answered}",
            answer.status
        );
        answered += 1;
        thread::sleep(Duration::from_millis(10));
    }
    Ok(answered)
}

/// The same by a connection that is kept until the server closes it. A kept connection may be
/// closed while a request is on its way: then it is sent once more by a new one (RFC 9112, section
/// 9.3.1).
fn ask_on(service: Ipv4Addr, stop: &AtomicBool) -> Result<usize> {
    let mut answered = 0;
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let kept = connection.take().and_then(|mut stream| {
            let text = one(&mut stream).ok()?;
            Some((stream, text))
        });
        let (stream, text) = match kept {
            Some(answered) => answered,
            None => {
                let mut stream = TcpStream::connect((service, 80))?;
                stream.set_read_timeout(Some(wait::patience(http::TIMEOUT)))?;
                let text = one(&mut stream).with_context(|| format!("after {answered} answers"))?;
                (stream, text)
            }
        };
        ensure!(text.starts_with("HTTP/1.1 200"), "{text}");
        answered += 1;
        if !text.to_ascii_lowercase().contains("connection: close") {
            connection = Some(stream);
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(answered)
}

/// One request and its answer, whose body has one piece of two bytes.
fn one(stream: &mut TcpStream) -> Result<String> {
    stream.write_all(b"GET /probe?var=VERSION HTTP/1.1\r\nhost: rolled\r\n\r\n")?;
    let mut bytes = Vec::new();
    let mut piece = [0; 1024];
    loop {
        let read = stream.read(&mut piece)?;
        ensure!(read > 0, "closed after {} bytes", bytes.len());
        bytes.extend_from_slice(&piece[..read]);
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n")
            && bytes.len() >= end + 6
        {
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}

pub(crate) fn a_pod_is_resized_in_place(cluster: &Cluster) -> Result<()> {
    let image = probe(cluster)?;
    let workers = container(
        "workers",
        &image,
        json!({
            "resources": {
                "requests": { "cpu": "100m", "memory": "64Mi" },
                "limits": { "cpu": "500m", "memory": "128Mi" },
            },
            "resizePolicy": [
                { "resourceName": "cpu", "restartPolicy": "NotRequired" },
                { "resourceName": "memory", "restartPolicy": "NotRequired" },
            ],
        }),
    );
    cluster.apply(&pod("resized", json!([workers]), json!({})))?;
    cluster.wait_ready("resized")?;
    let limits = || -> Result<(String, String)> {
        let mut command = cluster.command("sh")?;
        command.args(["-c", r#"
            pid=$(pgrep -f 'dev/wws serve-container' | head -1)
            if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
                group=/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$pid/cgroup")
                cat "$group/memory.max" && cut -d ' ' -f 1 "$group/cpu.max"
            else
                of() { sed -n "s/^[0-9]*:[^:]*\b$1\b[^:]*://p" "/proc/$pid/cgroup"; }
                cat "/sys/fs/cgroup/memory$(of memory)/memory.limit_in_bytes" "/sys/fs/cgroup/cpu$(of cpu)/cpu.cfs_quota_us"
            fi"#]);
        let text = wws_test::command::run(&mut command, LIMIT)?.success()?;
        let mut lines = text.lines().map(str::to_owned);
        Ok((
            lines.next().unwrap_or_default(),
            lines.next().unwrap_or_default(),
        ))
    };
    assert_eq!(limits()?, ("134217728".to_owned(), "50000".to_owned()));
    let patch = r#"{"spec":{"containers":[{"name":"workers","resources":{
        "requests":{"cpu":"200m","memory":"96Mi"},"limits":{"cpu":"1","memory":"256Mi"}}}]}}"#;
    cluster.kubectl(&[
        "patch",
        "pod",
        "resized",
        "--subresource",
        "resize",
        "--patch",
        patch,
    ])?;
    wait::until("changed limits", LIMIT, || {
        Ok((limits()? == ("268435456".to_owned(), "100000".to_owned())).then_some(()))
    })?;
    cluster.wait_for_field(
        "pod/resized",
        ".status.containerStatuses[0].resources.limits.memory",
        |now| now == "256Mi",
    )?;
    let restarts = cluster.field("pod/resized", ".status.containerStatuses[0].restartCount")?;
    assert_eq!(restarts, "0");
    let log = fs::read_to_string(cluster.directory().join("containerd.log"))?;
    assert!(!log.contains("panic:"), "{log}");
    delete(cluster, "pod/resized")
}
