//! The cgroups of a container: where they are, and which processes are in them.

pub(crate) mod oom;
pub(crate) mod stats;

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::statfs;

use crate::error::{Error, PathContext, Result};

/// Where cgroups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// The type of a cgroup v2 file system, of `linux/magic.h`.
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// The most directories that are searched for processes.
const MAX_DIRECTORIES: usize = 4096;

/// The cgroups of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cgroup {
    /// cgroup v1: a directory for each controller.
    V1(Vec<(String, PathBuf)>),
    /// cgroup v2: one directory.
    V2(PathBuf),
}

impl Cgroup {
    /// Returns the cgroups of the process `pid`.
    ///
    /// # Errors
    /// The process has exited.
    pub(crate) fn of_process(pid: u32) -> Result<Self> {
        let read = |path: String| {
            let path = PathBuf::from(path);
            fs::read_to_string(&path).with_path("read", &path)
        };
        let groups = read(format!("/proc/{pid}/cgroup"))?;
        if is_unified() {
            return Self::unified(&groups, Path::new(MOUNT));
        }
        let mounts = read("/proc/self/mountinfo".to_owned())?;
        Ok(Self::V1(controllers(&groups, &mounts)))
    }

    fn unified(groups: &str, mount: &Path) -> Result<Self> {
        let path = groups.lines().find_map(|line| line.strip_prefix("0::"));
        let path = path.ok_or_else(|| Error::unknown("the process has no cgroup"))?;
        Ok(Self::V2(mount.join(path.trim_start_matches('/'))))
    }

    /// Returns the directory of a controller of cgroup v1.
    pub(crate) fn controller(&self, name: &str) -> Option<&Path> {
        match self {
            Self::V1(directories) => directories
                .iter()
                .find(|(controller, _)| controller == name)
                .map(|(_, directory)| directory.as_path()),
            Self::V2(_) => None,
        }
    }

    /// Returns the PIDs of all processes in the cgroup and below it; none if the cgroup is removed.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let directory = match self {
            Self::V2(directory) => Some(directory.as_path()),
            // Any of them: a container is in all of them.
            Self::V1(directories) => ["pids", "memory", "devices", "freezer"]
                .iter()
                .find_map(|name| self.controller(name))
                .or_else(|| {
                    directories
                        .first()
                        .map(|(_, directory)| directory.as_path())
                }),
        };
        let mut processes = Vec::new();
        let mut directories: Vec<PathBuf> = directory.into_iter().map(Path::to_path_buf).collect();
        for _ in 0..MAX_DIRECTORIES {
            let Some(directory) = directories.pop() else {
                break;
            };
            let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            processes.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
            let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            directories.extend(below.map(|entry| entry.path()));
        }
        // 0 stands for a process of another PID namespace.
        processes.retain(|pid| *pid != 0);
        processes.sort_unstable();
        processes.dedup();
        processes
    }
}

/// Returns whether the host has cgroup v2 only.
pub(crate) fn is_unified() -> bool {
    statfs(MOUNT).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(CGROUP2_MAGIC))
}

/// Returns the directories of cgroup v1 from `/proc/PID/cgroup` and `/proc/self/mountinfo`.
fn controllers(groups: &str, mounts: &str) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(names), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        for name in names.split(',').filter(|name| !name.is_empty()) {
            let Some((root, mount)) = controller_mount(name, mounts) else {
                continue;
            };
            let below = Path::new(path)
                .strip_prefix(root)
                .unwrap_or(Path::new(path));
            let below = below.strip_prefix("/").unwrap_or(below);
            found.push((name.to_owned(), mount.join(below)));
        }
    }
    found
}

/// Returns which part of a controller's hierarchy is mounted, and where.
fn controller_mount<'a>(controller: &str, mounts: &'a str) -> Option<(&'a Path, &'a Path)> {
    mounts.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let mut source = source.split(' ');
        let (kind, _, options) = (source.next()?, source.next()?, source.next()?);
        if kind != "cgroup" || !options.split(',').any(|option| option == controller) {
            return None;
        }
        let mut mount = mount.split(' ').skip(3);
        Some((Path::new(mount.next()?), Path::new(mount.next()?)))
    })
}

/// Moves the process `pid` into the existing cgroup at `path`, for the option `ShimCgroup`.
///
/// # Errors
/// The cgroup does not exist, or the kernel rejects the process.
pub(crate) fn move_process(path: &str, pid: u32) -> Result<()> {
    let below = path.trim_start_matches('/');
    if Path::new(below)
        .components()
        .any(|part| part == std::path::Component::ParentDir)
    {
        return Err(Error::invalid_argument(format!(
            "ShimCgroup {path:?} leads out of the cgroups"
        )));
    }
    let put = |directory: &Path| {
        let file = directory.join("cgroup.procs");
        fs::write(&file, pid.to_string()).with_path("write", &file)
    };
    if is_unified() {
        return put(&Path::new(MOUNT).join(below));
    }
    let controllers = fs::read_dir(MOUNT).with_path("read", Path::new(MOUNT))?;
    let mut joined = 0;
    for controller in controllers.flatten() {
        let directory = controller.path().join(below);
        if directory.join("cgroup.procs").exists() {
            put(&directory)?;
            joined += 1;
        }
    }
    if joined == 0 {
        return Err(Error::not_found(format!(
            "ShimCgroup {path}: no controller has such a cgroup: create it first"
        )));
    }
    Ok(())
}

