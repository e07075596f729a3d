//! What clients do with an OCI Wasm artifact: a component as the only layer, without an image
//! around it. None starts a container of it; docs/reference/components.md says what each answers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use wws_test::command::{self, Finished};
use wws_test::container::LIMIT;
use wws_test::containerd::{Containerd, Version};
use wws_test::docker::{Docker, DockerVersion};
use wws_test::nerdctl::Nerdctl;
use wws_test::pods::Pods;
use wws_test::registry::{Registry, digest};
use wws_test::workspace;

const NAME: &str = "localhost/artifact:latest";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

const RUNTIME: &str = "io.containerd.wws.v1";

/// A program for the pod's own container.
const NATIVE: &str = env!("CARGO_BIN_EXE_native-hello");

/// The component, its configuration and the manifest, with their media types.
fn parts() -> Result<Vec<(&'static str, Vec<u8>)>> {
    const LAYER: &str = "application/wasm";
    const CONFIG: &str = "application/vnd.wasm.config.v0+json";
    let described = |media_type: &str, bytes: &[u8]| -> Value {
        json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
    };
    let layer = fs::read(workspace::guest("component-hello")?)?;
    let config = json!({
        "created": "2026-01-01T00:00:00Z",
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [digest(&layer)],
        "component": {
            "exports": ["wasi:http/incoming-handler@0.2.0"], "imports": [], "target": null
        },
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": described(CONFIG, &config),
        "layers": [described(LAYER, &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    Ok(vec![(LAYER, layer), (CONFIG, config), (MANIFEST, manifest)])
}

/// Writes the artifact as an OCI archive below `directory`.
fn artifact(directory: &Path) -> Result<PathBuf> {
    let layout = directory.join("artifact");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let mut manifest = Value::Null;
    for (media_type, bytes) in parts()? {
        let name = digest(&bytes);
        fs::write(blobs.join(name.trim_start_matches("sha256:")), &bytes)?;
        manifest = json!({"mediaType": media_type, "digest": name, "size": bytes.len()});
    }
    manifest["annotations"] = json!({
        "io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": "latest",
    });
    manifest["platform"] = json!({"os": "wasip2", "architecture": "wasm"});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), index.to_string())?;
    fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    let tar = directory.join("artifact.tar");
    let mut pack = Command::new("tar");
    pack.arg("-cf").arg(&tar).arg("-C").arg(&layout).arg(".");
    command::run(&mut pack, LIMIT)?.success()?;
    Ok(tar)
}

/// What a command that must fail has said.
fn refusal(step: &str, finished: &Finished) -> Result<String> {
    let said = format!("{}{}", finished.stdout, finished.stderr);
    println!("{step}: {}\n{said}", finished.status);
    ensure!(!finished.status.success(), "{step} works: {said}");
    Ok(said)
}

/// `import` and `run`: what `ctr` must refuse these with. `options` of the import.
fn ctr(version: Version, options: &[&str], import: Option<&str>, run: Option<&str>) -> Result<()> {
    let containerd = Containerd::start(version)?;
    let tar = artifact(&containerd.directory())?;
    let tar = tar.to_str().context("a path that is not UTF-8")?;
    let snapshotter = containerd.snapshotter();
    let words = ["--snapshotter", snapshotter, tar];
    let imported = containerd.try_ctr(&[&["image", "import"], options, &words].concat())?;
    if let Some(expected) = import {
        let said = refusal("import", &imported)?;
        ensure!(said.contains(expected), "{said}");
    }
    if let Some(expected) = run {
        println!("imported: {}{}", imported.stdout, imported.stderr);
        let options = ["--runtime", RUNTIME, "--snapshotter", snapshotter];
        let ran = containerd.try_ctr(
            &[
                &["run"],
                &options[..],
                &["--platform", "wasip2/wasm", NAME, "artifact"],
            ]
            .concat(),
        )?;
        let said = refusal("run", &ran)?;
        ensure!(said.contains(expected), "{said}");
    }
    ensure!(containerd.shims()?.is_empty(), "no shim is asked");
    Ok(())
}

#[test]
fn ctr_1_6_refuses_to_import_it() -> Result<()> {
    ctr(
        Version::V1_6,
        &["--all-platforms"],
        Some("mismatched image rootfs and manifest layers"),
        None,
    )
}

#[test]
fn ctr_1_7_imports_it_and_runs_nothing() -> Result<()> {
    ctr(
        Version::V1_7,
        &["--all-platforms"],
        None,
        Some("unknown image config media type"),
    )
}

#[test]
fn ctr_2_1_imports_it_and_runs_nothing() -> Result<()> {
    ctr(
        Version::V2_1,
        &["--all-platforms"],
        None,
        Some("unknown image config media type"),
    )
}

#[test]
#[ignore = "make test-clients"]
fn ctr_2_3_imports_it_and_runs_nothing() -> Result<()> {
    let unknown = Some("unknown image config media type");
    let platform = Some("no unpack platforms defined");
    for (options, import, run) in [
        (&["--platform", "wasip2/wasm"][..], platform, None),
        (&[], Some("image might be filtered out"), None),
        (&["--all-platforms"], None, unknown),
        (&["--local", "--all-platforms"], None, unknown),
    ] {
        ctr(Version::V2_3, options, import, run)?;
    }
    Ok(())
}

fn nerdctl(version: Version) -> Result<()> {
    let nerdctl = Nerdctl::start(version)?;
    let tar = artifact(&nerdctl.containerd().directory())?;
    let platform = "--platform=wasip2/wasm";
    let loaded = nerdctl.try_run(&["load", platform, "--input", &tar.to_string_lossy()])?;
    println!("load: {loaded:?}");
    for arguments in [&[NAME][..], &[NAME, "/app.wasm"]] {
        let runtime = format!("--runtime={RUNTIME}");
        let options = [
            "run",
            "--rm",
            "--pull=never",
            "--net=none",
            &runtime,
            platform,
        ];
        let ran = nerdctl.try_run(&[&options, arguments].concat())?;
        let said = refusal("run", &ran)?;
        ensure!(said.contains("image not available"), "{said}");
    }
    ensure!(nerdctl.containerd().shims()?.is_empty(), "no shim is asked");
    Ok(())
}

#[test]
#[ignore = "make test-clients"]
fn nerdctl_1_7_runs_nothing() -> Result<()> {
    nerdctl(Version::V1_7)
}

#[test]
#[ignore = "make test-clients"]
fn nerdctl_2_1_runs_nothing() -> Result<()> {
    nerdctl(Version::V2_1)
}

/// As a kubelet does it: `pull` is what containerd refuses that with, if it does.
fn cri(version: Version, pull: Option<&str>) -> Result<()> {
    let pods = Pods::start(version, NATIVE)?;
    let registry = Registry::start()?;
    let name = registry.push_parts("artifact", parts()?);
    let pulled = pods.try_crictl(&["pull", &name])?;
    if let Some(expected) = pull {
        let said = refusal("pull", &pulled)?;
        ensure!(said.contains(expected), "{said}");
        return pods.expect_nothing_left();
    }
    pulled.success()?;
    let pod = pods.run_pod("artifact")?;
    let create = |more| pods.create_with(&pod, "component", &name, &[], json!({}), more);
    let refused = create(json!({})).err().context("it is created")?;
    let refused = format!("{refused:#}");
    println!("create: {refused}");
    ensure!(refused.contains("no command specified"), "{refused}");
    // With a command there is a container, but not the layer in it.
    let refused = match create(json!({ "command": ["/app.wasm"] })) {
        Ok(id) => pods.crictl(&["start", &id]).err().context("it starts")?,
        Err(refused) => refused,
    };
    let refused = format!("{refused:#}");
    println!("with a command: {refused}");
    ensure!(refused.contains("no such file or directory"), "{refused}");
    pods.remove(&pod)?;
    pods.expect_nothing_left()
}

#[test]
#[ignore = "make test-clients"]
fn cri_1_6_pulls_nothing() -> Result<()> {
    cri(
        Version::V1_6,
        Some("mismatched image rootfs and manifest layers"),
    )
}

#[test]
#[ignore = "make test-clients"]
fn cri_1_7_pulls_it_and_runs_nothing() -> Result<()> {
    cri(Version::V1_7, None)
}

#[test]
#[ignore = "make test-clients"]
fn cri_2_1_pulls_it_and_runs_nothing() -> Result<()> {
    cri(Version::V2_1, None)
}

#[test]
#[ignore = "make test-clients"]
fn cri_2_3_pulls_it_and_runs_nothing() -> Result<()> {
    cri(Version::V2_3, None)
}

fn docker(version: DockerVersion) -> Result<()> {
    let docker = Docker::start(version)?;
    let tar = artifact(&docker.containerd().directory())?;
    docker.docker(&["load", "--input", &tar.to_string_lossy()])?;
    let runtime = format!("--runtime={RUNTIME}");
    let options = ["run", "--rm", "--pull=never", "--network=none", &runtime];
    let platform = "--platform=wasip2/wasm";
    let ran = docker.try_docker(&[&options[..], &[platform, NAME]].concat())?;
    let said = refusal("run", &ran)?;
    ensure!(said.contains("no command specified"), "{said}");
    // With a command there is a container, but not the layer in it.
    let ran = docker.try_docker(&[&options[..], &[platform, NAME, "/app.wasm"]].concat())?;
    let said = refusal("run with a command", &ran)?;
    ensure!(
        said.contains("stat /app.wasm: no such file or directory"),
        "{said}"
    );
    docker.docker(&["image", "rm", NAME])?;
    docker.expect_nothing_left()
}

#[test]
#[ignore = "make test-clients"]
fn docker_26_runs_nothing() -> Result<()> {
    docker(DockerVersion::V26)
}

#[test]
#[ignore = "make test-clients"]
fn docker_28_runs_nothing() -> Result<()> {
    docker(DockerVersion::V28)
}

#[test]
#[ignore = "make test-clients"]
fn docker_29_runs_nothing() -> Result<()> {
    docker(DockerVersion::V29)
}
