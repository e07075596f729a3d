//! What users of Docker type, on Docker 26.1 and 28.5. `make test-clients` runs these: they take minutes, and packages that other
//! tests have no use for.

use std::fs;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Signal, kill_process};
use wws_test::container::LIMIT;
use wws_test::docker::{Docker, DockerVersion, free_port};
use wws_test::image::{Image, PROBE};
use wws_test::{wait, workspace};

const RUNTIME: &str = "--runtime=io.containerd.wws.v1";
const PLATFORM: &str = "--platform=wasi/wasm";

/// Runs `scenario` on each version, and looks that it leaves nothing.
macro_rules! on_each_docker {
    ($($name:ident),* $(,)?) => {
        mod docker_26 {
            $(#[test]
            #[ignore = "make test-clients"]
            fn $name() -> anyhow::Result<()> {
                super::on(super::DockerVersion::V26, super::$name)
            })*
        }
        mod docker_28 {
            $(#[test]
            #[ignore = "make test-clients"]
            fn $name() -> anyhow::Result<()> {
                super::on(super::DockerVersion::V28, super::$name)
            })*
        }
    };
}

on_each_docker![
    an_image_is_built_and_run_with_a_published_port_and_a_volume,
    the_life_of_a_container,
    commands_are_run_inside,
    limits_and_privileges_are_kept,
    the_kernel_ends_what_takes_too_much_memory,
    a_project_that_does_not_load_says_so,
    a_container_is_started_again,
    the_hosts_network_and_a_terminal,
    a_killed_shim_is_cleared_up_after,
    containers_outlive_containerd,
];

fn on(version: DockerVersion, scenario: fn(&mut Docker) -> Result<()>) -> Result<()> {
    let mut docker = Docker::start(version)?;
    scenario(&mut docker)?;
    docker.expect_nothing_left()
}

fn load(docker: &Docker, image: Image) -> Result<String> {
    let (name, tar) = image.write(&docker.containerd().folder())?;
    docker.docker(&["load", "--input", &tar.to_string_lossy()])?;
    Ok(name)
}

fn probe(docker: &Docker) -> Result<String> {
    load(docker, Image::probe("probe", "")?)
}

/// `docker run --detach` of a container of workers, published on the port that is returned.
fn run(docker: &Docker, name: &str, options: &[&str], image: &str) -> Result<u16> {
    let port = free_port()?;
    let publish = format!("127.0.0.1:{port}:3000");
    let mut words = vec!["run", "--detach", "--name", name, RUNTIME, PLATFORM];
    words.extend(["--publish", &publish]);
    words.extend(options);
    words.push(image);
    docker.docker(&words)?;
    Ok(port)
}

fn is_served(docker: &Docker, name: &str, port: u16) -> Result<()> {
    let answer = docker.get(name, port, &format!("{PROBE}?log=served"))?;
    assert_eq!(answer.status, 200, "{}", docker.logs(name)?);
    Ok(())
}

fn an_image_is_built_and_run_with_a_published_port_and_a_volume(docker: &mut Docker) -> Result<()> {
    let folder = docker.containerd().folder().join("build");
    fs::create_dir_all(folder.join("root/data"))?;
    fs::copy(workspace::guest("probe")?, folder.join("root/probe.wasm"))?;
    fs::write(
        folder.join("root/probe.toml"),
        concat!(
            "name = \"probe\"\nversion = \"1\"\n[vars]\nNAME = \"$NAME\"\n",
            "[[folders]]\nfrom = \"./data\"\nto = \"/data\"\n"
        ),
    )?;
    fs::write(
        folder.join("Dockerfile"),
        "FROM scratch\nCOPY root /\nENTRYPOINT [\".\"]\n",
    )?;
    let context = folder.to_string_lossy().into_owned();
    let mut build = vec!["buildx", "build", "--platform", "wasi/wasm"];
    build.extend(["--provenance", "false", "-t", "wws-apps:latest", &context]);
    docker.docker(&build)?;
    let built = docker.inspect("wws-apps:latest", "{{.Os}}/{{.Architecture}}")?;
    assert_eq!(built, "wasi/wasm");

    let volume = docker.containerd().folder().join("volume");
    fs::create_dir(&volume)?;
    fs::write(volume.join("file"), "of the host")?;
    let bind = format!("{}:/data", volume.display());
    let options = ["--volume", &bind, "--env", "NAME=docker"];
    let port = run(docker, "built", &options, "wws-apps:latest")?;
    let ask = |query: &str| docker.get("built", port, &format!("{PROBE}?{query}"));
    assert_eq!(ask("read=/data/file")?.text(), "of the host");
    assert_eq!(ask("var=NAME")?.text(), "docker");
    assert_eq!(ask("write=/data/own")?.status, 200);
    assert_eq!(
        fs::read_to_string(volume.join("own"))?,
        "written by a worker"
    );
    // A bridge of its own, not the host's network.
    assert_eq!(
        docker.inspect("built", "{{.HostConfig.NetworkMode}}")?,
        docker.inspect(
            "built",
            "{{range $k, $v := .NetworkSettings.Networks}}{{$k}}{{end}}"
        )?
    );
    let address = docker.inspect(
        "built",
        "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
    )?;
    assert!(address.starts_with("172.31."), "{address}");
    docker.docker(&["rm", "--force", "built"])?;
    assert!(
        TcpStream::connect(("127.0.0.1", port)).is_err(),
        "the port is free again"
    );
    Ok(())
}

