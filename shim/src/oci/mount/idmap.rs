//! ID-mapped mounts: the files of a container with a user namespace belong to that namespace's
//! users, while on disk they belong to the host's users. containerd's overlayfs snapshotter asks
//! for such mounts with the options `uidmap=` and `gidmap=` where a pod has `hostUsers: false`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree,
};
use rustix::thread::UnshareFlags;

use crate::error::{Error, PathContext, Result};
use crate::sys::thread::spawn_scoped;

/// The first kernel whose overlay file system supports ID-mapped layers.
const MIN_LINUX: (u32, u32) = (5, 19);

/// The most ranges of one map that the kernel takes.
const MAX_RANGES: usize = 340;

/// Maps of user and group IDs, written as `CONTAINER:HOST:SIZE[,...]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct IdMaps {
    users: Option<Vec<[u32; 3]>>,
    groups: Option<Vec<[u32; 3]>>,
}

impl IdMaps {
    /// Parses an option if it is an ID map, and returns whether it is.
    ///
    /// # Errors
    /// The map is broken.
    pub(super) fn parse_option(&mut self, option: &str) -> Result<bool> {
        let (map, text) = if let Some(text) = option.strip_prefix("uidmap=") {
            (&mut self.users, text)
        } else if let Some(text) = option.strip_prefix("gidmap=") {
            (&mut self.groups, text)
        } else {
            return Ok(false);
        };
        let broken = || {
            Error::invalid_argument(format!(
                "the mount option {option} is not CONTAINER:HOST:SIZE[,...]"
            ))
        };
        let range = |range: &str| -> Option<[u32; 3]> {
            let numbers: Vec<u32> = range
                .split(':')
                .map(|number| number.parse().ok())
                .collect::<Option<_>>()?;
            numbers.try_into().ok()
        };
        let ranges = text.split(',').map(range).collect::<Option<Vec<_>>>();
        let ranges = ranges.filter(|ranges| ranges.len() <= MAX_RANGES);
        *map = Some(ranges.ok_or_else(broken)?);
        Ok(true)
    }

    /// Creates a user namespace with these maps, from which the kernel takes them. Returns `None`
    /// without maps.
    ///
    /// # Errors
    /// Only one of both maps is given, or the kernel rejects them.
    pub(super) fn create_namespace(&self) -> Result<Option<OwnedFd>> {
        match (&self.users, &self.groups) {
            (None, None) => Ok(None),
            (Some(users), Some(groups)) => {
                let lines = |ranges: &[[u32; 3]]| -> String {
                    let line =
                        |[inside, outside, size]: &[u32; 3]| format!("{inside} {outside} {size}\n");
                    ranges.iter().map(line).collect()
                };
                user_namespace(&lines(users), &lines(groups)).map(Some)
            }
            _ => Err(Error::invalid_argument(
                "of the mount options uidmap and gidmap one is missing",
            )),
        }
    }
}

/// Returns whether this kernel supports ID-mapped root file systems.
pub(crate) fn is_supported() -> bool {
    let uname = rustix::system::uname();
    version(&uname.release().to_string_lossy()).is_some_and(|version| version >= MIN_LINUX)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

/// A process in a user namespace of its own that sleeps until this is dropped, or the shim dies.
struct NamespaceHolder {
    pid: libc::pid_t,
    wake: Option<OwnedFd>,
}

impl NamespaceHolder {
    fn start() -> io::Result<Self> {
        let (sleep, wake) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        // No exit signal, so that a wait for any child does not reap it.
        let flags = libc::CLONE_NEWUSER;
        // SAFETY: without CLONE_VM and without a stack, clone is a fork: the child runs on a copy
        // of this stack. Other threads may have held locks, so until it exits the child must make
        // system calls only, and does.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        if pid == 0 {
            // SAFETY: `close`, `read` and `_exit` are async-signal-safe; the descriptors are the
            // child's own copies, and the buffer is one byte of its own stack.
            unsafe {
                libc::close(wake.as_raw_fd());
                let mut byte = 0_u8;
                libc::read(sleep.as_raw_fd(), (&raw mut byte).cast(), 1);
                libc::_exit(0);
            }
        }
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            pid: libc::pid_t::try_from(pid).map_err(io::Error::other)?,
            wake: Some(wake),
        })
    }
}

impl Drop for NamespaceHolder {
    fn drop(&mut self) {
        // The holder reads the end of the pipe and exits.
        drop(self.wake.take());
        // SAFETY: `waitpid` requires a valid pointer for the status, or none. The PID is that of a
        // child that nobody else waits for.
        while unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL) } < 0
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
    }
}

fn user_namespace(users: &str, groups: &str) -> Result<OwnedFd> {
    let holder =
        NamespaceHolder::start().map_err(|error| Error::io("create a user namespace", error))?;
    let directory = format!("/proc/{}", holder.pid);
    for (file, map) in [("uid_map", users), ("gid_map", groups)] {
        let path = Path::new(&directory).join(file);
        fs::write(&path, map).with_path("write", &path)?;
    }
    let path = Path::new(&directory).join("ns/user");
    Ok(fs::File::open(&path).with_path("open", &path)?.into())
}

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Clones the mount of `source`, with its IDs mapped by `namespace`. The clone is not attached yet.
pub(super) fn clone_mapped(
    source: &Path,
    recursive: bool,
    namespace: BorrowedFd<'_>,
) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mut at = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
        at |= libc::AT_RECURSIVE;
    }
    let tree = open_tree(CWD, source, flags)?;
    let attributes = MountAttr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: namespace.as_raw_fd().unsigned_abs().into(),
    };
    // SAFETY: `mount_setattr` reads a C string and a structure of the given size, and keeps
    // neither: the path is an empty C string, and both descriptors are open during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            at,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    if result < 0 {
        let error = io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    Ok(tree)
}

