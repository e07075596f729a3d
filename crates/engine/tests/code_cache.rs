//! Compiled code on disk.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use wws_engine::{CodeCache, CodeOrigin, Engine, EngineOptions};

const HELLO: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\08\00\00\00\02\00\00\00{}")
    (func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))))"#;

fn engine() -> Engine {
    Engine::new(&EngineOptions {
        memory: 64 << 20,
        concurrency: 4,
        open_files: 1000,
        ..EngineOptions::default()
    })
    .unwrap()
}

fn wasm(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

fn digest(wasm: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(wasm).into()
}

fn entries(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn another_engine_uses_the_entry() {
    let dir = tempfile::tempdir().unwrap();
    let cache = CodeCache::open(dir.path(), 1 << 30).unwrap();
    let (engine, wasm) = (engine(), wasm(HELLO));
    let key = engine.code_key(&digest(&wasm));
    assert!(!cache.has(&key));
    let code = engine.precompile(&wasm).unwrap();
    cache.store(&key, &code).unwrap();
    assert!(cache.has(&key));
    let other = self::engine();
    assert_eq!(other.code_key(&digest(&wasm)), key);
    let (_, from) = other.compile_cached(&wasm, &key, &cache).unwrap();
    assert!(matches!(from, CodeOrigin::Cached));
    assert_eq!(entries(dir.path()), [key.file_name()]);
}

#[test]
fn keeps_what_it_compiles() {
    let dir = tempfile::tempdir().unwrap();
    let cache = CodeCache::open(dir.path(), 1 << 30).unwrap();
    let (engine, wasm) = (engine(), wasm(HELLO));
    let key = engine.code_key(&digest(&wasm));
    let origin = || engine.compile_cached(&wasm, &key, &cache).unwrap().1;
    assert!(matches!(origin(), CodeOrigin::Compiled { damaged: None }));
    assert_eq!(entries(dir.path()), [key.file_name()]);
    assert!(matches!(origin(), CodeOrigin::Cached));
}

/// Runs `test` with `directory` bind-mounted onto itself, read-only if it should be, in a mount
/// namespace of its own. Not at all where the user may not mount.
fn mounted(directory: &Path, read_only: bool, test: impl FnOnce() + Send) {
    use rustix::mount::{
        MountFlags, MountPropagationFlags, mount_bind, mount_change, mount_remount,
    };
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can mount");
        return;
    }
    let in_namespace = || {
        // SAFETY: of what threads share, only the mounts, root and working directory become this
        // one's own.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
        let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
        mount_change("/", private).unwrap();
        mount_bind(directory, directory).unwrap();
        if read_only {
            mount_remount(directory, MountFlags::BIND | MountFlags::RDONLY, "").unwrap();
        }
        test();
    };
    std::thread::scope(|scope| scope.spawn(in_namespace).join().unwrap());
}

#[test]
fn trusts_entries_of_read_only_mounts_only() {
    let dir = tempfile::tempdir().unwrap();
    let cache = CodeCache::open(dir.path(), 1 << 30).unwrap();
    let (engine, wasm) = (engine(), wasm(HELLO));
    let key = engine.code_key(&digest(&wasm));
    cache
        .store(&key, &engine.precompile(&wasm).unwrap())
        .unwrap();
    let refused = |directory: &Path, why: &str| {
        let error = CodeCache::read_only(directory).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    // As an image, or a volume, could bring it along.
    refused(dir.path(), "not mounted read-only");
    mounted(dir.path(), false, || {
        refused(dir.path(), "not mounted read-only");
    });
    mounted(dir.path(), true, || {
        let reader = CodeCache::read_only(dir.path()).unwrap();
        let (_, from) = engine.compile_cached(&wasm, &key, &reader).unwrap();
        assert!(matches!(from, CodeOrigin::Cached));
        assert!(reader.store(&key, b"x").is_err());
    });
    // In a container with a read-only root file system everything of the image is mounted so.
    let inner = dir.path().join("image/code");
    fs::create_dir_all(&inner).unwrap();
    std::os::unix::fs::symlink("code", dir.path().join("image/link")).unwrap();
    mounted(dir.path(), true, || {
        refused(&inner, "not a mount of its own");
        refused(&dir.path().join("image/link"), "not a directory");
    });
}

#[test]
fn removes_entries_that_others_could_write() {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let (engine, wasm) = (engine(), wasm(HELLO));
    let key = engine.code_key(&digest(&wasm));
    let code = engine.precompile(&wasm).unwrap();
    let open = || CodeCache::open(dir.path(), 1 << 30).unwrap();
    open().store(&key, &code).unwrap();
    // Readable by others it was no less ours.
    mode(dir.path(), 0o755);
    assert!(open().has(&key));
    assert_eq!(
        fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777,
        0o700
    );
    for open_to in [0o777, 0o770, 0o1777] {
        fs::write(dir.path().join("not-code"), "").unwrap();
        mode(dir.path(), open_to);
        let cache = open();
        assert!(!cache.path(&key).exists(), "{open_to:o}");
        assert!(dir.path().join("not-code").exists());
        cache.store(&key, &code).unwrap();
        assert!(cache.has(&key));
    }
    let cache = open();
    let path = cache.path(&key);
    let is_refused = || {
        assert!(!cache.has(&key));
        let (_, from) = engine.compile_cached(&wasm, &key, &cache).unwrap();
        assert!(
            matches!(from, CodeOrigin::Compiled { damaged: Some(_) }),
            "{from:?}"
        );
    };
    mode(&path, 0o464);
    is_refused();
    cache.store(&key, &code).unwrap();
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    is_refused();
    cache.store(&key, &code).unwrap();
    assert!(cache.has(&key));
    if rustix::process::geteuid().is_root() {
        chown(&path, Some(65534), None).unwrap();
        is_refused();
    }
}

#[test]
fn components_are_compiled_once() {
    let component = |import: &str| {
        wasm(&format!(
            r#"(component {import}
                 (core module $m (memory 1) (data (i32.const 100) "data of a component")
                   (func (export "run") (result i32) (i32.const 0)))
                 (core instance $i (instantiate $m))
                 (func $run (result (result)) (canon lift (core func $i "run")))
                 (instance $cli (export "run" (func $run)))
                 (export "wasi:cli/run@0.2.0" (instance $cli)))"#
        ))
    };
    let random = r#"(import "wasi:random/random@0.3.0" (instance
        (export "get-random-u64" (func (result u64)))))"#;
    let dir = tempfile::tempdir().unwrap();
    let cache = CodeCache::open(dir.path(), 1 << 30).unwrap();
    let engine = engine();
    // The second runs in an engine with other settings.
    for wasm in [component(""), component(random)] {
        let key = engine.code_key(&digest(&wasm));
        let load = |engine: &Engine| {
            let (code, origin) = engine.compile_cached(&wasm, &key, &cache).unwrap();
            assert!(code.is_component());
            origin
        };
        let origin = load(&engine);
        assert!(
            matches!(origin, CodeOrigin::Compiled { damaged: None }),
            "{origin:?}"
        );
        for engine in [&engine, &self::engine()] {
            assert!(matches!(load(engine), CodeOrigin::Cached));
        }
        let entry = fs::read(cache.path(&key)).unwrap();
        let data = b"data of a component";
        assert!(!entry.windows(data.len()).any(|part| part == data));
    }
}

