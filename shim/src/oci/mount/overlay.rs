//! Options of overlays: the list of lower directories.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The most bytes that mount(2) takes as data: a page, without the final NUL.
pub(super) const MAX_DATA: usize = 4095;

/// Precedes the list of lower directories.
const LOWER: &str = "lowerdir=";

fn lower_list(data: &[String]) -> Option<&str> {
    data.iter().find_map(|option| option.strip_prefix(LOWER))
}

/// Returns the lower directories of an overlay, which are mapped one by one.
///
/// # Errors
/// It is no overlay, or a name is escaped.
pub(super) fn lower_directories<'d>(kind: &str, data: &'d [String]) -> Result<Vec<&'d str>> {
    match lower_list(data) {
        // A colon or a backslash in a name is escaped by a backslash.
        Some(lower) if kind == "overlay" && !lower.contains('\\') => Ok(lower.split(':').collect()),
        _ => Err(Error::unimplemented(format!(
            "the IDs of a mount of type {kind} cannot be mapped: use the overlayfs snapshotter"
        ))),
    }
}

/// Shortens options that are too long for the kernel: returns the directory that all lower
/// directories of an overlay are in, and the options with paths relative to that directory. Options
/// that are short enough are returned unchanged.
pub(super) fn shorten(data: &[String]) -> (Option<PathBuf>, Vec<String>) {
    let length: usize = data.iter().map(|option| option.len() + 1).sum();
    if length <= MAX_DATA {
        return (None, data.to_vec());
    }
    let Some(common) = lower_list(data).and_then(common_directory) else {
        return (None, data.to_vec());
    };
    let prefix = format!("{}/", common.display());
    let data = data.iter().map(|option| {
        let Some(lower) = option.strip_prefix(LOWER) else {
            return option.clone();
        };
        let directories = lower.split(':');
        let short: Vec<_> = directories
            .map(|directory| {
                let short = directory.strip_prefix(&prefix);
                // After two slashes, the rest is an absolute path.
                let relative = short.filter(|short| !short.starts_with('/'));
                relative.unwrap_or(directory)
            })
            .collect();
        format!("{LOWER}{}", short.join(":"))
    });
    (Some(common), data.collect())
}

/// Returns the innermost directory that contains all absolute paths of a list with colons; `None`
/// if that is the root.
fn common_directory(list: &str) -> Option<PathBuf> {
    let mut directories = list.split(':').map(Path::new);
    let mut common = directories.next()?.parent()?.to_path_buf();
    for directory in directories {
        while !directory.starts_with(&common) || directory == common {
            common = common.parent()?.to_path_buf();
        }
    }
    // A colon or a backslash in a name is escaped by a backslash: such lists are not shortened.
    let plain = !list.contains('\\');
    (plain && common.is_absolute() && common.parent().is_some()).then_some(common)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn options(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn makes_lower_directories_relative_only_when_they_are_too_long() {
        let few = options("lowerdir=/s/1/fs:/s/2/fs");
        assert_eq!(shorten(&few), (None, few.clone()));

        let base = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots";
        let lower = |prefix: &str| {
            let directories: Vec<_> = (100..200).map(|n| format!("{prefix}{n}/fs")).collect();
            format!("lowerdir={}", directories.join(":"))
        };
        let many = vec![format!("upperdir={base}/99/fs"), lower(&format!("{base}/"))];
        let (directory, short) = shorten(&many);
        assert_eq!(directory.unwrap(), Path::new(base));
        assert_eq!(short, [many[0].clone(), lower("")]);
    }

    #[test]
    fn keeps_a_lower_directory_with_two_slashes() {
        let long = "l".repeat(MAX_DATA);
        let data = options(&format!("lowerdir=/s//{long}:/s/2"));
        let (directory, short) = shorten(&data);
        assert_eq!(directory.unwrap(), Path::new("/s"));
        assert_eq!(short, [format!("lowerdir=/s//{long}:2")]);
    }
}
