//! The root file system: mounts that containerd asks for, made by the system calls.

mod idmap;

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use containerd_shim_protos::api::Mount;
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_remount, unmount,
};
use rustix::thread::UnshareFlags;

use super::rootfs;
use crate::error::{Error, Result};
use crate::sys::thread::within;

use idmap::Maps;
pub(crate) use idmap::is_supported as maps_ids;

/// What mount(2) takes as data: a page, with its final NUL.
const MAX_DATA: usize = 4095;

/// The most mounts on one root file system that are made or undone.
const MAX_MOUNTS: usize = 64;

/// Options as flags and data, as mount(8) divides them.
#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    flags: MountFlags,
    propagation: MountPropagationFlags,
    bind: Bind,
    data: Vec<String>,
    maps: Maps,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bind {
    No,
    One,
    Recursive,
}

/// Makes `mounts`, in order, on `root`. When one fails, those before it are undone.
///
/// # Errors
/// An option that we cannot serve, or the kernel's refusal: with the mount's type and source.
pub(crate) fn mount_all(mounts: &[Mount], root: &Path) -> Result<()> {
    if mounts.len() > MAX_MOUNTS {
        return Err(Error::InvalidArgument(format!(
            "{} mounts for one root file system: at most {MAX_MOUNTS} are made",
            mounts.len()
        )));
    }
    for (made, one) in mounts.iter().enumerate() {
        let context = || format!("mount {} {} on the root file system", one.type_, one.source);
        if let Err(error) = mount_one(one, root) {
            if made > 0 {
                unmount_all(root)?;
            }
            return Err(error.context(context()));
        }
    }
    Ok(())
}

/// Undoes all mounts on `root`. None is no error.
///
/// # Errors
/// The kernel's refusal.
pub(crate) fn unmount_all(root: &Path) -> Result<()> {
    for _ in 0..MAX_MOUNTS {
        let mut result = unmount(root, UnmountFlags::NOFOLLOW);
        if result == Err(Errno::BUSY) {
            // Something is mounted below, or is held open. It goes with its last user.
            result = unmount(root, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH);
        }
        match result {
            Ok(()) => {}
            // Not a mount point, or not there.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => {
                return Err(Error::io(format_args!("unmount {}", root.display()), error));
            }
        }
    }
    Err(Error::Other(format!(
        "unmount {}: more than {MAX_MOUNTS} mounts",
        root.display()
    )))
}

/// Where a mount goes: `root`, or a folder in it that containerd 2 names. The descriptor holds that folder, which an image may
/// have made a symbolic link.
fn target(one: &Mount, root: &Path) -> Result<(PathBuf, Option<OwnedFd>)> {
    if one.target.is_empty() {
        return Ok((root.to_path_buf(), None));
    }
    let folder = rootfs::open(root, Path::new(&one.target))?.ok_or_else(|| {
        Error::InvalidArgument(format!("the root file system has no {}", one.target))
    })?;
    let path = format!("/proc/self/fd/{}", folder.as_raw_fd());
    Ok((path.into(), Some(folder)))
}

fn mount_one(one: &Mount, root: &Path) -> Result<()> {
    let parsed = parse(&one.type_, &one.options)?;
    let failed = |error: Errno| Error::Other(explain(error));
    let (place, open) = target(one, root)?;
    let namespace = parsed.maps.namespace()?;
    if parsed.bind == Bind::No {
        let (folder, data) = shorten(&parsed.data);
        let data = CString::new(data.join(",")).map_err(|_| failed(Errno::INVAL))?;
        if data.count_bytes() > MAX_DATA {
            return Err(Error::InvalidArgument(format!(
                "its options take {} bytes, the kernel takes {MAX_DATA}: build the image with fewer layers",
                data.count_bytes()
            )));
        }
        let make = |place: &Path| {
            mount(
                one.source.as_str(),
                place,
                one.type_.as_str(),
                parsed.flags,
                data.as_c_str(),
            )
        };
        match &namespace {
            None => in_folder(folder.as_deref(), || make(&place))?.map_err(failed)?,
            Some(namespace) => {
                let lower = lower_folders(&one.type_, &parsed.data)?;
                let mounted = idmap::with_mapped(&lower, namespace.as_fd(), root, || {
                    if let Some(folder) = &folder {
                        rustix::process::chdir(folder)?;
                    }
                    make(root)
                })?;
                idmap::attach(mounted.as_fd(), &place).map_err(failed)?;
            }
        }
    } else if let Some(namespace) = &namespace {
        let source = Path::new(&one.source);
        let recursive = parsed.bind == Bind::Recursive;
        idmap::mapped(source, recursive, namespace.as_fd())
            .and_then(|tree| idmap::attach(tree.as_fd(), &place))
            .map_err(|error| idmap::refused(source, error))?;
    } else {
        let mut flags = MountFlags::BIND;
        if parsed.bind == Bind::Recursive {
            flags |= MountFlags::REC;
        }
        mount(one.source.as_str(), place.as_path(), "", flags, None).map_err(failed)?;
    }
    // Looked up again: the handle from before is of the folder below.
    drop(open);
    let (place, _open) = target(one, root)?;
    finish(&parsed, &place).map_err(|error| {
        // Undone here: the caller counts it as not made.
        let _ = unmount(place.as_path(), UnmountFlags::DETACH);
        failed(error)
    })
}