fn the_life_of_a_container(docker: &mut Docker) -> Result<()> {
    let image = probe(docker)?;
    let port = run(docker, "life", &[], &image)?;
    is_served(docker, "life", port)?;
    assert!(docker.docker(&["ps"])?.contains("life"));

    let top = docker.docker(&["top", "life"])?;
    assert!(top.contains("serve-container"), "{top}");
    let stats = [
        "stats",
        "--no-stream",
        "--format",
        "{{.MemUsage}} {{.PIDs}}",
        "life",
    ];
    let stats = docker.docker(&stats)?;
    let pids: u32 = stats.rsplit(' ').next().unwrap_or_default().parse()?;
    assert!(!stats.starts_with("0B /") && pids > 1, "{stats}");

    docker.docker(&["pause", "life"])?;
    assert_eq!(docker.inspect("life", "{{.State.Status}}")?, "paused");
    assert!(silent(port), "a paused container does not answer");
    docker.docker(&["unpause", "life"])?;
    is_served(docker, "life", port)?;

    docker.docker(&[
        "update",
        "--memory",
        "200m",
        "--memory-swap",
        "400m",
        "--cpus",
        "0.5",
        "life",
    ])?;
    let group = format!(
        "{}/{}",
        docker.containerd().namespace(),
        docker.inspect("life", "{{.Id}}")?
    );
    let limit = fs::read_to_string(format!(
        "/sys/fs/cgroup/memory/{group}/memory.limit_in_bytes"
    ))
    .or_else(|_| fs::read_to_string(format!("/sys/fs/cgroup/{group}/memory.max")))?;
    assert_eq!(limit.trim(), (200 << 20).to_string());

    assert_eq!(
        docker.docker(&["diff", "life"])?,
        "",
        "the server shows nowhere"
    );
    docker.docker(&["commit", "life", "committed:latest"])?;

    docker.docker(&["stop", "--time", "5", "life"])?;
    assert_eq!(exit(docker, "life")?, "exited 0 false");
    docker.docker(&["start", "life"])?;
    is_served(docker, "life", port)?;
    docker.docker(&["restart", "--time", "5", "life"])?;
    is_served(docker, "life", port)?;
    docker.docker(&["kill", "life"])?;
    wait::until("the end", LIMIT, || {
        Ok(exit(docker, "life")?.starts_with("exited").then_some(()))
    })?;
    assert_eq!(exit(docker, "life")?, "exited 137 false");
    docker.docker(&["rm", "life"])?;
    Ok(())
}

fn commands_are_run_inside(docker: &mut Docker) -> Result<()> {
    let image = probe(docker)?;
    let port = run(docker, "life", &[], &image)?;
    is_served(docker, "life", port)?;
    let routes = docker.docker(&["exec", "life", "wws", "routes"])?;
    assert!(routes.contains(PROBE), "{routes}");
    let version = docker.docker(&["exec", "life", "wws", "--version"])?;
    assert!(version.starts_with("wws "), "{version}");
    docker.docker(&["exec", "--user", "1000", "life", "wws", "check"])?;
    let shell = docker.try_docker(&["exec", "life", "/bin/sh"])?;
    assert!(!shell.status.success());
    let said = format!("{}{}", shell.stdout, shell.stderr);
    assert!(said.contains("/bin/sh"), "{said}");
    docker.docker(&["rm", "--force", "life"])?;
    Ok(())
}

