//! The directory where the shim keeps what outlives it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;

use crate::error::{Error, PathContext, Result};

/// The directory, unless one of [`VARIABLES`] names another.
const DEFAULT: &str = "/var/lib/wws";

/// The variables of containerd's environment that name the directory; empty for no code cache. The
/// second is the former name of the first.
const VARIABLES: [&str; 2] = ["WWS_CODE_CACHE", "WWS_STORE"];

/// Returns the directory of the code cache; `None` for no code cache.
pub(crate) fn code_cache() -> Option<PathBuf> {
    code_cache_by(|name| std::env::var_os(name))
}

fn code_cache_by(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let named = VARIABLES.into_iter().find_map(variable);
    let directory = named.map_or_else(|| PathBuf::from(DEFAULT), PathBuf::from);
    directory.is_absolute().then_some(directory)
}

/// Returns the directory for everything but compiled code.
pub(crate) fn directory() -> PathBuf {
    code_cache().unwrap_or_else(|| PathBuf::from(DEFAULT))
}

/// Rejects a directory whose files cannot be executed, wherever they are mounted.
///
/// # Errors
/// The file system is mounted `noexec`, or cannot be looked at.
pub(crate) fn require_executable(directory: &Path) -> Result<()> {
    let mount = rustix::fs::statvfs(directory).with_path("look at", directory)?;
    if mount.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        let directory = directory.display();
        return Err(Error::unknown(format!("{directory} is mounted noexec")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_names_of_the_variable() {
        let with = |set: &[(&str, &str)]| {
            code_cache_by(|name| {
                let (_, value) = set.iter().find(|(set, _)| *set == name)?;
                Some((*value).into())
            })
        };
        assert_eq!(with(&[("WWS_CODE_CACHE", "/a")]), Some("/a".into()));
        assert_eq!(with(&[("WWS_STORE", "/b")]), Some("/b".into()));
        let both = [("WWS_STORE", "/b"), ("WWS_CODE_CACHE", "")];
        assert_eq!(with(&both), None);
        assert_eq!(with(&[("WWS_CODE_CACHE", "relative")]), None);
        assert_eq!(with(&[]), Some(DEFAULT.into()));
    }
}