/// Does what takes a second call, to what is mounted at `place`.
fn finish(parsed: &Parsed, place: &Path) -> rustix::io::Result<()> {
    // The kernel looks at other flags of a bind mount only when it is mounted again.
    if parsed.bind != Bind::No && !parsed.flags.is_empty() {
        mount_remount(place, MountFlags::BIND | parsed.flags, "")?;
    }
    if !parsed.propagation.is_empty() {
        mount_change(place, parsed.propagation)?;
    }
    Ok(())
}

fn explain(error: Errno) -> String {
    let text = std::io::Error::from(error).to_string();
    match error {
        Errno::NODEV => format!("{text}: the kernel does not know this file system"),
        _ => text,
    }
}

fn parse(kind: &str, options: &[String]) -> Result<Parsed> {
    let mut parsed = Parsed {
        flags: MountFlags::empty(),
        propagation: MountPropagationFlags::empty(),
        bind: if kind == "bind" { Bind::One } else { Bind::No },
        data: Vec::new(),
        maps: Maps::default(),
    };
    for option in options.iter().flat_map(|one| split(one)) {
        if parsed.maps.take(option)? {
            continue;
        }
        if let Some((flag, on)) = flag(option) {
            parsed.flags.set(flag, on);
            continue;
        }
        if let Some(kind) = propagation(option) {
            parsed.propagation |= kind;
            continue;
        }
        match option {
            "" | "defaults" | "rw" | "auto" | "noauto" | "user" | "nouser" | "_netdev" => {}
            "bind" => parsed.bind = Bind::One,
            "rbind" => parsed.bind = Bind::Recursive,
            "loop" => return Err(unserved(option)),
            // For programs, not for the kernel.
            _ if option.starts_with("x-") || option.starts_with("X-") => {}
            _ => parsed.data.push(option.to_owned()),
        }
    }
    Ok(parsed)
}

/// The options in one text. That of a map has commas of its own.
fn split(options: &str) -> Box<dyn Iterator<Item = &str> + '_> {
    if options.starts_with("uidmap=") || options.starts_with("gidmap=") {
        Box::new(std::iter::once(options))
    } else {
        Box::new(options.split(','))
    }
}

/// The directories below an overlay, which are mapped one by one.
fn lower_folders<'d>(kind: &str, data: &'d [String]) -> Result<Vec<&'d str>> {
    let lower = data
        .iter()
        .find_map(|option| option.strip_prefix("lowerdir="));
    match lower {
        // A colon or a backslash in a name is written with a backslash before it.
        Some(lower) if kind == "overlay" && !lower.contains('\\') => Ok(lower.split(':').collect()),
        _ => Err(Error::Unimplemented(format!(
            "the IDs of a mount of type {kind} cannot be mapped: use the overlayfs snapshotter"
        ))),
    }
}

fn unserved(option: &str) -> Error {
    Error::Unimplemented(format!(
        "the mount option {option} is not served: use another snapshotter, such as overlayfs"
    ))
}

/// Options that are flags of the kernel's, and whether they set or clear it.
fn flag(option: &str) -> Option<(MountFlags, bool)> {
    Some(match option {
        "ro" => (MountFlags::RDONLY, true),
        "nosuid" => (MountFlags::NOSUID, true),
        "suid" => (MountFlags::NOSUID, false),
        "nodev" => (MountFlags::NODEV, true),
        "dev" => (MountFlags::NODEV, false),
        "noexec" => (MountFlags::NOEXEC, true),
        "exec" => (MountFlags::NOEXEC, false),
        "sync" => (MountFlags::SYNCHRONOUS, true),
        "async" => (MountFlags::SYNCHRONOUS, false),
        "dirsync" => (MountFlags::DIRSYNC, true),
        "noatime" => (MountFlags::NOATIME, true),
        "atime" => (MountFlags::NOATIME, false),
        "nodiratime" => (MountFlags::NODIRATIME, true),
        "diratime" => (MountFlags::NODIRATIME, false),
        "relatime" => (MountFlags::RELATIME, true),
        "norelatime" => (MountFlags::RELATIME, false),
        "strictatime" => (MountFlags::STRICTATIME, true),
        "nostrictatime" => (MountFlags::STRICTATIME, false),
        "lazytime" => (MountFlags::LAZYTIME, true),
        _ => return None,
    })
}

