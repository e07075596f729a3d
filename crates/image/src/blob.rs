//! The blobs that an image consists of.

use std::io::{self, Write};
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::ImageError;
use crate::layer::Layer;

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A part of an image.
#[derive(Debug)]
pub struct Blob {
    /// What it is.
    pub media_type: &'static str,
    digest: String,
    size: u64,
    content: BlobContent,
    pub(crate) platform: Option<Value>,
}

/// The content of a blob. A layer is packed each time that it is written: no second copy of its
/// files is kept, in memory or on a disk.
#[derive(Debug)]
enum BlobContent {
    Bytes(Vec<u8>),
    Layer { layer: Arc<Layer>, time: u64 },
}

impl Blob {
    pub(crate) fn json(media_type: &'static str, value: &Value) -> Self {
        let bytes = value.to_string().into_bytes();
        Self {
            media_type,
            digest: named(&Sha256::digest(&bytes)),
            size: bytes.len() as u64,
            content: BlobContent::Bytes(bytes),
            platform: None,
        }
    }

    pub(crate) fn layer(layer: Arc<Layer>, time: u64) -> Result<Self, ImageError> {
        let mut measured = Digesting::new(io::sink());
        layer.write_tar(time, &mut measured)?;
        let (digest, size) = measured.finish();
        Ok(Self {
            media_type: LAYER,
            digest,
            size,
            content: BlobContent::Layer { layer, time },
            platform: None,
        })
    }

    /// Its name among others: the checksum of its content.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The number of its bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Writes its content.
    ///
    /// # Errors
    /// It cannot be written; or a file of it cannot be read, or has changed.
    pub fn write(&self, to: impl Write) -> Result<(), ImageError> {
        let mut to = Digesting::new(to);
        match &self.content {
            BlobContent::Bytes(bytes) => to.write_all(bytes).map_err(ImageError::Write)?,
            BlobContent::Layer { layer, time } => layer.write_tar(*time, &mut to)?,
        }
        to.flush().map_err(ImageError::Write)?;
        let (digest, size) = to.finish();
        if (digest.as_str(), size) == (self.digest(), self.size) {
            Ok(())
        } else {
            Err(ImageError::Changed)
        }
    }

    /// Its content.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn bytes(&self) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        self.write(&mut bytes)?;
        Ok(bytes)
    }

    /// Its path in a layout.
    pub(crate) fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }

    pub(crate) fn descriptor(&self) -> Value {
        let mut descriptor = json!({
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size,
        });
        if let Some(platform) = &self.platform {
            descriptor["platform"] = platform.clone();
        }
        descriptor
    }
}

pub(crate) fn named(digest: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in digest {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).unwrap_or_default());
        }
    }
    text
}

/// A writer that computes the digest of what it passes on.
pub(crate) struct Digesting<W> {
    inner: W,
    hasher: Sha256,
    size: u64,
}

impl<W: Write> Digesting<W> {
    pub(crate) fn new(inner: W) -> Self {
        let hasher = Sha256::new();
        Self {
            inner,
            hasher,
            size: 0,
        }
    }

    /// The digest and the number of bytes.
    pub(crate) fn finish(self) -> (String, u64) {
        (named(&self.hasher.finalize()), self.size)
    }
}

impl<W> Digesting<W> {
    /// What it wrote to, and the digest.
    pub(crate) fn into_parts(self) -> (W, String) {
        (self.inner, named(&self.hasher.finalize()))
    }
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
