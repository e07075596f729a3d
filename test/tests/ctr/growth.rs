//! Many containers in a row: nothing is left of them, and neither a shim nor containerd grows.

use std::fmt;
use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::process::Pid;
use wws_test::container::{self, LIMIT, Run};
use wws_test::containerd::{Containerd, Version};
use wws_test::image::{Image, PROBE};
use wws_test::wait;

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HeldResources {
    descriptors: usize,
    threads: usize,
    /// Memory that no other process has, in KiB.
    private_kib: u64,
}

impl HeldResources {
    fn by(pid: Pid) -> Result<Self> {
        let directory = format!("/proc/{}", pid.as_raw_nonzero());
        let smaps = fs::read_to_string(format!("{directory}/smaps_rollup"))?;
        let mut private_kib = 0;
        for line in smaps.lines().filter(|line| line.starts_with("Private_")) {
            let number = line.split_whitespace().nth(1);
            private_kib += number.context("no number")?.parse::<u64>()?;
        }
        Ok(Self {
            descriptors: fs::read_dir(format!("{directory}/fd"))?.count(),
            threads: fs::read_dir(format!("{directory}/task"))?.count(),
            private_kib,
        })
    }
}

/// What there is on the machine that belongs to one containerd, and what it and its shim hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Census {
    processes: usize,
    mounts: usize,
    groups: usize,
    files: usize,
    zombies: usize,
    shim: HeldResources,
    containerd: HeldResources,
}

impl Census {
    fn take(containerd: &Containerd, shim: Pid) -> Result<Self> {
        let daemon = containerd.pid();
        let there = containerd.leftovers()?;
        Ok(Self {
            processes: there.processes.len(),
            mounts: there.mounts.len(),
            groups: there.groups.len(),
            files: there.files.len(),
            zombies: zombies(shim)? + zombies(daemon)?,
            shim: HeldResources::by(shim)?,
            containerd: HeldResources::by(daemon)?,
        })
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            processes,
            mounts,
            groups,
            files,
            zombies,
            shim,
            containerd,
        } = self;
        write!(
            f,
            "{processes} processes, {mounts} mounts, {groups} cgroups, {files} files, {zombies} \
             zombies; "
        )?;
        for (name, held) in [("shim", shim), ("containerd", containerd)] {
            write!(
                f,
                "{name}: {} descriptors, {} threads, {} KiB of its own; ",
                held.descriptors, held.threads, held.private_kib
            )?;
        }
        Ok(())
    }
}

/// Children of `parent` that have ended and were not collected.
fn zombies(parent: Pid) -> Result<usize> {
    let parent = parent.as_raw_nonzero().to_string();
    let mut count = 0;
    for entry in fs::read_dir("/proc")? {
        let Ok(stat) = fs::read_to_string(entry?.path().join("stat")) else {
            continue;
        };
        // After the name, which may hold anything: state, parent.
        let mut rest = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        count += usize::from(rest.next() == Some("Z") && rest.next() == Some(&parent));
    }
    Ok(count)
}

/// Makes and removes `cycles` containers, and compares what there is after the first tenth with
/// what there is in the end.
fn come_and_go(cycles: usize) -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("probe", "")?.import(&containerd)?;
    // One shim lives through it: that of a group. Every second container has its own besides.
    let group = ["--annotation", "io.containerd.runc.v2.group=steady"];
    Run::workers(&containerd, &image, "steady")?
        .options(&group)
        .start_detached()?;
    let shims = containerd.shims()?;
    assert_eq!(shims.len(), 1, "one shim");
    let shim = shims[0];
    let mut early = None;
    let from = Instant::now();
    for cycle in 0..cycles {
        let name = format!("cycle-{cycle}");
        let mut run = Run::workers(&containerd, &image, &name)?;
        if cycle % 2 == 0 {
            run = run.options(&group);
        }
        run.start_detached()?;
        container::end(&containerd, &name)?;
        if cycle + 1 == cycles / 10 {
            let census = settled(&containerd, shim)?;
            println!("after {} containers: {census}", cycle + 1);
            early = Some(census);
        }
    }
    let early = early.context("too few cycles")?;
    let late = settled(&containerd, shim)?;
    println!(
        "after {cycles} containers, in {:.0?}: {late}",
        from.elapsed()
    );
    let things = |census: &Census| Census {
        shim: HeldResources {
            private_kib: 0,
            ..census.shim
        },
        // Go's own threads come and go.
        containerd: HeldResources {
            private_kib: 0,
            threads: 0,
            ..census.containerd
        },
        ..*census
    };
    assert_eq!(things(&late), things(&early));
    assert_eq!(late.zombies, 0);
    assert!(
        late.shim.private_kib <= early.shim.private_kib + 512,
        "the shim: {early:?}, {late:?}"
    );
    // Its collector lets garbage lie; of a leak there would be more after so many.
    assert!(
        late.containerd.private_kib <= early.containerd.private_kib + 16 * 1024,
        "containerd: {early:?}, {late:?}"
    );
    container::end(&containerd, "steady")?;
    containerd.expect_nothing_left()
}

/// A census when what the last container leaves has gone.
fn settled(containerd: &Containerd, shim: Pid) -> Result<Census> {
    wait::until("the other shims gone", LIMIT, || {
        Ok((containerd.shims()? == [shim]).then_some(()))
    })?;
    let mut last = Census::take(containerd, shim)?;
    wait::until("nothing changes", LIMIT, || {
        // Longer than the shim keeps a thread that has no work.
        std::thread::sleep(std::time::Duration::from_secs(2));
        let now = Census::take(containerd, shim)?;
        let of = |census: &Census| {
            let shim = (census.shim.descriptors, census.shim.threads);
            (
                census.processes,
                census.mounts,
                census.containerd.descriptors,
                shim,
            )
        };
        let same = of(&now) == of(&last);
        last = now;
        Ok(same.then_some(now))
    })
}

#[test]
fn a_hundred_containers_in_sequence_leave_nothing() -> Result<()> {
    come_and_go(100)
}

#[test]
#[ignore = "make test-clients"]
fn a_chosen_number_of_containers_in_sequence_leaves_nothing() -> Result<()> {
    let cycles = std::env::var("WWS_TEST_CYCLES");
    come_and_go(cycles.map_or(Ok(1000), |cycles| cycles.parse())?)
}

#[test]
#[ignore = "make test-clients"]
fn a_hundred_containers_run_side_by_side() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let image = Image::probe("probe", "")?.import(&containerd)?;
    let mut ports = Vec::new();
    for number in 0..100 {
        let run = Run::workers(&containerd, &image, &format!("many-{number}"))?;
        ports.push(run.port());
        run.start_detached()?;
    }
    for (number, port) in ports.iter().enumerate() {
        let answer = wait::until("an answer", LIMIT, || {
            Ok(wws_test::http::get(*port, &format!("{PROBE}?log=x")).ok())
        });
        let answer = answer.with_context(|| format!("many-{number}"))?;
        assert_eq!(answer.status, 200, "many-{number}");
    }
    assert_eq!(containerd.shims()?.len(), 100);
    for number in 0..100 {
        container::end(&containerd, &format!("many-{number}"))?;
    }
    containerd.expect_nothing_left()
}
