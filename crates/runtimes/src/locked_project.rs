//! The directory of a project, into which runtimes are installed.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, openat, renameat, unlinkat};
use sha2::{Digest, Sha256};
use wws_project::{Runtime, beneath::Root, hex};

use crate::{
    edit,
    error::{Error, FailureKind},
    fetch::Fetch,
    repository::Repository,
    source::Source,
};

/// The file that lists runtimes.
const CONFIG: &str = ".wws.toml";

/// The directory of a project, locked as long as this exists.
#[derive(Debug)]
pub struct LockedProject {
    path: PathBuf,
    root: Root,
    _lock: OwnedFd,
}

/// The result of an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstallOutcome {
    /// The files were fetched.
    Now,
    /// The files existed and were intact.
    Before,
}

impl LockedProject {
    /// Opens a project. Waits while another process installs something into it.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |error: io::Error| {
            Error::new(FailureKind::File, path.display().to_string()).caused_by(error)
        };
        let path = path.canonicalize().map_err(failed)?;
        let lock = rustix::fs::open(
            &path,
            OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|error| failed(error.into()))?;
        // Some network file systems cannot lock directories; then nothing is locked.
        let _ = flock(&lock, FlockOperation::LockExclusive);
        Ok(Self {
            root: Root::open(&path).map_err(failed)?,
            path,
            _lock: lock,
        })
    }

    /// The runtimes that `.wws.toml` lists, and whether they are installed.
    ///
    /// # Errors
    /// `.wws.toml` is invalid.
    pub fn runtimes(&self) -> Result<Vec<Runtime>, Error> {
        Ok(wws_project::runtimes(&self.path)?)
    }

    /// Installs a runtime that `.wws.toml` lists. Intact files are kept.
    ///
    /// # Errors
    /// A file cannot be fetched, has another checksum or cannot be written. Then it does not exist.
    pub fn install(&self, runtime: &Runtime, fetch: &Fetch<'_>) -> Result<InstallOutcome, Error> {
        let (name, version) = (&runtime.name, &runtime.version);
        self.install_files(runtime, fetch)
            .map_err(|error| error.of(format!("{name} {version}")))
    }

    /// Installs a runtime of a repository, and lists it in `.wws.toml`.
    ///
    /// # Errors
    /// As for [`Self::install`]; or `.wws.toml` cannot be read, edited or written.
    pub fn add(
        &self,
        repository: &Repository,
        runtime: &Runtime,
        fetch: &Fetch<'_>,
    ) -> Result<InstallOutcome, Error> {
        let listed = self.runtimes()?;
        let same = listed.iter().find(|other| is_same(other, runtime));
        let is_listed = same.is_some_and(|same| same.binary.sha256 == runtime.binary.sha256);
        let mut text = self.text()?;
        if same.is_some() && !is_listed {
            text = edit::remove(&text, runtime)?;
        }
        if !is_listed {
            let runtime = self.with_near_paths(runtime);
            text = edit::add(&text, repository.url.as_deref(), &runtime)?;
        }
        let installed = self.install(runtime, fetch)?;
        if !is_listed {
            self.write(&text)?;
        }
        Ok(installed)
    }

    /// Removes a runtime: its files, and its entry in `.wws.toml`.
    ///
    /// # Errors
    /// `.wws.toml` cannot be read, edited or written, or the files cannot be removed.
    pub fn remove(&self, runtime: &Runtime) -> Result<(), Error> {
        let text = edit::remove(&self.text()?, runtime)?;
        let directory = runtime.directory();
        let failed = |error: io::Error| {
            Error::new(FailureKind::File, directory.display().to_string()).caused_by(error)
        };
        match self.root.directory(&directory) {
            Ok(_) => fs::remove_dir_all(self.path.join(&directory)).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        for above in directory.ancestors().skip(1).take(4) {
            // It is not empty, or it belongs to the user.
            if above.as_os_str().is_empty() || fs::remove_dir(self.path.join(above)).is_err() {
                break;
            }
        }
        self.write(&text)
    }

    fn install_files(&self, runtime: &Runtime, fetch: &Fetch<'_>) -> Result<InstallOutcome, Error> {
        let files = std::iter::once(&runtime.binary)
            .chain(&runtime.polyfill)
            .chain(&runtime.wrapper)
            .chain(&runtime.template);
        let mut installed = InstallOutcome::Before;
        for file in files {
            let name = &file.filename;
            let Some(wanted) = &file.sha256 else {
                return Err(Error::new(
                    FailureKind::Input,
                    format!("{name} has no `checksum`: without one nothing is installed"),
                ));
            };
            let path = runtime.file(file);
            let there = self.root.file(&path).and_then(|mut file| {
                let mut hash = Sha256::new();
                io::copy(&mut file, &mut hash)?;
                Ok(hex::encode(&hash.finalize()))
            });
            if there.is_ok_and(|found| found == *wanted) {
                continue;
            }
            let Some(url) = &file.url else {
                return Err(Error::new(
                    FailureKind::NotFound,
                    format!("{name} has no `url`: put it at {} yourself", path.display()),
                ));
            };
            let source = Source::parse(url, &self.path)?;
            let bytes = fetch.file(&source)?;
            let found = hex::encode(&Sha256::digest(&bytes));
            if found != *wanted {
                return Err(Error::new(
                    FailureKind::Damaged,
                    format!(
                        "{name} of {source} is damaged, or not the one that was meant: its sha256 \
                         is {found}, expected {wanted}"
                    ),
                ));
            }
            self.place(&path, &bytes).map_err(|error| {
                Error::new(FailureKind::File, path.display().to_string()).caused_by(error)
            })?;
            installed = InstallOutcome::Now;
        }
        Ok(installed)
    }

    /// Writes a file beneath the root, whatever links exist there. The file is written under
    /// another name and renamed, so it is never incomplete.
    fn place(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut part = name.to_owned();
        part.push(".part");
        let directory = self.directory(directory)?;
        // A killed process may have left one.
        let _ = unlinkat(&directory, &part, AtFlags::empty());
        let file = openat(
            &directory,
            &part,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o644),
        )?;
        let written = (|| {
            let mut file = File::from(file);
            file.write_all(bytes)?;
            file.sync_all()?;
            Ok(renameat(&directory, &part, &directory, name)?)
        })();
        if written.is_err() {
            let _ = unlinkat(&directory, &part, AtFlags::empty());
        }
        written
    }

    /// Opens a directory beneath the root, and creates it if it is missing.
    fn directory(&self, path: &Path) -> io::Result<File> {
        let mut below = PathBuf::new();
        for component in path.components() {
            let Component::Normal(name) = component else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            let above = self.root.directory(&below)?;
            below.push(name);
            match rustix::fs::mkdirat(above, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.root.directory(path)
    }

    /// A copy in which files of this project have paths relative to it, so that the project can be
    /// moved.
    fn with_near_paths(&self, runtime: &Runtime) -> Runtime {
        let mut runtime = runtime.clone();
        let files = std::iter::once(&mut runtime.binary)
            .chain(&mut runtime.polyfill)
            .chain(&mut runtime.wrapper)
            .chain(&mut runtime.template);
        for url in files.filter_map(|file| file.url.as_mut()) {
            if let Ok(near) = Path::new(url.as_str()).strip_prefix(&self.path) {
                *url = near.display().to_string();
            }
        }
        runtime
    }

    fn text(&self) -> Result<String, Error> {
        match fs::read_to_string(self.path.join(CONFIG)) {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(Error::new(FailureKind::File, CONFIG).caused_by(error)),
        }
    }

    fn write(&self, text: &str) -> Result<(), Error> {
        let run = || {
            let link = self.path.join(CONFIG);
            let file = link.canonicalize().unwrap_or(link);
            let part = file.with_extension("toml.part");
            let written = (|| {
                fs::write(&part, text)?;
                if let Ok(old) = file.metadata() {
                    fs::set_permissions(&part, old.permissions())?;
                }
                fs::rename(&part, &file)
            })();
            if written.is_err() {
                let _ = fs::remove_file(&part);
            }
            written
        };
        run().map_err(|error: io::Error| Error::new(FailureKind::File, CONFIG).caused_by(error))
    }
}

fn is_same(a: &Runtime, b: &Runtime) -> bool {
    (&a.repository, &a.name, &a.version) == (&b.repository, &b.name, &b.version)
}
