//! The host's code cache, when it is not as it should be: containers start all the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use wws_test::container::{LIMIT, Run};
use wws_test::containerd::{Containerd, Version};
use wws_test::image::{Image, PROBE};
use wws_test::{command, http, wait};

fn store(containerd: &Containerd) -> PathBuf {
    containerd.directory().join("store")
}

/// The files of compiled code in the store, with their sizes.
fn entries(containerd: &Containerd) -> Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    let mut open = vec![store(containerd).join("code")];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let data = entry.metadata()?;
            if data.is_dir() {
                open.push(entry.path());
            } else if data.len() > 1024 {
                found.push((entry.path(), data.len()));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Runs a container of the probe to its end, and returns its log.
fn run(containerd: &Containerd, image: &str, name: &str) -> Result<String> {
    let mut container = Run::workers(containerd, image, name)?.start()?;
    container.wait_until_up()?;
    let answer = container.get(&format!("{PROBE}?log=asked"))?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    container.signal("SIGTERM")?;
    assert_eq!(container.wait()?, 0);
    let log = container.log()?;
    container.remove()?;
    Ok(log)
}

fn complaints(log: &str) -> Vec<&str> {
    let bad = |line: &&str| line.contains("WARN") || line.contains("ERROR");
    // A matter of the machine.
    let limit = |line: &&str| !line.contains("the limit of open files");
    log.lines().filter(bad).filter(limit).collect()
}

#[test]
fn a_damaged_entry_is_compiled_again() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("probe", "")?.import(&containerd)?;
    let log = run(&containerd, &image, "first")?;
    assert!(complaints(&log).is_empty(), "{log}");
    let before = entries(&containerd)?;
    assert_eq!(before.len(), 1, "{before:?}");
    let (file, size) = &before[0];
    let whole = fs::read(file)?;
    // Half of it missing; and one byte of the machine code changed.
    let mut changed = whole.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 0xff;
    for (name, damage) in [("short", &whole[..whole.len() / 2]), ("changed", &changed)] {
        // As a crash of the machine would leave it: the same file, other bytes.
        fs::remove_file(file)?;
        fs::write(file, damage)?;
        let said = containerd.log()?.matches("damaged").count();
        run(&containerd, &image, name)?;
        let log = containerd.log()?;
        assert_eq!(log.matches("damaged").count(), said + 1, "{name}: {log}");
        let now = entries(&containerd)?;
        assert_eq!(now, [(file.clone(), *size)], "{name}");
        assert_eq!(fs::read(file)?.len(), whole.len(), "{name}");
        assert!(
            fs::read(file)? != damage,
            "{name}: the store still has the damaged entry"
        );
    }
    let log = run(&containerd, &image, "after")?;
    assert!(complaints(&log).is_empty(), "{log}");
    containerd.expect_nothing_left()
}

#[test]
fn two_containers_start_at_once_with_an_empty_code_cache() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("probe", "")?.import(&containerd)?;
    let mut both = Vec::new();
    for name in ["one", "two", "three"] {
        both.push(Run::workers(&containerd, &image, name)?.start()?);
    }
    for container in &mut both {
        container.wait_until_up()?;
        assert_eq!(
            container.get(&format!("{PROBE}?log=asked"))?.status,
            200,
            "{}",
            container.log()?
        );
        assert!(complaints(&container.log()?).is_empty());
    }
    assert_eq!(entries(&containerd)?.len(), 1);
    for container in &mut both {
        container.signal("SIGTERM")?;
        container.remove()?;
    }
    containerd.expect_nothing_left()
}

#[test]
fn the_code_cache_may_be_removed_while_containers_run() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("probe", "")?.import(&containerd)?;
    let mut container = Run::workers(&containerd, &image, "keeps")?.start()?;
    container.wait_until_up()?;
    fs::remove_dir_all(store(&containerd).join("code"))?;
    for _ in 0..3 {
        let answer = container.get(&format!("{PROBE}?log=still"))?;
        assert_eq!(answer.status, 200, "{}", container.log()?);
    }
    // The next one fills it again.
    run(&containerd, &image, "next")?;
    assert_eq!(entries(&containerd)?.len(), 1);
    container.signal("SIGTERM")?;
    container.remove()?;
    containerd.expect_nothing_left()
}

/// Something mounted over the store, undone when dropped.
pub(super) struct Mounted(PathBuf);

impl Mounted {
    pub(super) fn new(at: &Path, options: &[&str]) -> Result<Self> {
        fs::create_dir_all(at)?;
        let mut mount = Command::new("mount");
        command::run(mount.args(options).arg(at), LIMIT)?.success()?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        let ended = command::run(unmount.arg("--lazy").arg(&self.0), LIMIT);
        if let Err(error) = ended.and_then(command::Finished::success) {
            eprintln!("unmount {}: {error:#}", self.0.display());
        }
    }
}

fn starts_without(options: &[&str]) -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("probe", "")?.import(&containerd)?;
    let mounted = Mounted::new(&store(&containerd), options)?;
    for name in ["first", "second"] {
        run(&containerd, &image, name)?;
    }
    let code = store(&containerd).join("code");
    assert!(
        !code.exists() || entries(&containerd)?.is_empty(),
        "half an entry is none"
    );
    drop(mounted);
    run(&containerd, &image, "third")?;
    assert_eq!(entries(&containerd)?.len(), 1);
    containerd.expect_nothing_left()
}

#[test]
fn runs_with_a_full_code_cache() -> Result<()> {
    starts_without(&["-t", "tmpfs", "-o", "size=64k,nr_inodes=16", "tmpfs"])
}

#[test]
fn runs_with_a_read_only_code_cache() -> Result<()> {
    starts_without(&["-t", "tmpfs", "-o", "ro", "tmpfs"])
}

