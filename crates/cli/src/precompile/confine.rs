//! Restricts the processes that read untrusted files, before they read them.

use std::{fs, io, os::unix::process::parent_id, path::Path};

use rustix::process::{
    Resource, Rlimit, Signal, geteuid, getrlimit, set_parent_process_death_signal,
    setpriority_process, setrlimit,
};
use rustix::thread::{CapabilitySet, CapabilitySets};
use wws_server::COMPILER_MEMORY;

use super::landlock;

/// The user and group `nobody`.
const NOBODY: u32 = 65534;

/// The maximum address space: the engine reserves much and uses little.
const MAX_SPACE: u64 = 16 << 30;

/// The maximum number of processes and threads of its user.
const MAX_THREADS: u64 = 4096;

/// Memory, in bytes, and CPU time, in seconds, of the process that reads a project. The allocator
/// reserves 1 GiB of it.
const MAX_READER_MEMORY: u64 = 2 << 30;
const MAX_READER_TIME: u64 = 60;

/// Restricts the process that reads a project, which may write only to `written`. To be called
/// while it has one thread.
pub(super) fn bound_reader(written: &[&Path]) -> io::Result<()> {
    die_first();
    // Soft limits only: the compiler has its own limits.
    bound(Resource::Data, MAX_READER_MEMORY, false)?;
    bound(Resource::Cpu, MAX_READER_TIME, false)?;
    bound(Resource::Core, 0, true)?;
    rustix::thread::set_no_new_privs(true)?;
    if geteuid().is_root() {
        // To read files of an image with any owner; and to start, and kill, a process that is not
        // root.
        let needed = CapabilitySet::DAC_READ_SEARCH
            | CapabilitySet::SETUID
            | CapabilitySet::SETGID
            | CapabilitySet::KILL;
        let had = rustix::thread::capabilities(None)?;
        let kept = CapabilitySets {
            effective: had.effective & needed,
            permitted: had.permitted & needed,
            inheritable: CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, kept)?;
    }
    landlock::write_only_to(written).map(drop)
}

/// Restricts the process that compiles, for up to `cpu_time` seconds. To be called while it has one
/// thread: the compiler's threads inherit the restrictions.
pub(super) fn give_up_rights(parent: Option<u32>, cpu_time: u64) -> io::Result<()> {
    die_first();
    bound(Resource::As, MAX_SPACE, true)?;
    bound(Resource::Data, COMPILER_MEMORY, true)?;
    // At the soft limit SIGXCPU ends it, which tells this from a lack of memory.
    bound(Resource::Cpu, cpu_time + 5, true)?;
    bound(Resource::Cpu, cpu_time, false)?;
    bound(Resource::Core, 0, true)?;
    bound(Resource::Fsize, 0, true)?;
    bound(Resource::Nproc, MAX_THREADS, true)?;
    let _ = setpriority_process(None, 5);
    rustix::thread::set_no_new_privs(true)?;
    if geteuid().is_root() {
        let (user, group) = (
            rustix::fs::Uid::from_raw(NOBODY),
            rustix::fs::Gid::from_raw(NOBODY),
        );
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(group, group, group)?;
        rustix::thread::set_thread_res_uid(user, user, user)?;
    }
    // Without its parent, nothing waits for the process. A change of the user resets this, and the
    // parent may be gone already.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if parent.is_some_and(|parent| parent != parent_id()) {
        return Err(io::Error::other("nobody waits"));
    }
    // Only now, because the files of another user's process are not accessible.
    bound(Resource::Nofile, 64, true)?;
    super::filter::install()
}

/// When memory is short, the kernel kills this process first, and containerd's own children last.
fn die_first() {
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
}

/// Sets a limit, which may be lower already.
fn bound(resource: Resource, most: u64, for_ever: bool) -> io::Result<()> {
    let now = getrlimit(resource);
    let least = |limit: Option<u64>| Some(limit.map_or(most, |limit| limit.min(most)));
    setrlimit(
        resource,
        Rlimit {
            current: least(now.maximum),
            maximum: if for_ever {
                least(now.maximum)
            } else {
                now.maximum
            },
        },
    )
    .map_err(io::Error::from)
}