fn exit(docker: &Docker, name: &str) -> Result<String> {
    docker.inspect(
        name,
        "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}",
    )
}

/// Whether a request gets no answer for a second.
fn silent(port: u16) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return true;
    };
    let second = Some(Duration::from_secs(1));
    let asked = stream
        .set_read_timeout(second)
        .and_then(|()| stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"));
    asked.is_err() || stream.read(&mut [0; 16]).is_err()
}

fn limits_and_privileges_are_kept(docker: &mut Docker) -> Result<()> {
    let image = probe(docker)?;
    let options = [
        "--read-only",
        "--user",
        "1000:1000",
        "--cap-drop",
        "ALL",
        "--security-opt",
        "no-new-privileges",
        "--memory",
        "64m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "100",
    ];
    let port = run(docker, "bounded", &options, &image)?;
    is_served(docker, "bounded", port)?;
    let status = fs::read_to_string(format!(
        "/proc/{}/status",
        docker.pid("bounded")?.as_raw_nonzero()
    ))?;
    for line in [
        "Uid:\t1000\t1000\t1000\t1000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line} in\n{status}");
    }
    let usage = [
        "stats",
        "--no-stream",
        "--format",
        "{{.MemUsage}}",
        "bounded",
    ];
    let usage = docker.docker(&usage)?;
    assert!(usage.ends_with("/ 64MiB"), "{usage}");
    docker.docker(&["rm", "--force", "bounded"])?;

    // Root, but without any capability.
    let port = run(docker, "plain-root", &["--cap-drop", "ALL"], &image)?;
    is_served(docker, "plain-root", port)?;
    docker.docker(&["rm", "--force", "plain-root"])?;
    Ok(())
}

fn the_kernel_ends_what_takes_too_much_memory(docker: &mut Docker) -> Result<()> {
    let program = env!("CARGO_BIN_EXE_native-hello");
    let image = load(docker, Image::native("native", program)?)?;
    let port = free_port()?;
    let publish = format!("127.0.0.1:{port}:3000");
    let mut words = vec!["run", "--detach", "--name", "hungry", RUNTIME];
    words.extend(["--memory", "32m", "--memory-swap", "32m"]);
    words.extend(["--publish", &publish, &image]);
    docker.docker(&words)?;
    docker.get("hungry", port, "/")?;
    // The answer never comes.
    drop(wws_test::http::get(port, "/eat"));
    wait::until("the end", LIMIT, || {
        Ok(exit(docker, "hungry")?.starts_with("exited").then_some(()))
    })?;
    assert_eq!(exit(docker, "hungry")?, "exited 137 true");
    docker.docker(&["rm", "hungry"])?;
    Ok(())
}

fn a_project_that_does_not_load_says_so(docker: &mut Docker) -> Result<()> {
    let image = load(
        docker,
        Image::workers("broken").file("bad.wasm", "no Wasm")?,
    )?;
    let ended = docker.try_docker(&["run", "--name", "broken", RUNTIME, PLATFORM, &image])?;
    assert_eq!(ended.status.code(), Some(78), "{ended:?}");
    assert!(ended.stderr.contains("bad.wasm"), "{ended:?}");
    assert!(docker.logs("broken")?.contains("bad.wasm"));
    assert_eq!(exit(docker, "broken")?, "exited 78 false");
    docker.docker(&["rm", "broken"])?;

    // For another platform, and an entry point that is not there.
    let image = probe(docker)?;
    let words = [
        "run",
        "--rm",
        RUNTIME,
        PLATFORM,
        "--entrypoint",
        "/nowhere",
        &image,
    ];
    let ended = docker.try_docker(&words)?;
    assert_eq!(ended.status.code(), Some(127), "{ended:?}");
    assert!(ended.stderr.contains("/nowhere"), "{ended:?}");
    let ended = docker.try_docker(&["run", "--rm", RUNTIME, "--platform=linux/amd64", &image])?;
    assert!(!ended.status.success());
    Ok(())
}

