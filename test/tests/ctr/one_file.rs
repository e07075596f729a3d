//! A shim that is installed as one file, which carries `wws`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use wws_test::container::{LIMIT, Run};
use wws_test::containerd::{Containerd, Version};
use wws_test::image::{Image, PROBE};
use wws_test::one_file::{self, SHIM};
use wws_test::{wait, workspace};

use crate::code::Mounted;

/// Makes a shim below `name` that carries `wws` with `more` at its end.
fn one_file(containerd: &Containerd, name: &str, more: &[u8]) -> Result<PathBuf> {
    let directory = containerd.directory().join(name);
    fs::create_dir(&directory)?;
    one_file::pack(&directory, more)
}

fn text(path: &Path) -> Result<String> {
    Ok(path
        .to_str()
        .context("a path that is not UTF-8")?
        .to_owned())
}

/// The versions of `wws` that are unpacked.
fn versions(containerd: &Containerd) -> Result<Vec<PathBuf>> {
    let directory = containerd.directory().join("store/server");
    assert_eq!(
        fs::metadata(&directory)?.permissions().mode() & 0o777,
        0o700
    );
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[test]
fn containers_that_start_at_once_share_the_server_of_a_one_file_shim() -> Result<()> {
    for version in Version::PACKAGED {
        let containerd = Containerd::start(version)?;
        let image = Image::probe("probe", "")?.import(&containerd)?;
        let shim = text(&one_file(&containerd, "installed", b"")?)?;
        let mut containers = Vec::new();
        for name in ["one", "two", "three", "four"] {
            containers.push(Run::workers(&containerd, &image, name)?.runtime(&*shim));
        }
        std::thread::scope(|scope| -> Result<()> {
            let started: Vec<_> = containers
                .into_iter()
                .map(|container| scope.spawn(|| container.start()))
                .collect();
            for container in started {
                let mut container = container.join().ok().context("a thread panicked")??;
                container.wait_until_up()?;
                assert_eq!(container.get(&format!("{PROBE}?log=asked"))?.status, 200);
                container.signal("SIGTERM")?;
                assert_eq!(container.wait()?, 0);
                container.remove()?;
            }
            Ok(())
        })?;
        assert_eq!(versions(&containerd)?.len(), 1);
        containerd.expect_nothing_left()?;
    }
    Ok(())
}

#[test]
fn a_one_file_shim_is_upgraded_while_containers_run() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("probe", "")?.import(&containerd)?;
    let shim = one_file(&containerd, "installed", b"")?;
    let run = |name| -> Result<_> {
        let mut container = Run::workers(&containerd, &image, name)?
            .runtime(text(&shim)?)
            .start()?;
        container.wait_until_up()?;
        Ok(container)
    };
    let mut old = run("old")?;
    let first = versions(&containerd)?;
    // As installers do it: the new file gets the name of the old one.
    fs::rename(one_file(&containerd, "new", b"another version")?, &shim)?;
    let new = run("new")?;
    assert_eq!(
        versions(&containerd)?.len(),
        2,
        "a running shim uses the first"
    );
    for (container, name) in [(&old, "old"), (&new, "new")] {
        assert_eq!(container.get(&format!("{PROBE}?log=asked"))?.status, 200);
        let exec = ["task", "exec", "--exec-id", "e", name, "wws", "--version"];
        assert!(containerd.ctr(&exec)?.starts_with("wws "), "{name}");
    }
    old.signal("SIGTERM")?;
    assert_eq!(old.wait()?, 0);
    old.remove()?;
    fs::rename(one_file(&containerd, "newer", b"a third version")?, &shim)?;
    let newest = run("newest")?;
    let versions = versions(&containerd)?;
    assert_eq!(versions.len(), 2);
    assert!(
        !versions.contains(&first[0]),
        "no shim uses the first any more"
    );
    for mut container in [new, newest] {
        container.signal("SIGTERM")?;
        assert_eq!(container.wait()?, 0);
        container.remove()?;
    }
    containerd.expect_nothing_left()
}

/// The files below a directory, without the locks.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if !directory.exists() {
        return Ok(found);
    }
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if !path.ends_with("lock") {
            found.push(path);
        }
    }
    Ok(found)
}

