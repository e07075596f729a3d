//! A project that does not load ends the container with a code of its own, and every problem is
//! among the last lines of its log.

use anyhow::Result;
use wws_test::container::Run;
use wws_test::containerd::{Containerd, Version};
use wws_test::image::Image;

/// `EX_CONFIG` of sysexits.h.
const CODE: i32 = 78;

fn refused(version: Version, image: Image, name: &str, expected: &[&str]) -> Result<()> {
    let containerd = Containerd::start(version)?;
    let image = image.import(&containerd)?;
    let mut container = Run::workers(&containerd, &image, name)?.start()?;
    assert_eq!(container.wait()?, CODE, "{}", container.log()?);
    let log = container.log()?;
    let lines: Vec<_> = log.lines().collect();
    // `ctr run` may add a line of its own.
    let last = lines[lines.len().saturating_sub(3 * expected.len() + 2)..].join("\n");
    for problem in expected {
        assert!(
            last.contains(problem),
            "`{problem}` in the last lines of\n{log}"
        );
    }
    container.remove()?;
    containerd.expect_nothing_left()
}

#[test]
fn reports_all_problems_of_a_project_at_once() -> Result<()> {
    let image = Image::workers("problems")
        .guest("probe", "one.wasm")?
        .file(
            "one.toml",
            "name = \"one\"\nversion = \"1\"\n[limits]\nmemry = \"1MiB\"\n",
        )?
        .guest("probe", "two.wasm")?
        .file("two.toml", "name = \"two\n")?
        .guest("probe", "three.wasm")?
        .file(
            "three.toml",
            "name = \"three\"\nversion = \"1\"\n[[folders]]\nfrom = \"../..\"\nto = \"/x\"\n",
        )?;
    let expected = ["one.toml:4", "memry", "two.toml:1", "three.toml:4"];
    refused(Version::MAIN, image, "problems", &expected)
}

#[test]
fn reports_two_workers_on_one_route() -> Result<()> {
    let image = Image::workers("routes")
        .guest("probe", "a/index.wasm")?
        .guest("probe", "a.wasm")?;
    refused(
        Version::MAIN,
        image,
        "routes",
        &["/a", "a.wasm", "a/index.wasm"],
    )
}

#[test]
fn reports_an_invalid_wasm_file() -> Result<()> {
    let image = Image::workers("text").file("text.wasm", "not Wasm at all")?;
    refused(Version::MAIN, image, "text", &["text.wasm"])
}

/// A library beside the workers is no broken worker.
#[test]
fn ignores_a_module_without_a_start() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    // The empty module.
    let image = Image::probe("empty", "")?
        .file("empty.wasm", *b"\0asm\x01\0\0\0")?
        .import(&containerd)?;
    let mut container = Run::workers(&containerd, &image, "empty")?.start()?;
    container.wait_until_up()?;
    assert_eq!(container.get("/empty")?.status, 404);
    container.wait_for_log("empty.wasm: no worker, and not served: it is a library")?;
    container.signal("SIGTERM")?;
    container.remove()?;
    containerd.expect_nothing_left()
}

/// The rest of a project can be served all the same, if that is wanted.
#[test]
fn a_broken_worker_costs_only_its_route_if_not_strict() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("lenient", "")?
        .file("text.wasm", "not Wasm at all")?
        .import(&containerd)?;
    let mut container = Run::workers(&containerd, &image, "lenient")?
        .env("WWS_STRICT", "false")
        .start()?;
    container.wait_until_up()?;
    assert_eq!(container.get("/text")?.status, 500);
    container.wait_for_log("text.wasm: /text answers 500")?;
    container.signal("SIGTERM")?;
    container.remove()?;
    containerd.expect_nothing_left()
}

#[test]
fn reports_an_unknown_import() -> Result<()> {
    // (module (import "env" "launch" (func)) (func (export "_start")) (memory (export "memory") 1))
    let module = [
        &b"\0asm\x01\0\0\0"[..],
        b"\x01\x04\x01\x60\0\0",
        b"\x02\x0e\x01\x03env\x06launch\0\0",
        b"\x03\x02\x01\0",
        b"\x05\x03\x01\0\x01",
        b"\x07\x13\x02\x06_start\0\x01\x06memory\x02\0",
        b"\x0a\x04\x01\x02\0\x0b",
    ]
    .concat();
    let image = Image::workers("imports").file("imports.wasm", module)?;
    refused(
        Version::MAIN,
        image,
        "imports",
        &["imports.wasm", "env", "launch"],
    )
}

#[test]
fn reports_a_link_that_leaves_the_project() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    // Links in images come from `COPY` of a directory.
    let files = containerd.directory().join("files");
    std::fs::create_dir_all(files.join("site"))?;
    std::os::unix::fs::symlink("/etc", files.join("site/data"))?;
    let image = Image::probe("link", "")?
        .entrypoint(&["/site"])
        .guest("probe", "site/probe.wasm")?
        .file(
            "site/probe.toml",
            "name = \"probe\"\nversion = \"1\"\n[[folders]]\nfrom = \"./data\"\nto = \"/data\"\n",
        )?
        .copy(&files, "/")?
        .import(&containerd)?;
    let mut container = Run::workers(&containerd, &image, "link")?.start()?;
    assert_eq!(container.wait()?, CODE, "{}", container.log()?);
    let log = container.log()?;
    assert!(
        log.contains("site/probe.toml:4") || log.contains("probe.toml:4"),
        "{log}"
    );
    Ok(())
}

fn told_on(version: Version) -> Result<()> {
    let image = Image::workers("again").file("again.wasm", "no Wasm")?;
    refused(version, image, "again", &["again.wasm"])
}

on_containerd![reports_an_invalid_wasm_file = told_on: V1_6 V2_1 V2_3 V2_4];
