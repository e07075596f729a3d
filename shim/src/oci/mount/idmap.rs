//! ID-mapped mounts: the files of a container with a user namespace of its own belong to that namespace's users, though on the disk
//! they belong to the host's. containerd's overlayfs snapshotter asks for them with the options `uidmap=` and `gidmap=` where a pod
//! has `hostUsers: false`.

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

use crate::error::{Error, OnPath, Result};
use crate::sys::thread::within;

/// The first kernel whose overlay file system takes ID-mapped layers.
const LINUX: (u32, u32) = (5, 19);

/// The most ranges of a map, which is the kernel's own bound.
const MAX_RANGES: usize = 340;

/// Maps of user and group IDs, as the options have them: `CONTAINER:HOST:SIZE[,...]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Maps {
    users: Option<Vec<[u32; 3]>>,
    groups: Option<Vec<[u32; 3]>>,
}

impl Maps {
    /// Takes an option, if it is one of a map.
    ///
    /// # Errors
    /// It is broken.
    pub(super) fn take(&mut self, option: &str) -> Result<bool> {
        let (map, text) = if let Some(text) = option.strip_prefix("uidmap=") {
            (&mut self.users, text)
        } else if let Some(text) = option.strip_prefix("gidmap=") {
            (&mut self.groups, text)
        } else {
            return Ok(false);
        };
        let broken = || {
            Error::InvalidArgument(format!(
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

    /// Makes a user namespace with these maps, which the kernel takes them from. `None` without maps.
    ///
    /// # Errors
    /// One of both is missing, or as the kernel says.
    pub(super) fn namespace(&self) -> Result<Option<OwnedFd>> {
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
            _ => Err(Error::InvalidArgument(
                "of the mount options uidmap and gidmap one is missing".to_owned(),
            )),
        }
    }
}

/// Whether this kernel makes ID-mapped root file systems.
pub(crate) fn is_supported() -> bool {
    let uname = rustix::system::uname();
    version(&uname.release().to_string_lossy()).is_some_and(|version| version >= LINUX)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

/// A process in a user namespace of its own, which does nothing. It ends when this is dropped, or with the shim.
struct Sleeper {
    pid: libc::pid_t,
    wake: Option<OwnedFd>,
}

impl Sleeper {
    fn start() -> io::Result<Self> {
        let (sleep, wake) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        // No signal at its end, so that whoever waits for any child does not get it.
        let flags = libc::CLONE_NEWUSER;
        // SAFETY: without CLONE_VM and with no stack given this is a fork: the child goes on with a copy of this stack. Until it
        // exits the child makes system calls only: it takes no lock and no memory, which other threads may have held.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        if pid == 0 {
            // SAFETY: system calls on descriptors of the child's own copy of the table, and on a byte of its own stack.
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

impl Drop for Sleeper {
    fn drop(&mut self) {
        // It reads the end, and ends.
        drop(self.wake.take());
        // SAFETY: a child of ours that nobody else waits for, and no place for its status.
        while unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL) } < 0
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
    }
}

fn user_namespace(users: &str, groups: &str) -> Result<OwnedFd> {
    let sleeper = Sleeper::start()
        .map_err(|error| Error::Other(format!("make a user namespace: {error}")))?;
    let folder = format!("/proc/{}", sleeper.pid);
    for (file, map) in [("uid_map", users), ("gid_map", groups)] {
        let path = Path::new(&folder).join(file);
        fs::write(&path, map).on("write", &path)?;
    }
    let path = Path::new(&folder).join("ns/user");
    Ok(fs::File::open(&path).on("open", &path)?.into())
}

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// A mount of `source` with the users of `namespace`, which is nowhere yet.
pub(super) fn mapped(
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
    // SAFETY: the descriptor is open, the path is an empty C string, and the structure is of the size that is said. The kernel keeps
    // none of them.
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

/// Puts a mount that is nowhere to a path, whose links are followed.
pub(super) fn attach(tree: BorrowedFd<'_>, to: &Path) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(tree, "", CWD, to, flags)
}

/// Calls `mount`, which mounts on the directory `at`, where each of the directories `lower` has the users of `namespace`. Returns what
/// was mounted; it is nowhere yet.
///
/// An overlay takes its layers from a mount that is somewhere. They are mapped in a mount namespace that ends with the thread, so
/// that nothing of this is seen by others or stays if the shim dies.
pub(super) fn with_mapped(
    lower: &[&str],
    namespace: BorrowedFd<'_>,
    at: &Path,
    mount: impl FnOnce() -> rustix::io::Result<()> + Send,
) -> Result<OwnedFd> {
    let work = || -> Result<OwnedFd> {
        // SAFETY: the thread ends with this closure, and shares nothing of its file system's state with others that they need.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }
            .map_err(|error| Error::io("make a mount namespace", error))?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).map_err(|error| Error::io("make mounts private", error))?;
        for folder in lower {
            let path = Path::new(folder);
            mapped(path, false, namespace)
                .and_then(|tree| attach(tree.as_fd(), path))
                .map_err(|error| refused(path, error))?;
        }
        mount().map_err(|error| refused(at, error))?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(CWD, at, flags).map_err(|error| Error::io("take over the mount", error))
    };
    std::thread::scope(|scope| {
        let working = within(scope, work)?;
        let ended = |_| Error::Other("the mounting thread ended".to_owned());
        working.join().map_err(ended)?
    })
}

/// An error of mapping, with what to do.
pub(super) fn refused(path: &Path, error: Errno) -> Error {
    let text = io::Error::from(error);
    Error::Other(format!(
        "map the IDs of {}: {text}: Linux {}.{} or newer and a file system that supports ID-mapped mounts are needed",
        path.display(),
        LINUX.0,
        LINUX.1
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_maps_with_several_ranges() {
        let mut maps = Maps::default();
        assert!(!maps.take("index=off").unwrap());
        assert!(maps.take("uidmap=0:1000:1,1:100000:65535").unwrap());
        assert!(maps.take("gidmap=0:5:1").unwrap());
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
            let error = Maps::default().take(option).unwrap_err();
            assert!(error.to_string().contains(option), "{error}");
        }
        let mut maps = Maps::default();
        maps.take("uidmap=0:1:2").unwrap();
        assert!(
            maps.namespace()
                .unwrap_err()
                .to_string()
                .contains("missing")
        );
        assert!(Maps::default().namespace().unwrap().is_none());
    }

    #[test]
    fn compares_kernel_versions() {
        assert_eq!(version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(version("5.19-rc1"), Some((5, 19)));
        assert!(version("5.4.0").unwrap() < LINUX);
        assert_eq!(version("six"), None);
    }

    #[test]
    fn makes_a_user_namespace_and_leaves_no_process() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let mut maps = Maps::default();
        maps.take("uidmap=0:100000:65536").unwrap();
        maps.take("gidmap=0:100000:65536").unwrap();
        let namespace = maps.namespace().unwrap().unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", namespace.as_raw_fd())).unwrap();
        assert!(link.to_string_lossy().starts_with("user:["), "{link:?}");
        assert_ne!(link, fs::read_link("/proc/self/ns/user").unwrap());
        let sleeper = Sleeper::start().unwrap();
        let process = format!("/proc/{}", sleeper.pid);
        assert!(Path::new(&process).exists());
        drop(sleeper);
        assert!(!Path::new(&process).exists());
    }
}
