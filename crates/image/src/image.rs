//! Images to be written.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::blob::{Blob, CONFIG, INDEX, MANIFEST};
use crate::error::ImageError;
use crate::layer::Layer;
use crate::project::Packed;
use crate::store;
use crate::time::rfc3339;

/// The platforms under which an image of workers is found by whoever pulls, imports or runs it, for
/// its own platform or for the one that it is of.
const EVERYWHERE: [(&str, &str); 3] = [("wasi", "wasm"), ("linux", "amd64"), ("linux", "arm64")];

/// An image to be written.
#[derive(Debug)]
pub struct Image {
    name: String,
    platforms: Vec<(String, String)>,
    entrypoint: Vec<String>,
    command: Vec<String>,
    env: Vec<String>,
    user: String,
    volumes: Vec<String>,
    labels: Map<String, Value>,
    annotations: Map<String, Value>,
    time: u64,
    layer: Layer,
}

impl Image {
    /// An empty image of workers (`wasi/wasm`, entry point `/`), called `name`: a full name with
    /// its tag, as `localhost/hello:latest`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            platforms: vec![("wasi".to_owned(), "wasm".to_owned())],
            entrypoint: vec!["/".to_owned()],
            command: Vec::new(),
            env: Vec::new(),
            user: String::new(),
            volumes: Vec::new(),
            labels: Map::new(),
            annotations: Map::new(),
            time: 0,
            layer: Layer::default(),
        }
    }

    /// An image of a project for all platforms, called `name`.
    #[must_use]
    pub fn of_project(name: &str, project: Packed) -> Self {
        let layer = project.layer;
        let image = Self::new(name).everywhere();
        Self { layer, ..image }
    }

    /// Sets the platform, as `linux`, `amd64`.
    #[must_use]
    pub fn platform(mut self, os: &str, architecture: &str) -> Self {
        self.platforms = vec![(os.to_owned(), architecture.to_owned())];
        self
    }

    /// Makes it an index of three images with the same layer, for `wasi/wasm`, `linux/amd64` and
    /// `linux/arm64`.
    #[must_use]
    pub fn everywhere(mut self) -> Self {
        let owned = |(os, architecture): (&str, &str)| (os.to_owned(), architecture.to_owned());
        self.platforms = EVERYWHERE.into_iter().map(owned).collect();
        self
    }

    /// Sets the entry point.
    #[must_use]
    pub fn entrypoint(mut self, words: &[impl AsRef<str>]) -> Self {
        self.entrypoint = words.iter().map(|word| word.as_ref().to_owned()).collect();
        self
    }

    /// Adds a variable to the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// Sets the arguments that follow the entry point unless others are given, as `CMD` of a
    /// Dockerfile does.
    #[must_use]
    pub fn command(mut self, words: &[impl AsRef<str>]) -> Self {
        self.command = words.iter().map(|word| word.as_ref().to_owned()).collect();
        self
    }

    /// Sets the user, as `USER` of a Dockerfile names it.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// Declares a volume.
    #[must_use]
    pub fn volume(mut self, path: &str) -> Self {
        self.volumes.push(path.to_owned());
        self
    }

    /// Adds a label, as `LABEL` of a Dockerfile does.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.into());
        self
    }

    /// Adds an annotation to the manifest of each platform, and to their index.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.to_owned(), value.into());
        self
    }

    /// Sets the time of the image and of its files, in seconds since 1970; 0 otherwise, so that the
    /// same files make the same image.
    #[must_use]
    pub fn time(mut self, time: u64) -> Self {
        self.time = time;
        self
    }

    /// Adds a file with the mode's permission bits. The directories that it lies in come with it.
    ///
    /// # Errors
    /// The path is none that lies in an image.
    pub fn file(
        mut self,
        path: &str,
        content: impl Into<Vec<u8>>,
        mode: u32,
    ) -> Result<Self, ImageError> {
        self.layer.file(path, content.into(), mode)?;
        Ok(self)
    }

    /// Adds an empty directory.
    ///
    /// # Errors
    /// The path is none that lies in an image.
    pub fn directory(self, path: &str) -> Result<Self, ImageError> {
        self.directory_of(path, 0)
    }

    /// Adds an empty directory that belongs to a user and the group of the same number.
    ///
    /// # Errors
    /// The path is none that lies in an image.
    pub fn directory_of(mut self, path: &str, owner: u64) -> Result<Self, ImageError> {
        self.layer.directory(path, owner)?;
        Ok(self)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// The path is none that lies in an image.
    pub fn link(mut self, path: &str, target: &str) -> Result<Self, ImageError> {
        self.layer.link(path, target)?;
        Ok(self)
    }

    /// Adds what lies in the directory `from` of this machine, below `to` in the image. Symbolic
    /// links stay what they are.
    ///
    /// # Errors
    /// Something there cannot be read, or is neither file, directory nor symbolic link.
    pub fn copy(mut self, from: &Path, to: &str) -> Result<Self, ImageError> {
        self.layer.copy(from, to)?;
        Ok(self)
    }

    /// Writes the archive, as `ctr image import` and `docker load` read it. Returns the digest of
    /// what the image's name stands for.
    ///
    /// # Errors
    /// `to` cannot be written, or a file of the image cannot be read.
    pub fn write(self, to: impl Write) -> Result<String, ImageError> {
        let (name, time) = (self.name.clone(), self.time);
        let blobs = self.into_blobs()?;
        store::write_archive(&name, time, &blobs, to)?;
        Ok(digest(&blobs))
    }

    /// Writes an OCI image layout into the directory `to`, which is new or empty. Returns the
    /// digest of what the image's name stands for.
    ///
    /// # Errors
    /// `to` cannot be written, or a file of the image cannot be read.
    pub fn write_layout(self, to: &Path) -> Result<String, ImageError> {
        let name = self.name.clone();
        let blobs = self.into_blobs()?;
        store::write_layout(&name, &blobs, to)?;
        Ok(digest(&blobs))
    }

    /// What the image consists of, as a registry has it. The last one is what its name stands for.
    ///
    /// # Errors
    /// Its files cannot be packed.
    pub fn into_blobs(self) -> Result<Vec<Blob>, ImageError> {
        let created = rfc3339(self.time);
        let settings = self.settings();
        let layer = Blob::layer(Arc::new(self.layer), self.time)?;
        let (of_layer, diff) = (layer.descriptor(), layer.digest().to_owned());
        let mut blobs = vec![layer];
        let mut manifests = Vec::new();
        for (os, architecture) in &self.platforms {
            let config = json!({
                "created": created,
                "os": os,
                "architecture": architecture,
                "config": settings,
                "rootfs": { "type": "layers", "diff_ids": [diff] },
                "history": [{ "created": created, "created_by": "wws build" }],
            });
            let config = Blob::json(CONFIG, &config);
            let mut manifest = json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": config.descriptor(),
                "layers": [of_layer],
            });
            annotate(&mut manifest, &self.annotations);
            let mut manifest = Blob::json(MANIFEST, &manifest);
            manifest.platform = Some(json!({ "os": os, "architecture": architecture }));
            manifests.push(manifest.descriptor());
            blobs.extend([config, manifest]);
        }
        if manifests.len() > 1 {
            let mut index = json!({
                "schemaVersion": 2,
                "mediaType": INDEX,
                "manifests": manifests,
            });
            annotate(&mut index, &self.annotations);
            blobs.push(Blob::json(INDEX, &index));
        }
        Ok(blobs)
    }

    /// The defaults of a container.
    fn settings(&self) -> Value {
        let mut settings =
            json!({ "Entrypoint": self.entrypoint, "Env": self.env, "WorkingDir": "/" });
        if !self.command.is_empty() {
            settings["Cmd"] = json!(self.command);
        }
        if !self.user.is_empty() {
            settings["User"] = json!(self.user);
        }
        for volume in &self.volumes {
            settings["Volumes"][volume] = json!({});
        }
        if !self.labels.is_empty() {
            settings["Labels"] = json!(self.labels);
        }
        settings
    }
}

/// The digest of an image of these blobs, of which there is one at least.
fn digest(blobs: &[Blob]) -> String {
    blobs
        .last()
        .map_or_else(String::new, |blob| blob.digest().to_owned())
}

fn annotate(document: &mut Value, annotations: &Map<String, Value>) {
    if !annotations.is_empty() {
        document["annotations"] = json!(annotations);
    }
}