/// Attaches a mount to a path, whose symbolic links are followed.
pub(super) fn attach(tree: BorrowedFd<'_>, to: &Path) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(tree, "", CWD, to, flags)
}

/// Calls `mount`, which mounts on the directory `at`, while the directories `lower` are mapped by
/// `namespace`. Returns what was mounted; it is not attached yet.
///
/// An overlay takes its layers only from attached mounts. They are mapped in a mount namespace that
/// ends with the thread, so that no other process sees them and none stays when the shim dies.
pub(super) fn mount_with_mapped(
    lower: &[&str],
    namespace: BorrowedFd<'_>,
    at: &Path,
    mount: impl FnOnce() -> rustix::io::Result<()> + Send,
) -> Result<OwnedFd> {
    let work = || -> Result<OwnedFd> {
        // SAFETY: `unshare_unsafe` requires that nothing relies on the thread sharing what is
        // unshared. CLONE_NEWNS and CLONE_FS concern mounts, the working directory, the root and
        // the umask, and this thread ends with the closure.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }
            .map_err(|error| Error::io("make a mount namespace", error))?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).map_err(|error| Error::io("make mounts private", error))?;
        for directory in lower {
            let path = Path::new(directory);
            clone_mapped(path, false, namespace)
                .and_then(|tree| attach(tree.as_fd(), path))
                .map_err(|error| mapping_error(path, error))?;
        }
        mount().map_err(|error| mapping_error(at, error))?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(CWD, at, flags).map_err(|error| Error::io("take over the mount", error))
    };
    std::thread::scope(|scope| {
        let working = spawn_scoped(scope, work)?;
        let panicked = |_| Error::unknown("the thread that mounts panicked");
        working.join().map_err(panicked)?
    })
}

/// Returns the error of a mapping, with what it requires.
pub(super) fn mapping_error(path: &Path, error: Errno) -> Error {
    Error::io(
        format_args!(
            "map the IDs of {} (this requires Linux {}.{} or newer, and a file system that \
             supports ID-mapped mounts)",
            path.display(),
            MIN_LINUX.0,
            MIN_LINUX.1
        ),
        error,
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_maps_with_several_ranges() {
        let mut maps = IdMaps::default();
        assert!(!maps.parse_option("index=off").unwrap());
        assert!(maps.parse_option("uidmap=0:1000:1,1:100000:65535").unwrap());
        assert!(maps.parse_option("gidmap=0:5:1").unwrap());
        assert_eq!(maps.users.unwrap(), [[0, 1000, 1], [1, 100_000, 65535]]);
        assert_eq!(maps.groups.unwrap(), [[0, 5, 1]]);
    }

    #[test]
    fn rejects_broken_maps() {
        for option in [
            "uidmap=",
            "uidmap=0:1",
            "gidmap=0:1:-1",
            "uidmap=0:1:2:3",
            "uidmap=0:1:2,",
        ] {
            let error = IdMaps::default().parse_option(option).unwrap_err();
            assert!(error.to_string().contains(option), "{error}");
        }
        let mut maps = IdMaps::default();
        maps.parse_option("uidmap=0:1:2").unwrap();
        assert!(
            maps.create_namespace()
                .unwrap_err()
                .to_string()
                .contains("missing")
        );
        assert!(IdMaps::default().create_namespace().unwrap().is_none());
    }

    #[test]
    fn compares_kernel_versions() {
        assert_eq!(version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(version("5.19-rc1"), Some((5, 19)));
        assert!(version("5.4.0").unwrap() < MIN_LINUX);
        assert_eq!(version("six"), None);
    }

    #[test]
    fn creates_a_user_namespace_and_leaves_no_process() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let mut maps = IdMaps::default();
        maps.parse_option("uidmap=0:100000:65536").unwrap();
        maps.parse_option("gidmap=0:100000:65536").unwrap();
        let namespace = maps.create_namespace().unwrap().unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", namespace.as_raw_fd())).unwrap();
        assert!(link.to_string_lossy().starts_with("user:["), "{link:?}");
        assert_ne!(link, fs::read_link("/proc/self/ns/user").unwrap());
        let holder = NamespaceHolder::start().unwrap();
        let process = format!("/proc/{}", holder.pid);
        assert!(Path::new(&process).exists());
        drop(holder);
        assert!(!Path::new(&process).exists());
    }

    proptest! {
        #[test]
        fn parses_any_text(text in any::<String>(), likely in "[ug]idmap=[0-9:,]{0,40}") {
            let _ = IdMaps::default().parse_option(&text);
            let _ = IdMaps::default().parse_option(&likely);
            let _ = version(&text);
        }

        #[test]
        fn parses_what_was_formatted(
            ranges in prop::collection::vec(any::<[u32; 3]>(), 1..=MAX_RANGES),
        ) {
            let text: Vec<_> = ranges.iter().map(|[a, b, c]| format!("{a}:{b}:{c}")).collect();
            let mut maps = IdMaps::default();
            let is_map = maps.parse_option(&format!("uidmap={}", text.join(","))).unwrap();
            prop_assert!(is_map);
            prop_assert_eq!(maps.users, Some(ranges));
            prop_assert_eq!(maps.groups, None);
        }
    }
}
