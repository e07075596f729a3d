//! What is in a pod, and what reaches it.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use wws_test::cluster::{Cluster, LIMIT};
use wws_test::image::Image;
use wws_test::{http, wait};

use crate::{NATIVE, PORT, TOOL, ask, container, delete, native, pod, probe};

pub(crate) fn configuration_and_secrets_reach_workers(cluster: &Cluster) -> Result<()> {
    let image = probe(cluster)?;
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "settings" },
        "data": { "a.txt": "first" },
    }))?;
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "secrets" },
        "stringData": { "token": "s3cret", "file.txt": "a secret file" },
    }))?;
    let workers = container(
        "workers",
        &image,
        json!({
            "env": [
                {
                    "name": "TOKEN",
                    "valueFrom": { "secretKeyRef": { "name": "secrets", "key": "token" } },
                },
                {
                    "name": "VERSION",
                    "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } },
                },
            ],
            "securityContext": {
                "readOnlyRootFilesystem": true, "runAsNonRoot": true, "runAsUser": 65532,
                "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "livenessProbe": {
                "exec": { "command": ["wws", "health"] },
                "periodSeconds": 5,
                "timeoutSeconds": 30,
            },
            "readinessProbe": {
                "httpGet": { "path": "/probe?var=TOKEN", "port": PORT },
                "periodSeconds": 1,
                "timeoutSeconds": 30,
            },
            "volumeMounts": [
                { "name": "settings", "mountPath": "/config" },
                { "name": "secrets", "mountPath": "/secret" },
                { "name": "data", "mountPath": "/data" },
            ],
        }),
    );
    let volumes = json!({
        "securityContext": { "fsGroup": 65532 },
        "volumes": [
            { "name": "settings", "configMap": { "name": "settings" } },
            { "name": "secrets", "secret": { "secretName": "secrets" } },
            { "name": "data", "emptyDir": {} },
        ],
    });
    cluster.apply(&pod("configured", json!([workers]), volumes))?;
    cluster.wait_ready("configured")?;
    let address = cluster.pod_address("configured")?;
    for (query, expected) in [
        ("var=TOKEN", "s3cret"),
        ("var=VERSION", "configured"),
        ("read=/config/a.txt", "first"),
        ("read=/secret/file.txt", "a secret file"),
        ("write=/data/x", "written"),
        ("read=/data/x", "written by a worker"),
    ] {
        assert_eq!(ask(cluster, address, query)?, (200, expected.to_owned()));
    }

    // A kubelet writes a changed ConfigMap beside the old one, and swaps a symbolic link.
    cluster.kubectl(&[
        "patch",
        "configmap",
        "settings",
        "-p",
        r#"{"data":{"a.txt":"second"}}"#,
    ])?;
    cluster.kubectl(&["annotate", "pod", "configured", "looked-at=now"])?;
    wait::until("the changed file", LIMIT, || {
        Ok((ask(cluster, address, "read=/config/a.txt")?.1 == "second").then_some(()))
    })?;
    let restarts = cluster.field(
        "pod/configured",
        ".status.containerStatuses[0].restartCount",
    )?;
    assert_eq!(restarts, "0");
    delete(cluster, "pod/configured")
}

pub(crate) fn workers_come_from_a_configmap(cluster: &Cluster) -> Result<()> {
    let image = cluster.import(Image::workers("empty").directory("app")?)?;
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "workers" },
        "data": { "hi.js": "export default { fetch: () => new Response('from a ConfigMap') };" },
    }))?;
    let mounted = json!({ "volumeMounts": [{ "name": "app", "mountPath": "/app" }] });
    let volumes = json!({ "volumes": [{ "name": "app", "configMap": { "name": "workers" } }] });
    let workers = container("workers", &image, mounted);
    cluster.apply(&pod("mapped", json!([workers]), volumes))?;
    cluster.wait_ready("mapped")?;
    let answer = cluster.get(cluster.pod_address("mapped")?, PORT, "/app/hi")?;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (200, "from a ConfigMap")
    );
    delete(cluster, "pod/mapped")
}

