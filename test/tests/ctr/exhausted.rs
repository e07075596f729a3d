//! A host that runs out of something while a container is made: that container fails and says why,
//! nothing is left of it, and others go on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use rustix::process::Pid;
use wws_test::container::{self, LIMIT, Run};
use wws_test::containerd::{Containerd, Version};
use wws_test::image::{Image, PROBE};
use wws_test::{http, wait};

/// A group of processes of which there may be so many.
struct Tight(PathBuf);

impl Tight {
    /// One with `pid` in it, beside the containers of `containerd`.
    fn around(containerd: &Containerd, pid: Pid) -> Result<Self> {
        let top = Path::new("/sys/fs/cgroup");
        let top = if top.join("cgroup.controllers").exists() {
            top.to_path_buf()
        } else {
            top.join("pids")
        };
        let directory = top.join(containerd.namespace()).join("tight");
        fs::create_dir_all(&directory)?;
        let pid = pid.as_raw_nonzero().to_string();
        fs::write(directory.join("cgroup.procs"), pid)?;
        Ok(Self(directory))
    }

    /// Lets there be `more` than there are.
    fn allow(&self, more: u32) -> Result<()> {
        let now: u32 = fs::read_to_string(self.0.join("pids.current"))?
            .trim()
            .parse()?;
        self.limit(&(now + more).to_string())
    }

    fn limit(&self, limit: &str) -> Result<()> {
        Ok(fs::write(self.0.join("pids.max"), limit)?)
    }
}

/// Waits until there is no more than there was.
fn expect_as_before(containerd: &Containerd, before: &str) -> Result<()> {
    let mut now = String::new();
    let same = wait::until("as before", LIMIT, || {
        now = containerd.leftovers()?.to_string();
        Ok((now == before).then_some(()))
    });
    ensure!(same.is_ok(), "before:\n{before}now:\n{now}");
    Ok(())
}

#[test]
fn a_pod_survives_a_host_without_free_processes() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("probe", "")?.import(&containerd)?;
    let of_pod = ["--annotation", "io.containerd.runc.v2.group=pod"];
    let run = |name: &str| {
        Ok::<_, anyhow::Error>(Run::workers(&containerd, &image, name)?.options(&of_pod))
    };
    let first = run("first")?;
    let port = first.port();
    first.start_detached()?;
    let answers = || {
        wait::until("the first container answers", LIMIT, || {
            Ok(http::get(port, &format!("{PROBE}?log=x")).ok())
        })
    };
    assert_eq!(answers()?.status, 200);
    let [shim] = containerd.shims()?[..] else {
        bail!("not one shim");
    };
    // So long that threads which the shim may have had are gone: none is left to do the work.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let tight = Tight::around(&containerd, shim)?;
    let before = containerd.leftovers()?.to_string();
    let mut failed = 0;
    for more in 0..40 {
        tight.allow(more)?;
        let result = run("second")?.start_detached();
        tight.limit("max")?;
        let Err(error) = result else {
            container::end(&containerd, "second")?;
            break;
        };
        failed += 1;
        let error = format!("{error:#}");
        println!("{more} more: {error}");
        assert_eq!(containerd.shims()?, [shim], "{more} more: {error}");
        assert!(
            error.contains("out of processes")
                || error
                    .to_lowercase()
                    .contains("resource temporarily unavailable"),
            "{more} more: {error}"
        );
        assert_eq!(answers()?.status, 200, "{more} more: {error}");
        containerd.ctr(&["container", "rm", "second"])?;
        expect_as_before(&containerd, &before)?;
    }
    assert!((2..40).contains(&failed), "{failed} failed");
    run("third")?.start_detached()?;
    assert_eq!(containerd.shims()?, [shim]);
    container::end(&containerd, "third")?;
    container::end(&containerd, "first")?;
    wait::until("the group is empty", LIMIT, || {
        Ok(fs::remove_dir(&tight.0).ok())
    })?;
    containerd.expect_nothing_left()
}

#[test]
fn reports_a_full_disk_at_create_and_leaves_nothing() -> Result<()> {
    const PAGE: u32 = 4096;
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("probe", "")?.import(&containerd)?;
    // Of containerd's state, what is of containers: their bundles.
    let bundle = containerd.bundle("c");
    let bundles = bundle.parent().unwrap_or(&bundle);
    fs::create_dir_all(bundles)?;
    let small = |pages: u32| std::ffi::CString::new(format!("mode=700,size={}", pages * PAGE));
    mount(
        "tmpfs",
        bundles,
        "tmpfs",
        MountFlags::empty(),
        small(1)?.as_c_str(),
    )?;
    let before = containerd.leftovers()?.to_string();
    let mut failed = 0;
    for pages in 1..40 {
        mount_remount(bundles, MountFlags::empty(), small(pages)?.as_c_str())?;
        let Err(error) = Run::workers(&containerd, &image, "c")?.start_detached() else {
            container::end(&containerd, "c")?;
            break;
        };
        failed += 1;
        let error = format!("{error:#}").to_lowercase();
        println!("{pages} pages: {error}");
        assert!(
            error.contains("no space left on device"),
            "{pages} pages: {error}"
        );
        containerd.ctr(&["container", "rm", "c"])?;
        expect_as_before(&containerd, &before)?;
    }
    assert!((2..39).contains(&failed), "{failed} failed");
    // A shim that exits may still be in its bundle.
    wait::until("the disk is free", LIMIT, || {
        Ok(unmount(bundles, UnmountFlags::empty()).ok())
    })?;
    containerd.expect_nothing_left()
}
