//! Pulls images.
//!
//! Source: OCI distribution specification, "Pull".

use std::io::Read;

use serde_json::Value;
use sha2::{Digest, Sha256};
use ureq::Body;
use ureq::http::Response;

use crate::blob::named;
use crate::cache::ImageCache;
use crate::error::ImageError;
use crate::stored::{
    Descriptor, MAX_INDEXES, MAX_JSON, StoredImage, choose, descriptors, layer_is_zipped, parts,
};

use super::Registry;

/// The kinds of indexes and manifests that are understood: those of OCI and of Docker.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// The header with the digest of a manifest.
const DIGEST: &str = "docker-content-digest";

/// Receives the progress of a pull.
pub trait PullProgress {
    /// A part begins to be fetched.
    fn fetching(&self, digest: &str, bytes: u64);
    /// This many bytes of it have arrived.
    fn received(&self, bytes: u64, of: u64);
    /// It is there.
    fn ended(&self);
}

impl Registry {
    /// Pulls the image for `wasi/wasm`, or else the one for this machine, into a cache. All digests
    /// are checked. A name with a digest needs no registry if the cache has all of the image.
    ///
    /// # Errors
    /// The registry cannot be reached or refuses, a part is damaged, there is no image for this
    /// machine, or it has more than `max` bytes.
    pub fn pull(
        &self,
        cache: &ImageCache,
        max: u64,
        progress: &dyn PullProgress,
    ) -> Result<StoredImage, ImageError> {
        let store = cache.store();
        let mut found = self.named(cache)?;
        for _ in 0..MAX_INDEXES {
            let document = store.json(&found)?;
            let digest = &found.digest;
            if document.get("layers").is_some() {
                self.parts(cache, &document, digest, max, progress)?;
                return StoredImage::of_manifest(store, &found, &document);
            }
            let chosen = choose(&descriptors(&document, digest)?, digest)?;
            if chosen.size > MAX_JSON {
                return Err(ImageError::too_large(&chosen.digest, "4 MiB"));
            }
            if !cache.has(&chosen) {
                let response = self.manifest(&chosen.digest)?;
                cache.add(&chosen, response.into_body().into_reader(), &|_| {})?;
            }
            found = chosen;
        }
        let why = "its indexes are nested too deeply";
        Err(ImageError::unreadable(self.name.to_string(), why))
    }

    /// The index or manifest that the image's name stands for.
    fn named(&self, cache: &ImageCache) -> Result<Descriptor, ImageError> {
        let digest = self.name.digest();
        if let Some(found) = digest.and_then(|digest| cache.find(digest, MAX_JSON)) {
            return Ok(found);
        }
        let response = self.manifest(digest.unwrap_or(self.name.tag()))?;
        let header = response.headers().get(DIGEST);
        let header = header.and_then(|text| Some(text.to_str().ok()?.to_owned()));
        let mut bytes = Vec::new();
        let read = response
            .into_body()
            .into_reader()
            .take(MAX_JSON + 1)
            .read_to_end(&mut bytes);
        let name = self.name.to_string();
        read.map_err(|error| ImageError::registry(self.name.registry(), error.to_string()))?;
        if bytes.len() as u64 > MAX_JSON {
            return Err(ImageError::too_large(name, "4 MiB"));
        }
        let actual = named(&Sha256::digest(&bytes));
        let mut found =
            Descriptor::of(&actual).ok_or_else(|| ImageError::unreadable(name, "no digest"))?;
        found.size = bytes.len() as u64;
        // A digest of another kind is not compared: the name did not ask for it.
        let sent = header.filter(|text| text.starts_with("sha256:"));
        for expected in digest.into_iter().chain(sent.as_deref()) {
            if expected != actual {
                let why = "the registry sent another manifest than the one of this digest";
                return Err(ImageError::unreadable(expected, why));
            }
        }
        cache.add(&found, bytes.as_slice(), &|_| {})?;
        Ok(found)
    }

    /// Fetches what a manifest names and the cache lacks.
    fn parts(
        &self,
        cache: &ImageCache,
        manifest: &Value,
        digest: &str,
        max: u64,
        progress: &dyn PullProgress,
    ) -> Result<(), ImageError> {
        let (config, layers) = parts(manifest, digest)?;
        for layer in &layers {
            // Before anything large is fetched.
            layer_is_zipped(layer)?;
        }
        let all = || std::iter::once(&config).chain(&layers);
        let total = all().fold(0_u64, |total, part| total.saturating_add(part.size));
        if total > max || config.size > MAX_JSON {
            let limit = format!("{} MiB", max >> 20);
            return Err(ImageError::too_large(self.name.to_string(), limit));
        }
        for part in all() {
            if cache.has(part) {
                continue;
            }
            let response = self.get(&format!("blobs/{}", part.digest), "*/*")?;
            if response.status().as_u16() != 200 {
                return Err(self.refused("fetch a blob", response));
            }
            progress.fetching(&part.digest, part.size);
            let body = response.into_body().into_reader();
            let added = cache.add(part, body, &|bytes| progress.received(bytes, part.size));
            progress.ended();
            added?;
        }
        Ok(())
    }

    fn manifest(&self, reference: &str) -> Result<Response<Body>, ImageError> {
        let response = self.get(&format!("manifests/{reference}"), ACCEPTED)?;
        match response.status().as_u16() {
            200 => Ok(response),
            404 => {
                let why = format!("has no image {}", self.name);
                Err(ImageError::registry(self.name.registry(), why))
            }
            _ => Err(self.refused("find the image", response)),
        }
    }

    fn get(&self, path: &str, accept: &str) -> Result<Response<Body>, ImageError> {
        let at = self.url(path)?;
        self.send(&at, &|authorization| {
            let request = self.agent.get(at.as_str()).header("accept", accept);
            self.prepared(request, &at, authorization).call()
        })
    }
}
