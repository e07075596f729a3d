//! What a container may take and do.

use std::fs;

use anyhow::Result;
use wws_test::container::LIMIT;
use wws_test::docker::Docker;
use wws_test::image::Image;
use wws_test::port;
use wws_test::wait;

use super::{PLATFORM, RUNTIME, exit, is_served, load, probe, run};

pub(super) fn respects_limits_and_privileges(docker: &mut Docker) -> Result<()> {
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

pub(super) fn oom_kills_are_reported(docker: &mut Docker) -> Result<()> {
    let program = env!("CARGO_BIN_EXE_native-hello");
    let image = load(docker, Image::native("native", program)?)?;
    let port = port::free()?;
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

pub(super) fn reports_too_few_processes_in_one_line(docker: &mut Docker) -> Result<()> {
    let image = probe(docker)?;
    for limit in ["1", "3", "5", "7"] {
        let words = [
            "run",
            "--rm",
            RUNTIME,
            PLATFORM,
            "--pids-limit",
            limit,
            &image,
        ];
        let ended = docker.try_docker(&words)?;
        assert_eq!(ended.status.code(), Some(71), "{limit}: {ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{limit}: {ended:?}");
        assert!(
            ended.stderr.contains("needs 8 processes"),
            "{limit}: {ended:?}"
        );
    }
    for limit in ["8", "10", "14"] {
        let port = run(docker, "few", &["--pids-limit", limit], &image)?;
        is_served(docker, "few", port)?;
        docker.docker(&["rm", "--force", "few"])?;
    }
    Ok(())
}
