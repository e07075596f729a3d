//! Data is never code: what is stored where a worker is given a directory is no worker and no asset
//! at the next start.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{fs, os::unix::fs::PermissionsExt, os::unix::fs::symlink, path::Path};

use tempfile::TempDir;
use wws_project::{LoadOptions, Project, load};

mod common;

use common::options;

fn project(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (path, text) in files {
        write(&dir, path, text);
    }
    dir
}

fn write(dir: &TempDir, path: &str, text: &str) {
    let path = dir.path().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn given(from: &str) -> String {
    format!("version = \"1\"\n[[folders]]\nfrom = \"{from}\"\nto = \"/data\"\n")
}

fn open(dir: &TempDir) -> Project {
    load(dir.path(), &options()).unwrap_or_else(|problems| panic!("{problems}"))
}

fn workers(project: &Project) -> Vec<String> {
    let paths = project.workers().iter().map(|worker| &worker.path);
    paths.map(|path| path.display().to_string()).collect()
}

fn assets(project: &Project) -> Vec<&str> {
    let urls = project.assets().iter().map(|asset| asset.url.as_str());
    urls.collect()
}

fn warnings(project: &Project) -> Vec<String> {
    project.warnings().iter().map(ToString::to_string).collect()
}

#[test]
fn a_stored_file_is_no_worker() {
    let dir = project(&[
        ("index.js", ""),
        ("api/save.js", ""),
        ("api/save.toml", &given("./data")),
        ("api/data/notes.txt", ""),
    ]);
    let served = ["api/save.js", "index.js"];
    let before = open(&dir);
    assert_eq!(workers(&before), served);
    assert_eq!(warnings(&before), [""; 0]);
    for (stored, text) in [
        ("api/data/upload.js", "const x = ;"),
        ("api/data/upload.wasm", "not Wasm"),
        ("api/data/upload.toml", "no TOML ["),
        ("api/data/deep/er/[...all].js", ""),
        // Its TOML would put all of the project out of service.
        ("api/data/evil.js", ""),
        ("api/data/evil.toml", &given("../..")),
    ] {
        write(&dir, stored, text);
    }
    symlink("nowhere", dir.path().join("api/data/dead.js")).unwrap();
    symlink("../../..", dir.path().join("api/data/out.js")).unwrap();
    let secret = dir.path().join("api/data/secret.js");
    fs::write(&secret, "").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    let after = open(&dir);
    assert_eq!(workers(&after), served);
    let told = warnings(&after);
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(
        told[0].starts_with(
            "api/data: it holds data: [[folders]] of api/save.js names it; \
             api/data/deep/er/[...all].js and 4 other files are not served\n    to serve workers \
             from it, move them"
        ),
        "{told:#?}"
    );
}

#[test]
fn a_directory_beside_the_worker_holds_data_however_it_is_reached() {
    let dir = project(&[
        ("api/save.js", ""),
        ("api/save.toml", &given("../alias")),
        ("real/upload.js", ""),
        ("real/evil.js", ""),
        ("real/evil.toml", &given("./sub")),
        ("real/sub/x.js", ""),
        ("good/index.js", ""),
    ]);
    symlink("real", dir.path().join("alias")).unwrap();
    symlink("../real/sub", dir.path().join("good/below")).unwrap();
    symlink("real/upload.js", dir.path().join("linked.js")).unwrap();
    let project = open(&dir);
    assert_eq!(workers(&project), ["api/save.js", "good/index.js"]);
}

/// A worker stores a file with a TOML that names the directory of the worker itself: nobody can
/// tell which of them was stored.
#[test]
fn rejects_two_workers_that_name_the_directory_of_each_other() {
    let dir = project(&[
        ("index.js", ""),
        ("api/save.js", ""),
        ("api/save.toml", &given("../data")),
        ("api/other.js", ""),
        ("data/evil.js", ""),
        ("data/evil.toml", &given("../api")),
        ("data/upload.js", ""),
    ]);
    let found = open(&dir);
    assert_eq!(workers(&found), ["index.js"]);
    assert_eq!(warnings(&found).len(), 2, "{:#?}", warnings(&found));
    // Whoever names a directory below its own is not to be put out of service.
    write(&dir, "index.toml", &given("./data"));
    let found = open(&dir);
    assert_eq!(workers(&found), ["api/other.js", "api/save.js", "index.js"]);
}

/// Each stored file names the directory of the next one, and the first that of the worker.
#[test]
fn many_stored_files_do_not_delay_the_start() {
    let dir = project(&[("api/save.js", ""), ("api/save.toml", &given("../data"))]);
    const ROW: usize = 2_000;
    write(&dir, "data/evil.js", "");
    write(&dir, "data/evil.toml", &given("../api"));
    for index in 0..ROW {
        write(&dir, &format!("data/{index}/w.js"), "");
        let next = format!("../{}", (index + 1) % ROW);
        write(&dir, &format!("data/{index}/w.toml"), &given(&next));
    }
    write(&dir, "data/0/w.toml", &given("../1"));
    write(&dir, "index.js", "");
    assert_eq!(workers(&open(&dir)), ["index.js"]);
}

#[test]
fn link_among_data_is_not_trusted() {
    let dir = project(&[
        ("api/save.js", ""),
        ("api/save.toml", &given("../data")),
        ("data/evil.js", ""),
        ("data/evil.toml", &given("./link")),
        ("index.js", ""),
    ]);
    symlink("../api", dir.path().join("data/link")).unwrap();
    let found = open(&dir);
    assert!(!workers(&found).contains(&"data/evil.js".into()));
    assert!(workers(&found).contains(&"index.js".into()));
}

#[test]
fn explains_how_to_serve_a_worker_within_its_data() {
    let dir = project(&[("api/w.js", ""), ("api/w.toml", &given("."))]);
    let problems = load(dir.path(), &options()).unwrap_err();
    let text = problems.to_string();
    assert!(
        text.starts_with(
            "api/w.js: [[folders]] gives it the directory `api`, which holds the worker itself"
        ) && text.contains("from = \"./data\"")
            && text.contains("data = false"),
        "{text}"
    );
    write(&dir, "api/w.toml", &(given(".") + "data = false\n"));
    write(&dir, "api/other.js", "");
    assert_eq!(workers(&open(&dir)), ["api/other.js", "api/w.js"]);
}

#[test]
fn rejects_the_directory_of_runtimes() {
    let dir = project(&[
        ("w.js", ""),
        ("w.toml", &given("./.wws/runtimes")),
        (".wws/runtimes/x", ""),
    ]);
    let problems = load(dir.path(), &options()).unwrap_err();
    let text = problems.to_string();
    assert!(
        text.starts_with("w.toml:3:8: the directory `.wws/runtimes` holds the project's runtimes"),
        "{text}"
    );
}

#[test]
fn stored_file_is_an_asset_only_if_configured() {
    let dir = project(&[
        ("save.js", ""),
        ("save.toml", &given("./public/uploads")),
        ("public/index.html", ""),
        ("public/uploads/page.html", ""),
        ("public/uploads/deep/x.svg", ""),
    ]);
    symlink("uploads/page.html", dir.path().join("public/linked.html")).unwrap();
    let found = open(&dir);
    assert_eq!(assets(&found), ["/index.html"]);
    assert!(
        warnings(&found)[0].contains("public/uploads/deep/x.svg and another file are no assets"),
        "{:#?}",
        warnings(&found)
    );
    write(
        &dir,
        "save.toml",
        &(given("./public/uploads") + "data = false\n"),
    );
    assert_eq!(assets(&open(&dir)).len(), 4);
}

#[test]
fn skips_a_directory_that_cannot_be_read() {
    let dir = project(&[("index.js", ""), ("pgdata/x.js", "")]);
    fs::set_permissions(dir.path().join("pgdata"), fs::Permissions::from_mode(0o000)).unwrap();
    let found = open(&dir);
    if rustix::process::geteuid().is_root() {
        assert_eq!(workers(&found).len(), 2);
    } else {
        assert_eq!(workers(&found), ["index.js"]);
        assert!(warnings(&found)[0].starts_with("pgdata: not searched: Permission denied"));
    }
    fs::set_permissions(dir.path().join("pgdata"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn ignores_temporary_files_of_programs() {
    let dir = project(&[
        ("index.js", ""),
        (".hidden.js", ""),
        (".idea/x.js", ""),
        ("~index.js", ""),
        (".well-known/webfinger.js", ""),
        // A ConfigMap as the kubelet mounts it.
        ("app/..2026_11_29/hello.js", ""),
        ("public/index.html", ""),
        ("public/.env", ""),
        ("public/.git/config", ""),
        ("public/page.html~", ""),
        ("public/#page.html#", ""),
        ("public/.well-known/security.txt", ""),
        ("public/..2026_11_29/style.css", ""),
    ]);
    let at = |path: &str| dir.path().join(path);
    symlink("me@host.123:456", at(".#index.js")).unwrap();
    symlink("me@host.123:456", at("public/.#page.html")).unwrap();
    for top in ["app", "public"] {
        symlink("..2026_11_29", at(&format!("{top}/..data"))).unwrap();
    }
    symlink("..data/hello.js", at("app/hello.js")).unwrap();
    symlink("..data/style.css", at("public/style.css")).unwrap();
    symlink("nowhere", at("dead.js")).unwrap();
    symlink("nowhere", at("public/dead.css")).unwrap();
    symlink("/etc/hostname", at("public/outside.txt")).unwrap();
    let found = open(&dir);
    assert_eq!(
        workers(&found),
        [
            ".well-known/webfinger.js",
            "app/hello.js",
            "index.js",
            "~index.js"
        ]
    );
    assert_eq!(
        assets(&found),
        ["/.well-known/security.txt", "/index.html", "/style.css"]
    );
    let told = warnings(&found);
    assert_eq!(
        told,
        [
            "dead.js: not served: a link to what is not there",
            "public/dead.css: not served: a link to what is not there",
            "public/outside.txt: not served: a link that leads outside the project\n    replace it \
             by the file or directory itself, or let `server.ignore` leave it out",
        ]
    );
}

#[test]
fn bounds_the_depth_of_directories() {
    let dir = TempDir::new().unwrap();
    let deep = "d/".repeat(200);
    write(&dir, &format!("public/{deep}x.txt"), "");
    write(&dir, &format!("{deep}w.js"), "");
    let found = open(&dir);
    assert_eq!((found.workers().len(), found.assets().len()), (1, 1));
    assert!(matches!(
        found.find(&format!("/{deep}w")),
        wws_project::RouteMatch::Worker { .. }
    ));
    write(&dir, &format!("e/{}w.js", "d/".repeat(256)), "");
    let found = open(&dir);
    assert_eq!(found.workers().len(), 1);
    assert!(warnings(&found)[0].contains("more than 256 directories deep"));
}

/// In a container, whose mounts hold data where they can be written to. Mounts need root, in
/// namespaces of their own.
#[test]
fn writable_mounts_hold_data_and_read_only_ones_may_hold_workers() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = project(&[
        ("index.js", ""),
        ("writable/x", ""),
        ("fixed/x", ""),
        ("hostproc/x", ""),
        ("site/x", ""),
    ]);
    let source = project(&[("w.js", ""), ("public/a.txt", "")]);
    let (root, source) = (dir.path().to_owned(), source.path().to_owned());
    let run = move || {
        use rustix::mount::{
            MountFlags, MountPropagationFlags, mount_bind, mount_change, mount_remount,
        };
        // SAFETY: the thread's own mounts; it shares no memory that depends on them.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
        mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .unwrap();
        let bind = |from: &Path, to: &str| mount_bind(from, root.join(to)).unwrap();
        bind(&source, "writable");
        bind(&source, "fixed");
        mount_remount(
            root.join("fixed"),
            MountFlags::BIND | MountFlags::RDONLY,
            "",
        )
        .unwrap();
        bind(Path::new("/proc"), "hostproc");
        bind(&source, "site");
        let container = LoadOptions {
            container: true,
            ..options()
        };
        let found = load(&root, &container).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(workers(&found), ["fixed/w.js", "index.js"]);
        let told = warnings(&found);
        assert_eq!(told.len(), 2, "{told:#?}");
        assert!(
            told.iter().any(|text| text.starts_with(
                "writable: it holds data: it is a mount that can be written to; writable/w.js is \
                 not served"
            ) && text.contains("read-only")),
            "{told:#?}"
        );
        // A project that is a mount itself is served.
        let found = load(&root.join("site"), &container).unwrap();
        assert_eq!(workers(&found), ["w.js"]);
        assert_eq!(assets(&found), ["/a.txt"]);
        // Outside of a container, mounts are the user's own affair.
        let found = load(&root.join("writable"), &options()).unwrap();
        assert_eq!(workers(&found), ["w.js"]);
    };
    std::thread::spawn(run).join().unwrap();
}

#[test]
fn more_files_than_the_memory_holds_are_a_problem() {
    let dir = project(&[("index.js", "")]);
    let public = dir.path().join("public");
    fs::create_dir(&public).unwrap();
    for number in 0..10_001 {
        fs::write(public.join(number.to_string()), "").unwrap();
    }
    // Short names take 7 MB, and the memory is half for names.
    let memory = |memory| LoadOptions {
        memory,
        ..options()
    };
    assert_eq!(
        load(dir.path(), &memory(None)).unwrap().assets().len(),
        10_001
    );
    let problems = load(dir.path(), &memory(Some(12 << 20))).unwrap_err();
    let text = problems.to_string();
    assert!(
        text.contains("more files and directories than the server has memory for"),
        "{text}"
    );
    assert!(text.contains("give the server more memory"), "{text}");
}
