//! Volumes reach the workers, through `[[folders]]`; and what is stored in them is data, and no
//! worker of the next start.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::Result;
use wws_test::container::Run;
use wws_test::containerd::{Containerd, Version};
use wws_test::image::{Image, PROBE};
use wws_test::workspace;

const DIRECTORIES: &str = r#"
[[folders]]
from = "./writable"
to = "/writable"
[[folders]]
from = "./fixed"
to = "/fixed"
"#;

#[test]
fn changed_files_are_visible_and_written_files_reach_the_host() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("volumes", DIRECTORIES)?
        .directory("writable")?
        .directory("fixed")?
        .import(&containerd)?;
    let (writable, fixed) = (
        containerd.directory().join("w"),
        containerd.directory().join("f"),
    );
    for directory in [&writable, &fixed] {
        fs::create_dir(directory)?;
        fs::write(directory.join("file"), "before")?;
    }
    let mut container = Run::workers(&containerd, &image, "volumes")?
        .mount(&writable, "/writable")
        .mount_read_only(&fixed, "/fixed")
        .start()?;
    container.wait_until_up()?;
    let ask = |query: &str| container.get(&format!("{PROBE}?{query}"));

    assert_eq!(ask("read=/writable/file")?.text(), "before");
    assert_eq!(ask("read=/fixed/file")?.text(), "before");
    for directory in [&writable, &fixed] {
        fs::write(directory.join("file"), "after")?;
        fs::write(directory.join("new"), "new")?;
    }
    assert_eq!(ask("read=/writable/file")?.text(), "after");
    assert_eq!(ask("read=/fixed/file")?.text(), "after");
    assert_eq!(ask("read=/fixed/new")?.text(), "new");

    assert_eq!(ask("write=/writable/own")?.status, 200);
    assert_eq!(
        fs::read_to_string(writable.join("own"))?,
        "written by a worker"
    );
    let refused = ask("write=/fixed/own")?;
    assert_eq!(refused.status, 500);
    assert!(!fixed.join("own").exists());
    assert_eq!(ask("write=/fixed/file")?.status, 500);
    assert_eq!(fs::read_to_string(fixed.join("file"))?, "after");

    container.signal("SIGTERM")?;
    container.remove()?;
    containerd.expect_nothing_left()
}

#[test]
fn workers_reach_nothing_outside_their_directories() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("walls", DIRECTORIES)?
        .directory("writable")?
        .directory("fixed")?
        .file("secret", "of the image")?
        .import(&containerd)?;
    let volume = containerd.directory().join("v");
    fs::create_dir(&volume)?;
    symlink("/secret", volume.join("link"))?;
    symlink("../secret", volume.join("up"))?;
    let mut container = Run::workers(&containerd, &image, "walls")?
        .mount(&volume, "/writable")
        .start()?;
    container.wait_until_up()?;
    for path in [
        "/secret",
        "/writable/../secret",
        "/writable/link",
        "/writable/up",
        "/proc/self/environ",
        "/probe.wasm",
        "/dev/wws",
    ] {
        let answer = container.get(&format!("{PROBE}?read={path}"))?;
        assert_eq!(answer.status, 500, "{path}: {}", answer.text());
        assert!(!answer.text().contains("of the image"), "{path}");
    }
    Ok(())
}

#[test]
fn files_that_a_worker_stores_are_not_served_after_a_restart() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let toml = "[[folders]]\nfrom = \"./data\"\nto = \"/data\"\n";
    let image = Image::probe("stored", toml)?
        .directory("data")?
        .directory("fixed")?
        .directory("uploads")?
        .directory("hostproc")?
        .import(&containerd)?;
    let at = |name: &str| containerd.directory().join(name);
    for directory in ["data", "fixed", "uploads"] {
        fs::create_dir(at(directory))?;
    }
    let probe = fs::read(workspace::guest("probe")?)?;
    // A read-only mount may hold workers, one that can be written to holds data whether a worker is
    // given it or not.
    fs::write(at("fixed").join("worker.wasm"), &probe)?;
    fs::write(at("uploads").join("upload.wasm"), &probe)?;
    let start = |name: &str| {
        Run::workers(&containerd, &image, name)?
            .mount(&at("data"), "/data")
            .mount_read_only(&at("fixed"), "/fixed")
            .mount(&at("uploads"), "/uploads")
            .mount_read_only(std::path::Path::new("/proc"), "/hostproc")
            .start()
    };

    let mut first = start("stored-1")?;
    first.wait_until_up()?;
    for stored in ["upload.js", "upload.wasm", "upload.toml"] {
        let answer = first.get(&format!("{PROBE}?write=/data/{stored}"))?;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    first.signal("SIGTERM")?;
    first.remove()?;

    // A good worker, and what cannot be read.
    fs::write(at("data").join("good.wasm"), &probe)?;
    symlink("nowhere", at("data").join("dead.js"))?;
    let mut second = start("stored-2")?;
    second.wait_until_up()?;
    for path in ["/data/upload", "/data/good", "/uploads/upload"] {
        assert_eq!(second.get(path)?.status, 404, "{path}");
    }
    let written = second.get(&format!("{PROBE}?read=/data/upload.js"))?;
    assert_eq!(written.text(), "written by a worker");
    assert_eq!(second.get("/fixed/worker?var=PATH")?.status, 500);
    for told in [
        "data: it holds data: [[folders]] of probe.wasm names it",
        "uploads: it holds data: it is a mount that can be written to; uploads/upload.wasm is not \
         served",
    ] {
        second.wait_for_log(told)?;
    }
    second.signal("SIGTERM")?;
    second.remove()?;
    containerd.expect_nothing_left()
}

#[test]
fn a_project_that_is_a_mount_is_served() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::workers("mounted")
        .entrypoint(&["/site"])
        .directory("site")?
        .import(&containerd)?;
    let site = containerd.directory().join("site");
    fs::create_dir_all(site.join("public"))?;
    fs::write(site.join("public/file.txt"), "an asset")?;
    fs::write(
        site.join("probe.wasm"),
        fs::read(workspace::guest("probe")?)?,
    )?;
    let mut container = Run::workers(&containerd, &image, "mounted")?
        .mount(&site, "/site")
        .start()?;
    container.wait_until_up()?;
    assert_eq!(container.get("/file.txt")?.text(), "an asset");
    assert_eq!(container.get(&format!("{PROBE}?var=NONE"))?.status, 500);
    container.signal("SIGTERM")?;
    container.remove()?;
    containerd.expect_nothing_left()
}
