//! Images are pulled as they were pushed, or not at all.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod registry;

use std::cell::RefCell;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use registry::{Registry as Server, RegistryAuth};
use tempfile::TempDir;
use ureq::Agent;
use ureq::config::Config;
use wws_image::{
    Blob, Credentials, Image, ImageCache, ImageError, PullProgress, Reference, Registry,
    RegistryAccess, StoredImage, UnpackLimits,
};

const MAX: u64 = 1 << 30;

fn agent() -> Agent {
    Config::builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)))
        .build()
        .new_agent()
}

fn open(address: SocketAddr, reference: &str, access: RegistryAccess) -> Registry {
    let name = Reference::parse_existing(&format!("{address}/team/hello{reference}")).unwrap();
    let user = Some(Credentials::new("user", "pass"));
    Registry::new(agent(), name, user, access).unwrap()
}

fn image() -> Image {
    let large = vec![7; 300_000];
    Image::new("x")
        .everywhere()
        .file("w.wasm", large, 0o644)
        .unwrap()
}

/// A registry with the image; returns its index.
fn server(wanted: RegistryAuth) -> (Server, Blob) {
    let server = Server::start(wanted);
    let mut blobs = image().into_blobs().unwrap();
    let to = open(server.address, ":v1", RegistryAccess::Push);
    to.push(&blobs, &|_, _| {}).unwrap();
    server.state.lock().unwrap().requests.clear();
    (server, blobs.pop().unwrap())
}

/// The parts that were fetched.
#[derive(Default)]
struct Fetched(RefCell<Vec<String>>);

impl PullProgress for Fetched {
    fn fetching(&self, digest: &str, _bytes: u64) {
        self.0.borrow_mut().push(digest.to_owned());
    }

    fn received(&self, bytes: u64, of: u64) {
        assert!(bytes <= of);
    }

    fn ended(&self) {}
}

fn cache() -> (TempDir, ImageCache) {
    let directory = tempfile::tempdir().unwrap();
    let cache = ImageCache::open(directory.path(), u64::MAX).unwrap();
    (directory, cache)
}

fn pull(
    address: SocketAddr,
    reference: &str,
    cache: &ImageCache,
) -> (Result<StoredImage, ImageError>, usize) {
    let fetched = Fetched::default();
    let from = open(address, reference, RegistryAccess::Pull);
    let pulled = from.pull(cache, MAX, &fetched);
    (pulled, fetched.0.into_inner().len())
}

fn assert_unpacks(image: &StoredImage) {
    let to = tempfile::tempdir().unwrap();
    image.unpack(to.path(), UnpackLimits::default()).unwrap();
    assert_eq!(
        fs::read(to.path().join("w.wasm")).unwrap(),
        vec![7; 300_000]
    );
}

#[test]
fn an_image_is_pulled_once() {
    for wanted in [
        RegistryAuth::Nobody,
        RegistryAuth::Basic,
        RegistryAuth::Token,
    ] {
        let (server, index) = server(wanted);
        let (_directory, cache) = cache();
        // The configuration and the layer.
        let (image, fetched) = pull(server.address, ":v1", &cache);
        assert_unpacks(&image.unwrap());
        assert_eq!(fetched, 2);
        server.state.lock().unwrap().requests.clear();
        let (image, fetched) = pull(server.address, ":v1", &cache);
        assert_unpacks(&image.unwrap());
        assert_eq!(fetched, 0);
        // A name with a digest does not change: the registry is not asked.
        server.state.lock().unwrap().requests.clear();
        let reference = format!("@{}", index.digest());
        let (image, fetched) = pull(server.address, &reference, &cache);
        assert_unpacks(&image.unwrap());
        assert_eq!(fetched, 0);
        assert!(server.state.lock().unwrap().requests.is_empty());
    }
}

#[test]
fn a_damaged_part_of_the_cache_is_fetched_again() {
    let (server, _) = server(RegistryAuth::Nobody);
    let (directory, cache) = cache();
    pull(server.address, ":v1", &cache).0.unwrap();
    for entry in fs::read_dir(directory.path().join("blobs/sha256")).unwrap() {
        fs::write(entry.unwrap().path(), "damaged").unwrap();
    }
    let (image, fetched) = pull(server.address, ":v1", &cache);
    assert_unpacks(&image.unwrap());
    assert_eq!(fetched, 2);
}

