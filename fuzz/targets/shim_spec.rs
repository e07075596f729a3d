//! `config.json` and the description of an exec: the shim changes what it documents and nothing
//! else, and what the entry point names is looked up within the container.
#![no_main]

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

use container::exec_spec;
use oci::entrypoint::{self, Entrypoint};
use oci::server::{SERVER, SERVER_IN_ROOT, ServedProject};
use oci::spec::Spec;

#[allow(dead_code)]
#[path = "../../shim/src/container"]
mod container {
    pub(crate) mod exec_spec;
}
#[allow(dead_code)]
#[path = "../../shim/src/error.rs"]
mod error;
#[allow(dead_code)]
#[path = "../../shim/src/oci"]
mod oci {
    pub(crate) mod entrypoint;
    pub(crate) mod rootfs;
    pub(crate) mod server;
    pub(crate) mod shell;
    pub(crate) mod spec;
    pub(crate) mod view;
}

/// A bundle whose root file system has links that lead out of it.
static BUNDLE: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let made = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    let bundle = made.expect("a directory");
    let at = |name: &str| bundle.path().join(name);
    fs::write(at("config.json"), "{}").expect("room");
    fs::create_dir_all(at("rootfs/app/sub")).expect("room");
    fs::create_dir_all(at("rootfs/bin")).expect("room");
    for file in ["rootfs/app/a.wasm", "rootfs/bin/a", "rootfs/a"] {
        fs::write(at(file), "").expect("room");
    }
    for (to, link) in [
        ("/app", "in"),
        ("/proc", "out"),
        ("../../../..", "up"),
        ("../../../../proc", "app/out"),
        ("circle", "circle"),
    ] {
        symlink(to, at("rootfs").join(link)).expect("room");
    }
    bundle
});

// A form feed on a line of its own divides the two.
fuzz_target!(|text: &str| {
    let (spec, exec) = text.split_once("\n\u{c}\n").unwrap_or((text, text));
    check_spec(spec.as_bytes());
    check_exec(exec.as_bytes());
});

/// Whether a number is no integer: a specification has none, and reading and writing one may change
/// its last digit.
fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(items) => items.iter().any(has_fraction),
        Value::Object(fields) => fields.values().any(has_fraction),
        _ => false,
    }
}

/// What the shim writes to the bundle.
fn written(spec: &Spec) -> Value {
    spec.write(BUNDLE.path()).expect("room");
    assert_eq!(&Spec::read(BUNDLE.path()).expect("what was written"), spec);
    let text = fs::read(BUNDLE.path().join("config.json")).expect("what was written");
    serde_json::from_slice(&text).expect("JSON")
}

fn check_spec(text: &[u8]) {
    let Ok(spec) = Spec::parse(text) else { return };
    let before: Value = serde_json::from_slice(text).expect("JSON");
    if has_fraction(&before) {
        return;
    }
    assert_eq!(written(&spec), before);
    let _ = (spec.group(), spec.cgroups_path(), spec.shares_pids());
    let view = spec.view(BUNDLE.path());
    let entry = entrypoint::resolve(&view);
    let mut directory = PathBuf::from("/");
    if let Ok((Entrypoint::Workers(path) | Entrypoint::Worker(path), _)) = &entry {
        let mut parts = path.components();
        assert_eq!(parts.next(), Some(Component::RootDir));
        assert!(
            parts.all(|part| matches!(part, Component::Normal(_))),
            "{path:?}"
        );
        directory.clone_from(path);
        let root = BUNDLE.path().join("rootfs");
        if view.root == root
            && view.mounts.is_empty()
            && let Some(project) = view.open_project(path)
        {
            let opened = fs::read_link(format!("/proc/self/fd/{}", project.directory.as_raw_fd()));
            assert!(
                opened.expect("/proc").starts_with(&root),
                "{path:?} leaves the root"
            );
        }
    }
    if let Ok((_, arguments)) = entry {
        check_changed(spec, &before, &directory, &arguments);
    }
}

/// Checks what the shim makes of a container of workers.
fn check_changed(mut spec: Spec, before: &Value, directory: &Path, arguments: &[String]) {
    let mut called = spec.clone();
    let has_process = before["process"].is_object();
    assert_eq!(
        called.call_server(Path::new("/opt/wws")).is_ok(),
        has_process
    );
    assert_eq!(spec.set_arguments(arguments.to_vec()).is_ok(), has_process);
    let limit = spec.memory_limit();
    let served = spec.serve(Path::new("/opt/wws"), directory, None);
    assert_eq!(served.is_ok(), has_process);
    let Ok(server) = served else { return };
    assert!([SERVER, SERVER_IN_ROOT].contains(&server));

    let mut expected = vec![json!(server), json!("serve-container")];
    if let Some(limit) = limit {
        expected.extend([json!("--memory"), json!(limit.to_string())]);
    }
    expected.extend([json!("--"), json!(directory)]);
    expected.extend(arguments.iter().skip(1).map(|argument| json!(argument)));
    let after = written(&spec);
    assert_eq!(after["process"]["args"], Value::Array(expected));
    for after in [after, written(&called)] {
        // The server and its code come last, read-only, and nothing else changes.
        let given = before["mounts"].as_array().map_or(&[][..], Vec::as_slice);
        let mounts = after["mounts"].as_array().expect("mounts");
        let (kept, added) = mounts.split_at(given.len());
        assert_eq!((kept, added.len()), (given, 2));
        assert_eq!(added[0]["destination"], server);
        for mount in added {
            let options = mount["options"].as_array().expect("options");
            assert!(options.contains(&json!("ro")), "{mount}");
        }
        assert_eq!(others(after), others(before.clone()));
    }
}

/// A specification without arguments and mounts.
fn others(mut spec: Value) -> Value {
    spec["mounts"].take();
    spec["process"]["args"].take();
    spec
}

fn check_exec(text: &[u8]) {
    let project = ServedProject {
        server: SERVER,
        path: "/app".into(),
        arguments: vec!["--port".to_owned(), "81".to_owned()],
        has_own_server: false,
        has_shell: false,
    };
    let before: Option<Value> = serde_json::from_slice(text).ok().filter(Value::is_object);
    for project in [None, Some(&project)] {
        let rewritten = exec_spec::rewrite(text, true, project);
        assert_eq!(rewritten.is_ok(), before.is_some());
        let (Ok(rewritten), Some(before)) = (rewritten, &before) else {
            continue;
        };
        if has_fraction(before) {
            continue;
        }
        let mut after: Value = serde_json::from_slice(&rewritten).expect("JSON");
        let mut expected = before.clone();
        expected["terminal"] = json!(true);
        if after["args"] != before["args"] || after["env"] != before["env"] {
            assert!(project.is_some() && after["args"][0] == SERVER, "{after}");
            let given = before["env"].as_array().map_or(&[][..], Vec::as_slice);
            if let Some(env) = after["env"].as_array() {
                let (kept, added) = env.split_at(env.len() - 2);
                assert!(
                    kept.iter().all(|variable| given.contains(variable)),
                    "{after}"
                );
                assert_eq!(added[0], "WWS_FOLDER=/app");
            }
            for changed in ["args", "env"] {
                after[changed].take();
                expected[changed].take();
            }
        }
        assert_eq!(after, expected);
    }
}
