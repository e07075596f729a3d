//! `ctr`, which asks for a path of its own or for one that systemd is to make.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;
use wws_test::container::LIMIT;
use wws_test::groups;
use wws_test::image::Image;
use wws_test::port;
use wws_test::system::System;
use wws_test::wait;

use super::is_served;

const MEMORY: u64 = 128 << 20;

/// `ctr run --detach` of a container of workers on the host's network. The answer is the PID of the
/// init process, when it answers.
fn run(system: &System, name: &str, options: &[&str]) -> Result<i32> {
    let image = system.import(Image::probe("probe", "")?)?;
    let port = port::free()?;
    let variable = format!("WWS_PORT={port}");
    let limit = MEMORY.to_string();
    let mut words = vec!["run", "--detach", "--net-host", "--env", &variable];
    words.extend(["--runtime", "io.containerd.wws.v1"]);
    words.extend(["--platform", "wasi/wasm", "--memory-limit", &limit]);
    words.extend(options);
    words.extend([&image, name]);
    system.ctr(&words)?;
    is_served(system, port)?;
    let tasks = system.ctr(&["task", "ls"])?;
    let task = tasks.lines().find(|line| line.starts_with(name));
    let pid = task.and_then(|line| line.split_whitespace().nth(1));
    Ok(pid.context("no task")?.parse()?)
}

fn end(system: &System, name: &str) -> Result<()> {
    system.ctr(&["task", "kill", "--signal", "SIGTERM", name])?;
    wait::until("the task stopped", LIMIT, || {
        let tasks = system.ctr(&["task", "ls"])?;
        let mut lines = tasks.lines();
        let stopped = lines.any(|line| line.starts_with(name) && line.ends_with("STOPPED"));
        Ok(stopped.then_some(()))
    })?;
    system.ctr(&["task", "rm", name])?;
    system.ctr(&["container", "rm", name]).map(drop)
}

/// The numbers of `ctr task metrics` are those of the group.
fn is_measured(system: &System, name: &str, group: &Path) -> Result<()> {
    let said = system.ctr(&["task", "metrics", "--format", "json", name])?;
    let metrics: Value = serde_json::from_str(&said)?;
    let number = |path: &str| metrics.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    assert_eq!(number("/memory/usage_limit"), MEMORY, "{said}");
    assert!(number("/memory/usage") > 1 << 20, "{said}");
    assert!(number("/memory/anon") > 1 << 16, "{said}");
    assert!(number("/pids/current") > 1, "{said}");
    assert!(number("/cpu/usage_usec") > 0, "{said}");
    assert!(number("/cpu/user_usec") > 0, "{said}");
    // Its disk is read from: the server's program, at least.
    let read = |text: &str| {
        let words = text.split_whitespace();
        let bytes = words.filter_map(|word| word.strip_prefix("rbytes=")?.parse::<u64>().ok());
        bytes.sum::<u64>()
    };
    let kernels = read(&fs::read_to_string(group.join("io.stat"))?);
    let entries = metrics.pointer("/io/usage").and_then(Value::as_array);
    let entries = entries.with_context(|| format!("no io in {said}"))?;
    let told = entries.iter().filter_map(|entry| entry["rbytes"].as_u64());
    let told = told.sum::<u64>();
    assert!(told > 0 && told <= kernels, "{kernels} of {said}");
    Ok(())
}

/// So that something is read from the disk.
fn forget_files() -> Result<()> {
    Ok(fs::write("/proc/sys/vm/drop_caches", "3")?)
}

pub(super) fn plain_cgroup_path_is_a_directory(system: &System) -> Result<()> {
    forget_files()?;
    let pid = run(system, "plain", &[])?;
    let group = groups::of(pid, "memory")?;
    assert_eq!(group, Path::new(groups::TOP).join("default/plain"));
    assert_eq!(groups::memory_limit(pid)?, MEMORY.to_string());
    is_measured(system, "plain", &group)?;
    end(system, "plain")?;
    assert!(!group.exists(), "{}", group.display());
    Ok(())
}

pub(super) fn a_path_in_three_parts_is_a_scope(system: &System) -> Result<()> {
    forget_files()?;
    // As of a container of Kubernetes, whose slice is below others.
    let path = "kubepods-burstable-pod1.slice:wws:three";
    let pid = run(system, "three", &["--cgroup", path])?;
    let group = groups::of(pid, "memory")?;
    let slices = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice";
    let slice = Path::new(groups::TOP).join(slices);
    assert_eq!(group, slice.join("wws-three.scope"));
    assert_eq!(
        system.property("wws-three.scope", "MemoryMax")?,
        MEMORY.to_string()
    );
    is_measured(system, "three", &group)?;
    system.ctr(&["task", "pause", "three"])?;
    assert!(fs::read_to_string(group.join("cgroup.events"))?.contains("frozen 1"));
    system.ctr(&["task", "resume", "three"])?;
    end(system, "three")?;
    assert!(!group.exists(), "{}", group.display());
    system.systemctl(&["stop", "kubepods.slice"]).map(drop)
}

pub(super) fn the_shim_may_have_its_own_cgroup(system: &System) -> Result<()> {
    let own = Path::new(groups::TOP).join("shims");
    fs::create_dir(&own)?;
    let options = system.directory().join("options.toml");
    fs::write(&options, "SystemdCgroup = true\nShimCgroup = \"/shims\"\n")?;
    let options = options.to_string_lossy();
    let mut words = vec!["--cgroup", "system.slice:wws:own"];
    words.extend(["--runtime-config-path", &options]);
    let pid = run(system, "own", &words)?;
    let group = groups::of(pid, "memory")?;
    assert_eq!(
        group,
        Path::new(groups::TOP).join("system.slice/wws-own.scope")
    );
    let shim = system.shim("own")?;
    assert_eq!(groups::of(shim.as_raw_nonzero(), "memory")?, own);
    end(system, "own")?;
    wait::until("the shim gone", LIMIT, || Ok(fs::remove_dir(&own).ok()))
}
