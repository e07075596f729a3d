//! Packs files as an image: an OCI archive of one layer, as `ctr image import` and `docker load`
//! read it.
//!
//! What `docker buildx build` makes of `FROM scratch`, `COPY` and `ENTRYPOINT` needs no Docker: the
//! same files give the same bytes here, on any machine. For the formats see the OCI image
//! specification (image-layout, config, manifest).

mod layer;

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use layer::Layer;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The platforms under which an image of workers is found by whoever pulls, imports or runs it, for
/// its own platform or for the one that it is of.
const EVERYWHERE: [(&str, &str); 3] = [("wasi", "wasm"), ("linux", "amd64"), ("linux", "arm64")];

/// The same for all images, so that the same files make the same image.
const CREATED: &str = "1970-01-01T00:00:00Z";

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
            layer: Layer::default(),
        }
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

    /// Adds a file with the mode's permission bits. The directories that it lies in come with it.
    ///
    /// # Errors
    /// The path is none that lies in an image.
    pub fn file(mut self, path: &str, content: impl Into<Vec<u8>>, mode: u32) -> io::Result<Self> {
        self.layer.file(path, content.into(), mode)?;
        Ok(self)
    }

    /// Adds an empty directory.
    ///
    /// # Errors
    /// The path is none that lies in an image.
    pub fn folder(self, path: &str) -> io::Result<Self> {
        self.folder_of(path, 0)
    }

    /// Adds an empty directory that belongs to a user and the group of the same number.
    ///
    /// # Errors
    /// The path is none that lies in an image.
    pub fn folder_of(mut self, path: &str, owner: u64) -> io::Result<Self> {
        self.layer.folder(path, owner)?;
        Ok(self)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// The path is none that lies in an image.
    pub fn link(mut self, path: &str, target: &str) -> io::Result<Self> {
        self.layer.link(path, target)?;
        Ok(self)
    }

    /// Adds what lies in the directory `from` of this machine, below `to` in the image. Symbolic
    /// links stay what they are.
    ///
    /// # Errors
    /// Something there cannot be read, or is neither file, directory nor symbolic link.
    pub fn copy(mut self, from: &Path, to: &str) -> io::Result<Self> {
        self.layer.copy(from, to)?;
        Ok(self)
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// `to` cannot be written.
    pub fn write(self, to: impl Write) -> io::Result<()> {
        let (name, blobs) = (self.name.clone(), self.into_blobs()?);
        let Some(top) = blobs.last() else {
            return Ok(());
        };
        let mut image = top.descriptor();
        let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        // The name as containerd and Docker read it, and the tag as the specification has it.
        image["annotations"] = json!({
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": tag,
        });
        let index = json(&json!({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [image],
        }))?;

        let mut archive = tar::Builder::new(to);
        let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
        layer::append(&mut archive, "oci-layout", layout, 0o644)?;
        layer::append(&mut archive, "index.json", &index, 0o644)?;
        for blob in &blobs {
            let path = format!("blobs/{}", blob.digest().replace(':', "/"));
            layer::append(&mut archive, &path, &blob.bytes, 0o644)?;
        }
        archive.into_inner()?.flush()
    }

    /// What the image consists of, as a registry has it. The last one is what its name stands for.
    ///
    /// # Errors
    /// Its files cannot be packed.
    pub fn into_blobs(self) -> io::Result<Vec<Blob>> {
        let layer = Blob::new(LAYER, self.layer.into_tar()?);
        let (of_layer, diff) = (layer.descriptor(), layer.digest());
        let mut blobs = vec![layer];
        let mut manifests = Vec::new();
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
        for (os, architecture) in &self.platforms {
            let config = json(&json!({
                "created": CREATED,
                "os": os,
                "architecture": architecture,
                "config": settings,
                "rootfs": { "type": "layers", "diff_ids": [diff] },
                "history": [{ "created": CREATED, "created_by": "wws-oci-tar" }],
            }))?;
            let config = Blob::new(CONFIG, config);
            let manifest = json(&json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": config.descriptor(),
                "layers": [of_layer],
            }))?;
            let mut manifest = Blob::new(MANIFEST, manifest);
            manifest.platform = Some(json!({ "os": os, "architecture": architecture }));
            manifests.push(manifest.descriptor());
            blobs.extend([config, manifest]);
        }
        if manifests.len() > 1 {
            let index = json(&json!({
                "schemaVersion": 2,
                "mediaType": INDEX,
                "manifests": manifests,
            }))?;
            blobs.push(Blob::new(INDEX, index));
        }
        Ok(blobs)
    }
}

/// A part of an image.
#[derive(Debug)]
pub struct Blob {
    /// What it is.
    pub media_type: &'static str,
    /// Its content.
    pub bytes: Vec<u8>,
    platform: Option<Value>,
}

impl Blob {
    fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self {
            media_type,
            bytes,
            platform: None,
        }
    }

    /// Its name among others: the checksum of its content.
    #[must_use]
    pub fn digest(&self) -> String {
        format!("sha256:{:x}", Sha256::digest(&self.bytes))
    }

    fn descriptor(&self) -> Value {
        let mut descriptor = json!({
            "mediaType": self.media_type,
            "digest": self.digest(),
            "size": self.bytes.len(),
        });
        if let Some(platform) = &self.platform {
            descriptor["platform"] = platform.clone();
        }
        descriptor
    }
}

fn json(value: &Value) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)?)
}
