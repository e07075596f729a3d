//! A project is packed whole, always alike, and without what is not its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use sha2::{Digest, Sha256};
use wws_image::{Image, ImageError, Packing, project};

const NAME: &str = "docker.io/library/hello:v1";

fn write(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn packed(root: &Path) -> Image {
    Image::of_project(NAME, project(root, Packing::default()).unwrap())
}

fn archive(image: Image) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.write(&mut bytes).unwrap();
    bytes
}

fn unpacked(archive: &[u8]) -> Vec<(String, u64, Vec<u8>)> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        std::io::copy(&mut entry, &mut content).unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        (path, entry.header().mtime().unwrap(), content)
    });
    entries.collect()
}

/// The paths of the only layer.
fn paths(image: Image) -> Vec<String> {
    let blobs = image.into_blobs().unwrap();
    let layer = blobs.first().unwrap().bytes().unwrap();
    unpacked(&layer)
        .into_iter()
        .map(|(path, ..)| path)
        .collect()
}

#[test]
fn the_same_files_are_the_same_bytes() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = ["index.js", "api/[id].js", ".wws.toml", "public/a.txt"];
    for path in files {
        write(one.path(), path, path);
    }
    // In another order, at another time, and by somebody with another umask.
    for path in files.iter().rev() {
        write(other.path(), path, path);
        let path = other.path().join(path);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(5))
            .unwrap();
    }
    for root in [one.path(), other.path()] {
        symlink("index.js", root.join("link")).unwrap();
    }
    let bytes = archive(packed(one.path()));
    assert_eq!(bytes, archive(packed(other.path())));
    let layouts = [one.path().join("x"), one.path().join("y")];
    for layout in &layouts {
        packed(other.path()).write_layout(layout).unwrap();
    }
    let index = |layout: &Path| fs::read(layout.join("index.json")).unwrap();
    assert_eq!(index(&layouts[0]), index(&layouts[1]));
    assert!(unpacked(&bytes).iter().all(|(_, time, _)| *time == 0));
    // Only a time that is asked for changes them.
    let later = archive(packed(one.path()).time(1_700_000_000));
    assert_ne!(bytes, later);
    assert!(
        unpacked(&later)
            .iter()
            .all(|(_, time, _)| *time == 1_700_000_000)
    );
}

#[test]
fn a_layout_has_its_blobs_by_their_digests() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "index.js", "1");
    let to = tempfile::tempdir().unwrap();
    let layout = to.path().join("image");
    packed(root.path())
        .label("a", "b")
        .annotation("org.opencontainers.image.version", "1")
        .time(1)
        .write_layout(&layout)
        .unwrap();
    let mut documents = Vec::new();
    for entry in fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        let entry = entry.unwrap();
        let bytes = fs::read(entry.path()).unwrap();
        let digest: String = Sha256::digest(&bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(entry.file_name().to_str().unwrap(), digest);
        documents.extend(serde_json::from_slice::<Value>(&bytes));
    }
    // An index, three manifests, three configurations; and the layer.
    assert_eq!(documents.len(), 7);
    let configs = documents.iter().filter(|one| one.get("rootfs").is_some());
    for config in configs {
        assert_eq!(config["config"]["Labels"]["a"], "b");
        assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/"]));
        assert_eq!(config["created"], "1970-01-01T00:00:01Z");
    }
    let annotated = documents.iter().filter(|one| {
        one["annotations"]["org.opencontainers.image.version"] == "1" && one.get("rootfs").is_none()
    });
    assert_eq!(annotated.count(), 4);
    let mode = fs::metadata(&layout).unwrap().permissions().mode() & 0o777;
    assert_ne!(mode, 0o700, "only its author can read it");
    let left: Vec<_> = fs::read_dir(to.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");

    // Nothing is overwritten.
    let error = packed(root.path()).write_layout(&layout).unwrap_err();
    assert!(matches!(error, ImageError::NotEmpty(_)), "{error}");
    let empty = to.path().join("empty");
    fs::create_dir(&empty).unwrap();
    packed(root.path()).write_layout(&empty).unwrap();
    assert!(empty.join("oci-layout").exists());
}

