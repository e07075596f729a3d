//! Whatever names an index has, installing and removing touch nothing outside of the project's own
//! directory for runtimes.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use proptest::{collection::vec, prelude::*, sample::select};
use sha2::{Digest, Sha256};
use wws_runtimes::{Fetch, FetchOptions, LockedProject, Progress, Repository};

const CONTENT: &[u8] = b"an interpreter";

struct Silent;

impl Progress for Silent {
    fn fetching(&self, _: &str) {}
    fn received(&self, _: u64, _: Option<u64>) {}
    fn ended(&self) {}
}

/// A name that tries to lead elsewhere, by itself or with others.
fn name() -> impl Strategy<Value = String> {
    const PARTS: [&str; 14] = [
        "a", "b.wasm", "1.0", "..", ".", "/", "/", "../", "link", "up", "\\", "~", " ", "\u{fc}",
    ];
    let odd = vec(select(&PARTS[..]), 1..6).prop_map(|parts| parts.concat());
    prop_oneof![
        select(&["a", "1.0", "a.wasm"][..]).prop_map(str::to_owned),
        odd
    ]
}

/// All that is below `root`, with what it holds, but for `without`.
fn below(root: &Path, without: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if path == without {
                continue;
            }
            if kind.is_dir() {
                left.push(path.clone());
            }
            let content = kind.is_file().then(|| fs::read(&path).unwrap());
            found.insert(path, content);
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn rejects_names_that_leave_the_directory(
        repository in name(), runtime in name(), version in name(), binary in name(),
        wrapper in name(),
    ) {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("project");
        let own = root.join(".wws/runtimes");
        fs::create_dir_all(&own).unwrap();
        fs::create_dir(outer.path().join("outside")).unwrap();
        fs::write(outer.path().join("outside/a.wasm"), "theirs").unwrap();
        fs::write(root.join("a.wasm"), "a worker").unwrap();
        fs::write(root.join(".wws.toml"), "version = 1\n").unwrap();
        symlink(outer.path().join("outside"), own.join("link")).unwrap();
        symlink("../../..", own.join("up")).unwrap();
        let source = tempfile::tempdir().unwrap();
        fs::write(source.path().join("p"), CONTENT).unwrap();
        let digest = Sha256::digest(CONTENT);
        let sum: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let file = |name: &str| {
            format!("{{ url = \"p\", filename = {name:?}, checksum = {{ type = \"sha256\", value = \
                \"{sum}\" }} }}")
        };
        fs::write(
            source.path().join("index.toml"),
            format!(
                "version = 1\n[[runtimes]]\nname = {runtime:?}\nversion = {version:?}\n\
                 tags = [\"latest\"]\n\
                 extensions = [\"py\"]\nbinary = {}\nwrapper = {}\n",
                file(&binary), file(&wrapper),
            ),
        )
        .unwrap();
        let before = below(outer.path(), &own);

        let options = FetchOptions {
            env: BTreeMap::from([("PATH".into(), "/nowhere".into())]),
            max: 1_000,
            stall_timeout: Duration::from_secs(30),
            ..FetchOptions::default()
        };
        let fetch = Fetch::new(&root, options, &Silent).unwrap();
        let location = source.path().to_str().unwrap();
        let Ok(repository) = Repository::open(location, Some(&repository), &fetch) else {
            return Ok(());
        };
        let Ok(found) = repository.find(&runtime, "latest") else {
            return Ok(());
        };
        let locked = LockedProject::open(&root).unwrap();
        let added = locked.add(&repository, found, &fetch);
        let mut after = below(outer.path(), &own);
        let config = root.join(".wws.toml");
        let mut expected = before.clone();
        if added.is_ok() {
            after.remove(&config);
            expected.remove(&config);
        }
        prop_assert_eq!(&after, &expected);
        if added.is_ok() {
            let binary = fs::read(root.join(found.file(&found.binary))).unwrap();
            prop_assert_eq!(binary, CONTENT);
            locked.remove(found).unwrap();
            let after = below(outer.path(), &own);
            prop_assert_eq!(after, before);
        }
    }
}