#[test]
fn blobs_may_be_elsewhere_and_credentials_do_not_go_there() {
    let (elsewhere, _) = server(RegistryAuth::Nobody);
    elsewhere.state.lock().unwrap().authorizations.clear();
    let (server, _) = server(RegistryAuth::BlobsElsewhere(elsewhere.address));
    let (_directory, cache) = cache();
    assert_unpacks(&pull(server.address, ":v1", &cache).0.unwrap());
    let state = elsewhere.state.lock().unwrap();
    assert_eq!(state.requests.len(), 2, "{:?}", state.requests);
    assert!(
        state.authorizations.is_empty(),
        "{:?}",
        state.authorizations
    );
}

/// Changes what a registry has of an image, and returns why it is not pulled.
fn refused(change: impl FnOnce(&mut registry::RegistryState), reference: &str) -> String {
    let (server, _) = server(RegistryAuth::Nobody);
    change(&mut server.state.lock().unwrap());
    let (directory, cache) = cache();
    let error = pull(server.address, reference, &cache).0.unwrap_err();
    assert_whole(directory.path());
    error.to_string()
}

/// Nothing in a cache has another digest than its name.
fn assert_whole(cache: &Path) {
    use sha2::Digest;
    for entry in fs::read_dir(cache.join("blobs/sha256")).unwrap() {
        let entry = entry.unwrap();
        let digest = sha2::Sha256::digest(fs::read(entry.path()).unwrap());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(entry.file_name().to_str().unwrap(), digest);
    }
}

fn json(value: &serde_json::Value) -> (String, Vec<u8>) {
    let kind = "application/vnd.oci.image.manifest.v1+json";
    (kind.to_owned(), value.to_string().into_bytes())
}

#[test]
fn what_is_not_the_image_is_refused() {
    let damaged = |state: &mut registry::RegistryState| {
        for blob in state.blobs.values_mut() {
            let last = blob.len() - 1;
            blob[last] ^= 1;
        }
    };
    assert!(refused(damaged, ":v1").contains("another SHA-256"));
    let longer = |state: &mut registry::RegistryState| {
        state.blobs.values_mut().for_each(|blob| blob.push(0));
    };
    assert!(refused(longer, ":v1").contains("more than"));
    let shorter = |state: &mut registry::RegistryState| {
        for blob in state.blobs.values_mut() {
            blob.pop();
        }
    };
    assert!(refused(shorter, ":v1").contains("fewer than"));
    let manifests = |state: &mut registry::RegistryState| {
        for (name, (_, manifest)) in &mut state.manifests {
            if name != "v1" {
                manifest.push(b' ');
            }
        }
    };
    assert!(refused(manifests, ":v1").contains("more than"));
    let missing = |state: &mut registry::RegistryState| state.blobs.clear();
    assert!(refused(missing, ":v1").contains("cannot fetch a blob: 404"));
    assert!(refused(|_| {}, ":v2").contains("has no image"));
    let digest = format!("sha256:{}", "0".repeat(64));
    let other = |state: &mut registry::RegistryState| {
        let index = state.manifests["v1"].clone();
        state.manifests.insert(digest.clone(), index);
    };
    let error = refused(other, &format!("@{digest}"));
    assert!(error.contains("another manifest"), "{error}");
}

#[test]
fn sizes_and_kinds_are_bounded_before_anything_is_fetched() {
    let manifest = |layer: serde_json::Value| {
        let digest = format!("sha256:{}", "0".repeat(64));
        serde_json::json!({
            "config": { "digest": digest, "size": 2 },
            "layers": [layer],
        })
    };
    let digest = format!("sha256:{}", "1".repeat(64));
    let kind = "application/vnd.oci.image.layer.v1.tar";
    let zstd = "application/vnd.oci.image.layer.v1.tar+zstd";
    let layer = |kind: &str, size: u64| {
        manifest(serde_json::json!({ "mediaType": kind, "digest": digest, "size": size }))
    };
    let arm = serde_json::json!({ "manifests": [{
        "digest": digest, "size": 2, "platform": { "os": "linux", "architecture": "s390x" },
    }]});
    for (document, text) in [
        (layer(kind, MAX), "more than 1024 MiB"),
        (layer(kind, u64::MAX), "more than 1024 MiB"),
        (layer(zstd, 1), "are not supported"),
        (arm, "has no image for wasi/wasm"),
        (
            serde_json::json!({ "schemaVersion": 1 }),
            "neither an index nor a manifest",
        ),
        (serde_json::json!("x".repeat(5 << 20)), "more than 4 MiB"),
    ] {
        let change = |state: &mut registry::RegistryState| {
            state.manifests.insert("v1".to_owned(), json(&document));
        };
        let error = refused(change, ":v1");
        assert!(error.contains(text), "{text}: {error}");
    }
}
