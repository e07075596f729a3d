//! The kernel, cgroups and the code cache.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::Finding;
use super::host::{Host, version};

/// The first kernel with `openat2`, which every file of a project is opened with.
const OLDEST: (u32, u32) = (5, 6);

/// The first kernel that reports written pages by one call (`PAGEMAP_SCAN`).
const WITH_SCAN: (u32, u32) = (6, 7);

/// Where compiled code is kept, and how much space there should be.
const CODE_CACHE: &str = "/var/lib/wws/code";
const WANTED_SPACE: u64 = 1 << 30;

pub(super) fn kernel(host: &Host) -> Finding {
    let release = host.text("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim_end();
    match version(release) {
        None => Finding::problem("no Linux", "run wws doctor on the host of the containers"),
        Some(found) if found < OLDEST || !host.has_openat2 => Finding::problem(
            format!("{release}, without openat2"),
            "use Linux 5.6 or newer, and no sandbox that hides openat2",
        ),
        Some(found) if found < WITH_SCAN => Finding::note(
            release,
            "Linux 6.7 and newer reset the memory of workers faster (PAGEMAP_SCAN)",
        ),
        Some(_) => Finding::fine(release),
    }
}

pub(super) fn sandbox(host: &Host) -> Finding {
    let actions = host.text("/proc/sys/kernel/seccomp/actions_avail");
    if !actions.is_ok_and(|actions| actions.contains("errno")) {
        return Finding::problem(
            "no seccomp filters",
            "use a kernel with CONFIG_SECCOMP_FILTER: servers run without their filter otherwise",
        );
    }
    match host.text("/sys/kernel/security/lsm") {
        Ok(modules) if modules.trim().split(',').any(|one| one == "landlock") => {
            Finding::fine("seccomp, Landlock")
        }
        Ok(_) => Finding::note(
            "seccomp, no Landlock",
            "add landlock to the kernel's lsm= parameter: what reads an image on the host is \
             restricted by it",
        ),
        Err(_) => Finding::fine("seccomp"),
    }
}

pub(super) fn cgroups(host: &Host) -> Finding {
    let controllers = host.text("/sys/fs/cgroup/cgroup.controllers");
    match controllers {
        Ok(controllers) => {
            let has = |name: &&str| !controllers.split_whitespace().any(|one| one == *name);
            let missing: Vec<&str> = ["cpu", "memory", "pids"].into_iter().filter(has).collect();
            if missing.is_empty() {
                Finding::fine("v2")
            } else {
                let missing = missing.join(", ");
                Finding::note(
                    format!("v2, without {missing}"),
                    format!(
                        "limits of containers for {missing} have no effect; see cgroup_disable= \
                         and cgroup_enable= of the kernel"
                    ),
                )
            }
        }
        Err(_) if host.exists("/sys/fs/cgroup/memory") => Finding::fine("v1"),
        Err(_) => Finding::problem("not mounted", "mount cgroup2 at /sys/fs/cgroup"),
    }
}

pub(super) fn code_cache(host: &Host) -> Finding {
    let space = host.free(CODE_CACHE);
    let shown = space.map_or_else(
        || "unknown space".into(),
        |bytes| {
            format!(
                "{}.{} GB free",
                bytes / 1_000_000_000,
                bytes / 100_000_000 % 10
            )
        },
    );
    let scarce = space.is_some_and(|bytes| bytes < WANTED_SPACE);
    let too_little = |found: String| {
        Finding::note(
            found,
            format!(
                "free 1 GiB for {CODE_CACHE}, or name another place with WWS_CODE_CACHE in \
                     containerd's environment: without space, each start compiles again"
            ),
        )
    };
    match host.metadata(CODE_CACHE) {
        Err(_) if scarce => too_little(format!("not there yet, {shown}")),
        Err(_) => Finding::fine(format!("not there yet, {shown}")),
        Ok(metadata) if !metadata.is_dir() => {
            Finding::problem("no directory", format!("remove {CODE_CACHE}"))
        }
        Ok(metadata) if metadata.uid() != 0 || metadata.permissions().mode() & 0o022 != 0 => {
            Finding::problem(
                format!(
                    "owner {}, mode {:o}",
                    metadata.uid(),
                    metadata.permissions().mode() & 0o7777
                ),
                format!(
                    "rm -rf {CODE_CACHE}: whoever can write there can run code in every container \
                     of workers; the next container creates it again"
                ),
            )
        }
        Ok(_) if scarce => too_little(shown),
        Ok(_) => Finding::fine(shown),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Health;
    use super::super::host::tests::FakeHost;
    use super::*;

    #[test]
    fn reports_old_and_unknown_kernels() {
        let with = |release: &str| {
            kernel(
                &FakeHost::new()
                    .file("/proc/sys/kernel/osrelease", release)
                    .host(),
            )
        };
        assert_eq!(with("6.12.9-amd64\n"), Finding::fine("6.12.9-amd64"));
        assert_eq!(with("6.1.0-41-amd64\n").health, Health::Note);
        assert_eq!(with("4.18.0-el8\n").health, Health::Problem);
        assert_eq!(kernel(&FakeHost::new().host()).found, "no Linux");
        let fake = FakeHost::new().file("/proc/sys/kernel/osrelease", "6.12.9\n");
        assert_eq!(kernel(&fake.without_openat2()).health, Health::Problem);
    }

    #[test]
    fn the_sandbox_needs_seccomp() {
        let seccomp = "/proc/sys/kernel/seccomp/actions_avail";
        let with = || FakeHost::new().file(seccomp, "kill_process trap errno log allow\n");
        assert_eq!(sandbox(&with().host()), Finding::fine("seccomp"));
        let lsm = |modules: &str| sandbox(&with().file("/sys/kernel/security/lsm", modules).host());
        assert_eq!(
            lsm("lockdown,landlock,yama"),
            Finding::fine("seccomp, Landlock")
        );
        assert_eq!(lsm("lockdown,yama").health, Health::Note);
        assert_eq!(sandbox(&FakeHost::new().host()).health, Health::Problem);
    }

    #[test]
    fn accepts_both_versions_of_cgroups() {
        let controllers = "/sys/fs/cgroup/cgroup.controllers";
        let with = |text: &str| cgroups(&FakeHost::new().file(controllers, text).host());
        assert_eq!(with("cpuset cpu io memory pids\n"), Finding::fine("v2"));
        let without = with("cpuset cpu io pids\n");
        assert_eq!(
            (without.health, without.found.as_str()),
            (Health::Note, "v2, without memory")
        );
        let v1 = FakeHost::new().directory("/sys/fs/cgroup/memory");
        assert_eq!(cgroups(&v1.host()), Finding::fine("v1"));
        assert_eq!(cgroups(&FakeHost::new().host()).health, Health::Problem);
    }

    #[test]
    fn a_code_cache_belongs_to_root_alone() {
        let fake = FakeHost::new().directory(CODE_CACHE);
        let finding = code_cache(&fake.mode(CODE_CACHE, 0o777).host());
        assert_eq!(finding.health, Health::Problem, "{finding:?}");
        let fake = FakeHost::new()
            .directory(CODE_CACHE)
            .mode(CODE_CACHE, 0o755);
        let finding = code_cache(&fake.host());
        // The test may not be run by root.
        let expected = match rustix::process::geteuid().is_root() {
            true => Health::Fine,
            false => Health::Problem,
        };
        assert_eq!(finding.health, expected, "{finding:?}");
        let file = FakeHost::new().file(CODE_CACHE, "");
        assert_eq!(code_cache(&file.host()).found, "no directory");
        let none = FakeHost::new();
        assert_eq!(
            code_cache(&none.host()).found,
            "not there yet, 10.7 GB free"
        );
        let finding = code_cache(&none.with_free(|_| Some(1 << 20)));
        assert_eq!(finding.health, Health::Note);
    }
}
