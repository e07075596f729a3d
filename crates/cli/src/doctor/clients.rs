//! Docker and Kubernetes.

use serde_json::Value;

use super::Finding;
use super::host::{Host, version};

/// The oldest Docker that is tested, and the first one with the containerd image store by default.
const OLDEST_DOCKER: u32 = 26;
const WITH_STORE: u32 = 29;

const DAEMON_JSON: &str = "/etc/docker/daemon.json";

/// Configurations of containerd that may name our runtime: k3s writes its own.
const K3S: &str = "/var/lib/rancher/k3s/agent/etc/containerd/config.toml";
const CONTAINERD: &str = "/etc/containerd/config.toml";

pub(super) fn docker(host: &Host) -> Finding {
    let Some(program) = host.find_program("dockerd") else {
        return Finding::fine("no Docker Engine");
    };
    let printed = host.run(&program, &["--version"]).unwrap_or_default();
    let Some((major, minor)) = version(&printed) else {
        return Finding::problem(
            format!("{program} prints no version"),
            format!("run `{program} --version`"),
        );
    };
    let found = format!("{major}.{minor}");
    if major < OLDEST_DOCKER {
        return Finding::problem(found, "install Docker 26 or newer");
    }
    let settings = match host.text(DAEMON_JSON) {
        Ok(text) => match serde_json::from_str::<Value>(&text) {
            Ok(settings) => settings,
            Err(error) => {
                return Finding::problem(
                    format!("{found}, {DAEMON_JSON} is no JSON"),
                    format!("correct {DAEMON_JSON}: {error}"),
                );
            }
        },
        Err(_) => Value::Null,
    };
    let store = settings
        .pointer("/features/containerd-snapshotter")
        .and_then(Value::as_bool)
        .unwrap_or(major >= WITH_STORE);
    if store {
        Finding::fine(format!("{found}, containerd image store"))
    } else {
        Finding::problem(
            format!("{found}, without the containerd image store"),
            format!(
                "put {{ \"features\": {{ \"containerd-snapshotter\": true }} }} into {DAEMON_JSON} \
                 and restart Docker"
            ),
        )
    }
}

pub(super) fn kubernetes(host: &Host) -> Finding {
    let (file, node, remedy) = if host.exists("/var/lib/rancher/k3s") {
        let remedy = "restart k3s: it names the runtimes that it finds on its PATH when it starts; \
                      see docs/operate/k3s.md";
        (K3S, "k3s", remedy)
    } else if host.exists("/var/lib/kubelet") {
        let remedy = "name the runtime `wws` in /etc/containerd/config.toml and restart \
                      containerd; see docs/operate/kubernetes.md";
        (CONTAINERD, "kubelet", remedy)
    } else {
        return Finding::fine("no kubelet");
    };
    let text = host.text(file).unwrap_or_default();
    let is_named = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .any(|line| {
            line.contains("io.containerd.wws.v1") || line.contains("containerd-shim-wws-v1")
        });
    if is_named {
        Finding::fine(format!("{node}, the runtime is in {file}"))
    } else {
        Finding::problem(format!("{node}, no runtime `wws` in {file}"), remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Health;
    use super::super::host::tests::FakeHost;
    use super::*;

    #[test]
    fn docker_needs_the_containerd_image_store() {
        let with = |version: &str, settings: Option<&str>| {
            let fake = FakeHost::new().program("/usr/bin/dockerd", version);
            let fake = match settings {
                Some(settings) => fake.file(DAEMON_JSON, settings),
                None => fake,
            };
            docker(&fake.host())
        };
        let store = r#"{ "features": { "containerd-snapshotter": true } }"#;
        let no_store = r#"{ "features": { "containerd-snapshotter": false } }"#;
        for (version, settings, health) in [
            ("Docker version 26.1.5, build x", Some(store), Health::Fine),
            (
                "Docker version 26.1.5, build x",
                Some("{}"),
                Health::Problem,
            ),
            ("Docker version 28.5.2, build x", None, Health::Problem),
            ("Docker version 29.0.0, build x", None, Health::Fine),
            (
                "Docker version 29.0.0, build x",
                Some(no_store),
                Health::Problem,
            ),
            (
                "Docker version 20.10.24, build x",
                Some(store),
                Health::Problem,
            ),
            (
                "Docker version 28.5.2, build x",
                Some("{,"),
                Health::Problem,
            ),
            ("", Some(store), Health::Problem),
        ] {
            let finding = with(version, settings);
            assert_eq!(finding.health, health, "{version} {settings:?} {finding:?}");
        }
        assert_eq!(
            docker(&FakeHost::new().host()),
            Finding::fine("no Docker Engine")
        );
    }

    #[test]
    fn the_runtime_class_needs_a_runtime_of_containerd() {
        let named =
            "[plugins.x.containerd.runtimes.wws]\nruntime_type = \"io.containerd.wws.v1\"\n";
        let by_path = "runtime_path = \"/usr/local/bin/containerd-shim-wws-v1\"\n";
        let off = "# runtime_type = \"io.containerd.wws.v1\"\n";
        for (node, file) in [
            ("/var/lib/rancher/k3s", K3S),
            ("/var/lib/kubelet", CONTAINERD),
        ] {
            let with =
                |text: &str| kubernetes(&FakeHost::new().directory(node).file(file, text).host());
            assert_eq!(with(named).health, Health::Fine);
            assert_eq!(with(by_path).health, Health::Fine);
            assert_eq!(with(off).health, Health::Problem);
            let missing = FakeHost::new().directory(node);
            assert_eq!(kubernetes(&missing.host()).health, Health::Problem);
        }
        assert_eq!(
            kubernetes(&FakeHost::new().host()),
            Finding::fine("no kubelet")
        );
    }
}
