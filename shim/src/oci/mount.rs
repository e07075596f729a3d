//! The mounts of the root file system that containerd asks for, made by system calls.

pub(crate) mod idmap;
mod options;
mod overlay;

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use containerd_shim_protos::api::Mount;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_change, mount_remount, unmount};
use rustix::thread::UnshareFlags;

use self::options::{BindMode, MountOptions};
use self::overlay::{MAX_DATA, lower_directories, shorten};
use super::rootfs;
use crate::error::{Error, Result};
use crate::sys::thread::spawn_scoped;

/// The most mounts on one root file system that are made or unmounted.
const MAX_MOUNTS: usize = 64;

/// Makes `mounts`, in order, on `root`. When one fails, the earlier ones are unmounted.
///
/// # Errors
/// An option that is not supported, or the kernel rejects a mount: with its type and source.
pub(crate) fn mount_all(mounts: &[Mount], root: &Path) -> Result<()> {
    if mounts.len() > MAX_MOUNTS {
        return Err(Error::invalid_argument(format!(
            "{} mounts for one root file system: at most {MAX_MOUNTS} are supported",
            mounts.len()
        )));
    }
    for (made, mount) in mounts.iter().enumerate() {
        if let Err(error) = mount_one(mount, root) {
            if made > 0 {
                unmount_all(root)?;
            }
            return Err(error.context(format_args!(
                "mount {} {} on the root file system",
                mount.type_, mount.source
            )));
        }
    }
    Ok(())
}

/// Unmounts everything on `root`. Nothing to unmount is no error.
///
/// # Errors
/// The kernel rejects it.
pub(crate) fn unmount_all(root: &Path) -> Result<()> {
    for _ in 0..MAX_MOUNTS {
        let mut result = unmount(root, UnmountFlags::NOFOLLOW);
        if result == Err(Errno::BUSY) {
            // A mount below, or an open file: the kernel unmounts with the last user.
            result = unmount(root, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH);
        }
        match result {
            Ok(()) => {}
            // Not a mount point, or missing.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => {
                return Err(Error::io(format_args!("unmount {}", root.display()), error));
            }
        }
    }
    Err(Error::unknown(format!(
        "unmount {}: more than {MAX_MOUNTS} mounts",
        root.display()
    )))
}

/// Returns where to mount: `root`, or a directory in it that containerd 2 names. The descriptor
/// holds that directory, which an image may have replaced by a symbolic link.
fn mount_point(mount: &Mount, root: &Path) -> Result<(PathBuf, Option<OwnedFd>)> {
    if mount.target.is_empty() {
        return Ok((root.to_path_buf(), None));
    }
    let directory = rootfs::open_in_root(root, Path::new(&mount.target))?.ok_or_else(|| {
        Error::invalid_argument(format!("the root file system has no {}", mount.target))
    })?;
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    Ok((path.into(), Some(directory)))
}

fn mount_one(wanted: &Mount, root: &Path) -> Result<()> {
    let options = MountOptions::parse(&wanted.type_, &wanted.options)?;
    let namespace = options.maps.create_namespace()?;
    let (path, open) = mount_point(wanted, root)?;
    if options.bind == BindMode::No {
        let (directory, data) = shorten(&options.data);
        let data = CString::new(data.join(",")).map_err(|_| rejected(Errno::INVAL))?;
        if data.count_bytes() > MAX_DATA {
            return Err(Error::invalid_argument(format!(
                "its options take {} bytes, the kernel takes {MAX_DATA}: build the image with \
                 fewer layers",
                data.count_bytes()
            )));
        }
        let make = |path: &Path| {
            let (source, kind) = (wanted.source.as_str(), wanted.type_.as_str());
            mount(source, path, kind, options.flags, data.as_c_str())
        };
        match &namespace {
            None => {
                with_working_directory(directory.as_deref(), || make(&path))?.map_err(rejected)?
            }
            Some(namespace) => {
                let lower = lower_directories(&wanted.type_, &options.data)?;
                let mounted = idmap::mount_with_mapped(&lower, namespace.as_fd(), root, || {
                    if let Some(directory) = &directory {
                        rustix::process::chdir(directory)?;
                    }
                    make(root)
                })?;
                idmap::attach(mounted.as_fd(), &path).map_err(rejected)?;
            }
        }
    } else if let Some(namespace) = &namespace {
        let source = Path::new(&wanted.source);
        let recursive = options.bind == BindMode::Recursive;
        idmap::clone_mapped(source, recursive, namespace.as_fd())
            .and_then(|tree| idmap::attach(tree.as_fd(), &path))
            .map_err(|error| idmap::mapping_error(source, error))?;
    } else {
        let mut flags = MountFlags::BIND;
        if options.bind == BindMode::Recursive {
            flags |= MountFlags::REC;
        }
        mount(wanted.source.as_str(), path.as_path(), "", flags, None).map_err(rejected)?;
    }
    // Looked up again: the descriptor from before is of the directory below the mount.
    drop(open);
    let (path, _open) = mount_point(wanted, root)?;
    set_flags(&options, &path).map_err(|error| {
        // Unmounted here, as the caller does not count this mount as made.
        let _ = unmount(path.as_path(), UnmountFlags::DETACH);
        rejected(error)
    })
}

