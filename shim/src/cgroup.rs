//! The control groups of a container: where they are, and which processes are in them.

pub(crate) mod oom;
pub(crate) mod stats;

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::statfs;

use crate::error::{Error, OnPath, Result};

/// Where control groups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// The type of a version 2 file system, of `linux/magic.h`.
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// The most folders that are looked into for processes.
const MAX_FOLDERS: usize = 4096;

/// The control groups of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cgroup {
    /// Version 1: a folder for each controller.
    V1(Vec<(String, PathBuf)>),
    /// Version 2: one folder.
    V2(PathBuf),
}

impl Cgroup {
    /// Those that the process `pid` is in.
    ///
    /// # Errors
    /// The process is gone.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let read = |path: String| {
            let path = PathBuf::from(path);
            fs::read_to_string(&path).on("read", &path)
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
        let path =
            path.ok_or_else(|| Error::Other("the process has no control group".to_owned()))?;
        Ok(Self::V2(mount.join(path.trim_start_matches('/'))))
    }

    /// The folder of a controller of version 1.
    pub(crate) fn controller(&self, name: &str) -> Option<&Path> {
        match self {
            Self::V1(folders) => folders
                .iter()
                .find(|(controller, _)| controller == name)
                .map(|(_, folder)| folder.as_path()),
            Self::V2(_) => None,
        }
    }

    /// The numbers of all processes in it and in groups below it. None if it is gone.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let folder = match self {
            Self::V2(folder) => Some(folder.as_path()),
            // Any: a container is in all of them.
            Self::V1(folders) => ["pids", "memory", "devices", "freezer"]
                .iter()
                .find_map(|name| self.controller(name))
                .or_else(|| folders.first().map(|(_, folder)| folder.as_path())),
        };
        let mut processes = Vec::new();
        let mut folders: Vec<PathBuf> = folder.into_iter().map(Path::to_path_buf).collect();
        for _ in 0..MAX_FOLDERS {
            let Some(folder) = folders.pop() else { break };
            let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            processes.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            folders.extend(below.map(|entry| entry.path()));
        }
        // In one number space 0 is a process of another.
        processes.retain(|pid| *pid != 0);
        processes.sort_unstable();
        processes.dedup();
        processes
    }
}

/// Whether there is version 2 alone.
pub(crate) fn is_unified() -> bool {
    statfs(MOUNT).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(CGROUP2_MAGIC))
}

/// The folders of version 1, of `/proc/PID/cgroup` and `/proc/self/mountinfo`.
fn controllers(groups: &str, mounts: &str) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(names), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        for name in names.split(',').filter(|name| !name.is_empty()) {
            let Some((root, mount)) = mount_of(name, mounts) else {
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

/// Which part of a controller's groups is mounted, and where.
fn mount_of<'a>(controller: &str, mounts: &'a str) -> Option<(&'a Path, &'a Path)> {
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

/// Moves the process `pid` into the group at `path`, which must be there: for the option `ShimCgroup`.
///
/// # Errors
/// It is not there, or the kernel refuses.
pub(crate) fn join(path: &str, pid: u32) -> Result<()> {
    let below = path.trim_start_matches('/');
    if Path::new(below)
        .components()
        .any(|part| part == std::path::Component::ParentDir)
    {
        return Err(Error::InvalidArgument(format!(
            "ShimCgroup {path:?} leads out of the control groups"
        )));
    }
    let put = |folder: &Path| {
        let file = folder.join("cgroup.procs");
        fs::write(&file, pid.to_string()).on("write", &file)
    };
    if is_unified() {
        return put(&Path::new(MOUNT).join(below));
    }
    let controllers = fs::read_dir(MOUNT).on("read", Path::new(MOUNT))?;
    let mut joined = 0;
    for controller in controllers.flatten() {
        let folder = controller.path().join(below);
        if folder.join("cgroup.procs").exists() {
            put(&folder)?;
            joined += 1;
        }
    }
    if joined == 0 {
        return Err(Error::NotFound(format!(
            "ShimCgroup {path}: no controller has such a group; it must be made before"
        )));
    }
    Ok(())
}

/// Removes the cgroup of a container, which is a directory of this path and not systemd's. One that is in use stays: the kernel
/// removes empty ones only.
pub(crate) fn remove_empty(cgroups_path: &str) {
    remove_below(Path::new(MOUNT), is_unified(), cgroups_path);
}

fn remove_below(mount: &Path, unified: bool, cgroups_path: &str) {
    use std::path::Component::Normal;
    // The OCI runtime takes a relative path for one below the mount as well.
    let path = Path::new(cgroups_path);
    let below = path.strip_prefix("/").unwrap_or(path);
    if below.as_os_str().is_empty() || !below.components().all(|part| matches!(part, Normal(_))) {
        return;
    }
    // Most often there is none.
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

    #[test]
    fn a_group_that_was_left_is_removed_where_it_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
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
            remove_below(folder.path(), false, path);
            assert!(
                at("cpu/ns/c").exists() && at("cpu/other").exists(),
                "{path}"
            );
        }
        remove_below(folder.path(), false, "/ns/c");
        assert!(!at("cpu/ns/c").exists() && at("memory/ns/c/used").exists());
        assert!(at("ns/c").exists());
        remove_below(folder.path(), false, "a.slice:p:c");
        assert!(!at("cpu/a.slice:p:c").exists());
        remove_below(folder.path(), true, "/ns/c");
        assert!(!at("ns/c").exists());
    }

    const MOUNTS: &str = "\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /outer /sys/fs/cgroup/memory rw shared:5 master:1 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";

    #[test]
    fn controllers_are_found_where_they_are_mounted() {
        let groups =
            "3:cpu,cpuacct:/default/c1\n2:memory:/outer/default/c1\n1:name=systemd:/x\n0::/\n";
        let group = Cgroup::V1(controllers(groups, MOUNTS));
        let folder = |name| group.controller(name).map(|path| path.to_str().unwrap());
        assert_eq!(
            folder("cpuacct"),
            Some("/sys/fs/cgroup/cpu,cpuacct/default/c1")
        );
        assert_eq!(folder("cpu"), Some("/sys/fs/cgroup/cpu,cpuacct/default/c1"));
        // Of a container's own view, the outer part is cut.
        assert_eq!(folder("memory"), Some("/sys/fs/cgroup/memory/default/c1"));
        assert_eq!(folder("pids"), None);
    }

    #[test]
    fn version_2_is_one_folder() {
        let group = Cgroup::unified("0::/system.slice/docker-1.scope\n", Path::new("/c")).unwrap();
        assert_eq!(group, Cgroup::V2("/c/system.slice/docker-1.scope".into()));
    }

    #[test]
    fn processes_of_groups_below_count() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("cgroup.procs"), "7\n3\n0\n").unwrap();
        fs::write(folder.path().join("sub/cgroup.procs"), "5\n3\n").unwrap();
        assert_eq!(Cgroup::V2(folder.path().into()).processes(), [3, 5, 7]);
        assert!(Cgroup::V2("/nowhere".into()).processes().is_empty());
    }

    #[test]
    fn a_group_for_the_shim_cannot_lead_out() {
        let error = join("/../../etc", 1).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument(_)));
    }
}
