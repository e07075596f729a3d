//! What a container may take, as systemd and the kernel have it.

use std::fs;
use std::path::Path;

use anyhow::Result;
use wws_test::groups;
use wws_test::system::System;
use wws_test::{http, image::Image, wait};

use super::{NATIVE, PLATFORM, is_served, probe, scope};

/// What `group` says in `file`.
fn value(group: &Path, file: &str) -> Result<String> {
    Ok(fs::read_to_string(group.join(file))?.trim().to_owned())
}

fn has_properties(system: &System, unit: &str, properties: &[(&str, &str)]) -> Result<()> {
    for (name, wanted) in properties {
        let found = system.property(unit, name)?;
        assert_eq!(&found, wanted, "{name} of {unit}");
    }
    Ok(())
}

fn has_values(group: &Path, values: &[(&str, &str)]) -> Result<()> {
    for (file, wanted) in values {
        assert_eq!(&value(group, file)?, wanted, "{file}");
    }
    Ok(())
}

pub(super) fn a_container_is_a_scope_with_its_limits(system: &System) -> Result<()> {
    let image = system.load(probe()?)?;
    let mut options = vec![PLATFORM, "--memory", "64m", "--memory-swap", "96m"];
    options.extend(["--cpus", "0.5", "--pids-limit", "50"]);
    let port = system.run("bounded", &options, &image)?;
    is_served(system, port)?;
    let scope = scope(system, "bounded")?;
    let group = groups::of(system.pid("bounded")?.as_raw_nonzero(), "memory")?;
    assert_eq!(
        group,
        Path::new(groups::TOP).join("system.slice").join(&scope)
    );
    let properties = [
        ("ActiveState", "active"),
        ("Slice", "system.slice"),
        ("MemoryMax", "67108864"),
        ("MemorySwapMax", "33554432"),
        ("CPUQuotaPerSecUSec", "500ms"),
        ("TasksMax", "50"),
    ];
    let values = [
        ("memory.max", "67108864"),
        ("memory.swap.max", "33554432"),
        ("cpu.max", "50000 100000"),
        ("pids.max", "50"),
    ];
    has_properties(system, &scope, &properties)?;
    has_values(&group, &values)?;
    // systemd writes down again what it knows: nothing else may have been written there.
    system.systemctl(&["daemon-reload"])?;
    has_properties(system, &scope, &properties)?;
    has_values(&group, &values)?;
    let format = "{{.MemUsage}} {{.PIDs}}";
    let stats = system.docker(&["stats", "--no-stream", "--format", format, "bounded"])?;
    let (usage, pids) = stats.rsplit_once(' ').unwrap_or_default();
    assert!(
        usage.ends_with("/ 64MiB") && !usage.starts_with("0B"),
        "{stats}"
    );
    assert!(pids.parse::<u32>()? > 1, "{stats}");
    system.docker(&["rm", "--force", "bounded"])?;
    assert_eq!(system.property(&scope, "LoadState")?, "not-found");
    Ok(())
}

pub(super) fn updates_limits_of_the_scope(system: &System) -> Result<()> {
    let image = system.load(probe()?)?;
    let port = system.run("changed", &[PLATFORM, "--memory", "64m"], &image)?;
    is_served(system, port)?;
    let mut words = vec!["update", "--memory", "200m", "--memory-swap", "400m"];
    words.extend(["--cpus", "0.7", "--pids-limit", "70", "changed"]);
    system.docker(&words)?;
    let properties = [
        ("MemoryMax", "209715200"),
        ("CPUQuotaPerSecUSec", "700ms"),
        ("TasksMax", "70"),
    ];
    let values = [
        ("memory.max", "209715200"),
        ("memory.swap.max", "209715200"),
        ("cpu.max", "70000 100000"),
        ("pids.max", "70"),
    ];
    let group = groups::of(system.pid("changed")?.as_raw_nonzero(), "memory")?;
    let scope = scope(system, "changed")?;
    has_values(&group, &values)?;
    has_properties(system, &scope, &properties)?;
    system.systemctl(&["daemon-reload"])?;
    has_values(&group, &values)?;
    is_served(system, port)?;
    system.docker(&["rm", "--force", "changed"])?;
    Ok(())
}

pub(super) fn a_paused_container_is_frozen(system: &System) -> Result<()> {
    let image = system.load(probe()?)?;
    let port = system.run("frozen", &[PLATFORM], &image)?;
    is_served(system, port)?;
    let group = groups::of(system.pid("frozen")?.as_raw_nonzero(), "memory")?;
    let frozen = || Ok::<_, anyhow::Error>(value(&group, "cgroup.events")?.contains("frozen 1"));
    assert!(!frozen()?);
    system.docker(&["pause", "frozen"])?;
    assert!(frozen()?);
    system.docker(&["unpause", "frozen"])?;
    assert!(!frozen()?);
    is_served(system, port)?;
    let version = system.docker(&["exec", "frozen", "wws", "--version"])?;
    assert!(version.starts_with("wws "), "{version}");
    system.docker(&["stop", "--time", "30", "frozen"])?;
    assert_eq!(system.ended("frozen")?, "0 false");
    system.docker(&["rm", "frozen"])?;
    Ok(())
}

/// As a kubelet has it of a pod: the container itself has no limit.
pub(super) fn the_limit_of_a_slice_applies_to_its_containers(system: &System) -> Result<()> {
    let native = system.load(Image::native("native", NATIVE)?)?;
    let slice = "wwsvm.slice";
    system.systemctl(&["start", slice])?;
    let limits = ["MemoryMax=48M", "MemorySwapMax=0"];
    system.systemctl(&[&["set-property", "--runtime", slice][..], &limits].concat())?;
    let port = system.run("inside", &["--cgroup-parent", slice], &native)?;
    system.get(port, "/")?;
    let scope = scope(system, "inside")?;
    let group = groups::of(system.pid("inside")?.as_raw_nonzero(), "memory")?;
    assert_eq!(group, Path::new(groups::TOP).join(slice).join(&scope));
    assert_eq!(system.property(&scope, "Slice")?, slice);
    // The answer never comes.
    drop(http::get(port, "/eat"));
    assert_eq!(system.ended("inside")?, "137 true");
    system.docker(&["rm", "inside"])?;
    system.systemctl(&["stop", slice])?;
    Ok(())
}

/// The scope goes with its last process, and the kernel's count with it: the shim has to be there
/// before.
pub(super) fn reports_every_oom(system: &System) -> Result<()> {
    let native = system.load(Image::native("native", NATIVE)?)?;
    let options = ["--memory", "32m", "--memory-swap", "32m"];
    let port = system.run("hungry", &options, &native)?;
    for _ in 0..5 {
        system.get(port, "/")?;
        drop(http::get(port, "/eat"));
        assert_eq!(system.ended("hungry")?, "137 true");
        system.docker(&["start", "hungry"])?;
    }
    // Killed by hand is something else.
    system.get(port, "/")?;
    system.docker(&["kill", "hungry"])?;
    assert_eq!(system.ended("hungry")?, "137 false");
    wait::until("no scope", wws_test::container::LIMIT, || {
        let state = system.property(&scope(system, "hungry")?, "LoadState")?;
        Ok((state == "not-found").then_some(()))
    })?;
    system.docker(&["rm", "hungry"])?;
    Ok(())
}