fn propagation(option: &str) -> Option<MountPropagationFlags> {
    let all = MountPropagationFlags::REC;
    Some(match option {
        "private" => MountPropagationFlags::PRIVATE,
        "rprivate" => MountPropagationFlags::PRIVATE | all,
        "shared" => MountPropagationFlags::SHARED,
        "rshared" => MountPropagationFlags::SHARED | all,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "rslave" => MountPropagationFlags::DOWNSTREAM | all,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        "runbindable" => MountPropagationFlags::UNBINDABLE | all,
        _ => return None,
    })
}

/// Options that would be too long for the kernel, with the lower folders of an overlay made relative to the folder that all
/// of them are in, and that folder. Shorter ones as they are.
fn shorten(data: &[String]) -> (Option<PathBuf>, Vec<String>) {
    let length: usize = data.iter().map(|option| option.len() + 1).sum();
    if length <= MAX_DATA {
        return (None, data.to_vec());
    }
    let lower = data
        .iter()
        .find_map(|option| option.strip_prefix("lowerdir="));
    let Some(common) = lower.and_then(common_folder) else {
        return (None, data.to_vec());
    };
    let prefix = format!("{}/", common.display());
    let data = data.iter().map(|option| {
        let Some(lower) = option.strip_prefix("lowerdir=") else {
            return option.clone();
        };
        let folders = lower.split(':');
        let short: Vec<_> = folders
            .map(|folder| folder.strip_prefix(&prefix).unwrap_or(folder))
            .collect();
        format!("lowerdir={}", short.join(":"))
    });
    (Some(common), data.collect())
}

/// The innermost folder that all of the absolute paths in a list with colons lie in; none if that is the root.
fn common_folder(list: &str) -> Option<PathBuf> {
    let mut folders = list.split(':').map(Path::new);
    let mut common = folders.next()?.parent()?.to_path_buf();
    for folder in folders {
        while !folder.starts_with(&common) || folder == common {
            common = common.parent()?.to_path_buf();
        }
    }
    // A colon or a backslash in a name is written with a backslash before it; such lists stay as they are.
    let plain = !list.contains('\\');
    (plain && common.is_absolute() && common.parent().is_some()).then_some(common)
}