#[test]
fn everything_that_leaves_the_project_is_reported() {
    let around = tempfile::tempdir().unwrap();
    write(around.path(), "secret", "1");
    let root = around.path().join("project");
    write(&root, "index.js", "1");
    fs::create_dir(root.join("sub")).unwrap();
    symlink("/etc/passwd", root.join("absolute")).unwrap();
    symlink("../secret", root.join("above")).unwrap();
    symlink("../../not-there", root.join("sub/dangling-out")).unwrap();
    // By its words it stays; by what it meets on the way it does not.
    symlink("..", root.join("sub/up")).unwrap();
    symlink("up/../secret", root.join("sub/winding")).unwrap();
    symlink("not-there", root.join("dangling")).unwrap();
    symlink("../index.js", root.join("sub/fine")).unwrap();
    let fifo = root.join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let error = project(&root, Packing::default()).unwrap_err();
    let ImageError::Project(problems) = &error else {
        panic!("{error}");
    };
    let paths: Vec<&str> = problems
        .iter()
        .map(|one| one.path.to_str().unwrap())
        .collect();
    assert_eq!(
        paths,
        [
            "above",
            "absolute",
            "fifo",
            "sub/dangling-out",
            "sub/winding"
        ]
    );
    let text = error.to_string();
    assert_eq!(text.lines().count(), 5, "{text}");
    assert!(
        text.contains("absolute: a link that leads outside the project"),
        "{text}"
    );

    write(
        &root,
        ".dockerignore",
        "a*\nfifo\nsub/dangling-out\nsub/winding\n",
    );
    let paths = paths_of(&root);
    assert_eq!(
        paths,
        ["dangling", "index.js", "sub/", "sub/fine", "sub/up"]
    );
}

fn paths_of(root: &Path) -> Vec<String> {
    paths(packed(root))
}

#[test]
fn what_is_ignored_and_the_output_stay_out() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    for path in [
        "index.js",
        ".git/config",
        ".env",
        "Dockerfile",
        ".wws/runtimes/python.wasm",
        "docs/a.md",
        "docs/a.txt",
        "empty/.gitkeep",
        "old.tar",
    ] {
        write(root, path, path);
    }
    write(root, ".dockerignore", "docs\n!docs/*.md\n");
    let output = root.join("old.tar");
    let packed = project(
        root,
        Packing {
            output: Some(&output),
        },
    )
    .unwrap();
    assert_eq!(packed.files, 4);
    assert!(packed.leaves_out(Path::new("docs/a.txt")));
    assert_eq!(
        paths(Image::of_project(NAME, packed)),
        [
            ".wws/",
            ".wws/runtimes/",
            ".wws/runtimes/python.wasm",
            "docs/",
            "docs/a.md",
            "empty/",
            "empty/.gitkeep",
            "index.js"
        ]
    );
}

#[test]
fn a_file_that_changes_meanwhile_makes_no_image() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "index.js", "12345");
    write(root.path(), "large", &"x".repeat(100_000));
    for change in ["1234", "123456", "54321"] {
        write(root.path(), "index.js", "12345");
        let blobs = packed(root.path()).into_blobs().unwrap();
        write(root.path(), "index.js", change);
        let result = blobs[0].write(std::io::sink());
        match change.len() {
            // What was appended after it was seen is not packed.
            6 => assert!(result.is_ok()),
            _ => assert!(matches!(result, Err(ImageError::Changed)), "{result:?}"),
        }
    }
    let image = packed(root.path());
    fs::remove_file(root.path().join("index.js")).unwrap();
    let error = image.write(std::io::sink()).unwrap_err().to_string();
    assert!(error.contains("index.js"), "{error}");
    // A link in its place is not followed.
    write(root.path(), "index.js", "12345");
    let image = packed(root.path());
    fs::remove_file(root.path().join("index.js")).unwrap();
    symlink("large", root.path().join("index.js")).unwrap();
    assert!(image.write(std::io::sink()).is_err());
}

#[test]
fn a_full_disk_is_reported_as_such() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "index.js", "1");
    let error = packed(root.path()).write(Full).unwrap_err();
    assert!(matches!(error, ImageError::Write(_)), "{error}");
}
