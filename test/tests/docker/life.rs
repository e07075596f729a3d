//! From an image to the end of its container.

use std::fs;
use std::net::{Ipv6Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use wws_test::container::{LIMIT, Run};
use wws_test::docker::{Docker, DockerVersion};
use wws_test::image::{Image, PROBE, built};
use wws_test::port;
use wws_test::{command, groups, http, wait, workspace};

use super::{PLATFORM, RUNTIME, exit, is_served, load, probe, run};

pub(super) fn an_image_is_built_and_run_with_a_published_port_and_a_volume(
    docker: &mut Docker,
) -> Result<()> {
    let directory = docker.containerd().directory().join("build");
    fs::create_dir_all(directory.join("root/data"))?;
    fs::copy(
        workspace::guest("probe")?,
        directory.join("root/probe.wasm"),
    )?;
    fs::write(
        directory.join("root/probe.toml"),
        concat!(
            "name = \"probe\"\nversion = \"1\"\n[vars]\nNAME = \"$NAME\"\n",
            "[[folders]]\nfrom = \"./data\"\nto = \"/data\"\n"
        ),
    )?;
    fs::write(
        directory.join("Dockerfile"),
        "FROM scratch\nCOPY root /\nENTRYPOINT [\".\"]\n",
    )?;
    let context = directory.to_string_lossy().into_owned();
    let mut build = vec!["buildx", "build", "--platform", "wasi/wasm"];
    build.extend(["--provenance", "false", "-t", "wws-apps:latest", &context]);
    docker.docker(&build)?;
    let built = docker.inspect("wws-apps:latest", "{{.Os}}/{{.Architecture}}")?;
    assert_eq!(built, "wasi/wasm");

    let volume = docker.containerd().directory().join("volume");
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

/// A directory from which Docker builds an image of the probe.
fn build_context(docker: &Docker) -> Result<PathBuf> {
    let directory = docker.containerd().directory().join("build");
    fs::create_dir_all(&directory)?;
    fs::copy(workspace::guest("probe")?, directory.join("probe.wasm"))?;
    fs::write(
        directory.join("Dockerfile"),
        "FROM scratch\nCOPY probe.wasm /\nENTRYPOINT [\"/\"]\n",
    )?;
    Ok(directory)
}

pub(super) fn an_image_for_all_platforms_is_run_without_naming_one(
    docker: &mut Docker,
) -> Result<()> {
    let directory = build_context(docker)?;
    let context = directory.to_string_lossy().into_owned();
    let platforms = "wasi/wasm,linux/amd64,linux/arm64";
    let mut build = vec!["buildx", "build", "--platform", platforms];
    build.extend(["--provenance", "false", "-t", "everywhere:latest", &context]);
    docker.docker(&build)?;
    let publish = |port: u16| format!("127.0.0.1:{port}:3000");
    let built = built("built", &directory)?;
    docker.docker(&["load", "--input", &built.to_string_lossy()])?;
    for (image, platform) in [
        ("everywhere:latest", &[][..]),
        ("everywhere:latest", &[PLATFORM]),
        ("built", &[]),
    ] {
        let port = port::free()?;
        let publish = publish(port);
        let mut words = vec!["run", "--detach", "--name", "everywhere", RUNTIME];
        words.extend(platform);
        words.extend(["--publish", &publish, image]);
        docker.docker(&words)?;
        is_served(docker, "everywhere", port)?;
        docker.docker(&["rm", "--force", "everywhere"])?;
    }
    // The files are there once: the layers of all platforms are the same.
    let archive = docker.containerd().directory().join("everywhere.tar");
    let archive = archive.to_string_lossy().into_owned();
    docker.docker(&["save", "--output", &archive, "everywhere:latest"])?;
    let mut list = Command::new("tar");
    let list = command::run(
        list.args(["--list", "--verbose", "--file", &archive]),
        LIMIT,
    )?;
    let size = fs::metadata(workspace::guest("probe")?)?.len();
    let large = list
        .success()?
        .lines()
        .filter(|line| {
            let bytes = line.split_whitespace().nth(2);
            bytes.and_then(|bytes| bytes.parse().ok()).unwrap_or(0) > size / 4
        })
        .count();
    assert_eq!(large, 1);
    Ok(())
}

/// What buildx makes by default: an index with the image and an attestation of how it was built.
pub(super) fn an_image_with_a_provenance_attestation_is_run(docker: &mut Docker) -> Result<()> {
    let directory = build_context(docker)?;
    let context = directory.to_string_lossy().into_owned();
    let everywhere = "wasi/wasm,linux/amd64,linux/arm64";
    for (name, platforms, platform) in [
        ("one", "wasi/wasm", &[PLATFORM][..]),
        ("everywhere", everywhere, &[]),
        ("everywhere", everywhere, &[PLATFORM]),
    ] {
        let build = ["buildx", "build", "--platform", platforms];
        docker.docker(&[&build[..], &["--load", "-t", name, &context]].concat())?;
        let port = port::free()?;
        let publish = format!("127.0.0.1:{port}:3000");
        let mut words = vec!["run", "--detach", "--name", "attested", RUNTIME];
        words.extend(platform);
        words.extend(["--publish", &publish, name]);
        docker.docker(&words)?;
        is_served(docker, "attested", port)?;
        docker.docker(&["rm", "--force", "attested"])?;
    }
    // An archive of it for containerd alone.
    let containerd = docker.containerd();
    let name = "docker.io/library/archived:latest";
    for (id, platforms, all) in [
        ("one-platform", "wasi/wasm", false),
        ("any-platform", everywhere, false),
        ("all-platforms", everywhere, true),
    ] {
        let archive = directory.join("archive.tar");
        let archive = archive.to_string_lossy().into_owned();
        let output = format!("type=oci,dest={archive},name={name}");
        docker.docker(&[
            "buildx",
            "build",
            "--platform",
            platforms,
            "--output",
            &output,
            &context,
        ])?;
        if all {
            containerd.import(Path::new(&archive))?;
        } else {
            let mut import = vec!["image", "import", "--snapshotter", containerd.snapshotter()];
            if platforms == "wasi/wasm" {
                import.extend(["--platform", platforms]);
            }
            if docker.version() != DockerVersion::V26 {
                import.push("--local");
            }
            import.push(&archive);
            containerd.ctr(&import)?;
        }
        let mut run = Run::workers(containerd, name, id)?;
        if platforms == everywhere {
            run = run.any_platform();
        }
        let mut container = run.start()?;
        container.wait_until_up()?;
        assert_eq!(container.get(&format!("{PROBE}?log=asked"))?.status, 200);
        container.signal("SIGTERM")?;
        assert_eq!(container.wait()?, 0);
        container.remove()?;
        containerd.ctr(&["image", "rm", name])?;
    }
    Ok(())
}

pub(super) fn arguments_follow_the_image(docker: &mut Docker) -> Result<()> {
    let image = probe(docker)?;
    let port = port::free()?;
    let publish = format!("127.0.0.1:{port}:3003");
    let mut words = vec!["run", "--detach", "--name", "arguments", RUNTIME, PLATFORM];
    words.extend([
        "--publish",
        &publish,
        &image,
        "/",
        "--port=3003",
        "--prefix",
        "/v1",
    ]);
    docker.docker(&words)?;
    let answer = docker.get("arguments", port, &format!("/v1{PROBE}?log=asked"))?;
    assert_eq!(answer.text(), "logged");
    docker.docker(&["exec", "arguments", "wws", "health", "--wait"])?;
    docker.docker(&["rm", "--force", "arguments"])?;
    let wrong = ["run", "--rm", RUNTIME, PLATFORM, &image, "--nope"];
    let ended = docker.try_docker(&wrong)?;
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    assert!(ended.stderr.contains("'--nope'"), "{ended:?}");
    assert!(!ended.stderr.contains("serve-container"), "{ended:?}");
    Ok(())
}

pub(super) fn serves_a_network_of_ipv6_only(docker: &mut Docker) -> Result<()> {
    let workers = probe(docker)?;
    let native = Image::native("native", env!("CARGO_BIN_EXE_native-hello"))?;
    let native = load(docker, native)?;
    // Of this process alone: a route to another's bridge would lead nowhere.
    let [a, b, c, d] = process::id().to_be_bytes();
    let subnet = format!("fd00:b5c:{a:x}{b:02x}:{c:x}{d:02x}::/64");
    let mut network = vec!["network", "create", "--ipv6", "--ipv4=false"];
    network.extend(["--subnet", &subnet, "six"]);
    docker.docker(&network)?;
    for container in [
        &[RUNTIME, PLATFORM, &workers] as &[_],
        &["--runtime=io.containerd.runc.v2", &native],
    ] {
        is_served_by_ipv6_alone(docker, container)?;
    }
    docker.docker(&["network", "rm", "six"])?;
    Ok(())
}

/// Runs a server on the network `six`, published on an address of each family. Docker forwards
/// nothing from IPv4 to a network without IPv4, whatever the runtime.
fn is_served_by_ipv6_alone(docker: &Docker, container: &[&str]) -> Result<()> {
    let (four, six) = (port::free()?, port::free_of(Ipv6Addr::LOCALHOST.into())?);
    let of_four = format!("127.0.0.1:{four}:3000");
    let of_six = format!("[::1]:{six}:3000");
    let mut words = vec!["run", "--detach", "--name", "six", "--network", "six"];
    words.extend(["--publish", &of_four, "--publish", &of_six]);
    words.extend(container);
    docker.docker(&words)?;
    let address: Ipv6Addr = docker
        .inspect("six", "{{.NetworkSettings.Networks.six.GlobalIPv6Address}}")?
        .parse()?;
    for (address, port) in [(address, 3000), (Ipv6Addr::LOCALHOST, six)] {
        let answer = wait::until("an answer", LIMIT, || {
            Ok(http::get_from(address, port, "/probe?log=served").ok())
        })
        .with_context(|| format!("[{address}]:{port}: {:?}", docker.logs("six")))?;
        assert_eq!(answer.status, 200, "{}", docker.logs("six")?);
    }
    if container.contains(&RUNTIME) {
        docker.docker(&["exec", "six", "wws", "health"])?;
    }
    let published = docker.inspect("six", "{{json .NetworkSettings.Ports}}")?;
    let expected = json!({ "3000/tcp": [{ "HostIp": "::1", "HostPort": six.to_string() }] });
    assert_eq!(serde_json::from_str::<Value>(&published)?, expected);
    assert!(http::get(four, PROBE).is_err(), "{container:?}");
    docker.docker(&["rm", "--force", "six"])?;
    Ok(())
}

pub(super) fn stop_signals_stop_gracefully(docker: &mut Docker) -> Result<()> {
    let image = probe(docker)?;
    for signal in ["SIGTERM", "SIGINT", "SIGQUIT", "RTMIN+3"] {
        let port = run(docker, "stopped", &["--stop-signal", signal], &image)?;
        is_served(docker, "stopped", port)?;
        let from = Instant::now();
        docker.docker(&["stop", "--time", "30", "stopped"])?;
        assert!(
            from.elapsed() < wait::patience(Duration::from_secs(15)),
            "{signal}"
        );
        assert_eq!(exit(docker, "stopped")?, "exited 0 false", "{signal}");
        docker.docker(&["rm", "stopped"])?;
    }
    Ok(())
}

pub(super) fn create_start_stop_remove(docker: &mut Docker) -> Result<()> {
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
    let pid = docker.pid("life")?.as_raw_nonzero();
    assert_eq!(groups::is_scope(pid)?, groups::by_systemd());
    let limit = groups::memory_limit(pid)?;
    assert_eq!(limit, (200 << 20).to_string());

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

pub(super) fn runs_commands_inside(docker: &mut Docker) -> Result<()> {
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

pub(super) fn host_network_and_terminal(docker: &mut Docker) -> Result<()> {
    let image = probe(docker)?;
    let port = port::free()?;
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
    let mut script = Command::new("script");
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
    let said = command::run(&mut script, LIMIT)?.success()?;
    assert!(said.contains("wws "), "{said}");
    docker.docker(&["stop", "--time", "5", "host"])?;
    assert_eq!(exit(docker, "host")?, "exited 0 false");
    docker.docker(&["rm", "host"])?;
    Ok(())
}

pub(super) fn commit_contains_only_files_of_the_image(docker: &mut Docker) -> Result<()> {
    let image = probe(docker)?;
    let port = run(docker, "first", &[], &image)?;
    is_served(docker, "first", port)?;
    assert_eq!(
        docker.docker(&["diff", "first"])?,
        "",
        "the server shows nowhere"
    );
    docker.docker(&["commit", "first", "committed:latest"])?;
    let platform = docker.inspect("committed:latest", "{{.Os}}/{{.Architecture}}")?;
    assert_eq!(platform, "wasi/wasm");
    docker.docker(&["rm", "--force", "first"])?;
    let port = run(docker, "second", &[], "committed:latest")?;
    is_served(docker, "second", port)?;
    docker.docker(&["rm", "--force", "second"])?;
    Ok(())
}

pub(super) fn an_init_program_changes_nothing(docker: &mut Docker) -> Result<()> {
    let image = probe(docker)?;
    let port = run(docker, "init", &["--init"], &image)?;
    is_served(docker, "init", port)?;
    docker.docker(&["stop", "--time", "5", "init"])?;
    assert_eq!(exit(docker, "init")?, "exited 0 false");
    docker.docker(&["rm", "init"])?;
    Ok(())
}

pub(super) fn a_command_of_the_server_is_run_on_an_image(docker: &mut Docker) -> Result<()> {
    let image = probe(docker)?;
    let words = [
        "run",
        "--rm",
        RUNTIME,
        PLATFORM,
        "--entrypoint",
        "wws",
        &image,
        "routes",
    ];
    let routes = docker.docker(&words)?;
    assert!(routes.contains(PROBE), "{routes}");
    Ok(())
}

pub(super) fn a_program_opens_its_input_by_name(docker: &mut Docker) -> Result<()> {
    let tool = Image::native("tool", env!("CARGO_BIN_EXE_native-tool"))?;
    let image = load(docker, tool)?;
    let cat = |words: &[&str]| -> Result<String> {
        let mut command = docker.command();
        command.args(words).args(["/program", "cat", "/dev/stdin"]);
        let mut writer = Command::new("echo");
        let mut writer = writer.arg("hello").stdout(Stdio::piped()).spawn()?;
        let input = writer.stdout.take().context("no pipe")?;
        let finished = command::run_with(&mut command, input.into(), LIMIT)?;
        writer.wait()?;
        finished.success()
    };
    let sleep = ["--entrypoint", "/program", &image, "sleep", "1000"];
    docker.docker(
        &[
            &["run", "--detach", "--name", "sleeps", RUNTIME][..],
            &sleep,
        ]
        .concat(),
    )?;
    for user in ["0", "1000"] {
        let run = ["run", "--rm", "--interactive", "--user", user, RUNTIME];
        let run = [&run[..], &["--entrypoint", "", &image]].concat();
        assert_eq!(cat(&run)?, "hello\n", "run as {user}");
        let exec = ["exec", "--interactive", "--user", user, "sleeps"];
        assert_eq!(cat(&exec)?, "hello\n", "exec as {user}");
    }
    docker.docker(&["rm", "--force", "sleeps"])?;
    Ok(())
}