/// An OCI runtime that says it is of `version` and fails as one would that does not know an option.
fn put_runtime(directory: &Path, script: &str) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(directory)?;
    let file = directory.join("old-runc");
    fs::write(&file, script)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    Ok(file)
}

#[test]
fn reports_a_missing_and_an_outdated_language_runtime() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("probe", "")?.import(&containerd)?;
    let old = put_runtime(
        &containerd.directory().join("bin"),
        "#!/bin/sh\necho 'flag provided but not defined: -no-new-keyring' >&2\nexit 1\n",
    )?;
    let old = old.to_str().context("a path that is not UTF-8")?.to_owned();
    for (name, binary, expected) in [
        (
            "missing",
            "/nowhere/runc",
            "\"/nowhere/runc\" is not installed",
        ),
        (
            "old",
            old.as_str(),
            "it wrote: flag provided but not defined: -no-new-keyring",
        ),
    ] {
        let options = containerd.directory().join(format!("{name}.toml"));
        fs::write(&options, format!("BinaryName = {binary:?}\n"))?;
        let options = options.to_string_lossy();
        let mut container = Run::workers(&containerd, &image, name)?
            .options(&["--runtime-config-path", &options])
            .start()?;
        assert_ne!(container.wait()?, 0);
        let log = container.log()?;
        assert!(log.contains(expected), "{name}: {log}");
        container.remove()?;
        containerd.expect_nothing_left()?;
    }
    Ok(())
}

/// An entry with other machine code, all of which traps, and a right checksum: what an attacker
/// would put in its place.
fn forged(entry: &[u8]) -> Result<Vec<u8>> {
    const TRAILER: usize = 20;
    let (code, trailer) = entry.split_at(entry.len() - TRAILER);
    let (mut code, mut trailer) = (code.to_vec(), trailer.to_vec());
    let number = |bytes: &[u8], at: usize, len: usize| -> usize {
        (0..len).rfold(0, |number, byte| {
            number << 8 | usize::from(bytes[at + byte])
        })
    };
    // The section headers of ELF: where they are, how large and how many.
    let (at, size, count) = (
        number(&code, 0x28, 8),
        number(&code, 0x3a, 2),
        number(&code, 0x3c, 2),
    );
    let mut changed = 0;
    for header in (0..count).map(|index| at + index * size) {
        let executable = number(&code, header + 8, 8) & 4 != 0;
        if executable {
            let (from, len) = (number(&code, header + 24, 8), number(&code, header + 32, 8));
            // `ud2`
            for pair in code[from..from + len].chunks_exact_mut(2) {
                pair.copy_from_slice(&[0x0f, 0x0b]);
            }
            changed += len;
        }
    }
    anyhow::ensure!(changed > 0, "no machine code in the entry");
    trailer[16..].copy_from_slice(&crc32fast::hash(&code).to_le_bytes());
    Ok([code, trailer].concat())
}

/// A second server in a container, started by `exec` on a port of its own, until it is dropped.
struct Second(std::process::Child, u16);

impl Second {
    fn start(containerd: &Containerd, container: &str) -> Result<Self> {
        let port = wws_test::port::free()?;
        let mut command = containerd.ctr_command();
        command.args(["task", "exec", "--exec-id", "second", container]);
        command.args(["wws", "--port", &port.to_string(), "/"]);
        Ok(Self(command.spawn()?, port))
    }

    fn status(&self, path: &str) -> Result<u16> {
        wait::until("the second server answers", LIMIT, || {
            Ok(http::get(self.1, path).ok().map(|answer| answer.status))
        })
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn native_code_of_an_image_or_a_volume_is_not_run() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("probe", "")?.import(&containerd)?;
    run(&containerd, &image, "first")?;
    let (entry, _) = &entries(&containerd)?[0];
    let name = entry.file_name().context("a name")?.to_string_lossy();
    let forged = forged(&fs::read(entry)?)?;
    let mut evil = Image::probe("evil", "")?;
    // Where an option said that code is, where our server looks, and where it looks on a
    // developer's machine.
    for place in ["evil", "dev/wws-code", ".wws/code", ".cache/wws/code"] {
        evil = evil.file(&format!("{place}/{name}"), forged.clone())?;
    }
    let evil = evil.import(&containerd)?;
    let volume = containerd.directory().join("volume");
    fs::create_dir(&volume)?;
    fs::write(volume.join(&*name), &forged)?;
    let probe = format!("{PROBE}?log=asked");
    for store in ["a store", "no store"] {
        let without = match store {
            "a store" => None,
            _ => Some(Mounted::new(
                &self::store(&containerd),
                &["-t", "tmpfs", "-o", "ro", "tmpfs"],
            )?),
        };
        let name = store.replace(' ', "-");
        let mut told = Run::workers(&containerd, &evil, &format!("told-{name}"))?
            .arguments(&["/", "--code", "/evil"])
            .start()?;
        assert_eq!(told.wait()?, 2, "{}", told.log()?);
        let log = told.log()?;
        assert!(log.contains("unexpected argument '--code'"), "{log}");
        told.remove()?;

        let name = format!("home-{name}");
        let mut container = Run::workers(&containerd, &evil, &name)?
            .env("HOME", "/")
            .mount_read_only(&volume, "/dev/wws-code")
            .start()?;
        container.wait_until_up()?;
        let answer = container.get(&probe)?;
        assert_eq!(answer.status, 200, "{store}: {}", container.log()?);
        let second = Second::start(&containerd, &name)?;
        assert_eq!(second.status(&probe)?, 200, "{store}");
        assert!(complaints(&container.log()?).is_empty());
        container.signal("SIGTERM")?;
        container.remove()?;
        drop((second, without));
    }
    containerd.expect_nothing_left()
}
