//! Language runtimes of a project: interpreters that it installs.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::{beneath::Root, hex};

/// A language runtime that `.wws.toml` lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// The repository that it comes from.
    pub repository: String,
    /// Its name, as `python`.
    pub name: String,
    /// Its version, as `3.11.1+20230217-1`.
    pub version: String,
    /// Other names of the version, as `latest`.
    pub tags: Vec<String>,
    /// Extensions of the files that it runs, without the dot.
    pub extensions: Vec<String>,
    /// All arguments of the interpreter.
    pub args: Vec<String>,
    /// The environment of the interpreter.
    pub envs: BTreeMap<String, String>,
    /// The interpreter.
    pub binary: File,
    /// A library that is placed next to the source.
    pub polyfill: Option<File>,
    /// A text around the source, which replaces its `{source}`.
    pub wrapper: Option<File>,
    /// An example of a worker, which is not run.
    pub template: Option<File>,
    /// The language of the server that drives the interpreter; `None` for an interpreter that is a
    /// command and reads `/src`.
    pub kit: Option<String>,
    /// Its status in the repository.
    pub status: Status,
    /// Why it cannot be used; `None` if it is installed.
    pub unusable: Option<String>,
}

/// The status of a runtime in its repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// It may be used.
    Active,
    /// It must not be installed any more.
    Yanked,
    /// It should be replaced.
    Deprecated,
    /// The repository does not say.
    #[default]
    Unknown,
}

impl Status {
    pub(crate) const ALL: [Self; 4] = [Self::Active, Self::Yanked, Self::Deprecated, Self::Unknown];

    /// Its name in `.wws.toml`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Yanked => "yanked",
            Self::Deprecated => "deprecated",
            Self::Unknown => "unknown",
        }
    }
}

/// A file of a runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Where it was fetched.
    pub url: Option<String>,
    /// Its name in [`Runtime::directory`].
    pub filename: String,
    /// SHA-256 of its content, in lower-case hex.
    pub sha256: Option<String>,
}

impl File {
    /// The SHA-256 that its content must have.
    #[must_use]
    pub fn digest(&self) -> Option<[u8; 32]> {
        hex::decode(self.sha256.as_ref()?)
    }
}

impl Runtime {
    /// The directory of its files, relative to the project's root.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        Path::new(".wws/runtimes")
            .join(&self.repository)
            .join(&self.name)
            .join(&self.version)
    }

    /// Path of one of its files, relative to the project's root.
    #[must_use]
    pub fn file(&self, file: &File) -> PathBuf {
        self.directory().join(&file.filename)
    }

    /// What is wrong with its files. The SHA-256 of those in `hashed` is known.
    pub(crate) fn check(&self, root: &Root, hashed: &BTreeMap<PathBuf, String>) -> Option<String> {
        let files = std::iter::once(&self.binary)
            .chain(&self.polyfill)
            .chain(&self.wrapper);
        files.into_iter().find_map(|file| {
            let path = self.file(file);
            let name = path.display();
            let found = match hashed.get(&path) {
                Some(known) => Ok(known.clone()),
                None => sha256(root, &path),
            };
            match found {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Some(format!("{name} is missing"))
                }
                Err(error) => Some(format!("{name}: {error}")),
                Ok(found) => match &file.sha256 {
                    Some(wanted) if *wanted != found => Some(format!(
                        "{name} is damaged: its sha256 is {found}, expected {wanted}"
                    )),
                    _ => None,
                },
            }
        })
    }
}

fn sha256(root: &Root, path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut root.file(path)?, &mut hash)?;
    Ok(hex::encode(&hash.finalize()))
}