/// Starts a container by a one-file shim whose directory is on such a file system.
fn is_served_from_memory(options: &[&str]) -> Result<()> {
    let memory = Path::new("/run/wws/server");
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("probe", "")?.import(&containerd)?;
    // No other test has this version.
    let shim = one_file(&containerd, "installed", options.join(" ").as_bytes())?;
    let disk = containerd.directory().join("store");
    let mounted = Mounted::new(&disk, options)?;
    let before = files(memory)?;
    let mut first = Run::workers(&containerd, &image, "first")?
        .runtime(text(&shim)?)
        .start()?;
    first.wait_until_up()?;
    assert_eq!(first.get(&format!("{PROBE}?log=asked"))?.status, 200);
    let mut unpacked = files(memory)?;
    unpacked.retain(|file| !before.contains(file));
    let [program] = &unpacked[..] else {
        anyhow::bail!("{unpacked:?} in {}", memory.display());
    };
    assert_eq!(
        files(&disk.join("server"))?,
        Vec::<PathBuf>::new(),
        "no part"
    );
    // The next shim finds it there.
    let modified = fs::metadata(program)?.modified()?;
    let mut second = Run::workers(&containerd, &image, "second")?
        .runtime(text(&shim)?)
        .start()?;
    second.wait_until_up()?;
    assert_eq!(second.get(&format!("{PROBE}?log=asked"))?.status, 200);
    assert_eq!(fs::metadata(program)?.modified()?, modified);
    for container in [&mut first, &mut second] {
        container.signal("SIGTERM")?;
        assert_eq!(container.wait()?, 0);
        container.remove()?;
    }
    wait::until("no shim is left", LIMIT, || {
        Ok(containerd.shims()?.is_empty().then_some(()))
    })?;
    let version = program.parent().context("a file without a directory")?;
    fs::remove_dir_all(version)?;
    // With room again, it is where it belongs.
    drop(mounted);
    let mut third = Run::workers(&containerd, &image, "third")?
        .runtime(text(&shim)?)
        .start()?;
    third.wait_until_up()?;
    assert_eq!(versions(&containerd)?.len(), 1);
    assert!(!version.exists());
    third.signal("SIGTERM")?;
    assert_eq!(third.wait()?, 0);
    third.remove()?;
    containerd.expect_nothing_left()
}

#[test]
fn a_one_file_shim_serves_with_a_full_disk() -> Result<()> {
    // Less than the program takes.
    is_served_from_memory(&["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
}

#[test]
fn a_one_file_shim_serves_with_a_read_only_disk() -> Result<()> {
    is_served_from_memory(&["-t", "tmpfs", "-o", "ro", "tmpfs"])
}

#[test]
fn a_damaged_one_file_shim_is_reported() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("probe", "")?.import(&containerd)?;
    let shim = one_file(&containerd, "installed", b"")?;
    let mut content = fs::read(&shim)?;
    let middle = content.len() / 2;
    content[middle] ^= 0xff;
    fs::write(&shim, content)?;
    let run = Run::workers(&containerd, &image, "damaged")?.runtime(text(&shim)?);
    let Err(error) = run.start_detached() else {
        anyhow::bail!("it started");
    };
    let error = format!("{error:#}");
    assert!(error.contains("the server in the shim"), "{error}");
    wait::until("no shim is left", LIMIT, || {
        Ok(containerd.shims()?.is_empty().then_some(()))
    })?;
    containerd.expect_nothing_left()
}

/// The container that deploy/helm has on each node, and what it installs.
#[test]
fn the_installer_s_image_copies_a_shim_that_serves() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    containerd.import(&workspace::image("wws-installer")?)?;
    let node = containerd.directory().join("node");
    fs::create_dir(&node)?;
    let to = format!("--node-directory={}", node.display());
    let start = |name: &str| {
        Run::native(&containerd, "localhost/wws-installer:latest", name)?
            .options(&["--read-only", "--cap-drop", "CAP_DAC_OVERRIDE"])
            .mount(&node, "/node")
            .arguments(&["/wws", "install", "--to=/node", &to, "--stay"])
            .start()
    };
    let mut installer = start("installer")?;
    let log = installer.wait_for_log("k3s writes its own configuration")?;
    let shim = node.join(SHIM);
    assert!(
        log.contains(&format!("{} installed", shim.display())),
        "{log}"
    );
    assert_eq!(fs::read_dir(&node)?.count(), 1, "one file");

    let image = Image::probe("probe", "")?.import(&containerd)?;
    let run = Run::workers(&containerd, &image, "served")?;
    let mut served = run.runtime(text(&shim)?).start()?;
    served.wait_until_up()?;
    assert_eq!(served.get(&format!("{PROBE}?log=asked"))?.status, 200);
    let mut again = start("again")?;
    again.wait_for_log(&format!("{} is up to date", shim.display()))?;
    for container in [&mut served, &mut installer, &mut again] {
        container.signal("SIGTERM")?;
        assert_eq!(container.wait()?, 0);
        container.remove()?;
    }
    containerd.expect_nothing_left()
}

/// The image of `wws` is for hosts without the shim.
#[test]
fn the_image_of_the_server_needs_no_shim() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    containerd.import(&workspace::image("wws")?)?;
    let project = containerd.directory().join("project");
    fs::create_dir(&project)?;
    fs::copy(workspace::guest("probe")?, project.join("probe.wasm"))?;
    let run = Run::native(&containerd, "localhost/wws:latest", "server")?;
    let port = run.port().to_string();
    let mut server = run
        .runtime("io.containerd.runc.v2")
        .options(&["--read-only"])
        .mount_read_only(&project, "/app")
        .arguments(&["/wws", "--port", &port, "/app"])
        .start()?;
    server.wait_until_up()?;
    assert_eq!(server.get(&format!("{PROBE}?log=asked"))?.status, 200);
    server.signal("SIGTERM")?;
    assert_eq!(server.wait()?, 0, "{}", server.log()?);
    server.remove()?;
    containerd.expect_nothing_left()
}
