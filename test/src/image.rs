//! Images made for one test.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use wws_image::{Blob, Image as Archive};

use crate::containerd::Containerd;
use crate::wait::patience;
use crate::{command, workspace};

/// The longest that `wws build` may take: it compiles the worker.
const LIMIT: Duration = Duration::from_secs(60);

/// The route of the probe worker in a [`Image::probe`] project.
pub const PROBE: &str = "/probe";

/// An image to be imported.
#[derive(Debug)]
pub struct Image {
    name: String,
    archive: Archive,
}

impl Image {
    /// A project of workers, empty so far: `wasi/wasm`, entry point `/`.
    #[must_use]
    pub fn workers(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            archive: Archive::new(&reference(name)),
        }
    }

    /// A project with the probe worker at [`PROBE`], configured by `toml` (after its `version`).
    ///
    /// # Errors
    /// The worker is not built.
    pub fn probe(name: &str, toml: &str) -> Result<Self> {
        let toml = format!("name = \"probe\"\nversion = \"1\"\n{toml}");
        Self::workers(name)
            .guest("probe", "probe.wasm")?
            .file("probe.toml", toml)
    }

    /// A native program, the file `program` of this machine, which must be static.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn native(name: &str, program: &str) -> Result<Self> {
        let bytes = fs::read(program).with_context(|| format!("read {program}"))?;
        let archive = Archive::new(&reference(name))
            .platform("linux", "amd64")
            .entrypoint(&["/program"])
            .file("program", bytes, 0o755)?;
        Ok(Self {
            name: name.to_owned(),
            archive,
        })
    }

    /// A program for another CPU: nothing but an ELF header of s390x, which this machine cannot
    /// run.
    ///
    /// # Errors
    /// There is no such path in an image.
    pub fn foreign(name: &str, path: &str) -> Result<Self> {
        // Class 64, big-endian, version 1; an executable of machine 22.
        let mut header = b"\x7fELF\x02\x02\x01".to_vec();
        header.resize(16, 0);
        header.extend([0, 2, 0, 22, 0, 0, 0, 1]);
        header.resize(64, 0);
        let archive = Archive::new(&reference(name))
            .platform("linux", "s390x")
            .entrypoint(&[path])
            .file(path, header, 0o755)?;
        Ok(Self {
            name: name.to_owned(),
            archive,
        })
    }

    /// Adds the worker `guest` of `test/guests`, by its path in the image.
    ///
    /// # Errors
    /// It is not built.
    pub fn guest(self, guest: &str, path: &str) -> Result<Self> {
        self.file(path, fs::read(workspace::guest(guest)?)?)
    }

    /// Adds a file, by its path in the image.
    ///
    /// # Errors
    /// There is no such path in an image.
    pub fn file(mut self, path: &str, content: impl Into<Vec<u8>>) -> Result<Self> {
        self.archive = self.archive.file(path, content, 0o644)?;
        Ok(self)
    }

    /// Adds an empty directory.
    ///
    /// # Errors
    /// There is no such path in an image.
    pub fn directory(mut self, path: &str) -> Result<Self> {
        self.archive = self.archive.directory(path)?;
        Ok(self)
    }

    /// Adds what lies in the directory `from` of this machine, below `to`. Symbolic links stay what
    /// they are.
    ///
    /// # Errors
    /// Something there cannot be read.
    pub fn copy(mut self, from: &Path, to: &str) -> Result<Self> {
        self.archive = self.archive.copy(from, to)?;
        Ok(self)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// There is no such path in an image.
    pub fn link(mut self, path: &str, target: &str) -> Result<Self> {
        self.archive = self.archive.link(path, target)?;
        Ok(self)
    }

    /// Sets the entry point, instead of the kind's own.
    #[must_use]
    pub fn entrypoint(mut self, entrypoint: &[&str]) -> Self {
        self.archive = self.archive.entrypoint(entrypoint);
        self
    }

    /// Makes it an index of images for `wasi/wasm`, `linux/amd64` and `linux/arm64` with the same
    /// layer.
    #[must_use]
    pub fn everywhere(mut self) -> Self {
        self.archive = self.archive.everywhere();
        self
    }

    /// Its parts, as a registry has them. The last one is what its name stands for.
    ///
    /// # Errors
    /// Its files cannot be packed.
    pub fn into_blobs(self) -> Result<Vec<Blob>> {
        Ok(self.archive.into_blobs()?)
    }

    /// Writes the image into `directory`. The answer is the name to run it by, and the file.
    ///
    /// # Errors
    /// There is such a file already.
    pub fn write(self, directory: &Path) -> Result<(String, PathBuf)> {
        let tar = directory.join(format!("{}.tar", self.name));
        self.archive
            .write(BufWriter::new(File::create_new(&tar)?))?;
        Ok((reference(&self.name), tar))
    }

    /// Writes the image and imports it. The answer is the name to run it by.
    ///
    /// # Errors
    /// containerd refuses it.
    pub fn import(self, containerd: &Containerd) -> Result<String> {
        let (name, tar) = self.write(&containerd.directory())?;
        containerd.import(&tar)?;
        Ok(name)
    }
}

/// Has `wws build` pack a project with the probe worker in `directory`. Returns the archive.
///
/// # Errors
/// It cannot.
pub fn built(name: &str, directory: &Path) -> Result<PathBuf> {
    let project = directory.join("project");
    fs::create_dir_all(&project)?;
    fs::copy(workspace::guest("probe")?, project.join("probe.wasm"))?;
    let archive = directory.join("built.tar");
    let mut build = Command::new(workspace::programs()?.join("wws"));
    build
        .arg("build")
        .arg(&project)
        .args(["--tag", name, "--output"])
        .arg(&archive);
    command::run(&mut build, patience(LIMIT))?.success()?;
    Ok(archive)
}

fn reference(name: &str) -> String {
    format!("localhost/{name}:latest")
}