#[test]
fn keys_differ_for_different_files() {
    let engine = engine();
    assert_ne!(
        engine.code_key(&digest(&wasm(HELLO))),
        engine.code_key(&digest(&wasm(&HELLO.replace("{}", "[]"))))
    );
}

#[test]
fn compiles_damaged_entry_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = CodeCache::open(dir.path(), 1 << 30).unwrap();
    let (engine, wasm) = (engine(), wasm(HELLO));
    let key = engine.code_key(&digest(&wasm));
    let code = engine.precompile(&wasm).unwrap();
    let damages: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes.truncate(10),
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| bytes[1000] ^= 1,
        |bytes| bytes.clear(),
    ];
    for damage in damages {
        cache.store(&key, &code).unwrap();
        let path = cache.path(&key);
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        assert!(!cache.has(&key));
        let (_, from) = engine.compile_cached(&wasm, &key, &cache).unwrap();
        assert!(
            matches!(from, CodeOrigin::Compiled { damaged: Some(_) }),
            "{from:?}"
        );
    }
}

#[test]
fn keeps_most_recently_used_entries() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, wasm) = (engine(), wasm(HELLO));
    let code = engine.precompile(&wasm).unwrap();
    let keys: Vec<_> = (0..4).map(|i| engine.code_key(&[i; 32])).collect();
    let cache = CodeCache::open(dir.path(), 3 * (code.len() as u64 + 20)).unwrap();
    for (age, key) in keys[..3].iter().enumerate() {
        cache.store(key, &code).unwrap();
        let file = fs::File::open(cache.path(key)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(100 - age as u64))
            .unwrap();
    }
    cache.store(&keys[3], &code).unwrap();
    assert_eq!(
        keys.iter().map(|key| cache.has(key)).collect::<Vec<_>>(),
        [false, true, true, true]
    );
    assert!(
        CodeCache::open(dir.path(), 10)
            .unwrap()
            .store(&keys[0], &code)
            .is_err()
    );
}

#[test]
fn reports_cache_that_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine();
    let key = engine.code_key(&[0; 32]);
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(CodeCache::open(&file, 1).is_err());
    assert!(
        CodeCache::open(dir.path(), 1)
            .unwrap()
            .store(&key, b"x")
            .is_err()
    );
    assert!(CodeCache::open(Path::new("/proc/wws"), 1).is_err());
}
