//! Volumes reach the workers, through `[[folders]]`.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::Result;
use wws_test::container::Run;
use wws_test::containerd::{Containerd, Version};
use wws_test::image::{Image, PROBE};

const FOLDERS: &str = r#"
[[folders]]
from = "./writable"
to = "/writable"
[[folders]]
from = "./fixed"
to = "/fixed"
"#;

#[test]
fn a_changed_file_is_seen_and_a_written_one_reaches_the_host() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("volumes", FOLDERS)?
        .folder("writable")?
        .folder("fixed")?
        .import(&containerd)?;
    let (writable, fixed) = (containerd.folder().join("w"), containerd.folder().join("f"));
    for folder in [&writable, &fixed] {
        fs::create_dir(folder)?;
        fs::write(folder.join("file"), "before")?;
    }
    let mut container = Run::workers(&containerd, &image, "volumes")?
        .mount(&writable, "/writable")
        .mount_read_only(&fixed, "/fixed")
        .start()?;
    container.wait_until_up()?;
    let ask = |query: &str| container.get(&format!("{PROBE}?{query}"));

    assert_eq!(ask("read=/writable/file")?.text(), "before");
    assert_eq!(ask("read=/fixed/file")?.text(), "before");
    for folder in [&writable, &fixed] {
        fs::write(folder.join("file"), "after")?;
        fs::write(folder.join("new"), "new")?;
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
fn nothing_outside_the_folders_is_reached() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("walls", FOLDERS)?
        .folder("writable")?
        .folder("fixed")?
        .file("secret", "of the image")?
        .import(&containerd)?;
    let volume = containerd.folder().join("v");
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
