//! An image of workers runs: the article's walk, what an entry point may be, and the port.

use std::fs;

use anyhow::Result;
use wws_test::container::Run;
use wws_test::containerd::{Containerd, Version};
use wws_test::image::{Image, PROBE, built};
use wws_test::user_generation::{CONTENT, UserGeneration};

fn walk(version: Version) -> Result<()> {
    let containerd = Containerd::start_sharing_code(version)?;
    let example = UserGeneration::new(&containerd)?;
    let mut container = example.run("walk")?.start()?;
    container.wait_until_up()?;
    for count in 1..=3 {
        let answer = container.get("/user-generation-rust")?;
        assert_eq!(answer.status, 200, "{}", container.log()?);
        assert_eq!(
            answer.header("x-generated-by"),
            Some("wasm-workers-server"),
            "{answer:?}"
        );
        let body = answer.json()?;
        assert_eq!(body["generated_users"], count);
        assert_eq!(body["some_file_contents"], CONTENT);
        assert_eq!(body["user"]["username"], "cherly.medhurst");
        assert_eq!(
            body["user"]["password"],
            serde_json::Value::Null,
            "what the worker leaves out is not there"
        );
    }
    assert_eq!(example.stand_in().answered(), 3);

    // The volume is the host's directory, not a copy of it.
    fs::write(example.directory().join("file.txt"), "changed\n")?;
    let body = container.get("/user-generation-rust")?.json()?;
    assert_eq!(body["some_file_contents"], "changed\n");
    assert_eq!(body["generated_users"], 4);

    container.signal("SIGTERM")?;
    assert_eq!(container.wait()?, 0, "{}", container.log()?);
    container.remove()?;
    containerd.expect_nothing_left()
}

on_containerd![the_example_of_the_article_works = walk: V1_6 V1_7 V2_1 V2_3 V2_4];

/// As the README has it: `wws build` makes the image, and nothing names a platform.
fn imported_plainly(version: Version) -> Result<()> {
    let containerd = Containerd::start(version)?;
    let image = "localhost/plain:latest";
    let tar = built(image, &containerd.directory())?;
    let tar = tar.display().to_string();
    containerd.ctr(&[
        "image",
        "import",
        "--snapshotter",
        containerd.snapshotter(),
        &tar,
    ])?;
    let mut container = Run::workers(&containerd, image, "plain")?
        .any_platform()
        .start()?;
    container.wait_until_up()?;
    let answer = container.get(&format!("{PROBE}?log=plain"))?;
    assert_eq!(answer.text(), "logged");
    container.signal("SIGTERM")?;
    container.remove()?;
    containerd.expect_nothing_left()
}

on_containerd![
    an_image_for_everywhere_needs_no_platform = imported_plainly:
    V1_6 V1_7 V2_1 V2_3 V2_4
];

#[test]
fn entry_point_may_be_root_directory_or_absent() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let cases: [(&str, &[&str], &str); 4] = [
        ("root", &["/"], "probe.wasm"),
        ("here", &["."], "probe.wasm"),
        ("directory", &["/site/workers"], "site/workers/probe.wasm"),
        ("none", &[], "probe.wasm"),
    ];
    for (name, entrypoint, path) in cases {
        let image = Image::workers(name)
            .guest("probe", path)?
            .entrypoint(entrypoint)
            .import(&containerd)?;
        // `ctr` itself refuses an image without any words, so that one gets an empty one.
        let run = Run::workers(&containerd, &image, name)?;
        let run = if entrypoint.is_empty() {
            run.arguments(&[""])
        } else {
            run
        };
        let mut container = run.start()?;
        container.wait_until_up()?;
        let answer = container.get(&format!("{PROBE}?log=entry"))?;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "logged"),
            "{name}"
        );
        container.signal("SIGTERM")?;
        assert_eq!(container.wait()?, 0, "{name}");
        container.remove()?;
    }
    containerd.expect_nothing_left()
}

#[test]
fn rejects_a_missing_entry_point() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("lost", "")?
        .entrypoint(&["/no-such-program"])
        .import(&containerd)?;
    let mut container = Run::workers(&containerd, &image, "lost")?.start()?;
    assert_ne!(container.wait()?, 0);
    let log = container.log()?;
    assert!(log.contains("/no-such-program"), "{log}");
    assert!(log.contains("no such file"), "{log}");
    container.remove()?;
    containerd.expect_nothing_left()
}

#[test]
fn listens_on_port_3000_by_default() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let plain = Image::probe("plain", "")?.import(&containerd)?;
    let set = Image::probe("set", "")?
        .file(".wws.toml", "version = 1\n[server]\nport = 3456\n")?
        .import(&containerd)?;
    let cases = [
        ("default", &plain, None, 3000),
        ("project", &set, None, 3456),
        ("environment", &set, Some("4567"), 4567),
    ];
    for (name, image, variable, port) in cases {
        let mut run = Run::without_port(&containerd, image, name)?.own_network();
        if let Some(variable) = variable {
            run = run.env("WWS_PORT", variable);
        }
        let mut container = run.start()?;
        let answer = container.curl_inside(&format!("http://127.0.0.1:{port}{PROBE}?log=x"))?;
        assert_eq!(answer, "logged", "{name}");
        container.signal("SIGTERM")?;
        assert_eq!(container.wait()?, 0, "{name}");
        container.remove()?;
    }
    containerd.expect_nothing_left()
}

#[test]
fn two_containers_run_side_by_side() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("twin", "[vars]\nNAME = \"$NAME\"\n")?.import(&containerd)?;
    let start = |name: &str| {
        Run::workers(&containerd, &image, name)?
            .env("NAME", name)
            .start()
    };
    let (mut first, mut second) = (start("first")?, start("second")?);
    first.wait_until_up()?;
    second.wait_until_up()?;
    let name = format!("{PROBE}?var=NAME");
    for _ in 0..5 {
        assert_eq!(first.get(&name)?.text(), "first");
        assert_eq!(second.get(&name)?.text(), "second");
    }
    first.signal("SIGTERM")?;
    assert_eq!(first.wait()?, 0);
    first.remove()?;
    assert_eq!(second.get(&name)?.text(), "second", "the other one goes on");
    second.signal("SIGTERM")?;
    assert_eq!(second.wait()?, 0);
    second.remove()?;
    containerd.expect_nothing_left()
}
