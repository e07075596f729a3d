//! Opens files beneath a directory, whatever their path and symbolic links say.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::{Errno, Result};

/// How often a path is resolved that contains `..`: a rename or a mount anywhere on the machine
/// disturbs it.
const MAX_TRIES: usize = 128;

/// Opens what `path` names beneath `directory`. Blocks the thread.
pub(super) fn open_beneath(
    directory: impl AsFd,
    path: &str,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let open = || openat2(&directory, path, flags | OFlags::CLOEXEC, mode, beneath);
    for _ in 1..MAX_TRIES {
        match open() {
            Err(Errno::AGAIN | Errno::INTR) => std::thread::yield_now(),
            opened => return opened,
        }
    }
    open()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn opens_parents_while_files_are_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("in")).unwrap();
        fs::write(at("file"), "text").unwrap();
        fs::write(at("a"), "").unwrap();
        let directory = File::open(dir.path()).unwrap();
        std::thread::scope(|scope| {
            let renaming = scope.spawn(|| {
                for _ in 0..20_000 {
                    fs::rename(at("a"), at("b")).unwrap();
                    fs::rename(at("b"), at("a")).unwrap();
                }
            });
            let path = "in/../".repeat(20) + "file";
            while !renaming.is_finished() {
                open_beneath(&directory, &path, OFlags::RDONLY, Mode::empty()).unwrap();
            }
        });
    }
}
