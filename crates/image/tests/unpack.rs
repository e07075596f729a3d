//! Images are unpacked whole, and never outside of their directory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;
use wws_image::{Image, ImageError, Packing, StoredImage, UnpackLimits, project};

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const TAR_GZ: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Everything in a directory: path, executable, content or target.
fn tree(root: &Path) -> Vec<(String, bool, Vec<u8>)> {
    let (mut found, mut pending) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            if metadata.is_dir() {
                found.push((name, true, Vec::new()));
                pending.push(path);
            } else if metadata.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                found.push((name, false, target.as_os_str().as_bytes().to_owned()));
            } else {
                let executable = metadata.permissions().mode() & 0o111 != 0;
                found.push((name, executable, fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Writes a layout by hand.
struct Layout(TempDir);

impl Layout {
    fn new(layers: &[(&str, Vec<u8>)]) -> Self {
        let layout = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(layout.0.path().join("blobs/sha256")).unwrap();
        let config = layout.blob("", json!({ "config": {} }).to_string().as_bytes());
        let layers: Vec<Value> = layers
            .iter()
            .map(|(kind, bytes)| layout.blob(kind, bytes))
            .collect();
        let manifest = json!({ "config": config, "layers": layers });
        let manifest = layout.blob("", manifest.to_string().as_bytes());
        let index = json!({ "manifests": [manifest] });
        fs::write(layout.0.path().join("index.json"), index.to_string()).unwrap();
        layout
    }

    fn blob(&self, kind: &str, bytes: &[u8]) -> Value {
        let digest: String = Sha256::digest(bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        fs::write(self.0.path().join("blobs/sha256").join(&digest), bytes).unwrap();
        json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len() })
    }

    fn unpack(&self, limits: UnpackLimits) -> (TempDir, Result<(), ImageError>) {
        let to = tempfile::tempdir().unwrap();
        let root = to.path().join("root");
        fs::create_dir(&root).unwrap();
        let result = StoredImage::open(self.0.path()).and_then(|image| image.unpack(&root, limits));
        (to, result)
    }
}

type TarEntry<'a> = (&'a str, EntryType, &'a str);

/// A tar file with these paths, as they are, with a content or a target each.
fn layer(entries: &[TarEntry<'_>]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (path, kind, content) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o4777);
        let name = &mut header.as_old_mut().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
        if is_link {
            header.set_link_name_literal(content).unwrap();
        }
        let data = if is_link { "" } else { content };
        header.set_size(data.len() as u64);
        header.set_cksum();
        tar.append(&header, data.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn zipped(bytes: &[u8]) -> Vec<u8> {
    let mut zip = GzEncoder::new(Vec::new(), Compression::fast());
    zip.write_all(bytes).unwrap();
    zip.finish().unwrap()
}

const FILE: EntryType = EntryType::Regular;
const DIRECTORY: EntryType = EntryType::Directory;
const LINK: EntryType = EntryType::Symlink;
const HARD: EntryType = EntryType::Link;

#[test]
fn what_was_packed_is_unpacked() {
    let root = tempfile::tempdir().unwrap();
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(150));
    fs::create_dir_all(root.path().join(&long).parent().unwrap()).unwrap();
    fs::create_dir(root.path().join("empty")).unwrap();
    fs::write(root.path().join(&long), vec![7; 200_000]).unwrap();
    fs::write(root.path().join("index.js"), "1").unwrap();
    fs::set_permissions(
        root.path().join("index.js"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    symlink(&long, root.path().join("link")).unwrap();
    let pack = || {
        Image::of_project(
            "localhost/x:1",
            project(root.path(), Packing::default()).unwrap(),
        )
    };
    let to = tempfile::tempdir().unwrap();
    let (archive, layout) = (to.path().join("x.tar"), to.path().join("layout"));
    pack().write(fs::File::create(&archive).unwrap()).unwrap();
    pack().write_layout(&layout).unwrap();
    let mut digests = Vec::new();
    for (number, image) in [archive, layout].iter().enumerate() {
        let image = StoredImage::open(image).unwrap();
        assert_eq!(image.defaults().entrypoint, ["/"]);
        assert_eq!(image.defaults().working_directory, "/");
        let unpacked = to.path().join(number.to_string());
        fs::create_dir(&unpacked).unwrap();
        image.unpack(&unpacked, UnpackLimits::default()).unwrap();
        assert_eq!(tree(&unpacked), tree(root.path()));
        digests.push(image.digest().to_owned());
    }
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn layers_replace_and_remove_what_is_below() {
    let below = layer(&[
        ("a/kept", FILE, "1"),
        ("a/gone", FILE, "1"),
        ("a/tree/x/y", FILE, "1"),
        ("opaque/old/x", FILE, "1"),
        ("opaque/both/old", FILE, "1"),
        ("file", FILE, "1"),
        ("directory/x", FILE, "1"),
        ("link", LINK, "a"),
        ("usr/lib/", DIRECTORY, ""),
        ("lib", LINK, "usr/lib"),
        ("twin", HARD, "a/kept"),
    ]);
    let above = layer(&[
        ("a/.wh.gone", FILE, ""),
        ("a/.wh.tree", FILE, ""),
        ("a/.wh.never", FILE, ""),
        ("opaque/both/new", FILE, "2"),
        ("opaque/.wh..wh..opq", FILE, ""),
        ("opaque/new", FILE, "2"),
        ("file/x", FILE, "2"),
        ("link", FILE, "2"),
        ("lib/so", FILE, "2"),
        ("./a/./new", FILE, "2"),
        ("/top", FILE, "2"),
    ]);
    // A directory in the place of a file.
    let replaced = layer(&[(".wh.file", FILE, ""), ("directory", FILE, "3")]);
    let layout = Layout::new(&[
        (TAR, below.clone()),
        (TAR, replaced),
        (TAR_GZ, zipped(&above)),
    ]);
    let (to, result) = layout.unpack(UnpackLimits::default());
    result.unwrap();
    let found = tree(&to.path().join("root"));
    let found: Vec<(&str, &str)> = found
        .iter()
        .map(|(path, _, content)| (path.as_str(), std::str::from_utf8(content).unwrap()))
        .collect();
    assert_eq!(
        found,
        [
            ("a", ""),
            ("a/kept", "1"),
            ("a/new", "2"),
            ("directory", "3"),
            ("file", ""),
            ("file/x", "2"),
            ("lib", "usr/lib"),
            ("link", "2"),
            ("opaque", ""),
            ("opaque/both", ""),
            ("opaque/both/new", "2"),
            ("opaque/new", "2"),
            ("top", "2"),
            ("twin", "1"),
            ("usr", ""),
            ("usr/lib", ""),
            ("usr/lib/so", "2"),
        ]
    );
    let mode = |path: &str| {
        fs::metadata(to.path().join("root").join(path))
            .unwrap()
            .permissions()
            .mode()
    };
    assert_eq!(
        mode("a/kept") & 0o7022,
        0,
        "set-user-ID, or writable for others"
    );
}

#[test]
fn paths_and_links_that_lead_out_write_nothing() {
    let outside = tempfile::tempdir().unwrap();
    let canary = outside.path().join("canary");
    fs::write(&canary, "1").unwrap();
    let (out, canary_text) = (outside.path().to_str().unwrap(), canary.to_str().unwrap());
    let attacks: [&[TarEntry<'_>]; 8] = [
        &[("../x", FILE, "2")],
        &[("a/../../x", FILE, "2")],
        &[("l", LINK, out), ("l/canary", FILE, "2")],
        &[("l", LINK, canary_text), ("l", FILE, "2")],
        &[
            ("l", LINK, "../../../../../../../.."),
            ("l/tmp/wws-unpack-test", FILE, "2"),
        ],
        &[("h", HARD, "../../canary"), ("h", FILE, "2")],
        &[("l", LINK, out), ("h", HARD, "l/canary"), ("h", FILE, "2")],
        &[
            ("l", LINK, out),
            ("l/.wh.canary", FILE, ""),
            ("l/.wh..wh..opq", FILE, ""),
        ],
    ];
    for attack in attacks {
        // Over two layers, too.
        let layers: Vec<_> = attack.iter().map(|entry| (TAR, layer(&[*entry]))).collect();
        for layout in [Layout::new(&[(TAR, layer(attack))]), Layout::new(&layers)] {
            let (to, result) = layout.unpack(UnpackLimits::default());
            assert_eq!(
                fs::read_to_string(&canary).unwrap(),
                "1",
                "{attack:?} {result:?}"
            );
            assert_eq!(
                fs::read_dir(outside.path()).unwrap().count(),
                1,
                "{attack:?}"
            );
            assert_eq!(fs::read_dir(to.path()).unwrap().count(), 1, "{attack:?}");
            assert!(!Path::new("/tmp/wws-unpack-test").exists());
        }
    }
}

#[test]
fn damaged_images_are_refused_before_anything_is_unpacked() {
    let files = layer(&[("a", FILE, "1")]);
    let layout = Layout::new(&[(TAR, files.clone())]);
    let name: String = Sha256::digest(&files)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let blob = layout.0.path().join("blobs/sha256").join(name);
    let mut damaged = files.clone();
    damaged[0] ^= 1;
    fs::write(&blob, damaged).unwrap();
    let (to, result) = layout.unpack(UnpackLimits::default());
    assert!(result.unwrap_err().to_string().contains("is damaged"));
    assert_eq!(fs::read_dir(to.path().join("root")).unwrap().count(), 0);
    fs::write(&blob, &files[1..]).unwrap();
    let error = layout.unpack(UnpackLimits::default()).1.unwrap_err();
    assert!(error.to_string().contains("bytes instead of"), "{error}");
    fs::remove_file(&blob).unwrap();
    let error = layout.unpack(UnpackLimits::default()).1.unwrap_err();
    assert!(error.to_string().contains("is missing"), "{error}");

    let unknown = Layout::new(&[("application/vnd.oci.image.layer.v1.tar+zstd", files.clone())]);
    let error = unknown.unpack(UnpackLimits::default()).1.unwrap_err();
    assert!(error.to_string().contains("tar+zstd"), "{error}");
    let cut = Layout::new(&[(TAR, files[..600].to_owned())]);
    assert!(cut.unpack(UnpackLimits::default()).1.is_err());

    let file = tempfile::NamedTempFile::new().unwrap();
    for content in [&b"no tar"[..], &files, &zipped(&files)] {
        fs::write(file.path(), content).unwrap();
        let error = StoredImage::open(file.path()).unwrap_err();
        assert!(matches!(error, ImageError::Unreadable { .. }), "{error}");
    }
    assert!(StoredImage::open(Path::new("/dev/null")).is_err());
}

#[test]
fn limits_hold_for_all_layers_together() {
    let one = layer(&[("a", FILE, "1"), ("b", FILE, "1")]);
    let two = Layout::new(&[(TAR, one.clone()), (TAR, one.clone())]);
    let limits = |bytes, entries| UnpackLimits { bytes, entries };
    assert!(two.unpack(limits(1 << 20, 4)).1.is_ok());
    let error = two.unpack(limits(1 << 20, 3)).1.unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { .. }), "{error}");
    let error = two
        .unpack(limits(one.len() as u64 + 600, 10))
        .1
        .unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { .. }), "{error}");

    let zeros = "\0".repeat(4 << 20);
    let bomb = Layout::new(&[(TAR_GZ, zipped(&layer(&[("a", FILE, &zeros)])))]);
    let (to, result) = bomb.unpack(limits(1 << 20, 10));
    assert!(
        matches!(result, Err(ImageError::TooLarge { .. })),
        "{result:?}"
    );
    assert!(fs::metadata(to.path().join("root/a")).unwrap().len() <= 1 << 20);
}

#[test]
fn long_names_are_read_and_longer_ones_refused() {
    let name = format!("{}/{}", "d".repeat(120), "n".repeat(120));
    let pax = format!("path={name}\n");
    // The length counts itself: three digits and a space.
    let pax = format!("{} {pax}", pax.len() + 4);
    for (kind, text) in [
        (EntryType::GNULongName, name.as_str()),
        (EntryType::XHeader, &pax),
    ] {
        let tar = layer(&[("x", kind, text), ("short", FILE, "1")]);
        let (to, result) = Layout::new(&[(TAR, tar)]).unpack(UnpackLimits::default());
        result.unwrap();
        assert_eq!(
            fs::read_to_string(to.path().join("root").join(&name)).unwrap(),
            "1"
        );
        assert!(!to.path().join("root/short").exists());
    }
    let long = "n".repeat(100_000);
    for kind in [
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::XHeader,
    ] {
        let tar = layer(&[("x", kind, &long), ("short", FILE, "1")]);
        let error = Layout::new(&[(TAR, tar)])
            .unpack(UnpackLimits::default())
            .1
            .unwrap_err();
        assert!(error.to_string().contains("too l"), "{error}");
    }
}

#[test]
fn devices_and_pipes_are_skipped() {
    let tar = layer(&[
        ("null", EntryType::Char, ""),
        ("disk", EntryType::Block, ""),
        ("pipe", EntryType::Fifo, ""),
        ("a", FILE, "1"),
    ]);
    let (to, result) = Layout::new(&[(TAR, tar)]).unpack(UnpackLimits::default());
    result.unwrap();
    assert_eq!(
        tree(&to.path().join("root")),
        [("a".to_owned(), true, b"1".to_vec())]
    );
}

#[test]
fn the_image_of_several_names_or_of_another_machine_is_refused() {
    let layout = Layout::new(&[]);
    let index = layout.0.path().join("index.json");
    let one: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    let with = |changes: &[(&str, Value)]| {
        let manifests: Vec<Value> = changes
            .iter()
            .map(|(key, value)| {
                let mut manifest = one["manifests"][0].clone();
                manifest[*key] = value.clone();
                manifest
            })
            .collect();
        fs::write(&index, json!({ "manifests": manifests }).to_string()).unwrap();
        StoredImage::open(layout.0.path()).map(drop)
    };
    let platform = |os: &str, architecture: &str| {
        (
            "platform",
            json!({ "os": os, "architecture": architecture }),
        )
    };
    let name = |name: &str| ("annotations", json!({ "io.containerd.image.name": name }));
    assert!(with(&[platform("linux", "s390x"), platform("wasi", "wasm")]).is_ok());
    assert!(with(&[name("a"), name("a")]).is_ok());
    let error = with(&[name("a"), name("b")]).unwrap_err().to_string();
    assert!(error.contains("several images: a, b"), "{error}");
    let error = with(&[platform("linux", "s390x")]).unwrap_err().to_string();
    assert!(error.contains("no image for wasi/wasm"), "{error}");
    assert!(with(&[("digest", json!("sha256:../../x"))]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the entries are, and whether or not they are refused.
    #[test]
    fn no_image_touches_what_is_outside(
        layers in proptest::collection::vec(
            proptest::collection::vec((0usize..10, 0usize..4, 0usize..7), 0..8),
            1..4,
        ),
    ) {
        const PATHS: [&str; 10] = [
            "a", "a/b", "a/b/c", "l", "l/out", "../out", ".wh.a", "a/.wh..wh..opq", "l/.wh.out",
            ".wh...",
        ];
        const TARGETS: [&str; 7] = ["..", "../..", "/", "a", "l", "../out", "a/../.."];
        const KINDS: [EntryType; 4] = [FILE, DIRECTORY, LINK, HARD];
        let layers: Vec<_> = layers
            .iter()
            .map(|entries| {
                let entries: Vec<TarEntry<'_>> = entries
                    .iter()
                    .map(|&(path, kind, target)| {
                        let content = if KINDS[kind] == DIRECTORY { "" } else { TARGETS[target] };
                        (PATHS[path], KINDS[kind], content)
                    })
                    .collect();
                (TAR, layer(&entries))
            })
            .collect();
        let layout = Layout::new(&layers);
        let to = tempfile::tempdir().unwrap();
        let root = to.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(to.path().join("out"), "canary").unwrap();
        let _ = StoredImage::open(layout.0.path()).unwrap().unpack(&root, UnpackLimits::default());
        prop_assert_eq!(fs::read_to_string(to.path().join("out")).unwrap(), "canary");
        let metadata = fs::metadata(to.path().join("out")).unwrap();
        prop_assert_eq!(metadata.permissions().mode() & 0o111, 0);
        prop_assert_eq!(fs::read_dir(to.path()).unwrap().count(), 2);
    }
}
