//! Frameworks bundled with esbuild run as they are. Needs npm; where that is missing, the tests say
//! so and pass.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]

mod common;

use std::{path::Path, process::Command, sync::LazyLock};

use common::{Project, get, post, spec};

/// The packages, installed once: pinned by package-lock.json.
static PACKAGES: LazyLock<Option<std::path::PathBuf>> = LazyLock::new(|| {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frameworks");
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("frameworks");
    std::fs::create_dir_all(&directory).unwrap();
    for file in ["package.json", "package-lock.json"] {
        std::fs::copy(source.join(file), directory.join(file)).unwrap();
    }
    let installed = Command::new("npm")
        .args(["ci", "--silent", "--no-audit", "--no-fund"])
        .current_dir(&directory)
        .status();
    match installed {
        Ok(status) if status.success() => Some(directory),
        other => {
            eprintln!("not tested: npm did not install the packages ({other:?})");
            None
        }
    }
});

fn bundle(source: &str) -> Option<String> {
    let directory = PACKAGES.as_ref()?;
    let file = tempfile::Builder::new()
        .suffix(".js")
        .tempfile_in(directory)
        .unwrap();
    std::fs::write(file.path(), source).unwrap();
    let output = Command::new("node_modules/.bin/esbuild")
        .args(["--bundle", "--format=esm", "--log-level=error"])
        .arg(file.path())
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(String::from_utf8(output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn hono_runs() {
    let Some(source) = bundle(
        r#"import { Hono } from "hono";
        import { cors } from "hono/cors";
        import { logger } from "hono/logger";
        import { stream } from "hono/streaming";
        const app = new Hono();
        app.use("*", cors(), logger());
        app.get("/", (c) => c.text("hello"));
        app.get("/users/:id", (c) => c.json({ id: c.req.param("id"), q: c.req.query("q") }));
        app.post("/echo", async (c) => c.json(await c.req.json(), 201));
        app.get("/stream", (c) => stream(c, async (s) => { await s.write("a"); await s.sleep(5); await s.write("b"); }));
        app.get("/boom", () => { throw new Error("boom"); });
        app.onError((error, c) => c.text(error.message, 500));
        export default app;"#,
    ) else {
        return;
    };
    let project = Project::new(&[("index.js", &source)]);
    let guest = project.guest("index.js", spec());
    let response = guest.call(get("/")).await.unwrap();
    assert_eq!(response.body(), "hello");
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    assert!(
        response.headers()["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/plain")
    );
    let response = guest.call(get("/users/7?q=x")).await.unwrap();
    assert_eq!(response.body(), r#"{"id":"7","q":"x"}"#);
    let response = guest
        .call(post("/echo", br#"{"a":[1]}"#.to_vec()))
        .await
        .unwrap();
    assert_eq!(
        (response.status().as_u16(), response.body().as_ref()),
        (201, br#"{"a":[1]}"#.as_ref())
    );
    assert_eq!(guest.call(get("/stream")).await.unwrap().body(), "ab");
    let response = guest.call(get("/boom")).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.body().as_ref()),
        (500, b"boom".as_ref())
    );
    assert_eq!(guest.call(get("/none")).await.unwrap().status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn itty_router_runs() {
    let Some(source) = bundle(
        r#"import { AutoRouter, error } from "itty-router";
        const router = AutoRouter();
        router.get("/hello/:name", ({ name }) => `Hello, ${name}!`)
          .get("/json", () => ({ a: 1 }))
          .post("/echo", async (request) => new Response(await request.text()));
        export default { ...router };"#,
    ) else {
        return;
    };
    let project = Project::new(&[("index.js", &source)]);
    let guest = project.guest("index.js", spec());
    // AutoRouter answers with JSON.
    let body = guest.call(get("/hello/you")).await.unwrap().into_body();
    assert_eq!(body, r#""Hello, you!""#);
    assert_eq!(guest.call(get("/json")).await.unwrap().body(), r#"{"a":1}"#);
    assert_eq!(
        guest
            .call(post("/echo", b"x".to_vec()))
            .await
            .unwrap()
            .body(),
        "x"
    );
    assert_eq!(guest.call(get("/none")).await.unwrap().status(), 404);
}
