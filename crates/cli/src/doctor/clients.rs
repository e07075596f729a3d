//! Docker and Kubernetes.

use serde_json::Value;

use super::Finding;
use super::host::{Host, version};

/// The oldest Docker that is tested, and the first one with the containerd image store by default.
const OLDEST_DOCKER: u32 = 26;
const WITH_STORE: u32 = 29;

/// Storage drivers that keep images outside containerd, by their directories below Docker's.
const STORAGE_DRIVERS: [&str; 5] = ["overlay2", "fuse-overlayfs", "btrfs", "zfs", "vfs"];

const DOCKER_ROOT: &str = "/var/lib/docker";

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
    match reason_without_store(host, major, &settings) {
        None => Finding::fine(format!("{found}, containerd image store")),
        Some(reason) => Finding::problem(
            format!("{found}, without the containerd image store{}", reason.why),
            reason.remedy,
        ),
    }
}

/// Why a Docker Engine keeps its images outside containerd.
struct WithoutStore {
    /// What follows the finding.
    why: String,
    remedy: String,
}

/// Decides as dockerd does. The settings come first; then Docker 29 has the store, unless a storage
/// driver of an older version has left something.
fn reason_without_store(host: &Host, major: u32, settings: &Value) -> Option<WithoutStore> {
    let enable = format!(
        "put {{ \"features\": {{ \"containerd-snapshotter\": true }} }} into {DAEMON_JSON} and \
         restart Docker"
    );
    if settings.get("userns-remap").is_some_and(|to| to != "") {
        return Some(WithoutStore {
            why: ": `userns-remap` turns it off".to_owned(),
            remedy: format!("remove `userns-remap` from {DAEMON_JSON} and restart Docker"),
        });
    }
    let asked = settings.pointer("/features/containerd-snapshotter");
    match asked.and_then(Value::as_bool) {
        Some(true) => return None,
        None if major >= WITH_STORE => {}
        Some(false) | None => {
            return Some(WithoutStore {
                why: String::new(),
                remedy: enable,
            });
        }
    }
    let driver = settings.get("storage-driver").and_then(Value::as_str);
    if let Some(driver) = driver.filter(|driver| STORAGE_DRIVERS.contains(driver)) {
        return Some(WithoutStore {
            why: format!(": `storage-driver` is {driver}"),
            remedy: format!("remove `storage-driver` from {DAEMON_JSON} and restart Docker"),
        });
    }
    let root = settings.get("data-root").and_then(Value::as_str);
    let root = root.unwrap_or(DOCKER_ROOT);
    let left = STORAGE_DRIVERS
        .iter()
        .filter(|driver| **driver != "vfs")
        .map(|driver| format!("{}/{driver}", root.trim_end_matches('/')))
        .find(|directory| host.has_entries(directory))?;
    Some(WithoutStore {
        why: format!(": {left} has the images of an older version"),
        remedy: format!("{enable}; images are pulled or built again"),
    })
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
    fn docker_29_keeps_the_images_of_an_older_version() {
        let with = |settings: &str, file: &str| {
            let fake = FakeHost::new()
                .program("/usr/bin/dockerd", "Docker version 29.9.3, build x")
                .file(DAEMON_JSON, settings)
                .directory("/var/lib/docker/overlay2")
                .file(file, "");
            docker(&fake.host())
        };
        let asked = r#"{ "features": { "containerd-snapshotter": true } }"#;
        let elsewhere = r#"{ "data-root": "/srv/docker/" }"#;
        for (settings, file, why) in [
            ("{}", "/var/lib/docker/vfs/l/A", ""),
            ("{}", "/var/lib/docker/overlay2/l/A", "an older version"),
            (asked, "/var/lib/docker/overlay2/l/A", ""),
            (elsewhere, "/var/lib/docker/overlay2/l/A", ""),
            (elsewhere, "/srv/docker/zfs/A", "/srv/docker/zfs has"),
            (r#"{ "storage-driver": "overlay2" }"#, "/a", "is overlay2"),
            (r#"{ "storage-driver": "overlayfs" }"#, "/a", ""),
            (r#"{ "userns-remap": "default" }"#, "/a", "`userns-remap`"),
        ] {
            let finding = with(settings, file);
            let text = format!("{finding:?}");
            match why {
                "" => assert_eq!(finding.health, Health::Fine, "{settings} {file} {text}"),
                _ => {
                    assert_eq!(finding.health, Health::Problem, "{settings} {file} {text}");
                    assert!(text.contains(why), "{text}");
                }
            }
        }
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
