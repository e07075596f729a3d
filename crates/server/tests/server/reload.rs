//! A project that is loaded again while it is served.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use tokio::io::AsyncReadExt;
use tokio::time::{sleep, timeout};
use wws_project::{LoadOptions, Project};
use wws_server::Reloaded;

use crate::admin::{ask, metric};
use crate::common::{PATIENCE, Running, Site, wat};

/// Loads a project again. Blocks another thread, as a server does.
pub(crate) async fn reload(server: &Running, site: &Site) -> Result<Reloaded, String> {
    reload_with(server, site, LoadOptions::default()).await
}

async fn reload_with(
    server: &Running,
    site: &Site,
    options: LoadOptions,
) -> Result<Reloaded, String> {
    let (reloader, root) = (server.reloader.clone(), site.root().to_owned());
    let load = move || {
        let options = LoadOptions {
            languages: wws_server::Languages::standard().specs(),
            hashed: reloader.hashed(),
            ..options
        };
        let project = wws_project::load(&root, &options).map_err(|error| error.to_string())?;
        reloader.reload(project).map_err(|error| error.to_string())
    };
    tokio::task::spawn_blocking(load).await.unwrap()
}

/// Waits until a generation is freed.
async fn is_freed(project: &Weak<Project>) {
    let freed = async {
        while project.upgrade().is_some() {
            sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let freed = timeout(PATIENCE, freed).await;
    freed.expect("it is freed once its last request has ended");
}

fn counts(reloaded: &Reloaded) -> [usize; 3] {
    [reloaded.kept, reloaded.loaded.len(), reloaded.removed]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_and_no_connection_closes_under_load() {
    const CONNECTIONS: usize = 8;
    const RELOADS: usize = 6;
    let site = Site::new();
    let write = |version: usize| {
        site.wasm("version.wasm", &wat::answers(&version.to_string()));
    };
    write(0);
    site.settings("admin = \"127.0.0.1:0\"")
        .wasm("same.wasm", &wat::answers("same"))
        .wasm(
            "keeps.wasm",
            &wat::prints(r#"{"data":"kept","kv":{"before":"yes"}}"#, ""),
        )
        .file(
            "keeps.toml",
            "version = \"1\"\n[data.kv]\nnamespace = \"n\"\n",
        )
        .file("public/page.txt", "a page");
    let mut server = site.start().await;
    let first = Arc::downgrade(&server.reloader.project());
    assert_eq!(server.get("/keeps").await.text(), "kept");
    let (done, current) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = server.connect().await;
        let (done, current) = (done.clone(), current.clone());
        clients.push(tokio::spawn(async move {
            let mut requests = 0;
            while !done.load(Ordering::SeqCst) {
                let least = current.load(Ordering::SeqCst);
                let response = client.get("/version").await;
                assert_eq!(response.status, 200, "{}", response.text());
                let version: usize = response.text().parse().unwrap();
                assert!(version >= least, "{version} after {least}");
                for (path, expected) in [("/same", "same"), ("/page.txt", "a page")] {
                    let response = client.get(path).await;
                    assert_eq!((response.status, &*response.text()), (200, expected));
                    assert_eq!(response.header("connection"), None);
                }
                requests += 3;
            }
            requests
        }));
    }
    for version in 1..=RELOADS {
        write(version);
        let reloaded = reload(&server, &site).await.unwrap();
        assert_eq!(counts(&reloaded), [2, 1, 0]);
        assert_eq!(reloaded.generation, version as u64 + 1);
        current.store(version, Ordering::SeqCst);
        assert_eq!(ask(&server, "/readyz").await.status, 200);
        // Every version is served for a while.
        sleep(std::time::Duration::from_millis(50)).await;
    }
    done.store(true, Ordering::SeqCst);
    for client in clients {
        let requests = timeout(PATIENCE, client).await.unwrap().unwrap();
        assert!(requests > 0);
    }
    is_freed(&first).await;
    let kept = ask(&server, "/_api/v1/kv/n").await.text();
    assert!(kept.contains("before"), "{kept}");
    assert_eq!(
        metric(&server, "wws_generation").await,
        1.0 + RELOADS as f64
    );
    let reloads = metric(&server, "wws_reloads_total{outcome=\"ok\"}").await;
    assert_eq!(reloads, RELOADS as f64);
    let accepted = metric(&server, "wws_connections_accepted_total").await;
    assert_eq!(accepted, 1.0 + CONNECTIONS as f64);
    server.stop();
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_changes_under_load_fails_no_request() {
    const CLIENTS: usize = 4;
    const CHANGES: usize = 10;
    let site = Site::new();
    let secret = site.root().canonicalize().unwrap().join("secret");
    site.file(
        "w.js",
        "export default { fetch: () => new Response(TOKEN) };",
    )
    .file(
        "w.toml",
        format!("[vars]\nTOKEN = \"file:{}\"\n", secret.display()),
    )
    .file("secret", "0\n");
    let mut server = site.start().await;
    let done = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = server.connect().await;
        let done = done.clone();
        clients.push(tokio::spawn(async move {
            let mut last = 0;
            while !done.load(Ordering::SeqCst) {
                let response = client.get("/w").await;
                assert_eq!(response.status, 200, "{}", response.text());
                let seen: usize = response.text().parse().unwrap();
                assert!(seen >= last, "{seen} after {last}");
                last = seen;
            }
        }));
    }
    // As the kubelet exchanges it: never half of a value.
    let exchange = |value: &str| {
        site.file("next", value);
        std::fs::rename(site.root().join("next"), &secret).unwrap();
    };
    for change in 1..=CHANGES {
        exchange(&format!("{change}\n"));
        assert_eq!(counts(&reload(&server, &site).await.unwrap()), [0, 1, 0]);
        assert_eq!(server.get("/w").await.text(), change.to_string());
        // Away for a while: what was read is used.
        std::fs::remove_file(&secret).unwrap();
        let problems = reload(&server, &site).await.unwrap_err();
        assert!(problems.contains("there is no file"), "{problems}");
        assert_eq!(server.get("/w").await.text(), change.to_string());
    }
    done.store(true, Ordering::SeqCst);
    for client in clients {
        timeout(PATIENCE, client).await.unwrap().unwrap();
    }
    server.stop();
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_ends_in_the_generation_in_which_it_began() {
    const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
    let site = Site::new();
    site.wasm("w.wasm", &wat::answers("old"));
    let server = site.start().await;
    let old = Arc::downgrade(&server.reloader.project());
    let mut client = server.connect().await;
    client
        .send("POST /w HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        .await;
    let mut asked = [0; CONTINUE.len()];
    let read = client.stream.read_exact(&mut asked);
    timeout(PATIENCE, read).await.unwrap().unwrap();
    assert_eq!(asked, CONTINUE);
    site.wasm("w.wasm", &wat::answers("new"));
    let reloaded = reload(&server, &site).await.unwrap();
    assert_eq!(counts(&reloaded), [0, 1, 0]);
    assert_eq!(server.get("/w").await.text(), "new");
    assert!(old.upgrade().is_some(), "a request uses it");
    client.send("ab").await;
    assert_eq!(client.response().await.text(), "old");
    assert_eq!(client.get("/w").await.text(), "new");
    is_freed(&old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_with_problems_changes_nothing() {
    let site = Site::new();
    site.settings("admin = \"127.0.0.1:0\"")
        .wasm("a.wasm", &wat::answers("a"))
        .wasm("b.wasm", &wat::answers("b"));
    let server = site.start().await;
    site.file("a.wasm", "no module").file("c.wasm", "none");
    let problems = reload(&server, &site).await.unwrap_err();
    for line in ["a.wasm: not WebAssembly", "c.wasm: not WebAssembly"] {
        assert!(problems.contains(line), "{problems}");
    }
    assert_eq!(server.get("/a").await.text(), "a");
    assert_eq!(server.get("/c").await.status, 404);
    assert_eq!(metric(&server, "wws_last_reload_failed").await, 1.0);
    assert_eq!(metric(&server, "wws_generation").await, 1.0);
    assert_eq!(ask(&server, "/readyz").await.status, 200);
    site.wasm("a.wasm", &wat::answers("mended"))
        .wasm("c.wasm", &wat::answers("c"));
    let reloaded = reload(&server, &site).await.unwrap();
    assert_eq!(counts(&reloaded), [1, 2, 0]);
    assert_eq!(server.get("/a").await.text(), "mended");
    assert_eq!(server.get("/c").await.text(), "c");
    assert_eq!(metric(&server, "wws_last_reload_failed").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_loads_only_the_changed_worker() {
    let site = Site::new();
    for worker in 0..100 {
        site.wasm(
            &format!("w{worker}.wasm"),
            &wat::answers(&worker.to_string()),
        );
    }
    let server = site.start().await;
    site.wasm("w50.wasm", &wat::answers("changed"));
    let started = std::time::Instant::now();
    let reloaded = reload(&server, &site).await.unwrap();
    println!("reloaded in {:?}", started.elapsed());
    assert_eq!(counts(&reloaded), [99, 1, 0]);
    assert_eq!(server.get("/w50").await.text(), "changed");
    assert_eq!(server.get("/w51").await.text(), "51");
    // Written again, with the same contents.
    site.wasm("w51.wasm", &wat::answers("51"));
    std::fs::remove_file(site.root().join("w52.wasm")).unwrap();
    let reloaded = reload(&server, &site).await.unwrap();
    assert_eq!(counts(&reloaded), [99, 0, 1]);
    assert_eq!(server.get("/w52").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_loads_a_worker_after_any_change_of_it() {
    let site = Site::new();
    site.file("_lib/text.js", "export const text = 'one';")
        .file(
            "a.js",
            "import { text } from './_lib/text.js';
             export default { fetch: () => new Response(text + (globalThis.NAME ?? '')) };",
        )
        .file("b.js", "export default { fetch: () => new Response('b') };");
    let server = site.start().await;
    let reloaded = reload(&server, &site).await.unwrap();
    assert_eq!(counts(&reloaded), [2, 0, 0]);
    // A file that it imports.
    site.file("_lib/text.js", "export const text = 'two';");
    let reloaded = reload(&server, &site).await.unwrap();
    assert_eq!(counts(&reloaded), [1, 1, 0]);
    assert_eq!(server.get("/a").await.text(), "two");
    // A file that is no worker is one when what it imports makes it one.
    site.file("_lib/handler.js", "export default 1;")
        .file("c.js", "export { default } from './_lib/handler.js';");
    for _ in 0..2 {
        let reloaded = reload(&server, &site).await.unwrap();
        assert_eq!(counts(&reloaded), [2, 0, 0]);
        assert_eq!(reloaded.warnings.len(), 1);
    }
    site.file(
        "_lib/handler.js",
        "export default { fetch: () => new Response('c') };",
    );
    let reloaded = reload(&server, &site).await.unwrap();
    assert_eq!((counts(&reloaded), reloaded.warnings.len()), ([2, 1, 0], 0));
    assert_eq!(server.get("/c").await.text(), "c");
    std::fs::remove_file(site.root().join("c.js")).unwrap();
    let reloaded = reload(&server, &site).await.unwrap();
    assert_eq!(counts(&reloaded), [2, 0, 1]);
    // A variable of the environment.
    site.file("a.toml", "version = \"1\"\n[vars]\nNAME = \"$SECRET\"\n");
    for value in ["1", "2"] {
        let options = LoadOptions {
            env: [("SECRET".to_owned(), value.to_owned())].into(),
            ..LoadOptions::default()
        };
        let reloaded = reload_with(&server, &site, options.clone()).await.unwrap();
        assert_eq!(counts(&reloaded), [1, 1, 0]);
        let reloaded = reload_with(&server, &site, options).await.unwrap();
        assert_eq!(counts(&reloaded), [2, 0, 0]);
    }
    // A secret in a file.
    let secret = site.root().canonicalize().unwrap().join("secret");
    let toml = format!("[vars]\nNAME = \"file:{}\"\n", secret.display());
    site.file("a.toml", toml).file("secret", "-1\n");
    let reloaded = reload(&server, &site).await.unwrap();
    assert_eq!(counts(&reloaded), [1, 1, 0]);
    site.file("secret", "-2\n");
    let reloaded = reload(&server, &site).await.unwrap();
    assert_eq!(counts(&reloaded), [1, 1, 0]);
    assert_eq!(server.get("/a").await.text(), "two-2");
    std::fs::remove_file(&secret).unwrap();
    let problems = reload(&server, &site).await.unwrap_err();
    assert!(
        problems.contains("a.toml:2:8: `NAME`: there is no file"),
        "{problems}"
    );
    assert_eq!(server.get("/a").await.text(), "two-2");
    site.file("secret", "-2\n");
    // Its directory: another one at the same path.
    site.file("data/old.txt", "")
        .wasm("w.wasm", &wat::answers("w"))
        .file(
            "w.toml",
            "version = \"1\"\n[[folders]]\nfrom = \"./data\"\nto = \"/data\"\n",
        );
    let reloaded = reload(&server, &site).await.unwrap();
    assert_eq!(counts(&reloaded), [2, 1, 0]);
    let reloaded = reload(&server, &site).await.unwrap();
    assert_eq!(counts(&reloaded), [3, 0, 0]);
    std::fs::rename(site.root().join("data"), site.root().join("moved")).unwrap();
    site.file("data/new.txt", "");
    let reloaded = reload(&server, &site).await.unwrap();
    assert_eq!(counts(&reloaded), [2, 1, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_take_effect_or_are_named() {
    let site = Site::new();
    site.wasm("x.wasm", &wat::answers("x"))
        .file("public/a.txt", "a");
    let server = site.start().await;
    let mut client = server.connect().await;
    assert_eq!(client.get("/x").await.text(), "x");
    site.settings("port = 81\nmax_body = 1\nprefix = \"/v1\"\ncors = \"*\"\nqueue = 7\n")
        .file("public/b.txt", "b");
    let reloaded = reload(&server, &site).await.unwrap();
    assert_eq!(reloaded.needs_restart, ["port", "max_body", "queue"]);
    assert_eq!(client.get("/x").await.status, 404);
    assert_eq!(client.get("/v1/a.txt").await.text(), "a");
    assert_eq!(client.get("/v1/b.txt").await.text(), "b");
    let response = client
        .request("GET", "/v1/x", "origin: https://other.example\r\n", b"")
        .await;
    assert_eq!(response.text(), "x");
    assert_eq!(response.header("access-control-allow-origin"), Some("*"));
    let settings = server.reloader.project().settings().clone();
    assert_eq!((settings.port, settings.max_body), (None, 10 << 20));
}
