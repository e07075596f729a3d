//! The components of `images/components`.

use std::fs;
use std::io::Write;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use ureq::http::Request;
use wws_test::{http, workspace};

use crate::served::{connect, get_request, read_until, serve, start};

/// Of `images/components`, as its image has them.
#[test]
fn the_examples_in_rust_work() -> Result<()> {
    let project = tempfile::tempdir()?;
    fs::create_dir(project.path().join("uploads"))?;
    for name in ["clock", "upload"] {
        let guest = workspace::guest(&format!("component-{name}"))?;
        fs::copy(guest, project.path().join(format!("{name}.wasm")))?;
    }
    let settings = workspace::root().join("images/components/root/upload.toml");
    fs::copy(settings, project.path().join("upload.toml"))?;
    let server = start(project.path(), &[])?;
    let (project, port) = (project.path(), server.port());

    let clock = http::get(port, "/clock?count=2")?;
    ensure!(
        clock.text().matches("data: ").count() == 2,
        "{}",
        clock.text()
    );
    ensure!(clock.header("content-type") == Some("text/event-stream"));

    let url = format!("http://127.0.0.1:{port}/upload?name=photo.jpg");
    let photo = vec![9; 2 << 20];
    ensure!(http::send(Request::put(&url).body(&photo[..])?)?.text() == "2097152 bytes\n");
    ensure!(fs::read(project.join("uploads/photo.jpg"))? == photo);
    ensure!(http::get(port, "/upload")?.text() == "photo.jpg\n");
    ensure!(http::get(port, "/upload?name=photo.jpg")?.body == photo);
    ensure!(http::get(port, "/upload?name=../clock.wasm")?.status == 400);

    // Half an upload leaves nothing behind that is listed.
    let mut broken = connect(port)?;
    broken.write_all(
        b"PUT /upload?name=half HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhello",
    )?;
    drop(broken);
    thread::sleep(Duration::from_millis(300));
    ensure!(http::get(port, "/upload")?.text() == "photo.jpg\n");
    Ok(())
}

/// Of `images/components`, as `make components` leaves them.
#[test]
#[ignore = "make components"]
fn components_of_other_toolchains_work() -> Result<()> {
    for name in ["javascript", "python", "c", "go"] {
        let served = serve(&format!("component-{name}"))?;
        let hello = served.get("/any/hello")?.text();
        ensure!(hello.starts_with("Hello from a "), "{name}: {hello}");
        let sent = vec![b'e'; 1 << 20];
        let back = served.send("POST", "/any/echo", &sent)?;
        ensure!(back.body == sent, "{name}: {} bytes", back.body.len());
        if matches!(name, "javascript" | "python") {
            let mut stream = served.connect()?;
            stream.write_all(get_request("/any/clock?count=3&ms=300").as_bytes())?;
            let first = read_until(&mut stream, "id: 0")?;
            ensure!(!first.contains("id: 1"), "{name}: {first}");
            read_until(&mut stream, "id: 2")?;
        }
    }
    Ok(())
}
