//! What is written is an OCI archive with the files that were given.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;

use serde_json::Value;
use wws_image::Image;

/// Path, mode and content of every entry; a link's content is its target.
fn entries(tar: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        if let Some(target) = entry.link_name_bytes() {
            content = target.into_owned();
        }
        let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        (path, entry.header().mode().unwrap(), content)
    });
    entries.collect()
}

fn written(image: Image) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.write(&mut bytes).unwrap();
    bytes
}

struct Archive(BTreeMap<String, Vec<u8>>);

impl Archive {
    fn of(image: Image) -> Self {
        let files = entries(&written(image)).into_iter();
        Self(files.map(|(path, _, content)| (path, content)).collect())
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&self.0[path]).unwrap()
    }

    /// The blob that a descriptor names, of the size that it says.
    fn blob(&self, descriptor: &Value) -> &[u8] {
        let digest = descriptor["digest"].as_str().unwrap();
        let blob = &self.0[&format!("blobs/{}", digest.replace(':', "/"))];
        assert_eq!(descriptor["size"], blob.len());
        blob
    }
}

#[test]
fn an_archive_leads_from_its_index_to_the_files() {
    let image = Image::new("localhost/hello:v1")
        .env("A", "b")
        .file("/api/[id].wasm", "wasm", 0o644)
        .and_then(|image| image.file("run", "", 0o755))
        .and_then(|image| image.directory("tmp"))
        .unwrap();
    let archive = Archive::of(image);
    assert_eq!(archive.json("oci-layout")["imageLayoutVersion"], "1.0.0");
    let index = archive.json("index.json");
    let image = &index["manifests"][0];
    assert_eq!(
        image["platform"],
        serde_json::json!({"os": "wasi", "architecture": "wasm"})
    );
    assert_eq!(
        image["annotations"]["io.containerd.image.name"],
        "localhost/hello:v1"
    );
    assert_eq!(
        image["annotations"]["org.opencontainers.image.ref.name"],
        "v1"
    );
    let manifest: Value = serde_json::from_slice(archive.blob(image)).unwrap();
    let config: Value = serde_json::from_slice(archive.blob(&manifest["config"])).unwrap();
    assert_eq!(
        (&config["os"], &config["architecture"]),
        (&"wasi".into(), &"wasm".into())
    );
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/"]));
    assert_eq!(config["config"]["Env"], serde_json::json!(["A=b"]));
    let layer = &manifest["layers"][0];
    assert_eq!(config["rootfs"]["diff_ids"][0], layer["digest"]);
    let files = entries(archive.blob(layer));
    let expected: [(&str, u32, &[u8]); 4] = [
        ("api/", 0o755, b""),
        ("api/[id].wasm", 0o644, b"wasm"),
        ("run", 0o755, b""),
        ("tmp/", 0o1777, b""),
    ];
    assert_eq!(
        files,
        expected.map(|(path, mode, content)| (path.to_owned(), mode, content.to_vec()))
    );
}

#[test]
fn copies_directory_reproducibly() {
    let directory = tempfile::tempdir().unwrap();
    let long = "a".repeat(150);
    fs::create_dir_all(directory.path().join("deep/er")).unwrap();
    fs::create_dir(directory.path().join("empty")).unwrap();
    fs::write(directory.path().join("deep/er").join(&long), "long").unwrap();
    fs::write(directory.path().join(".wws.toml"), "version = 1").unwrap();
    symlink("/etc/passwd", directory.path().join("link")).unwrap();
    let pack = || {
        written(
            Image::new("localhost/x:1")
                .copy(directory.path(), "/")
                .unwrap(),
        )
    };
    let bytes = pack();
    assert_eq!(bytes, pack());
    let archive = Archive::of(
        Image::new("localhost/x:1")
            .copy(directory.path(), "/srv")
            .unwrap(),
    );
    let manifest: Value =
        serde_json::from_slice(archive.blob(&archive.json("index.json")["manifests"][0])).unwrap();
    let files = entries(archive.blob(&manifest["layers"][0]));
    let paths: Vec<_> = files.iter().map(|(path, ..)| path.as_str()).collect();
    let deep = format!("srv/deep/er/{long}");
    assert_eq!(
        paths,
        [
            "srv/",
            "srv/.wws.toml",
            "srv/deep/",
            "srv/deep/er/",
            &deep,
            "srv/empty/",
            "srv/link"
        ]
    );
    assert_eq!(files[6].2, b"/etc/passwd");
}

#[test]
fn a_path_that_leaves_the_image_is_refused() {
    let error = Image::new("x").file("../x", "", 0o644).unwrap_err();
    assert!(error.to_string().contains("`..`"), "{error}");
}

#[test]
fn names_missing_directory() {
    let error = Image::new("x")
        .copy("/no/such/directory".as_ref(), "/")
        .unwrap_err();
    assert!(error.to_string().contains("/no/such/directory"), "{error}");
}

#[test]
fn an_image_for_everywhere_has_its_files_once() {
    let image = Image::new("localhost/hello:v1")
        .everywhere()
        .file("w.wasm", "wasm", 0o644)
        .unwrap();
    let archive = Archive::of(image);
    let top = &archive.json("index.json")["manifests"][0];
    assert_eq!(
        top["annotations"]["io.containerd.image.name"],
        "localhost/hello:v1"
    );
    let index: Value = serde_json::from_slice(archive.blob(top)).unwrap();
    let manifests = index["manifests"].as_array().unwrap();
    let mut layers = Vec::new();
    let mut platforms = Vec::new();
    for image in manifests {
        let manifest: Value = serde_json::from_slice(archive.blob(image)).unwrap();
        let config: Value = serde_json::from_slice(archive.blob(&manifest["config"])).unwrap();
        assert_eq!(config["os"], image["platform"]["os"]);
        assert_eq!(config["architecture"], image["platform"]["architecture"]);
        assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/"]));
        platforms.push(format!("{}/{}", config["os"], config["architecture"]).replace('"', ""));
        layers.push(manifest["layers"].to_string());
    }
    assert_eq!(platforms, ["wasi/wasm", "linux/amd64", "linux/arm64"]);
    layers.dedup();
    assert_eq!(layers.len(), 1);
    // An index, three manifests and configurations, one layer.
    let blobs = archive.0.keys().filter(|path| path.starts_with("blobs/"));
    assert_eq!(blobs.count(), 8);
}
