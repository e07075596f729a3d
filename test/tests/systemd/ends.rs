//! What systemd's units and killed shims do to containers.

use anyhow::Result;
use rustix::process::{Signal, kill_process};
use wws_test::container::LIMIT;
use wws_test::system::System;
use wws_test::wait;

use super::{PLATFORM, is_served, probe, scope};

pub(super) fn a_killed_shim_leaves_no_scope(system: &System) -> Result<()> {
    let image = system.load(probe()?)?;
    let port = system.run("orphan", &[PLATFORM], &image)?;
    is_served(system, port)?;
    let scope = scope(system, "orphan")?;
    assert_eq!(system.property(&scope, "ActiveState")?, "active");
    let shim = system.shim(&system.inspect("orphan", "{{.Id}}")?)?;
    kill_process(shim, Signal::KILL)?;
    assert_eq!(system.ended("orphan")?, "137 false");
    wait::until("no scope", LIMIT, || {
        Ok((system.property(&scope, "LoadState")? == "not-found").then_some(()))
    })?;
    system.docker(&["start", "orphan"])?;
    is_served(system, port)?;
    system.docker(&["rm", "--force", "orphan"])?;
    Ok(())
}

pub(super) fn containers_survive_a_restart_of_the_unit_of_containerd(
    system: &System,
) -> Result<()> {
    let image = system.load(probe()?)?;
    let port = system.run("steady", &[PLATFORM], &image)?;
    is_served(system, port)?;
    let pid = system.pid("steady")?;
    system.systemctl(&["restart", "containerd"])?;
    is_served(system, port)?;
    wait::until("an exec after the restart", LIMIT, || {
        let words = ["exec", "steady", "wws", "--version"];
        Ok(system.docker(&words).ok())
    })?;
    assert_eq!(system.pid("steady")?, pid);
    // An end while it is away is learnt afterwards.
    system.systemctl(&["stop", "containerd"])?;
    kill_process(pid, Signal::TERM)?;
    let process = format!("/proc/{}", pid.as_raw_nonzero());
    wait::until("the server's end", LIMIT, || {
        Ok((!std::path::Path::new(&process).exists()).then_some(()))
    })?;
    system.systemctl(&["start", "containerd"])?;
    assert_eq!(system.ended("steady")?, "0 false");
    system.docker(&["rm", "steady"])?;
    Ok(())
}

pub(super) fn containers_come_back_after_a_restart_of_the_unit_of_docker(
    system: &System,
) -> Result<()> {
    let image = system.load(probe()?)?;
    let always = [PLATFORM, "--restart", "always"];
    let port = system.run("always", &always, &image)?;
    let once = system.run("once", &[PLATFORM], &image)?;
    is_served(system, port)?;
    is_served(system, once)?;
    let pid = system.pid("always")?;
    system.systemctl(&["restart", "docker"])?;
    is_served(system, port)?;
    assert_ne!(system.pid("always")?, pid);
    // Without live restore Docker ends what it does not start again, by the same signal as `docker
    // stop`.
    assert_eq!(system.ended("once")?, "0 false");
    system.docker(&["rm", "--force", "always", "once"])?;
    Ok(())
}
