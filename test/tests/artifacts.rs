//! What clients do with an OCI Wasm artifact: a component as the only layer, without an image
//! around it. None starts a container of it; docs/reference/components.md says what each answers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use wws_test::command::{self, Finished};
use wws_test::container::LIMIT;
use wws_test::containerd::{Containerd, Version};
use wws_test::docker::{Docker, DockerVersion};
use wws_test::workspace;

const NAME: &str = "localhost/artifact:latest";

const RUNTIME: &str = "io.containerd.wws.v1";

/// Writes the artifact as an OCI archive below `directory`.
fn artifact(directory: &Path) -> Result<PathBuf> {
    let layout = directory.join("artifact");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let blob = |media_type: &str, bytes: &[u8]| -> Result<Value> {
        let digest: String = Sha256::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        fs::write(blobs.join(&digest), bytes)?;
        let digest = format!("sha256:{digest}");
        Ok(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}))
    };
    let layer = blob(
        "application/wasm",
        &fs::read(workspace::guest("component-hello")?)?,
    )?;
    let config = json!({
        "created": "2026-01-01T00:00:00Z",
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [layer["digest"]],
        "component": {
            "exports": ["wasi:http/incoming-handler@0.2.0"], "imports": [], "target": null
        },
    });
    let config = blob(
        "application/vnd.wasm.config.v0+json",
        config.to_string().as_bytes(),
    )?;
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
    });
    let mut manifest = blob(MANIFEST, manifest.to_string().as_bytes())?;
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

fn ctr(version: Version, import: Option<&str>, run: Option<&str>) -> Result<()> {
    let containerd = Containerd::start(version)?;
    let tar = artifact(&containerd.directory())?;
    let tar = tar.to_str().context("a path that is not UTF-8")?;
    let snapshotter = containerd.snapshotter();
    let words = ["--all-platforms", "--snapshotter", snapshotter, tar];
    let imported = containerd.try_ctr(&[&["image", "import"], &words[..]].concat())?;
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
        Some("mismatched image rootfs and manifest layers"),
        None,
    )
}

#[test]
fn ctr_1_7_imports_it_and_runs_nothing() -> Result<()> {
    ctr(Version::V1_7, None, Some("unknown image config media type"))
}

#[test]
fn ctr_2_1_imports_it_and_runs_nothing() -> Result<()> {
    ctr(Version::V2_1, None, Some("unknown image config media type"))
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