/// Sets what takes a second system call on what is mounted at `path`.
fn set_flags(options: &MountOptions, path: &Path) -> rustix::io::Result<()> {
    // The kernel applies other flags of a bind mount only in a remount.
    if options.bind != BindMode::No && !options.flags.is_empty() {
        mount_remount(path, MountFlags::BIND | options.flags, "")?;
    }
    if !options.propagation.is_empty() {
        mount_change(path, options.propagation)?;
    }
    Ok(())
}

fn rejected(error: Errno) -> Error {
    let context = match error {
        Errno::NODEV => "the kernel does not support this file system",
        _ => "the kernel rejects the mount",
    };
    Error::io(context, error)
}

/// Calls `mount` with `directory` as the working directory of a thread of its own.
fn with_working_directory<T: Send>(
    directory: Option<&Path>,
    mount: impl FnOnce() -> T + Send,
) -> Result<T> {
    let Some(directory) = directory else {
        return Ok(mount());
    };
    let work = || -> Result<T> {
        let failed = |error| Error::io(format_args!("change to {}", directory.display()), error);
        // SAFETY: `unshare_unsafe` requires that nothing relies on the thread sharing what is
        // unshared. CLONE_FS concerns the working directory, the root and the umask alone, and this
        // thread ends with the closure.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }.map_err(failed)?;
        rustix::process::chdir(directory).map_err(failed)?;
        Ok(mount())
    };
    thread::scope(|scope| {
        let working = spawn_scoped(scope, work)?;
        let panicked = |_| Error::unknown("the thread that mounts panicked");
        working.join().map_err(panicked)?
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn options(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn resolves_a_mount_point_that_is_a_link_within_the_root() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc", root.path().join("link")).unwrap();
        let one = Mount {
            target: "/link".to_owned(),
            ..Mount::default()
        };
        let (path, _open) = mount_point(&one, root.path()).unwrap();
        assert_eq!(
            std::fs::canonicalize(path).unwrap(),
            root.path().canonicalize().unwrap().join("etc")
        );
    }

    #[test]
    fn sets_flags_below_the_root_and_unmounts_when_it_fails() {
        use rustix::fs::{StatVfsMountFlags, statvfs};
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let [root, source] = ["root", "source"].map(|name| directory.path().join(name));
        std::fs::create_dir_all(root.join("in")).unwrap();
        std::fs::create_dir(&source).unwrap();
        std::fs::write(source.join("file"), "").unwrap();
        let bind = |source: &Path, target: &str, text: &str| Mount {
            type_: "bind".to_owned(),
            source: source.display().to_string(),
            target: target.to_owned(),
            options: options(text),
            ..Mount::default()
        };
        let whole = bind(&root, "", "bind");
        let below = bind(&source, "/in", "rbind,ro,private");
        mount_all(&[whole.clone(), below], &root).unwrap();
        let seen = root.join("in/file").exists();
        let flags = statvfs(root.join("in")).unwrap().f_flag;
        unmount_all(&root).unwrap();
        assert!(seen);
        assert!(flags.contains(StatVfsMountFlags::RDONLY));

        // The kernel rejects two kinds of propagation at once, after the mount.
        let below = bind(&source, "/in", "bind,private,shared");
        assert!(mount_all(&[whole, below], &root).is_err());
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(&directory.path().display().to_string()));
    }

    #[test]
    fn mounts_an_overlay_with_more_layers_than_a_page_holds() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("l".repeat(200));
        let mut lower = Vec::new();
        for number in 0..60 {
            let layer = long.join(number.to_string());
            std::fs::create_dir_all(&layer).unwrap();
            std::fs::write(layer.join(format!("file{number}")), "").unwrap();
            lower.push(layer.display().to_string());
        }
        let root = directory.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let overlay = Mount {
            type_: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: vec![format!("lowerdir={}", lower.join(":"))],
            ..Mount::default()
        };
        let before = std::env::current_dir().unwrap();
        mount_all(&[overlay], &root).unwrap();
        let seen = std::fs::read_dir(&root).unwrap().count();
        unmount_all(&root).unwrap();
        assert_eq!(seen, 60);
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
        assert_eq!(std::env::current_dir().unwrap(), before);
    }

    /// Returns whether the kernel and the file system of temporary files support ID maps.
    fn can_map(directory: &Path) -> bool {
        let mut maps = idmap::IdMaps::default();
        maps.parse_option("uidmap=0:1000:1").unwrap();
        maps.parse_option("gidmap=0:1000:1").unwrap();
        rustix::process::geteuid().is_root()
            && idmap::is_supported()
            && idmap::clone_mapped(
                directory,
                false,
                maps.create_namespace().unwrap().unwrap().as_fd(),
            )
            .is_ok()
    }

    fn owner(path: &Path) -> (u32, u32) {
        use std::os::unix::fs::MetadataExt;
        let data = std::fs::metadata(path).unwrap();
        (data.uid(), data.gid())
    }

    #[test]
    fn maps_the_owners_of_the_layers_of_an_overlay() {
        let directory = tempfile::tempdir().unwrap();
        if !can_map(directory.path()) {
            return;
        }
        let at = |name: &str| directory.path().join(name);
        for name in ["low1", "low2/in", "up", "work", "root"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        for (file, owner) in [
            ("low1/root", 0),
            ("low2/in/user", 7),
            ("low2/other", 200_000),
        ] {
            std::fs::write(at(file), file).unwrap();
            std::os::unix::fs::chown(at(file), Some(owner), Some(owner)).unwrap();
        }
        let (root, text) = (at("root"), |name: &str| at(name).display().to_string());
        let overlay = Mount {
            type_: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: vec![
                "uidmap=0:100000:10,10:300000:100".to_owned(),
                "gidmap=0:100000:10,10:300000:100".to_owned(),
                format!("workdir={}", text("work")),
                format!("upperdir={}", text("up")),
                format!("lowerdir={}:{}", text("low1"), text("low2")),
            ],
            ..Mount::default()
        };
        mount_all(std::slice::from_ref(&overlay), &root).unwrap();
        let seen = ["root", "in/user", "other"].map(|file| owner(&root.join(file)));
        std::fs::write(root.join("new"), "").unwrap();
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        unmount_all(&root).unwrap();
        // IDs that the map lacks become nobody.
        assert_eq!(
            seen,
            [(100_000, 100_000), (100_007, 100_007), (65534, 65534)]
        );
        assert!(at("up/new").exists());
        let directory_of_all = directory.path().display().to_string();
        assert_eq!(
            table.matches(&format!(" {directory_of_all}/")).count(),
            1,
            "{table}"
        );
        assert_eq!(owner(&at("low2/in/user")), (7, 7));

        // A failure leaves no mounts.
        let mut broken = overlay;
        broken.options[4] = format!("lowerdir={}:{}", text("low1"), text("nowhere"));
        let error = mount_all(&[broken], &root).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("nowhere"), "{error}");
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(&directory_of_all), "{table}");
    }

    #[test]
    fn maps_the_owners_of_a_bind_mount_and_sets_its_flags() {
        use rustix::fs::{StatVfsMountFlags, statvfs};
        let directory = tempfile::tempdir().unwrap();
        if !can_map(directory.path()) {
            return;
        }
        let [root, source] = ["root", "source"].map(|name| directory.path().join(name));
        std::fs::create_dir(&root).unwrap();
        std::fs::create_dir(&source).unwrap();
        std::fs::write(source.join("file"), "").unwrap();
        let bind = Mount {
            type_: "bind".to_owned(),
            source: source.display().to_string(),
            options: options("uidmap=0:5000:10 gidmap=0:6000:10 ro rbind"),
            ..Mount::default()
        };
        mount_all(&[bind], &root).unwrap();
        let seen = owner(&root.join("file"));
        let flags = statvfs(&root).unwrap().f_flag;
        unmount_all(&root).unwrap();
        assert_eq!(seen, (5000, 6000));
        assert!(flags.contains(StatVfsMountFlags::RDONLY));
    }
}
