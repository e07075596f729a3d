//! Cgroups of either version, made by the runtime or by systemd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command;

/// Where they are.
pub const TOP: &str = "/sys/fs/cgroup";

const LIMIT: Duration = Duration::from_secs(10);

/// Whether there is version 2 alone, and systemd to make them: then Docker has it do so, and pods
/// should.
#[must_use]
pub fn by_systemd() -> bool {
    Path::new(TOP).join("cgroup.controllers").exists() && Path::new("/run/systemd/system").exists()
}

/// The directory of the group that the process `pid` is in: of `controller` where there is version
/// 1, the one there is in version 2.
///
/// # Errors
/// The process is gone, or has no such group.
pub fn of(pid: impl std::fmt::Display, controller: &str) -> Result<PathBuf> {
    let file = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
    let named = |line: &'_ str| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let wanted = controllers.split(',').any(|name| name == controller);
        wanted.then(|| Path::new(TOP).join(controller).join(&path[1..]))
    };
    let unified = |line: &str| Some(Path::new(TOP).join(&line.strip_prefix("0::")?[1..]));
    let group = text.lines().find_map(named);
    group
        .or_else(|| text.lines().find_map(unified))
        .with_context(|| format!("no group for {controller} in {text}"))
}

/// Whether the group of the process `pid` is a scope of systemd's.
///
/// # Errors
/// The process is gone.
pub fn is_scope(pid: impl std::fmt::Display) -> Result<bool> {
    let group = of(pid, "memory")?;
    Ok(group.extension().is_some_and(|kind| kind == "scope"))
}

/// What the group of the process `pid` says in a file of `controller`: `v1` or `v2`, by what there
/// is.
///
/// # Errors
/// There is no such file.
pub fn read(pid: impl std::fmt::Display, controller: &str, v1: &str, v2: &str) -> Result<String> {
    let directory = of(pid, controller)?;
    let text =
        fs::read_to_string(directory.join(v1)).or_else(|_| fs::read_to_string(directory.join(v2)));
    let text = text.with_context(|| format!("{v1} or {v2} in {}", directory.display()))?;
    Ok(text.trim().to_owned())
}

/// The most memory that the group of the process `pid` may take, as the kernel says it.
///
/// # Errors
/// It has no memory controller.
pub fn memory_limit(pid: impl std::fmt::Display) -> Result<String> {
    read(pid, "memory", "memory.limit_in_bytes", "memory.max")
}

/// Has systemd end the slice whose group is at `group`, with all that is in it. One that is not
/// there is no error.
///
/// # Errors
/// `systemctl` cannot be started.
pub(crate) fn stop_slice(group: &Path) -> Result<()> {
    let slice = group.file_name().unwrap_or_default();
    command::run(Command::new("systemctl").arg("stop").arg(slice), LIMIT).map(drop)
}
