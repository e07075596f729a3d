//! The manifests of deploy/kubernetes.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use wws_test::cluster::{ADDRESS, Cluster, READY_LIMIT};
use wws_test::stand_in::StandIn;
use wws_test::user_generation::{CERTIFICATES, LANGUAGES};
use wws_test::{wait, workspace};

use crate::delete;

/// The longest wait for an interpreter's code: a node with other work compiles for minutes.
const CODE_LIMIT: Duration = Duration::from_secs(900);

/// The example as it is, but for the outside service, which a stand-in on the node takes the place
/// of.
pub(crate) fn the_example_is_deployed_as_documented(cluster: &Cluster) -> Result<()> {
    cluster.import_archive(&workspace::image("user-generation")?)?;
    let outside = cluster.in_network(|| StandIn::start_on(ADDRESS))?;
    let example = workspace::root().join("deploy/kubernetes/example.yaml");
    cluster.kubectl(&["apply", "-f", &example.to_string_lossy()])?;
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "authority" },
        "data": { "authority.pem": outside.authority() },
    }))?;
    let patch = json!({ "spec": { "template": { "spec": {
        "containers": [{
            "name": "workers",
            "env": [{ "name": "WWS_RESOLVE", "value": outside.resolve() }],
            "volumeMounts": [
                { "name": "authority", "mountPath": CERTIFICATES, "subPath": "authority.pem" },
            ],
        }],
        "volumes": [{ "name": "authority", "configMap": { "name": "authority" } }],
    } } } });
    cluster.kubectl(&[
        "patch",
        "deployment",
        "user-generation",
        "--patch",
        &patch.to_string(),
    ])?;
    cluster.wait_rolled_out("user-generation")?;
    // The first pod cannot ask the service outside, and is sent requests until it has ended.
    wait::until("the first pod is gone", READY_LIMIT, || {
        let pods = cluster.field("pods", ".items[*].metadata.name")?;
        Ok((pods.split_whitespace().count() == 1).then_some(()))
    })?;

    let service: Ipv4Addr = cluster
        .field("service/user-generation", ".spec.clusterIP")?
        .parse()?;
    for language in LANGUAGES {
        // A busy node may still compile an interpreter, which does not fit the memory of the pod.
        let answer = wait::until(language, CODE_LIMIT, || {
            let answer = cluster.get(service, 80, &format!("/user-generation-{language}"))?;
            let is_waiting = answer.status == 503 && answer.header("retry-after").is_some();
            Ok((!is_waiting).then_some(answer))
        })?;
        assert_eq!(answer.status, 200, "{language}: {}", answer.text());
        let body = answer.json()?;
        assert_eq!(body["user"]["username"], "cherly.medhurst", "{language}");
        assert_eq!(body["some_file_contents"], "Some content\n", "{language}");
    }
    // A worker that does not answer yet asks nobody.
    assert_eq!(outside.answered(), LANGUAGES.len());
    let restarts = cluster.field("pods", ".items[*].status.containerStatuses[*].restartCount")?;
    assert_eq!(restarts, "0");
    let scaler = cluster.field("hpa/user-generation", ".spec.maxReplicas")?;
    assert_eq!(scaler, "20");
    for object in [
        "hpa/user-generation",
        "deployment/user-generation",
        "service/user-generation",
    ] {
        delete(cluster, object)?;
    }
    Ok(())
}
