//! The process that reads an image's folder may write to the store and to the links, and nowhere else.
//!
//! It has to be root to read all files of an image, and root's own files are all of the system's: whoever takes it over could write
//! them. Source: `landlock(7)`, `linux/landlock.h`. Kernels that cannot do it do without.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

use rustix::fs::{Mode, OFlags};

/// What files and folders can be changed by, as the kernel numbers it.
const WRITE_FILE: u64 = 1 << 1;
const REMOVE_FILE: u64 = 1 << 5;
const MAKE_REG: u64 = 1 << 8;
/// All that removes and makes, and links or renames from one folder to another.
const REMOVE_AND_MAKE: u64 = 0b11_1111_1111 << 4;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;

/// Connections by TCP, and places for them.
const TCP: u64 = 0b11;

const VERSION: u32 = 1 << 0;
const PATH_BENEATH: u32 = 1;

/// The first version of the kernel's that lets links be made from folder to folder, and those that know more.
const LINKS: libc::c_long = 2;
const TRUNCATES: libc::c_long = 3;
const NETWORK: libc::c_long = 4;
const DEVICES: libc::c_long = 5;

/// `struct landlock_ruleset_attr`, as far as we fill it.
#[repr(C)]
struct Ruleset {
    files: u64,
    network: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct Beneath {
    allowed: u64,
    folder: i32,
}

/// From now on, for this thread and all that it makes.
pub(super) fn write_only_to(folders: &[&Path]) -> io::Result<()> {
    let version = version();
    if version < LINKS {
        return Ok(());
    }
    let since = |first: libc::c_long, right: u64| if version >= first { right } else { 0 };
    let truncate = since(TRUNCATES, TRUNCATE);
    let rules = Ruleset {
        files: WRITE_FILE | REMOVE_AND_MAKE | truncate | since(DEVICES, IOCTL_DEV),
        network: TCP,
    };
    let size = match version {
        NETWORK.. => size_of::<Ruleset>(),
        // Without what such a kernel does not know.
        _ => size_of::<u64>(),
    };
    // SAFETY: `rules` has at least `size` bytes, and the kernel only reads them.
    let made = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const rules,
            size,
            0u32,
        )
    };
    let made = i32::try_from(checked(made)?).map_err(io::Error::other)?;
    // SAFETY: a new descriptor, that nobody else has.
    let rules = unsafe { OwnedFd::from_raw_fd(made) };
    for folder in folders {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(*folder, flags, Mode::empty())?;
        let rule = Beneath {
            allowed: WRITE_FILE | REMOVE_FILE | MAKE_REG | REFER | truncate,
            folder: handle.as_raw_fd(),
        };
        // SAFETY: `rule` is as this kind of rule is, and the kernel only reads it.
        checked(unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                rules.as_raw_fd(),
                PATH_BENEATH,
                &raw const rule,
                0u32,
            )
        })?;
    }
    // SAFETY: no memory is read or written.
    checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0u32) })
        .map(drop)
}

/// What the kernel can do; negative where that is nothing.
fn version() -> libc::c_long {
    // SAFETY: this asks for the version, and reads and writes no memory.
    unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<Ruleset>(),
            0usize,
            VERSION,
        )
    }
}

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    #[test]
    fn only_the_store_and_the_links_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["store", "links", "else"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("old"), "old").unwrap();
        }
        let version = version();
        // In a thread of its own, which ends with it.
        std::thread::scope(|scope| {
            let confined = scope.spawn(|| {
                rustix::thread::set_no_new_privs(true).unwrap();
                write_only_to(&[&at("store"), &at("links")]).unwrap();
                fs::write(at("store/new.part"), "new").unwrap();
                fs::rename(at("store/new.part"), at("store/new")).unwrap();
                fs::hard_link(at("store/new"), at("links/new")).unwrap();
                fs::copy(at("store/new"), at("links/copy")).unwrap();
                fs::remove_file(at("store/old")).unwrap();
                assert_eq!(fs::read(at("else/old")).unwrap(), b"old");
                if version >= LINKS {
                    assert!(fs::write(at("else/new"), "new").is_err());
                    assert!(fs::write(at("else/old"), "new").is_err());
                    assert!(fs::remove_file(at("else/old")).is_err());
                    assert!(fs::hard_link(at("store/new"), at("else/new")).is_err());
                }
            });
            confined.join().unwrap();
        });
    }
}