pub(crate) fn runs_beside_init_sidecar_native_and_debug_containers(
    cluster: &Cluster,
) -> Result<()> {
    let image = probe(cluster)?;
    let busybox = wws_test::workspace::tools("busybox")?.join("bin");
    let shell = Image::native("shell", NATIVE)?
        .copy(&busybox, "bin")?
        .link("bin/tar", "busybox")?;
    let shell = cluster.import(shell)?;
    let sh = |script: &'static str| ["/bin/busybox", "sh", "-c", script];
    let data = json!({ "volumeMounts": [{ "name": "data", "mountPath": "/data" }] });
    let on = |port: u16| {
        json!([{ "name": "WWS_PORT", "value": port.to_string() },
        { "name": "TOKEN", "value": port.to_string() }, { "name": "VERSION", "value": "v" }])
    };
    let side_car = json!({
        "restartPolicy": "Always", "env": on(3001), "ports": [],
        "startupProbe": {
            "tcpSocket": { "port": 3001 },
            "periodSeconds": 1,
            "failureThreshold": 300,
        },
    });
    let second = json!({
        "env": on(3002), "ports": [],
        "startupProbe": {
            "tcpSocket": { "port": 3002 },
            "periodSeconds": 1,
            "failureThreshold": 300,
        },
    });
    let containers = json!([
        container("workers", &image, data.clone()),
        container("second", &image, second),
        native(
            "native",
            &shell,
            &sh("trap 'exit 0' TERM; while :; do /bin/busybox sleep 1; done"),
            data.clone()
        ),
    ]);
    let more = json!({
        "initContainers": [
            native("init", &shell, &sh("echo -n from init > /data/init.txt; /bin/busybox chmod 666 \
                /data/init.txt"), data),
            container("side-car", &image, side_car),
        ],
        "volumes": [{ "name": "data", "emptyDir": {} }],
    });
    cluster.apply(&pod("many", containers, more))?;
    cluster.wait_ready("many")?;
    let address = cluster.pod_address("many")?;
    assert_eq!(cluster.shims()?.len(), 1, "one shim for the pod");
    assert_eq!(ask(cluster, address, "read=/data/init.txt")?.1, "from init");
    for port in [3001, 3002] {
        let answer = cluster.get(address, port, "/probe?var=TOKEN")?;
        assert_eq!(answer.text(), port.to_string());
    }
    assert_eq!(ask(cluster, address, "write=/data/shared")?.1, "written");
    let seen = cluster.kubectl(&[
        "exec",
        "many",
        "-c",
        "native",
        "--",
        "/bin/busybox",
        "cat",
        "/data/shared",
    ])?;
    assert_eq!(seen, "written by a worker");
    let asked = cluster.kubectl(&[
        "exec",
        "many",
        "-c",
        "native",
        "--",
        "/bin/busybox",
        "wget",
        "-q",
        "-O",
        "-",
        "http://127.0.0.1:3002/probe?var=TOKEN",
    ])?;
    assert_eq!(asked, "3002");

    // `kubectl cp` runs `tar` in the container: files of workers are copied through a neighbour.
    let node = cluster.directory();
    let copied = node.join("copied").to_string_lossy().into_owned();
    cluster.kubectl(&["cp", "many:/data/shared", &copied, "-c", "native"])?;
    assert_eq!(std::fs::read_to_string(&copied)?, "written by a worker");
    std::fs::write(&copied, "from the outside")?;
    cluster.kubectl(&["cp", &copied, "many:/data/copied", "-c", "native"])?;
    let read = ask(cluster, address, "read=/data/copied")?;
    assert_eq!(read, (200, "from the outside".to_owned()));
    let without_tar =
        cluster.try_kubectl(&["cp", "many:/data/shared", &copied, "-c", "workers"])?;
    assert!(
        !without_tar.status.success() && without_tar.stderr.contains("tar"),
        "{without_tar:?}"
    );

    let tool = cluster.import(Image::native("tool", TOOL)?)?;
    let debug = [
        "debug",
        "many",
        "--image",
        &tool,
        "--image-pull-policy=Never",
        "--target=workers",
        "--container=debugger",
        "--profile=general",
        "--",
        "/program",
        "cat",
        "/proc/1/cmdline",
    ];
    cluster.kubectl(&debug)?;
    let log = wait::until("the debugger's log", LIMIT, || {
        let log = cluster
            .try_kubectl(&["logs", "many", "-c", "debugger"])?
            .stdout;
        Ok((!log.is_empty()).then_some(log))
    })?;
    assert!(
        log.contains("serve-container"),
        "it sees the server's processes: {log:?}"
    );
    assert_eq!(ask(cluster, address, "var=TOKEN")?.1, "t", "which goes on");
    delete(cluster, "pod/many")
}

