//! How much memory this process may use: the limits of its cgroups (v1 and v2), or else the
//! machine's memory.
//!
//! Inside a container the cgroup file systems may be mounted at the container's own cgroup,
//! at the root of all, or not at all.

use std::path::{Path, PathBuf};

/// Bytes that this process may use: the lowest limit of its cgroups, or the machine's memory.
#[must_use]
pub fn available() -> u64 {
    let machine = machine();
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let limit = limit(
        &read("/proc/self/cgroup"),
        &read("/proc/self/mountinfo"),
        &|path| std::fs::read_to_string(path).ok(),
    );
    limit.map_or(machine, |limit| limit.min(machine))
}

/// Bytes that this process holds and that cannot be taken from it: its own memory, and images in
/// memory.
pub(crate) fn held() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    held_by(&status)
}

/// The sum of two lines of `/proc/PID/status`, which counts in KiB (`proc_pid_status(5)`).
fn held_by(status: &str) -> u64 {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    (field("RssAnon:").unwrap_or(0) + field("RssShmem:").unwrap_or(0)) << 10
}

fn machine() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram
        .saturating_mul(u64::from(info.mem_unit.max(1)))
}

/// A cgroup file system.
struct Mount<'m> {
    /// The group that is seen at `point`.
    root: &'m str,
    point: PathBuf,
    v2: bool,
}

/// The lowest limit on the way from this process' group to the highest that is seen.
fn limit(cgroup: &str, mountinfo: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let mut lowest = None;
    for mount in mountinfo.lines().filter_map(mount) {
        let Some(group) = group(cgroup, mount.v2) else {
            continue;
        };
        let file = if mount.v2 {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        // With a namespace of its own a container's group is `/`, and so is the mount's root.
        let below = group
            .strip_prefix(mount.root.trim_end_matches('/'))
            .unwrap_or("");
        let mut directory = mount.point.join(below.trim_start_matches('/'));
        loop {
            let limit =
                read(&directory.join(file)).and_then(|text| text.trim().parse::<u64>().ok());
            lowest = match (lowest, limit) {
                (Some(lowest), Some(limit)) => Some(limit.min(lowest)),
                (lowest, limit) => lowest.or(limit),
            };
            if directory == mount.point || !directory.pop() {
                break;
            }
        }
    }
    lowest
}

/// A line of `mountinfo`: `ID PARENT DEVICE ROOT POINT OPTIONS... - TYPE SOURCE SUPER-OPTIONS`.
fn mount(line: &str) -> Option<Mount<'_>> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    let v2 = match right.next()? {
        "cgroup2" => true,
        "cgroup" if right.nth(1)?.split(',').any(|option| option == "memory") => false,
        _ => return None,
    };
    let mut left = left.split(' ').skip(3);
    let root = left.next()?;
    let point = left.next()?.replace("\\040", " ").into();
    Some(Mount { root, point, v2 })
}

/// This process' group: a line `0::/path` (v2), or `5:memory:/path` (v1).
fn group(cgroup: &str, v2: bool) -> Option<&str> {
    cgroup.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let ours = if v2 {
            number == "0" && controllers.is_empty()
        } else {
            controllers.split(',').any(|c| c == "memory")
        };
        ours.then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cgroup: &str, mountinfo: &str, files: &[(&str, &str)]) -> Option<u64> {
        limit(cgroup, mountinfo, &|path| {
            files
                .iter()
                .find(|(name, _)| Path::new(name) == path)
                .map(|(_, text)| (*text).to_owned())
        })
    }

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";

    #[test]
    fn v2_takes_the_lowest_limit_on_the_way_up() {
        let files = [
            ("/sys/fs/cgroup/a/memory.max", "1000\n"),
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/b/c/memory.max", "5000\n"),
        ];
        assert_eq!(of("0::/a/b/c\n", V2, &files), Some(1000));
        assert_eq!(of("0::/x\n", V2, &files), None);
    }

    #[test]
    fn v2_in_a_namespace_of_its_own() {
        assert_eq!(
            of("0::/\n", V2, &[("/sys/fs/cgroup/memory.max", "7")]),
            Some(7)
        );
    }

    #[test]
    fn v1_with_the_host_s_path_and_the_container_s_mount() {
        let mounts = "1 2 0:3 /docker/abc /sys/fs/cgroup/memory ro,nosuid master:1 - cgroup cgroup \
            rw,memory\n\
                      4 2 0:5 / /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu";
        let files = [("/sys/fs/cgroup/memory/memory.limit_in_bytes", "67108864\n")];
        assert_eq!(
            of(
                "5:cpu:/docker/abc\n4:memory:/docker/abc\n0::/\n",
                mounts,
                &files
            ),
            Some(64 << 20)
        );
    }

    #[test]
    fn nothing_is_mounted() {
        assert_eq!(
            of("0::/a\n", "1 2 0:3 / / rw - overlay overlay rw", &[]),
            None
        );
    }

    #[test]
    fn reads_memory_of_the_process() {
        let status = "Name:\twws\nRssAnon:\t  2048 kB\nRssFile:\t 900 kB\nRssShmem:\t 1024 kB\n";
        assert_eq!(held_by(status), 3 << 20);
        assert!(held() > 1 << 16);
    }

    #[test]
    fn finds_a_memory_limit_of_this_process() {
        assert!(available() > 1 << 20);
    }
}
