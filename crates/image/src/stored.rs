//! Reads images: an archive (`wws build`, `docker save`, `ctr image export`), or an OCI image
//! layout. Nothing is used whose digest was not checked.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tar::Archive;

use crate::blob::Digesting;
use crate::error::ImageError;
use crate::layer::inside;
use crate::reference::is_sha256;
use crate::unpack::{UnpackLimits, Unpacker};

/// The most bytes of an index, a manifest or a configuration, as registries limit them.
pub(crate) const MAX_JSON: u64 = 4 << 20;

/// The most files of an archive.
const MAX_FILES: usize = 10_000;

/// The most layers of an image: overlayfs takes no more.
const MAX_LAYERS: usize = 256;

/// How many indexes lead to a manifest at most.
pub(crate) const MAX_INDEXES: usize = 4;

/// The name of an image in `index.json`.
const NAME: &str = "/annotations/io.containerd.image.name";

/// A readable image: the one for `wasi/wasm`, or else the one for this machine.
#[derive(Debug)]
pub struct StoredImage {
    store: BlobStore,
    digest: String,
    layers: Vec<Descriptor>,
    defaults: Defaults,
}

/// The defaults of a container of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// `ENTRYPOINT` of its Dockerfile.
    pub entrypoint: Vec<String>,
    /// `CMD`.
    pub command: Vec<String>,
    /// `ENV`, as names and values.
    pub env: Vec<(String, String)>,
    /// `WORKDIR`.
    pub working_directory: String,
}

/// A part of an image, as an index or a manifest names it.
#[derive(Clone, Debug)]
pub(crate) struct Descriptor {
    media_type: String,
    pub(crate) digest: String,
    /// In bytes.
    pub(crate) size: u64,
    platform: Option<(String, String)>,
}

/// Where the parts of an image are.
#[derive(Debug)]
pub(crate) enum BlobStore {
    Layout(PathBuf),
    /// Offset and size of each file of an archive.
    Archive {
        file: File,
        files: HashMap<PathBuf, (u64, u64)>,
    },
}

impl StoredImage {
    /// Opens the image in an archive or a layout.
    ///
    /// # Errors
    /// It is not one, is damaged, or has no image for `wasi/wasm` or this machine.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let store = BlobStore::open(path)?;
        let index = store.index()?;
        let shown = path.display().to_string();
        let mut found = choose(&descriptors(&index, &shown)?, &shown)?;
        for _ in 0..MAX_INDEXES {
            let document = store.json(&found)?;
            match document.get("layers") {
                None => found = choose(&descriptors(&document, &found.digest)?, &found.digest)?,
                Some(_) => return Self::of_manifest(store, &found, &document),
            }
        }
        Err(ImageError::unreadable(
            shown,
            "its indexes are nested too deeply",
        ))
    }

    /// The image of a manifest, whose parts are in `store`.
    pub(crate) fn of_manifest(
        store: BlobStore,
        manifest: &Descriptor,
        document: &Value,
    ) -> Result<Self, ImageError> {
        let digest = &manifest.digest;
        let (config, layers) = parts(document, digest)?;
        let config = store.json(&config)?;
        Ok(Self {
            layers,
            digest: digest.clone(),
            defaults: Defaults::parse(config.get("config").unwrap_or(&Value::Null)),
            store,
        })
    }

    /// The digest of its manifest.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What a container of it gets.
    #[must_use]
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// Unpacks its files into the empty directory `to`, which no other user may write to. Nothing
    /// is written outside of it, whatever the paths and links of the image say. Devices, owners and
    /// set-user-ID bits are dropped.
    ///
    /// # Errors
    /// A layer is damaged or has a form that is not supported, a limit is reached, or a file cannot
    /// be written.
    pub fn unpack(&self, to: &Path, limits: UnpackLimits) -> Result<(), ImageError> {
        let mut unpacker = Unpacker::new(to, limits)?;
        for layer in &self.layers {
            // Read twice, so that nothing of a damaged one is unpacked.
            let mut checked = Digesting::new(io::sink());
            let read = io::copy(&mut self.store.blob(layer)?, &mut checked);
            read.map_err(|error| ImageError::unreadable(&layer.digest, error.to_string()))?;
            layer.check(&checked.finish().0)?;
            let zipped = layer_is_zipped(layer)?;
            unpacker.layer(&layer.digest, self.store.blob(layer)?, zipped)?;
        }
        Ok(())
    }
}