/// Removes the cgroup of a container, if the cgroup is empty: the kernel rejects the others. A
/// cgroup of systemd, whose path has three parts, is not a directory and not removed.
pub(crate) fn remove_empty(cgroups_path: &str) {
    remove_below(Path::new(MOUNT), is_unified(), cgroups_path);
}

fn remove_below(mount: &Path, unified: bool, cgroups_path: &str) {
    use std::path::Component::Normal;
    // The OCI runtime takes a relative path for one below the mount, too.
    let path = Path::new(cgroups_path);
    let below = path.strip_prefix("/").unwrap_or(path);
    if below.as_os_str().is_empty() || !below.components().all(|part| matches!(part, Normal(_))) {
        return;
    }
    // Mostly, there is no cgroup left.
    if unified {
        let _ = fs::remove_dir(mount.join(below));
        return;
    }
    for controller in fs::read_dir(mount).into_iter().flatten().flatten() {
        let _ = fs::remove_dir(controller.path().join(below));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::error::ErrorCode;
    use proptest::prelude::*;

    #[test]
    fn removes_an_empty_cgroup_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        for path in [
            "cpu/ns/c",
            "memory/ns/c/used",
            "cpu/other",
            "ns/c",
            "cpu/a.slice:p:c",
        ] {
            fs::create_dir_all(at(path)).unwrap();
        }
        for path in ["", "/", "/ns/../other", "../ns/c"] {
            remove_below(directory.path(), false, path);
            assert!(
                at("cpu/ns/c").exists() && at("cpu/other").exists(),
                "{path}"
            );
        }
        remove_below(directory.path(), false, "/ns/c");
        assert!(!at("cpu/ns/c").exists() && at("memory/ns/c/used").exists());
        assert!(at("ns/c").exists());
        remove_below(directory.path(), false, "a.slice:p:c");
        assert!(!at("cpu/a.slice:p:c").exists());
        remove_below(directory.path(), true, "/ns/c");
        assert!(!at("ns/c").exists());
    }

    const MOUNTS: &str = "\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /outer /sys/fs/cgroup/memory rw shared:5 master:1 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";

    #[test]
    fn finds_controllers_where_they_are_mounted() {
        let groups =
            "3:cpu,cpuacct:/default/c1\n2:memory:/outer/default/c1\n1:name=systemd:/x\n0::/\n";
        let group = Cgroup::V1(controllers(groups, MOUNTS));
        let directory = |name| group.controller(name).map(|path| path.to_str().unwrap());
        assert_eq!(
            directory("cpuacct"),
            Some("/sys/fs/cgroup/cpu,cpuacct/default/c1")
        );
        assert_eq!(
            directory("cpu"),
            Some("/sys/fs/cgroup/cpu,cpuacct/default/c1")
        );
        // The mounted part of the hierarchy is cut off.
        assert_eq!(
            directory("memory"),
            Some("/sys/fs/cgroup/memory/default/c1")
        );
        assert_eq!(directory("pids"), None);
    }

    #[test]
    fn finds_the_directory_of_cgroup_v2() {
        let group = Cgroup::unified("0::/system.slice/docker-1.scope\n", Path::new("/c")).unwrap();
        assert_eq!(group, Cgroup::V2("/c/system.slice/docker-1.scope".into()));
    }

    #[test]
    fn lists_processes_of_cgroups_below() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("sub")).unwrap();
        fs::write(directory.path().join("cgroup.procs"), "7\n3\n0\n").unwrap();
        fs::write(directory.path().join("sub/cgroup.procs"), "5\n3\n").unwrap();
        assert_eq!(Cgroup::V2(directory.path().into()).processes(), [3, 5, 7]);
        assert!(Cgroup::V2("/nowhere".into()).processes().is_empty());
    }

    #[test]
    fn rejects_a_shim_cgroup_that_leads_out() {
        let error = move_process("/../../etc", 1).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
    }

    proptest! {
        #[test]
        fn parses_any_process_and_mount_table(
            text in any::<String>(),
            groups in "([0-9]{0,2}:[a-z,=]{0,9}:[a-z/]{0,9}\n){0,4}",
            mounts in "([0-9 /:a-z]{0,30}( - cgroup [a-z]{0,3} [a-z,]{0,9})?\n){0,4}",
        ) {
            for (groups, mounts) in [(&text, &text), (&groups, &mounts), (&groups, &text)] {
                let _ = controllers(groups, mounts);
                let _ = Cgroup::unified(groups, Path::new("/c"));
            }
        }
    }
}
