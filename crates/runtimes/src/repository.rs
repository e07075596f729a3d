//! An index of runtimes that can be installed.

use std::path::{Path, PathBuf};

use url::Url;
use wws_project::{Runtime, Status};

use crate::{
    error::{Error, FailureKind},
    fetch::Fetch,
    source::Source,
};

/// The name of the built-in repository.
const BUILT_IN: &str = "wws";

/// Its index.
const BUILT_IN_INDEX: &str = include_str!("built-in.toml");

/// The name of an index in a directory.
const INDEX: &str = "index.toml";

/// Runtimes that can be installed.
#[derive(Debug)]
pub struct Repository {
    /// Its name, and that of its directory in `.wws/runtimes`.
    pub name: String,
    /// Where its index is; `None` for the built-in repository.
    pub url: Option<String>,
    /// The runtimes in the order of the index. Locations of files are absolute.
    pub runtimes: Vec<Runtime>,
}

impl Repository {
    /// The built-in repository: interpreters from npm packages.
    ///
    /// # Errors
    /// None in practice: a test reads the index.
    pub fn built_in() -> Result<Self, Error> {
        let file = Path::new("built-in.toml");
        Ok(Self {
            name: BUILT_IN.into(),
            url: None,
            runtimes: wws_project::repository_index(BUILT_IN, file, BUILT_IN_INDEX.into())?,
        })
    }

    /// Opens the repository at a URL of an index, or in a directory with `index.toml`. Without
    /// `name`, it is named after its host or directory. Relative locations of files are relative to
    /// the index.
    ///
    /// # Errors
    /// The index cannot be fetched, or has problems.
    pub fn open(location: &str, name: Option<&str>, fetch: &Fetch<'_>) -> Result<Self, Error> {
        let here = std::env::current_dir().map_err(|error| {
            Error::new(FailureKind::File, "no current directory").caused_by(error)
        })?;
        let base = match Source::parse(location, &here)? {
            Source::Http(url) => Base::Url(url),
            Source::File(path) if path.is_dir() => Base::Directory(canonical(&path)?, INDEX.into()),
            Source::File(path) => {
                let path = canonical(&path)?;
                let name = path.file_name().unwrap_or_default().to_owned();
                let directory = path.parent().unwrap_or(Path::new("/"));
                Base::Directory(directory.to_owned(), name.into())
            }
            Source::Npm(_) => {
                return Err(Error::new(
                    FailureKind::Input,
                    "a repository is a directory or a URL, not a package",
                ));
            }
        };
        let name = match name {
            Some(name) => name.to_owned(),
            None => base.name(),
        };
        check_name(&name)?;
        let index = base.index();
        let file = PathBuf::from(index.to_string());
        let mut runtimes = wws_project::repository_index(&name, &file, fetch.text(&index)?)?;
        for runtime in &mut runtimes {
            let files = std::iter::once(&mut runtime.binary)
                .chain(&mut runtime.polyfill)
                .chain(&mut runtime.wrapper)
                .chain(&mut runtime.template);
            for file in files {
                if let Some(url) = &mut file.url {
                    *url = base.absolute(url)?;
                }
            }
        }
        Ok(Self {
            name,
            url: Some(base.url()),
            runtimes,
        })
    }

    /// The runtime with a name and a version or tag.
    ///
    /// # Errors
    /// There is no such runtime, or it was withdrawn.
    pub fn find(&self, name: &str, version: &str) -> Result<&Runtime, Error> {
        let of_name = || self.runtimes.iter().filter(|runtime| runtime.name == name);
        let is_tagged = |runtime: &&Runtime| {
            runtime.status != Status::Yanked && runtime.tags.iter().any(|tag| tag == version)
        };
        let found = of_name()
            .find(|runtime| runtime.version == version)
            .or_else(|| of_name().find(is_tagged));
        match found {
            Some(runtime) if runtime.status == Status::Yanked => Err(Error::new(
                FailureKind::NotFound,
                format!(
                    "the repository {} has withdrawn {name} {version} (`status = \"yanked\"`)",
                    self.name
                ),
            )),
            Some(runtime) => Ok(runtime),
            None => {
                let mut known: Vec<String> = of_name()
                    .map(|runtime| format!("{name} {}", runtime.version))
                    .collect();
                if known.is_empty() {
                    known.extend(self.runtimes.iter().map(|runtime| runtime.name.clone()));
                    known.dedup();
                }
                Err(Error::new(
                    FailureKind::NotFound,
                    format!(
                        "the repository {} has no {name} {version}; it has {}",
                        self.name,
                        known.join(", ")
                    ),
                ))
            }
        }
    }
}

/// Where an index is.
enum Base {
    Url(Url),
    /// A directory, and the name of the index in it.
    Directory(PathBuf, PathBuf),
}

impl Base {
    fn index(&self) -> Source {
        match self {
            Self::Url(url) => Source::Http(url.clone()),
            Self::Directory(directory, file) => Source::File(directory.join(file)),
        }
    }

    fn url(&self) -> String {
        match self {
            Self::Url(url) => url.to_string(),
            Self::Directory(directory, file) => directory.join(file).display().to_string(),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Url(url) => url.host_str().unwrap_or_default().to_owned(),
            Self::Directory(directory, _) => directory
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
        }
    }

    fn absolute(&self, url: &str) -> Result<String, Error> {
        match self {
            Self::Directory(directory, _) => match Source::parse(url, directory)? {
                Source::File(path) => Ok(path.display().to_string()),
                Source::Npm(_) | Source::Http(_) => Ok(url.to_owned()),
            },
            Self::Url(_) if url.starts_with("npm:") => Ok(url.to_owned()),
            // An index at a URL cannot name files of this machine.
            Self::Url(base) => base
                .join(url)
                .ok()
                .filter(|url| matches!(url.scheme(), "https" | "http"))
                .map(String::from)
                .ok_or_else(|| {
                    Error::new(
                        FailureKind::Input,
                        format!("{base}: `{url}` is no place that it can name"),
                    )
                }),
        }
    }
}

fn canonical(path: &Path) -> Result<PathBuf, Error> {
    path.canonicalize()
        .map_err(|error| Error::new(FailureKind::File, path.display().to_string()).caused_by(error))
}

/// The name of a repository becomes that of a directory.
fn check_name(name: &str) -> Result<(), Error> {
    let good = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0']);
    if good {
        Ok(())
    } else {
        Err(Error::new(
            FailureKind::Input,
            format!(
                "`{name}` is not a name for a repository, whose runtimes are in a directory with \
                 that name: set another one with --repo-name"
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_built_in_index_is_good() {
        let repository = Repository::built_in().unwrap();
        for runtime in &repository.runtimes {
            let url = runtime.binary.url.as_deref().unwrap();
            let source = Source::parse(url, Path::new("/")).unwrap();
            assert!(matches!(source, Source::Npm(_)), "{url}");
            assert!(runtime.kit.is_some() && runtime.binary.sha256.is_some());
        }
        let version = |name, tag| repository.find(name, tag).unwrap().version.clone();
        assert_eq!(version("python", "latest"), "3.12.0");
        assert_eq!(version("ruby", "latest"), "3.4.1");
        assert_eq!(version("ruby", "3.3"), "3.3.3");
        assert_eq!(version("ruby", "3.2.4"), "3.2.4");
        let error = |name, tag| repository.find(name, tag).unwrap_err().to_string();
        assert!(error("ruby", "2.7").contains("it has ruby 3.4.1, ruby 4.0.0"));
        assert!(error("perl", "latest").contains("it has python, ruby"));
    }
}