fn a_container_is_started_again(docker: &mut Docker) -> Result<()> {
    let image = probe(docker)?;
    let port = run(docker, "again", &["--restart", "always"], &image)?;
    is_served(docker, "again", port)?;
    let first = docker.pid("again")?;
    kill_process(first, Signal::KILL)?;
    wait::until("another process", LIMIT, || {
        Ok(docker.pid("again").ok().filter(|pid| *pid != first))
    })?;
    is_served(docker, "again", port)?;
    assert_eq!(docker.inspect("again", "{{.RestartCount}}")?, "1");
    docker.docker(&["rm", "--force", "again"])?;
    Ok(())
}

fn the_hosts_network_and_a_terminal(docker: &mut Docker) -> Result<()> {
    let image = probe(docker)?;
    let port = free_port()?;
    let variable = format!("WWS_PORT={port}");
    let mut words = vec![
        "run", "--detach", "--tty", "--name", "host", RUNTIME, PLATFORM,
    ];
    words.extend(["--network", "host", "--env", &variable, &image]);
    docker.docker(&words)?;
    is_served(docker, "host", port)?;
    let log = wait::until("the log", LIMIT, || {
        Ok(Some(docker.logs("host")?).filter(|log| log.contains("listening on")))
    })?;
    assert!(log.contains(&port.to_string()), "{log}");
    // An exec with a terminal: `script` gives the client one.
    let client = docker.command();
    let mut script = std::process::Command::new("script");
    let line = format!(
        "{} exec --interactive --tty host wws --version",
        client.get_program().to_string_lossy()
    );
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    for (name, value) in client.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    let said = wws_test::command::run(&mut script, LIMIT)?.success()?;
    assert!(said.contains("wws "), "{said}");
    docker.docker(&["stop", "--time", "5", "host"])?;
    assert_eq!(exit(docker, "host")?, "exited 0 false");
    docker.docker(&["rm", "host"])?;
    Ok(())
}

fn a_killed_shim_is_cleared_up_after(docker: &mut Docker) -> Result<()> {
    let image = probe(docker)?;
    let port = run(docker, "orphan", &[], &image)?;
    is_served(docker, "orphan", port)?;
    for shim in docker.containerd().shims()? {
        kill_process(shim, Signal::KILL)?;
    }
    wait::until("the end", LIMIT, || {
        Ok(exit(docker, "orphan")?.starts_with("exited").then_some(()))
    })
    .context("Docker learns of it")?;
    assert_eq!(exit(docker, "orphan")?, "exited 137 false");
    docker.docker(&["start", "orphan"])?;
    is_served(docker, "orphan", port)?;
    docker.docker(&["rm", "--force", "orphan"])?;
    Ok(())
}

fn containers_outlive_containerd(docker: &mut Docker) -> Result<()> {
    let image = probe(docker)?;
    let port = run(docker, "steady", &[], &image)?;
    is_served(docker, "steady", port)?;
    let pid = docker.pid("steady")?;
    docker.containerd_mut().restart()?;
    is_served(docker, "steady", port)?;
    wait::until("an exec after the restart", LIMIT, || {
        Ok(docker.docker(&["exec", "steady", "wws", "--version"]).ok())
    })?;
    assert_eq!(docker.pid("steady")?, pid);
    docker.docker(&["stop", "--time", "5", "steady"])?;
    assert_eq!(exit(docker, "steady")?, "exited 0 false");

    // An end while containerd is away is learnt afterwards.
    docker.docker(&["start", "steady"])?;
    is_served(docker, "steady", port)?;
    let pid = docker.pid("steady")?;
    docker.containerd_mut().stop()?;
    kill_process(pid, Signal::TERM)?;
    wait::until("the server's end", LIMIT, || {
        Ok(
            (!std::path::Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists())
                .then_some(()),
        )
    })?;
    docker.containerd_mut().start_again()?;
    let code = wait::until("the exit code", LIMIT, || {
        Ok((exit(docker, "steady")? == "exited 0 false").then_some(()))
    });
    code.with_context(|| {
        format!(
            "{:?}; dockerd's log:\n{}",
            exit(docker, "steady"),
            docker.log()
        )
    })?;
    docker.docker(&["rm", "steady"])?;
    Ok(())
}
