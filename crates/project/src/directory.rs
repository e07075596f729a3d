//! Directories, identified by device and inode instead of path: two paths may lead to one
//! directory.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
};

use rustix::fs::{
    AtFlags, Mode, OFlags, StatVfsMountFlags, Statx, StatxFlags, fstatfs, fstatvfs, openat, statx,
};

use crate::beneath::Root;

/// File systems of the kernel, which hold no stored files. The numbers are those of
/// `linux/magic.h`.
const OF_THE_KERNEL: [i64; 16] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup v1
    0x6367_7270, // cgroup v2
    0x1cd1,      // devpts
    0x1980_0202, // mqueue
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x6265_6570, // configfs
    0xcafe_4a11, // bpf
    0x6165_676c, // pstore
    0xde5e_81e4, // efivarfs
    0x4249_4e4d, // binfmt_misc
    0x6e73_6673, // nsfs
    0x6573_5543, // fusectl
];

/// The maximum number of parent directories.
const MAX_DEPTH: usize = 4096;

/// The identity of a directory, whatever path leads to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DirectoryId {
    device: (u32, u32),
    inode: u64,
}

/// A directory beneath the root.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) id: DirectoryId,
    /// The mount that contains it.
    pub(crate) mount: u64,
    /// Whether it is the top of a writable mount below the project.
    pub(crate) is_writable_mount: bool,
    /// Whether it is in a file system of the kernel.
    pub(crate) is_of_the_kernel: bool,
    /// All parent directories, the root first.
    above: Vec<DirectoryId>,
}

impl Directory {
    /// The directory where a walk begins.
    pub(crate) fn of_top(root: &Root, opened: File) -> io::Result<Self> {
        Self::of_link(root, opened)
    }

    /// A directory found in `parent`.
    pub(crate) fn of_child(parent: &Rc<Self>, opened: File) -> io::Result<Self> {
        let (id, mount) = identity(&opened)?;
        let is_mount = mount != parent.mount;
        let mut above = parent.above.clone();
        above.push(parent.id);
        Ok(Self {
            id,
            mount,
            is_writable_mount: is_mount && is_writable(&opened)?,
            is_of_the_kernel: is_mount && is_of_the_kernel(&opened)?,
            above,
        })
    }

    /// A directory found otherwise: its parents are looked up.
    pub(crate) fn of_link(root: &Root, opened: File) -> io::Result<Self> {
        let (id, mount) = identity(&opened)?;
        let (top, _) = identity(&root.directory(std::path::Path::new(""))?)?;
        let is_of_the_kernel = is_of_the_kernel(&opened)?;
        let mut above = Vec::new();
        let mut is_writable_mount = false;
        let mut current = OwnedFd::from(opened);
        let (mut current_id, mut current_mount) = (id, mount);
        while current_id != top && above.len() < MAX_DEPTH {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let parent = openat(&current, "..", flags, Mode::empty())?;
            let (parent_id, parent_mount) = identity(&parent)?;
            if parent_id == current_id && parent_mount == current_mount {
                break;
            }
            // A link may lead below the top of a mount.
            if parent_mount != current_mount {
                is_writable_mount |= is_writable(&current)?;
            }
            above.push(parent_id);
            (current, current_id, current_mount) = (parent, parent_id, parent_mount);
        }
        above.reverse();
        Ok(Self {
            id,
            mount,
            is_writable_mount,
            is_of_the_kernel,
            above,
        })
    }

    /// Whether it is the other directory or is in it.
    pub(crate) fn is_in(&self, other: DirectoryId) -> bool {
        self.above_and_own().any(|id| *id == other)
    }

    /// All parent directories, and the directory itself.
    pub(crate) fn above_and_own(&self) -> impl Iterator<Item = &DirectoryId> {
        self.above.iter().chain([&self.id])
    }
}

/// The identity of a directory, and its mount. Before Linux 5.8, mounts of one file system cannot
/// be distinguished.
fn identity(opened: &impl AsFd) -> io::Result<(DirectoryId, u64)> {
    let flags = StatxFlags::INO | StatxFlags::MNT_ID;
    let stat: Statx = statx(opened, c"", AtFlags::EMPTY_PATH, flags)?;
    let device = (stat.stx_dev_major, stat.stx_dev_minor);
    let mount = if StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::MNT_ID) {
        stat.stx_mnt_id
    } else {
        u64::from(device.0) << 32 | u64::from(device.1)
    };
    Ok((
        DirectoryId {
            device,
            inode: stat.stx_ino,
        },
        mount,
    ))
}

fn is_writable(opened: &impl AsFd) -> io::Result<bool> {
    Ok(!fstatvfs(opened)?.f_flag.contains(StatVfsMountFlags::RDONLY))
}

fn is_of_the_kernel(opened: &impl AsFd) -> io::Result<bool> {
    #[allow(clippy::unnecessary_cast, reason = "the type differs among targets")]
    let kind = fstatfs(opened)?.f_type as i64;
    Ok(OF_THE_KERNEL.contains(&kind))
}
