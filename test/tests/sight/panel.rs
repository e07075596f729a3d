//! The panel in a browser: in light and dark, on a desktop and on a phone.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use wws_test::server::Server;
use wws_test::{http, port, workspace};

use crate::browser::Browser;

/// The value of a variable, which nobody may see.
const SECRET: &str = "secret-of-the-panel";

const WORKER: &str = "export default {
    async fetch(request) {
        console.log('a line of the worker');
        console.error('an error of the worker, with a text that is so long that it does not fit \
        into one line of a phone');
        return new Response('hello');
    },
};";

/// What a worker of the old protocol prints: it sets keys.
const KEPT: &str = r#"{"data":"kept","kv":{"visits":"7","<b>bold</b>":"a value that is long enough to need more than one line on a phone, and then some"}}"#;

/// A worker that prints a text.
fn prints(text: &str) -> Result<Vec<u8>> {
    let quoted = text.replace('"', "\\22");
    let module = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write"
                (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 64) "{quoted}")
            (func (export "_start")
                (i32.store (i32.const 0) (i32.const 64))
                (i32.store (i32.const 4) (i32.const {}))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))))"#,
        text.len()
    );
    Ok(wat::parse_str(module)?)
}

const TRAPS: &str = r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#;

/// Texts whose contrast with what is behind them is below 4.5 to 1 (WCAG 2.2, AA).
const CONTRAST: &str = r#"(() => {
    const parse = text => (text.match(/[\d.]+/g) || []).map(Number);
    const light = ([r, g, b]) => {
        const [x, y, z] = [r, g, b].map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const behind = element => {
        for (; element; element = element.parentElement) {
            const color = parse(getComputedStyle(element).backgroundColor);
            if (color.length === 3 || color[3] > 0.99) return color;
        }
        return [255, 255, 255];
    };
    const poor = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !element.checkVisibility() || /SCRIPT|NOSCRIPT|STYLE/.test(element.tagName)) continue;
        const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) poor.push(`${walker.currentNode.data.trim()}: ${ratio.toFixed(2)}`);
    }
    return poor;
})()"#;

/// Elements that reach beyond the page on the right.
const OVERFLOW: &str = r#"(() => {
    const width = document.documentElement.clientWidth;
    const all = [...document.querySelectorAll("main *")];
    return all.filter(e => e.checkVisibility() && e.getBoundingClientRect().right > width + 0.5)
        .map(e => `${e.tagName} ${e.className} ${e.textContent.slice(0, 40)}`);
})()"#;

struct ShownPanel {
    directory: TempDir,
    server: Server,
    panel: String,
}

fn serve(files: &[(&str, &[u8])]) -> Result<ShownPanel> {
    let directory = tempfile::tempdir()?;
    let project = directory.path().join("project");
    for (name, content) in files {
        let path = project.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, content)?;
    }
    let admin = port::free()?;
    let address = format!("127.0.0.1:{admin}");
    let variables = [("WWS_ADMIN", &*address), ("SECRET_OF_TEST", SECRET)];
    let server = Server::start(&project, directory.path().join("log"), &variables)?;
    Ok(ShownPanel {
        directory,
        server,
        panel: format!("http://{address}/_panel/"),
    })
}

/// Looks at the page as it is, and keeps a picture.
fn check(browser: &mut Browser, name: &str) -> Result<()> {
    let directory = workspace::root().join("target/panel");
    fs::create_dir_all(&directory)?;
    browser.picture(&directory.join(format!("{name}.png")))?;
    for (what, expression) in [("poor contrast", CONTRAST), ("beyond the page", OVERFLOW)] {
        let found = browser.evaluate(expression)?;
        ensure!(
            found == Value::Array(Vec::new()),
            "{name}: {what}: {found:#}"
        );
    }
    let wide = "document.documentElement.scrollWidth <= document.documentElement.clientWidth";
    ensure!(
        browser.evaluate(wide)? == true,
        "{name}: it scrolls sideways"
    );
    let complaints = browser.complaints();
    ensure!(complaints.is_empty(), "{name}: {complaints:#?}");
    Ok(())
}

fn views() -> impl Iterator<Item = (u32, &'static str)> {
    let widths = [1200, 768, 390, 320];
    widths
        .into_iter()
        .flat_map(|width| ["light", "dark"].map(|scheme| (width, scheme)))
}

