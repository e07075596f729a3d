//! Nothing is left of a container that is gone, however it went.

use std::path::Path;

use anyhow::{Context, Result};
use rustix::process::{Signal, kill_process};
use wws_test::container::{self, LIMIT, Run};
use wws_test::containerd::{Containerd, Version};
use wws_test::image::{Image, PROBE};
use wws_test::wait;

fn probe(containerd: &Containerd) -> Result<String> {
    Image::probe("probe", "")?.import(containerd)
}

#[test]
fn the_check_for_leftovers_detects_a_running_container() -> Result<()> {
    // Otherwise the other tests of this file would prove nothing.
    let containerd = Containerd::start(Version::MAIN)?;
    let mut container = Run::workers(&containerd, &probe(&containerd)?, "running")?.start()?;
    container.wait_until_up()?;
    let seen = containerd.leftovers()?;
    assert!(
        seen.processes
            .iter()
            .any(|command| command.contains("containerd-shim-wws-v1")),
        "{seen}"
    );
    assert!(
        seen.mounts
            .iter()
            .any(|point| point.ends_with("running/rootfs")),
        "{seen}"
    );
    assert!(
        seen.groups.iter().any(|group| group.ends_with("running")),
        "{seen}"
    );
    assert!(
        seen.files.iter().any(|file| file.ends_with("running")),
        "{seen}"
    );
    Ok(())
}

fn leaves_nothing_when_deleted(version: Version) -> Result<()> {
    let containerd = Containerd::start(version)?;
    let image = probe(&containerd)?;
    for name in ["first", "second"] {
        let mut container = Run::workers(&containerd, &image, name)?.start()?;
        container.wait_until_up()?;
        container.signal("SIGTERM")?;
        container.remove()?;
        containerd.expect_nothing_left()?;
    }
    Ok(())
}

on_containerd![
    a_deleted_container_leaves_nothing = leaves_nothing_when_deleted:
    V1_6 V1_7 V2_1 V2_3 V2_4
];

#[test]
fn a_detached_container_leaves_nothing() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    Run::workers(&containerd, &probe(&containerd)?, "background")?.start_detached()?;
    containerd.ctr(&["task", "kill", "--signal", "SIGKILL", "background"])?;
    wait::until("the task stopped", LIMIT, || {
        Ok(container::status(&containerd, "background")?.filter(|status| status == "STOPPED"))
    })?;
    let deleted = containerd.try_ctr(&["task", "delete", "background"])?;
    assert!(
        deleted.status.success() && deleted.stderr.contains("exit code 137"),
        "`ctr task delete` says the container's code: {deleted:?}"
    );
    containerd.ctr(&["container", "rm", "background"])?;
    containerd.expect_nothing_left()
}

fn leaves_nothing_when_the_shim_is_killed(version: Version) -> Result<()> {
    let containerd = Containerd::start(version)?;
    let mut container = Run::workers(&containerd, &probe(&containerd)?, "orphan")?.start()?;
    container.wait_until_up()?;
    let server = container.pid()?;
    for shim in containerd.shims()? {
        kill_process(shim, Signal::KILL)?;
    }
    wait::until("the server gone with its shim", LIMIT, || {
        Ok((!Path::new(&format!("/proc/{}", server.as_raw_nonzero())).exists()).then_some(()))
    })?;
    // Whatever the client makes of it, containerd has called the shim's `delete`.
    container.wait()?;
    containerd.try_ctr(&["task", "delete", "--force", "orphan"])?;
    containerd.ctr(&["container", "rm", "orphan"])?;
    containerd.expect_nothing_left()
}

on_containerd![
    a_killed_shim_leaves_nothing = leaves_nothing_when_the_shim_is_killed:
    V1_6 V2_1 V2_3 V2_4
];

#[test]
fn failed_create_reports_its_cause_and_leaves_nothing() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = probe(&containerd)?;
    let missing = containerd.directory().join("no-such-directory");
    let mut container = Run::workers(&containerd, &image, "unmountable")?
        .mount(&missing, "/data")
        .start()?;
    assert_ne!(container.wait()?, 0);
    let log = container.log()?;
    assert!(
        log.contains("no-such-directory"),
        "the reason names the directory: {log}"
    );
    container.remove()?;
    containerd.expect_nothing_left()?;

    // The name is free again.
    let mut container = Run::workers(&containerd, &image, "again")?.start()?;
    container.wait_until_up()?;
    assert_eq!(container.get(&format!("{PROBE}?log=x"))?.status, 200);
    container.signal("SIGTERM")?;
    container.remove()?;
    containerd.expect_nothing_left()
}

#[test]
fn containers_continue_while_containerd_restarts_on_containerd_1_6() -> Result<()> {
    let mut containerd = Containerd::start(Version::V1_6)?;
    let image = probe(&containerd)?;
    let run = Run::workers(&containerd, &image, "steady")?;
    let port = run.port();
    run.start_detached()?;
    let up = |what: &str| {
        wait::until(what, LIMIT, || {
            Ok(wws_test::http::get(port, &format!("{PROBE}?log=x")).ok())
        })
    };
    up("an answer before")?;
    containerd.restart()?;
    assert_eq!(up("an answer after")?.status, 200);
    containerd.ctr(&["task", "kill", "--signal", "SIGTERM", "steady"])?;
    wait::until("the task stopped", LIMIT, || {
        Ok(container::status(&containerd, "steady")?.filter(|status| status == "STOPPED"))
    })
    .context("a signal after the restart")?;
    assert_eq!(
        containerd
            .try_ctr(&["task", "delete", "steady"])?
            .status
            .code(),
        Some(0)
    );
    containerd.ctr(&["container", "rm", "steady"])?;
    containerd.expect_nothing_left()
}
