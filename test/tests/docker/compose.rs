//! Docker Compose, and the health checks that it waits for.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use wws_test::container::LIMIT;
use wws_test::docker::{DOCKER_LIMIT, Docker};
use wws_test::image::{Image, PROBE};
use wws_test::port;
use wws_test::{command, wait, workspace};

use super::{exit, is_served, probe, run};

/// Makes `directory` an image's context: the probe worker, and what its Dockerfile says besides.
fn context(directory: &Path, dockerfile: &str) -> Result<String> {
    fs::create_dir_all(directory)?;
    fs::copy(workspace::guest("probe")?, directory.join("probe.wasm"))?;
    fs::write(
        directory.join("Dockerfile"),
        format!("FROM scratch\nCOPY probe.wasm /\nENTRYPOINT [\"/\"]\n{dockerfile}\n"),
    )?;
    Ok(directory.to_string_lossy().into_owned())
}

fn has_health(docker: &Docker, name: &str, wanted: &str) -> Result<()> {
    let health = wait::until(&format!("{name} {wanted}"), LIMIT, || {
        let now = docker.inspect(name, "{{.State.Health.Status}}")?;
        Ok((now == wanted).then_some(()))
    });
    health.with_context(|| format!("{:?}", docker.inspect(name, "{{json .State.Health}}")))
}

pub(super) fn reports_the_health_of_a_container(docker: &mut Docker) -> Result<()> {
    let directory = docker.containerd().directory();
    for (name, request, health) in [
        ("well", "/probe?log=asked", "healthy"),
        // The probe worker has an error of its own for that.
        ("ill", "/probe?read=/nothing", "unhealthy"),
    ] {
        let check = format!(
            "HEALTHCHECK --interval=1s --retries=2 CMD [\"wws\", \"health\", \
             \"--request={request}\"]"
        );
        let context = context(&directory.join(name), &check)?;
        let mut build = vec!["buildx", "build", "--platform", "wasi/wasm"];
        build.extend(["--provenance", "false", "-t", name, &context]);
        docker.docker(&build)?;
        let port = run(docker, name, &[], name)?;
        is_served(docker, name, port)?;
        has_health(docker, name, health)?;
        docker.docker(&["rm", "--force", name])?;
    }
    // The form that a command line and most Dockerfiles have, in an image without a shell.
    for (line, health) in [
        ("wws health --request='/probe?log=x' || exit 1", "healthy"),
        ("wws health --request='/probe?read=/nothing'", "unhealthy"),
    ] {
        let options = [
            "--health-cmd",
            line,
            "--health-interval=1s",
            "--health-retries=2",
        ];
        let port = run(docker, "line", &options, "well")?;
        is_served(docker, "line", port)?;
        has_health(docker, "line", health)?;
        docker.docker(&["rm", "--force", "line"])?;
    }
    Ok(())
}

pub(super) fn compose_services(docker: &mut Docker) -> Result<()> {
    let image = probe(docker)?;
    let native = {
        let program = env!("CARGO_BIN_EXE_native-hello");
        super::load(docker, Image::native("native", program)?)?
    };
    let directory = docker.containerd().directory().join("compose");
    fs::create_dir_all(directory.join("data"))?;
    fs::write(directory.join("data/file"), "of the host")?;
    let port = port::free()?;
    // `builder` is built by Compose, `workers` waits for its health.
    context(&directory.join("builder"), "")?;
    let file = directory.join("compose.yaml");
    fs::write(
        &file,
        format!(
            r#"name: wws
services:
  workers:
    image: {image}
    runtime: io.containerd.wws.v1
    platform: wasi/wasm
    ports: ["127.0.0.1:{port}:3000"]
    environment:
      WWS_ACCESS_LOG: "false"
    volumes: ["./data:/data"]
    restart: unless-stopped
    read_only: true
    cap_drop: [ALL]
    mem_limit: 64m
    depends_on:
      builder:
        condition: service_healthy
  builder:
    build:
      context: ./builder
      platforms: [wasi/wasm]
    image: built
    runtime: io.containerd.wws.v1
    platform: wasi/wasm
    healthcheck:
      test: ["CMD", "wws", "health", "--request=/probe?log=asked"]
      interval: 1s
  native:
    image: {native}
    runtime: io.containerd.wws.v1
"#
        ),
    )?;
    let file = file.to_string_lossy().into_owned();
    let compose = |words: &[&str]| {
        let mut command = docker.command();
        command.args(["compose", "--file", &file]).args(words);
        command::run(&mut command, DOCKER_LIMIT)?
            .success()
            .with_context(|| format!("docker compose {}", words.join(" ")))
    };
    let composed = (|| {
        compose(&["up", "--detach", "--wait"])?;
        is_served(docker, "wws-workers-1", port)?;
        let services = compose(&["ps", "--format", "{{.Service}} {{.State}}"])?;
        for service in ["workers", "builder", "native"] {
            let running = format!("{service} running");
            assert!(services.contains(&running), "{services}");
        }
        let routes = compose(&["exec", "-T", "workers", "wws", "routes"])?;
        assert!(routes.contains(PROBE), "{routes}");
        let logs = compose(&["logs", "workers"])?;
        assert!(logs.contains("listening on"), "{logs}");
        compose(&["restart", "workers"])?;
        is_served(docker, "wws-workers-1", port)?;
        compose(&["stop", "workers"])?;
        assert_eq!(exit(docker, "wws-workers-1")?, "exited 0 false");
        Ok(())
    })();
    // Networks are Docker's own, and would be left.
    let down = compose(&["down", "--volumes"]);
    composed.and(down).map(drop)
}