#[test]
#[ignore = "make test-sight"]
fn workers_store_and_log_are_shown_on_every_screen() -> Result<()> {
    let toml = "name = \"greeter\"\n[vars]\nTOKEN = \"$SECRET_OF_TEST\"\nPLAIN = \"as written\"\n\
                [features.http_requests]\nallowed_hosts = [\"api.example.com\", \
                \"a-very-long-name.of-a-host.that-is-allowed.example.org\"]\n";
    let keeps = "[data.kv]\nnamespace = \"visits\"\n";
    let (keeping, trapping) = (prints(KEPT)?, wat::parse_str(TRAPS)?);
    let long = "a/route/with/many/parts/[and]/parameters/[that]/does-not-fit/into-a-phone.wasm";
    let shown = serve(&[
        ("hello.js", WORKER.as_bytes()),
        ("hello.toml", toml.as_bytes()),
        ("keeps.wasm", &keeping),
        ("keeps.toml", keeps.as_bytes()),
        ("traps.wasm", &trapping),
        (long, &trapping),
        ("<img src=x onerror=alert(1)>.wasm", &keeping),
        ("public/page.html", b"a page"),
    ])?;
    for path in [
        "/hello",
        "/keeps",
        "/traps",
        "/hello",
        "/page.html",
        "/none",
    ] {
        http::get(shown.server.port(), path)?;
    }
    let mut browser = Browser::start()?;
    browser.look(1200, "light")?;
    browser.open(&shown.panel)?;
    browser.wait("document.querySelectorAll('#workers button.route').length === 5")?;
    browser.wait("document.getElementById('state').textContent === 'ready'")?;
    // Markup of a route and of a key is text.
    browser.wait("document.querySelectorAll('img, td b').length === 0")?;
    browser.wait("document.body.innerText.includes('<img src=x')")?;
    browser.wait("document.getElementById('keys').innerText.includes('<b>bold</b>')")?;
    browser.wait("document.getElementById('keys').innerText.includes('visits')")?;
    browser.evaluate(
        "[...document.querySelectorAll('button.route')].find(b => b.textContent === \
        '/hello').click()",
    )?;
    browser.wait(
        "document.querySelector('#detail .log')?.innerText.includes('an error of the worker')",
    )?;
    let detail = browser.evaluate("document.getElementById('detail').innerText")?;
    let detail = detail.as_str().unwrap_or_default();
    for text in [
        "greeter",
        "TOKEN=********",
        "PLAIN=********",
        "api.example.com",
        "a line of the worker",
    ] {
        ensure!(detail.contains(text), "no {text:?} in {detail}");
    }
    let page = browser.evaluate("document.documentElement.outerHTML")?;
    ensure!(!page.as_str().unwrap_or(SECRET).contains(SECRET), "{page}");
    for (width, scheme) in views() {
        browser.look(width, scheme)?;
        check(&mut browser, &format!("workers-{width}-{scheme}"))?;
    }
    Ok(())
}

#[test]
#[ignore = "make test-sight"]
fn a_project_without_workers_and_a_failed_reload_are_shown() -> Result<()> {
    let shown = serve(&[("public/index.html", b"a page")])?;
    let mut browser = Browser::start()?;
    browser.look(390, "light")?;
    browser.open(&shown.panel)?;
    browser.wait("document.body.innerText.includes('no workers')")?;
    for (width, scheme) in views() {
        browser.look(width, scheme)?;
        check(&mut browser, &format!("empty-{width}-{scheme}"))?;
    }
    let project = shown.directory.path().join("project");
    fs::write(project.join("broken.js"), "export default {")?;
    reload(&project)?;
    browser.wait("document.getElementById('state').textContent.includes('reload failed')")?;
    for (width, scheme) in views() {
        browser.look(width, scheme)?;
        check(&mut browser, &format!("failed-{width}-{scheme}"))?;
    }
    // The page says that it is out of date when the server is away.
    drop(shown.server);
    browser.wait("document.getElementById('state').textContent.startsWith('no answer')")
}

fn reload(project: &Path) -> Result<()> {
    let mut wws = std::process::Command::new(workspace::programs()?.join("wws"));
    let done = wws_test::command::run(
        wws.arg("reload").arg(project),
        std::time::Duration::from_secs(60),
    )?;
    ensure!(!done.status.success(), "{done:?}");
    Ok(())
}
