//! Ends that nobody asked for.

use anyhow::{Context, Result};
use rustix::process::{Signal, kill_process};
use wws_test::container::LIMIT;
use wws_test::docker::Docker;
use wws_test::image::Image;
use wws_test::wait;

use super::{PLATFORM, RUNTIME, exit, is_served, load, probe, run};

pub(super) fn reports_a_project_that_does_not_load(docker: &mut Docker) -> Result<()> {
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
    Ok(())
}

pub(super) fn reports_a_missing_entry_point(docker: &mut Docker) -> Result<()> {
    let image = probe(docker)?;
    let mut words = vec!["run", "--name", "lost", RUNTIME, PLATFORM];
    words.extend(["--entrypoint", "/nowhere", &image]);
    let ended = docker.try_docker(&words)?;
    assert_eq!(ended.status.code(), Some(127), "{ended:?}");
    assert!(ended.stderr.contains("/nowhere"), "{ended:?}");
    assert_eq!(docker.inspect("lost", "{{.State.ExitCode}}")?, "127");
    let error = docker.inspect("lost", "{{.State.Error}}")?;
    assert!(error.contains("/nowhere"), "{error}");
    docker.docker(&["rm", "lost"])?;
    Ok(())
}

pub(super) fn rejects_an_image_of_another_platform(docker: &mut Docker) -> Result<()> {
    let image = probe(docker)?;
    // Asked for as if it were for this machine; and a program of a CPU that this machine has not.
    let mut words = vec!["run", "--rm", "--pull=never", RUNTIME];
    words.extend(["--platform=linux/amd64", &image]);
    let ended = docker.try_docker(&words)?;
    assert!(!ended.status.success(), "{ended:?}");
    assert!(ended.stderr.contains(&image), "{ended:?}");
    let foreign = Image::foreign("foreign", "/program")?;
    let image = load(docker, foreign)?;
    let mut words = vec!["run", "--name", "foreign", RUNTIME];
    words.extend(["--platform=linux/s390x", &image]);
    let ended = docker.try_docker(&words)?;
    assert!(!ended.status.success(), "{ended:?}");
    let said = format!(
        "{}{}{}",
        ended.stdout,
        ended.stderr,
        docker.logs("foreign")?
    );
    assert!(said.contains("exec format error"), "{said}");
    docker.docker(&["rm", "foreign"])?;
    Ok(())
}

pub(super) fn a_container_is_started_again(docker: &mut Docker) -> Result<()> {
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

pub(super) fn a_killed_shim_leaves_nothing_behind(docker: &mut Docker) -> Result<()> {
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

pub(super) fn containers_survive_a_restart_of_containerd(docker: &mut Docker) -> Result<()> {
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

pub(super) fn restart_policies_restart_a_failing_container(docker: &mut Docker) -> Result<()> {
    let broken = Image::workers("broken").file("bad.wasm", "no Wasm")?;
    let image = load(docker, broken)?;
    let mut words = vec!["run", "--detach", "--name", "fails", RUNTIME, PLATFORM];
    words.extend(["--restart", "on-failure:2", &image]);
    docker.docker(&words)?;
    wait::until("the last end", LIMIT, || {
        let now = docker.inspect("fails", "{{.RestartCount}} {{.State.Status}}")?;
        Ok((now == "2 exited").then_some(()))
    })?;
    assert_eq!(exit(docker, "fails")?, "exited 78 false");
    assert_eq!(docker.logs("fails")?.matches("bad.wasm").count(), 3);
    docker.docker(&["rm", "fails"])?;
    Ok(())
}