/// Whether a layer is compressed.
///
/// # Errors
/// It has a form that is not supported.
pub(crate) fn layer_is_zipped(layer: &Descriptor) -> Result<bool, ImageError> {
    match layer.media_type.as_str() {
        "application/vnd.oci.image.layer.v1.tar" => Ok(false),
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Ok(true),
        other => {
            let why = format!("layers of the type `{other}` are not supported");
            Err(ImageError::unreadable(&layer.digest, why))
        }
    }
}

/// The configuration and the layers of a manifest.
pub(crate) fn parts(
    manifest: &Value,
    digest: &str,
) -> Result<(Descriptor, Vec<Descriptor>), ImageError> {
    let bad = |why: &str| ImageError::unreadable(digest, why);
    let config = manifest.get("config").ok_or_else(|| bad("no `config`"))?;
    let layers = manifest.get("layers").and_then(Value::as_array);
    let layers = layers.ok_or_else(|| bad("`layers` is no list"))?;
    if layers.len() > MAX_LAYERS {
        let limit = format!("{MAX_LAYERS} layers");
        return Err(ImageError::too_large(digest, limit));
    }
    let layers: Result<Vec<_>, _> = layers
        .iter()
        .map(|layer| Descriptor::parse(layer, digest))
        .collect();
    Ok((Descriptor::parse(config, digest)?, layers?))
}

impl Descriptor {
    /// A part of which only the digest is known; `None` if it is no SHA-256.
    pub(crate) fn of(digest: &str) -> Option<Self> {
        is_sha256(digest).then(|| Self {
            media_type: String::new(),
            digest: digest.to_owned(),
            size: 0,
            platform: None,
        })
    }

    fn parse(value: &Value, of: &str) -> Result<Self, ImageError> {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
        let bad = |why: &str| ImageError::unreadable(of, why);
        let digest = text("/digest").unwrap_or_default();
        if !is_sha256(digest) {
            return Err(bad("a part of it has no SHA-256"));
        }
        let platform = text("/platform/os").zip(text("/platform/architecture"));
        Ok(Self {
            media_type: text("/mediaType").unwrap_or_default().to_owned(),
            digest: digest.to_owned(),
            size: value
                .get("size")
                .and_then(Value::as_u64)
                .ok_or_else(|| bad("a part of it has no size"))?,
            platform: platform.map(|(os, architecture)| (os.to_owned(), architecture.to_owned())),
        })
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new("blobs").join(self.digest.replace(':', "/"))
    }

    pub(crate) fn check(&self, digest: &str) -> Result<(), ImageError> {
        if digest == self.digest {
            Ok(())
        } else {
            let why = "is damaged: its content has another SHA-256";
            Err(ImageError::unreadable(&self.digest, why))
        }
    }
}

