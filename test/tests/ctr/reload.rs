//! A container loads its project again: by SIGHUP, and by `wws reload`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::Result;
use wws_test::container::Run;
use wws_test::containerd::{Containerd, Version};
use wws_test::image::Image;

const TOML: &str = "[vars]\nTOKEN = \"file:/run/secrets/token\"\n";

/// Exchanges all files of a volume at once, as the kubelet does for a ConfigMap.
fn exchange(volume: &Path, version: &str, worker: &str) -> Result<()> {
    let hidden = format!("..{version}");
    fs::create_dir(volume.join(&hidden))?;
    for (name, content) in [("hello.js", worker), ("hello.toml", TOML)] {
        fs::write(volume.join(&hidden).join(name), content)?;
        if !volume.join(name).is_symlink() {
            symlink(Path::new("..data").join(name), volume.join(name))?;
        }
    }
    symlink(&hidden, volume.join("..next"))?;
    fs::rename(volume.join("..next"), volume.join("..data"))?;
    Ok(())
}

fn answers(text: &str) -> String {
    format!("export default {{ fetch: () => new Response('{text} ' + TOKEN) }};")
}

#[test]
fn a_changed_volume_takes_effect_with_a_reload() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::workers("reload")
        .directory("conf")?
        .directory("run/secrets")?
        .import(&containerd)?;
    let (volume, secrets) = (
        containerd.directory().join("v"),
        containerd.directory().join("s"),
    );
    for directory in [&volume, &secrets] {
        fs::create_dir(directory)?;
    }
    fs::write(secrets.join("token"), "first\n")?;
    exchange(&volume, "1", &answers("one"))?;
    let mut container = Run::workers(&containerd, &image, "reload")?
        .mount_read_only(&volume, "/conf")
        .mount_read_only(&secrets, "/run/secrets")
        .start()?;
    container.wait_until_up()?;
    let answer = || container.get("/conf/hello").map(|answer| answer.text());
    assert_eq!(answer()?, "one first");

    exchange(&volume, "2", &answers("two"))?;
    fs::write(secrets.join("token"), "second\n")?;
    container.signal("SIGHUP")?;
    container.wait_for_log("reloaded: generation 2: 1 workers loaded")?;
    assert_eq!(answer()?, "two second");

    let reload = |id: &str| {
        let words = ["task", "exec", "--exec-id", id, "reload", "wws", "reload"];
        containerd.try_ctr(&words)
    };
    exchange(&volume, "3", "export default ;")?;
    let failed = reload("r1")?;
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(failed.stderr.contains("conf/hello.js:1:16"), "{failed:?}");
    assert_eq!(answer()?, "two second");

    exchange(&volume, "4", &answers("four"))?;
    let reloaded = reload("r2")?.success()?;
    assert!(reloaded.contains("generation 3"), "{reloaded}");
    assert_eq!(answer()?, "four second");
    let log = container.log()?;
    assert!(!log.contains("second") && !log.contains("first"), "{log}");

    container.signal("SIGTERM")?;
    assert_eq!(container.wait()?, 0);
    container.remove()?;
    containerd.expect_nothing_left()
}
