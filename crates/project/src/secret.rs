//! Values that are read from files: `file:/run/secrets/token`.
//!
//! Docker and Kubernetes mount secrets as files. In a container any file may be named: all of them
//! are the container's. On a developer's machine the files of the project and of the directories
//! for secrets may be: a project that somebody else wrote must not read other files of its user.

use std::{
    io,
    path::{Component, Path},
};

use crate::beneath::Root;

/// The maximum size of a secret, in bytes.
const MAX: u64 = 64 << 10;

/// Directories for secrets, where Docker and systemd mount them.
const DIRECTORIES: [&str; 2] = ["/run/secrets", "/run/credentials"];

/// Which files may be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SecretFiles<'p> {
    /// None: they are not those of the server. Values are empty.
    Unread,
    /// Those of the project in this directory.
    InProject(&'p Path),
    /// Those of the directories for secrets, and of the project in this directory.
    OfProject(&'p Path),
    /// All.
    OfContainer,
}

/// Why a value cannot be read from a file. No message shows what is in the file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    #[error(
        "the file {0} is not one of the project, which may read no other files of this machine \
         (`wws run --allow-secrets` lets an image read {dirs})",
        dirs = DIRECTORIES.join(" and ")
    )]
    OutsideProject(String),
    #[error(
        "the file {0} is neither in the project nor in {dirs}",
        dirs = DIRECTORIES.join(" or ")
    )]
    OutsideDirectories(String),
    #[error("there is no file {0}")]
    Missing(String),
    #[error("cannot read {path}: {source}")]
    Unreadable {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("the file {0} is not UTF-8")]
    NotUtf8(String),
    #[error("the file {0} has a NUL character")]
    HasNul(String),
}

/// The path in a value, if the value names a file.
pub(crate) fn named(value: &str) -> Option<&Path> {
    let path = value.strip_prefix("file:")?;
    path.starts_with('/').then(|| Path::new(path))
}

impl SecretFiles<'_> {
    /// Reads a file without the line break at its end.
    pub(crate) fn read(self, path: &Path) -> Result<String, SecretError> {
        let shown = || path.display().to_string();
        match self {
            Self::Unread => return Ok(String::new()),
            Self::OfContainer => {}
            Self::InProject(root) => {
                // Links are resolved beneath the project, and so is `..`.
                if !path.starts_with(root) {
                    return Err(SecretError::OutsideProject(shown()));
                }
            }
            Self::OfProject(root) => {
                let mut directories = DIRECTORIES.iter().map(Path::new).chain([root]);
                let climbs = path.components().any(|part| part == Component::ParentDir);
                if climbs || !directories.any(|directory| path.starts_with(directory)) {
                    return Err(SecretError::OutsideDirectories(shown()));
                }
            }
        }
        let bytes = match self {
            // A link must not lead out of the project.
            Self::OfProject(root) | Self::InProject(root) if path.starts_with(root) => {
                Root::open(root)
                    .and_then(|opened| opened.read(path.strip_prefix(root).unwrap_or(path), MAX))
            }
            _ => Root::open(Path::new("/"))
                .and_then(|opened| opened.read(path.strip_prefix("/").unwrap_or(path), MAX)),
        };
        let bytes = bytes.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => SecretError::Missing(shown()),
            _ => SecretError::Unreadable {
                path: shown(),
                source: error,
            },
        })?;
        let mut text = String::from_utf8(bytes).map_err(|_| SecretError::NotUtf8(shown()))?;
        if text.contains('\0') {
            return Err(SecretError::HasNul(shown()));
        }
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    #[test]
    fn only_an_absolute_path_names_a_file() {
        assert_eq!(
            named("file:/run/secrets/a"),
            Some(Path::new("/run/secrets/a"))
        );
        for text in ["file:./dev.db", "file:", "/run/secrets/a", "File:/a", ""] {
            assert_eq!(named(text), None, "{text}");
        }
    }

    #[test]
    fn reads_text_without_its_last_line_break() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        for (content, expected) in [
            ("s3cret", "s3cret"),
            ("s3cret\n", "s3cret"),
            ("s3cret\r\n", "s3cret"),
            ("two\nlines\n\n", "two\nlines\n"),
            (" spaces ", " spaces "),
            ("", ""),
        ] {
            fs::write(&file, content).unwrap();
            for files in [
                SecretFiles::OfContainer,
                SecretFiles::OfProject(directory.path()),
            ] {
                assert_eq!(files.read(&file).unwrap(), expected);
            }
        }
        assert_eq!(SecretFiles::Unread.read(Path::new("/none")).unwrap(), "");
    }

    #[test]
    fn errors_name_the_file_and_not_its_content() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("binary"), b"s3cret\xff").unwrap();
        fs::write(at("nul"), "s3cret\0").unwrap();
        fs::write(at("large"), "s3cret".repeat(20_000)).unwrap();
        fs::create_dir(at("directory")).unwrap();
        for (name, expected) in [
            ("binary", "is not UTF-8"),
            ("nul", "has a NUL character"),
            ("large", "larger than 65536 bytes"),
            ("directory", "not a regular file"),
            ("missing", "there is no file"),
        ] {
            let error = SecretFiles::OfContainer
                .read(&at(name))
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected) && error.contains(name), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn project_on_a_machine_reads_no_files_outside() {
        let (project, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let secret = other.path().join("key");
        fs::write(&secret, "private").unwrap();
        std::os::unix::fs::symlink(&secret, project.path().join("link")).unwrap();
        let files = SecretFiles::OfProject(project.path());
        let name = other.path().file_name().unwrap();
        for path in [
            secret.clone(),
            project.path().join("..").join(name).join("key"),
            "/run/secrets/../../etc/hostname".into(),
            project.path().join("link"),
        ] {
            let error = files.read(&path).unwrap_err().to_string();
            assert!(!error.contains("private"), "{error}");
        }
        assert_eq!(SecretFiles::OfContainer.read(&secret).unwrap(), "private");
    }

    #[test]
    fn untrusted_project_reads_its_own_files_only() {
        let project = tempfile::tempdir().unwrap();
        let at = |name: &str| project.path().join(name);
        fs::write(at("own"), "own").unwrap();
        std::os::unix::fs::symlink("/etc/hostname", at("link")).unwrap();
        let files = SecretFiles::InProject(project.path());
        assert_eq!(files.read(&at("own")).unwrap(), "own");
        for path in [
            "/run/secrets/token".into(),
            "/run/credentials/token".into(),
            "/etc/hostname".into(),
            at("link"),
            at("../../etc/hostname"),
        ] {
            assert!(files.read(&path).is_err(), "{}", path.display());
        }
        let error = files
            .read(Path::new("/run/secrets/token"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("--allow-secrets"), "{error}");
    }
}