pub(crate) fn commands_logs_and_ports_are_reached(cluster: &Cluster) -> Result<()> {
    let image = probe(cluster)?;
    let workers = container("workers", &image, json!({ "stdin": true, "tty": false }));
    cluster.apply(&pod("reached", json!([workers]), json!({})))?;
    cluster.wait_ready("reached")?;
    let address = cluster.pod_address("reached")?;

    let routes = cluster.kubectl(&["exec", "reached", "--", "wws", "routes"])?;
    assert!(routes.contains("/probe"), "{routes}");
    let shell = cluster.try_kubectl(&["exec", "reached", "--", "sh"])?;
    assert!(
        !shell.status.success() && shell.stderr.contains("sh"),
        "{shell:?}"
    );

    // Attached before the line is written.
    let mut attach = cluster.kubectl_command()?;
    let output = tempfile::NamedTempFile::new()?;
    attach
        .args(["attach", "reached"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output.reopen()?);
    let mut attach = attach.spawn()?;
    let seen = wait::until("an attached line", LIMIT, || {
        ask(cluster, address, "log=seen-by-attach")?;
        std::thread::sleep(Duration::from_millis(300));
        Ok(std::fs::read_to_string(output.path())?
            .contains("seen-by-attach")
            .then_some(()))
    });
    attach.kill()?;
    attach.wait()?;
    seen?;
    let log = cluster.kubectl(&["logs", "reached", "--timestamps", "--tail=50"])?;
    assert!(log.contains("seen-by-attach"), "{log}");

    let mut forward = cluster.kubectl_command()?;
    forward
        .args(["port-forward", "pod/reached", "8099:3000"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut forward = forward.spawn()?;
    let answer = cluster.in_network(|| {
        wait::until("an answer by the forwarded port", LIMIT, || {
            Ok(http::get(8099, "/probe?var=TOKEN").ok())
        })
    });
    forward.kill()?;
    forward.wait()?;
    assert_eq!(answer?.text(), "t");

    // What a HorizontalPodAutoscaler and `kubectl top` are fed with.
    wait::until("memory and CPU of the container", LIMIT, || {
        let summary =
            cluster.kubectl(&["get", "--raw", "/api/v1/nodes/node/proxy/stats/summary"])?;
        let summary: serde_json::Value = serde_json::from_str(&summary)?;
        let pods = summary["pods"].as_array().context("pods")?;
        let ours = pods.iter().find(|pod| pod["podRef"]["name"] == "reached");
        let of = |path: &str| {
            ours.and_then(|pod| pod.pointer(path))
                .and_then(serde_json::Value::as_u64)
        };
        let memory = of("/containers/0/memory/workingSetBytes");
        let cpu = of("/containers/0/cpu/usageCoreNanoSeconds");
        Ok((memory > Some(0) && cpu > Some(0)).then_some(()))
    })?;
    delete(cluster, "pod/reached")
}