pub(crate) fn descriptors(index: &Value, of: &str) -> Result<Vec<Descriptor>, ImageError> {
    let manifests = index.get("manifests").and_then(Value::as_array);
    let manifests =
        manifests.ok_or_else(|| ImageError::unreadable(of, "neither an index nor a manifest"))?;
    let mut names: Vec<&str> = manifests
        .iter()
        .filter_map(|manifest| manifest.pointer(NAME)?.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    if names.len() > 1 {
        let why = format!("has several images: {}", names.join(", "));
        return Err(ImageError::unreadable(of, why));
    }
    manifests
        .iter()
        .map(|manifest| Descriptor::parse(manifest, of))
        .collect()
}

/// The image for `wasi/wasm`, for this machine, or without a platform.
pub(crate) fn choose(all: &[Descriptor], of: &str) -> Result<Descriptor, ImageError> {
    let here = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let wanted = [
        Some(("wasi".to_owned(), "wasm".to_owned())),
        Some(("linux".to_owned(), here.to_owned())),
        None,
    ];
    let mut found = wanted
        .iter()
        .filter_map(|platform| all.iter().find(|one| one.platform == *platform));
    found.next().cloned().ok_or_else(|| {
        let why = format!("has no image for wasi/wasm or linux/{here}");
        ImageError::unreadable(of, why)
    })
}

impl Defaults {
    fn parse(config: &Value) -> Self {
        let words = |name: &str| -> Vec<String> {
            let words = config.get(name).and_then(Value::as_array);
            let words = words.into_iter().flatten().filter_map(Value::as_str);
            words.map(str::to_owned).collect()
        };
        let working_directory = config.get("WorkingDir").and_then(Value::as_str);
        let env = words("Env").into_iter().filter_map(|variable| {
            let (name, value) = variable.split_once('=')?;
            (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
        });
        Self {
            entrypoint: words("Entrypoint"),
            command: words("Cmd"),
            env: env.collect(),
            working_directory: working_directory.unwrap_or_default().to_owned(),
        }
    }
}

impl BlobStore {
    fn open(path: &Path) -> Result<Self, ImageError> {
        let failed = |error| ImageError::file(path, error);
        if fs::metadata(path).map_err(failed)?.is_dir() {
            return Ok(Self::Layout(path.to_owned()));
        }
        let file = open_regular(path)?;
        let mut files = HashMap::new();
        let no_archive = |error: io::Error| {
            let why = format!("is no image archive (a tar file that is not compressed): {error}");
            ImageError::unreadable(path.display().to_string(), why)
        };
        let mut archive = Archive::new(&file);
        // Raw: the names of an image archive are short, and long ones would be held in memory.
        let entries = archive.entries_with_seek().map_err(no_archive)?.raw(true);
        for entry in entries {
            let entry = entry.map_err(no_archive)?;
            if files.len() >= MAX_FILES {
                let what = path.display().to_string();
                return Err(ImageError::too_large(what, format!("{MAX_FILES} files")));
            }
            if entry.header().entry_type().is_file() {
                let name = entry.path().map_err(no_archive)?;
                if let Ok(name) = inside(&name) {
                    files.insert(name, (entry.raw_file_position(), entry.size()));
                }
            }
        }
        Ok(Self::Archive { file, files })
    }

    /// Opens a file of the layout.
    fn read(&self, path: &Path) -> Result<(Box<dyn Read + '_>, u64), ImageError> {
        let missing = || ImageError::unreadable(path.display().to_string(), "is missing");
        match self {
            Self::Layout(layout) => {
                let path = layout.join(path);
                let file = open_regular(&path).map_err(|error| match error {
                    ImageError::File { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                        missing()
                    }
                    error => error,
                })?;
                let size = file
                    .metadata()
                    .map_err(|error| ImageError::file(&path, error))?;
                Ok((Box::new(file), size.len()))
            }
            Self::Archive { file, files } => {
                let (at, size) = *files.get(path).ok_or_else(missing)?;
                let part = ArchivePart {
                    file,
                    at,
                    left: size,
                };
                Ok((Box::new(part), size))
            }
        }
    }

    fn index(&self) -> Result<Value, ImageError> {
        let (file, size) = self
            .read(Path::new("index.json"))
            .map_err(|error| match error {
                ImageError::Unreadable { .. } => ImageError::unreadable(
                    "index.json",
                    "is missing: this is neither an OCI archive nor an OCI layout",
                ),
                error => error,
            })?;
        parse(&read_to_end(file, size, "index.json")?, "index.json")
    }

    /// The bytes of a blob, which are not checked yet.
    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + '_>, ImageError> {
        let (file, size) = self.read(&descriptor.path())?;
        if size == descriptor.size {
            Ok(file)
        } else {
            let why = format!("has {size} bytes instead of {}", descriptor.size);
            Err(ImageError::unreadable(&descriptor.digest, why))
        }
    }

    pub(crate) fn json(&self, descriptor: &Descriptor) -> Result<Value, ImageError> {
        let digest = &descriptor.digest;
        let bytes = read_to_end(self.blob(descriptor)?, descriptor.size, digest)?;
        let mut checked = Digesting::new(io::sink());
        io::copy(&mut bytes.as_slice(), &mut checked).map_err(ImageError::Write)?;
        descriptor.check(&checked.finish().0)?;
        parse(&bytes, digest)
    }
}

fn read_to_end(file: impl Read, size: u64, what: &str) -> Result<Vec<u8>, ImageError> {
    if size > MAX_JSON {
        return Err(ImageError::too_large(
            what,
            format!("{} MiB", MAX_JSON >> 20),
        ));
    }
    let mut bytes = Vec::new();
    file.take(MAX_JSON)
        .read_to_end(&mut bytes)
        .map_err(|error| ImageError::unreadable(what, error.to_string()))?;
    Ok(bytes)
}

fn parse(bytes: &[u8], what: &str) -> Result<Value, ImageError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ImageError::unreadable(what, format!("is no JSON: {error}")))
}

fn open_regular(path: &Path) -> Result<File, ImageError> {
    let failed = |error| ImageError::file(path, error);
    let mut options = File::options();
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = options
        .read(true)
        .custom_flags(nonblock)
        .open(path)
        .map_err(failed)?;
    if file.metadata().map_err(failed)?.is_file() {
        Ok(file)
    } else {
        Err(failed(io::Error::other("not a regular file")))
    }
}

/// A file of an archive.
struct ArchivePart<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for ArchivePart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX);
        let wanted = wanted.min(buffer.len());
        let read = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        if read == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(read)
    }
}
