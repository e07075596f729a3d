//! What cannot be served says so at start, all of it at once.

use crate::common::{Site, wat};

#[test]
fn files_that_are_no_workers_are_all_named() {
    let site = Site::new();
    site.file("text.wasm", "hello, not Wasm")
        .file("empty.wasm", "")
        .file("cut.wasm", b"\0asm\x01\0\0\0\x01\xff")
        .file("component.wasm", b"\0asm\x0d\0\x01\0")
        .wasm("library.wasm", r#"(module (memory (export "memory") 1) (func (export "run")))"#)
        .wasm("imports.wasm", r#"(module (import "env" "magic" (func)) (memory (export "memory") 1) (func (export "_start")))"#)
        .wasm("large.wasm", r#"(module (memory (export "memory") 4000) (func (export "_start")))"#)
        .wasm("good.wasm", &wat::answers("good"))
        .file("script.js", "\nconst handler = ;");
    let problems = site.problems();
    for line in [
        "text.wasm: not WebAssembly",
        "empty.wasm: an empty file",
        "cut.wasm: not a valid WebAssembly module",
        "component.wasm: a WebAssembly component",
        "library.wasm: it exports no function `_start`",
        "imports.wasm: unknown import: `env::magic`",
        "large.wasm: the module starts with 262144000 bytes of memory",
        "script.js:2:17: SyntaxError",
    ] {
        assert!(problems.contains(line), "{line} in:\n{problems}");
    }
    assert!(!problems.contains("good.wasm"), "{problems}");
}

#[test]
fn a_project_that_does_not_load_says_where() {
    let site = Site::new();
    site.wasm("x.wasm", &wat::answers("x"))
        .file("x.toml", "version = \"1\"\nnam = \"x\"\n");
    let problems = site.problems();
    assert!(problems.contains("x.toml:2:1"), "{problems}");
}

#[test]
fn folders_stay_within_the_project() {
    let outside = tempfile::tempdir().unwrap();
    let site = Site::new();
    site.wasm("x.wasm", &wat::answers("x"))
        .file("x.toml", "version = \"1\"\n[[folders]]\nfrom = \"../\"\nto = \"/a\"\n[[folders]]\nfrom = \"link\"\nto = \"/b\"\n");
    std::os::unix::fs::symlink(outside.path(), site.root().join("link")).unwrap();
    let problems = site.problems();
    assert!(problems.contains("x.toml:3"), "{problems}");
    assert!(
        problems.contains("`link` is outside the project"),
        "{problems}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_an_error() {
    let site = Site::new();
    site.wasm("x.wasm", &wat::answers("x"));
    let server = site.start().await;
    let project = wws_project::load(site.root(), &Default::default()).unwrap();
    let second = wws_server::prepare(project, &Default::default()).unwrap();
    let error = second.bind(server.address).await.err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}