/// Calls `mount` with `folder` as the working directory. That of all other threads stays.
fn in_folder<T: Send>(folder: Option<&Path>, mount: impl FnOnce() -> T + Send) -> Result<T> {
    let Some(folder) = folder else {
        return Ok(mount());
    };
    let work = || -> Result<T> {
        let failed = |error| Error::io(format_args!("change to {}", folder.display()), error);
        // SAFETY: the thread ends with this closure and shares no descriptors' table or other state that CLONE_FS is not about.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }.map_err(failed)?;
        rustix::process::chdir(folder).map_err(failed)?;
        Ok(mount())
    };
    thread::scope(|scope| {
        let working = within(scope, work)?;
        let ended = |_| Error::Other("the mounting thread ended".to_owned());
        working.join().map_err(ended)?
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
    fn an_overlays_options_are_data() {
        let parsed = parse(
            "overlay",
            &options("index=off workdir=/w upperdir=/u lowerdir=/a:/b ro"),
        )
        .unwrap();
        assert_eq!(parsed.flags, MountFlags::RDONLY);
        assert_eq!(parsed.bind, Bind::No);
        assert_eq!(
            parsed.data,
            ["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/a:/b"]
        );
    }

    #[test]
    fn a_bind_mounts_options_are_flags() {
        let parsed = parse("bind", &options("rbind,ro nosuid rslave rw x-hint")).unwrap();
        assert_eq!(parsed.bind, Bind::Recursive);
        assert_eq!(parsed.flags, MountFlags::RDONLY | MountFlags::NOSUID);
        assert_eq!(
            parsed.propagation,
            MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC
        );
        assert!(parsed.data.is_empty());
    }

    #[test]
    fn a_later_option_undoes_an_earlier_one() {
        let parsed = parse("ext4", &options("noexec nosuid exec")).unwrap();
        assert_eq!(parsed.flags, MountFlags::NOSUID);
    }

    #[test]
    fn what_is_not_served_is_refused_by_name() {
        let error = parse("erofs", &options("loop")).unwrap_err();
        assert!(matches!(&error, Error::Unimplemented(text) if text.contains("loop")));
    }

    #[test]
    fn lower_folders_become_relative_only_when_they_are_too_long() {
        let few = options("lowerdir=/s/1/fs:/s/2/fs");
        assert_eq!(shorten(&few), (None, few.clone()));

        let base = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots";
        let lower = |prefix: &str| {
            let folders: Vec<_> = (100..200).map(|n| format!("{prefix}{n}/fs")).collect();
            format!("lowerdir={}", folders.join(":"))
        };
        let many = vec![format!("upperdir={base}/99/fs"), lower(&format!("{base}/"))];
        let (folder, short) = shorten(&many);
        assert_eq!(folder.unwrap(), Path::new(base));
        assert_eq!(short, [many[0].clone(), lower("")]);
    }

    #[test]
    fn a_target_that_is_a_link_stays_in_the_root() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc", root.path().join("link")).unwrap();
        let one = Mount {
            target: "/link".to_owned(),
            ..Mount::default()
        };
        let (path, _open) = target(&one, root.path()).unwrap();
        assert_eq!(
            std::fs::canonicalize(path).unwrap(),
            root.path().canonicalize().unwrap().join("etc")
        );
    }

    #[test]
    fn a_target_within_the_root_gets_its_flags_and_leaves_nothing_when_it_fails() {
        use rustix::fs::{StatVfsMountFlags, statvfs};
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let [root, source] = ["root", "source"].map(|name| folder.path().join(name));
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

        // Two kinds of propagation at once are refused by the kernel, after the mount.
        let below = bind(&source, "/in", "bind,private,shared");
        assert!(mount_all(&[whole, below], &root).is_err());
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(&folder.path().display().to_string()));
    }

    #[test]
    fn an_overlay_with_more_layers_than_a_page_holds_is_mounted() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("l".repeat(200));
        let mut lower = Vec::new();
        for number in 0..60 {
            let layer = long.join(number.to_string());
            std::fs::create_dir_all(&layer).unwrap();
            std::fs::write(layer.join(format!("file{number}")), "").unwrap();
            lower.push(layer.display().to_string());
        }
        let root = folder.path().join("root");
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

    /// Whether this kernel and the file system of temporary files can map IDs; the tests of it are run where they can.
    fn can_map(folder: &Path) -> bool {
        let mut maps = Maps::default();
        maps.take("uidmap=0:1000:1").unwrap();
        maps.take("gidmap=0:1000:1").unwrap();
        rustix::process::geteuid().is_root()
            && maps_ids()
            && idmap::mapped(folder, false, maps.namespace().unwrap().unwrap().as_fd()).is_ok()
    }

    fn owner(path: &Path) -> (u32, u32) {
        use std::os::unix::fs::MetadataExt;
        let data = std::fs::metadata(path).unwrap();
        (data.uid(), data.gid())
    }

    #[test]
    fn the_layers_of_an_overlay_have_the_owners_of_the_container() {
        let folder = tempfile::tempdir().unwrap();
        if !can_map(folder.path()) {
            return;
        }
        let at = |name: &str| folder.path().join(name);
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
        // IDs without a place in the map are nobody's.
        assert_eq!(
            seen,
            [(100_000, 100_000), (100_007, 100_007), (65534, 65534)]
        );
        assert!(at("up/new").exists());
        let folder_of_all = folder.path().display().to_string();
        assert_eq!(
            table.matches(&format!(" {folder_of_all}/")).count(),
            1,
            "{table}"
        );
        assert_eq!(owner(&at("low2/in/user")), (7, 7));

        // What fails leaves nothing.
        let mut broken = overlay;
        broken.options[4] = format!("lowerdir={}:{}", text("low1"), text("nowhere"));
        let error = mount_all(&[broken], &root).unwrap_err().to_string();
        assert!(error.contains("nowhere"), "{error}");
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(&folder_of_all), "{table}");
    }

    #[test]
    fn a_bind_mount_has_the_owners_of_the_container_and_its_flags() {
        use rustix::fs::{StatVfsMountFlags, statvfs};
        let folder = tempfile::tempdir().unwrap();
        if !can_map(folder.path()) {
            return;
        }
        let [root, source] = ["root", "source"].map(|name| folder.path().join(name));
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
