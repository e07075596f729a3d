//! What cannot be served says so at start, all of it at once.

use crate::common::{Site, wat};

#[test]
fn reports_all_files_that_are_not_workers() {
    let site = Site::new();
    site.file("text.wasm", "hello, not Wasm")
        .file("empty.wasm", "")
        .file("cut.wasm", b"\0asm\x01\0\0\0\x01\xff")
        .file("component.wasm", b"\0asm\x0d\0\x01\0")
        .wasm("imports.wasm", r#"(module (import "env" "magic" (func)) (memory (export "memory") 1) (func (export "_start")))"#)
        .wasm("large.wasm", r#"(module (memory (export "memory") 4000) (func (export "_start")))"#)
        .wasm("good.wasm", &wat::answers("good"))
        .file("script.js", "\nconst handler = ;\naddEventListener('fetch', handler);");
    let problems = site.problems();
    for line in [
        "text.wasm: not WebAssembly",
        "empty.wasm: an empty file",
        "cut.wasm: not a valid WebAssembly module",
        "component.wasm: a component of another kind",
        "imports.wasm: unknown import: `env::magic`",
        "large.wasm: the module starts with 262144000 bytes of memory",
        "script.js:2:17: SyntaxError",
    ] {
        assert!(problems.contains(line), "{line} in:\n{problems}");
    }
    assert!(!problems.contains("good.wasm"), "{problems}");
}

#[test]
fn reports_the_position_of_load_errors() {
    let site = Site::new();
    site.wasm("x.wasm", &wat::answers("x"))
        .file("x.toml", "version = \"1\"\nname = 1\n");
    let problems = site.problems();
    assert!(problems.contains("x.toml:2:8"), "{problems}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ignores_files_that_are_obviously_not_workers() {
    let site = Site::new();
    site.wasm("good.wasm", &wat::answers("good"))
        .wasm(
            "library.wasm",
            r#"(module (memory (export "memory") 1) (func (export "run")))"#,
        )
        .file("esbuild.config.js", "require('esbuild')")
        .file(
            "script.js",
            "import http from 'k6/http'; export default function () {}",
        )
        .file("helper.js", "export const add = (a, b) => a + b;")
        .file("texts.js", "export default { title: 'x' };")
        .file(
            "[id].js",
            "export default { fetch: () => new Response('id') };",
        );
    let server = site.start().await;
    assert_eq!(server.get("/good").await.text(), "good");
    // Their routes are others' now.
    for path in ["/library", "/script", "/helper", "/texts"] {
        assert_eq!(server.get(path).await.text(), "id", "{path}");
    }
    let warnings = server.warnings.join("\n");
    for line in [
        "library.wasm: no worker, and not served: it is a library",
        "esbuild.config.js: no worker, and not served: it configures a build tool",
        "script.js: no worker, and not served: it imports `k6/http`",
        "helper.js: no worker, and not served: it has no handler",
        "texts.js: no worker, and not served: its default export is",
    ] {
        assert!(warnings.contains(line), "{line} in:\n{warnings}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_worker_costs_only_its_route_if_not_strict() {
    let site = Site::new();
    site.settings("strict = false")
        .wasm("good.wasm", &wat::answers("good"))
        .wasm("imports.wasm", r#"(module (import "env" "magic" (func)) (memory (export "memory") 1) (func (export "_start")))"#)
        .file("text.wasm", "hello, not Wasm")
        .file("syntax.js", "export default ;")
        .wasm("toml.wasm", &wat::answers("toml"))
        .file("toml.toml", "[[folders]]\nfrom = \"./none\"\nto = \"/x\"\n")
        .file("throws.js", "export default { fetch() {} }; throw new Error('at the top');");
    let server = site.start().await;
    for path in ["/imports", "/text", "/syntax", "/toml", "/throws"] {
        let response = server.get(path).await;
        assert_eq!(response.status, 500, "{path}");
        let text = response.text();
        assert!(!text.contains("magic") && !text.contains("none"), "{text}");
    }
    assert_eq!(server.get("/good").await.text(), "good");
    let warnings = server.warnings.join("\n");
    for line in [
        "imports.wasm: /imports answers 500 (`server.strict`): unknown import: `env::magic`",
        "text.wasm: /text answers 500 (`server.strict`): not WebAssembly",
        "syntax.js:1:16: /syntax answers 500 (`server.strict`): SyntaxError",
        "toml.toml:2:8: /toml answers 500 (`server.strict`): cannot open the directory `none`",
        "throws.js:1:",
    ] {
        assert!(warnings.contains(line), "{line} in:\n{warnings}");
    }
}

#[test]
fn rejects_directories_outside_the_project() {
    let outside = tempfile::tempdir().unwrap();
    let site = Site::new();
    site.wasm("x.wasm", &wat::answers("x")).file(
        "x.toml",
        "version = \"1\"\n[[folders]]\nfrom = \"../\"\nto = \"/a\"\n[[folders]]\n\
            from = \"link\"\nto = \"/b\"\n",
    );
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
