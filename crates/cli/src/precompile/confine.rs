//! What is taken from the processes that read what strangers wrote, before they read it.

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

/// Its address space, of which the engine reserves much and uses little.
const MAX_SPACE: u64 = 16 << 30;

/// All processes and threads of its user.
const MAX_THREADS: u64 = 4096;

/// Memory of the process that reads a folder, in bytes, and its CPU time, in seconds. The allocator reserves 1 GiB of it.
const MAX_READER_MEMORY: u64 = 2 << 30;
const MAX_READER_TIME: u64 = 60;

/// For the process that reads a folder. While this is its only thread. `written` is where it writes.
pub(super) fn bound_reader(written: &[&Path]) -> io::Result<()> {
    die_first();
    // Only the limits that can be raised again: the compiler has its own.
    bound(Resource::Data, MAX_READER_MEMORY, false)?;
    bound(Resource::Cpu, MAX_READER_TIME, false)?;
    bound(Resource::Core, 0, true)?;
    rustix::thread::set_no_new_privs(true)?;
    if geteuid().is_root() {
        // To read an image's files, whoever they are of; and to start, and end, a process that is not root.
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

/// For the process that compiles, for `cpu_time` seconds at most. While this is its only thread: those of the compiler inherit it.
pub(super) fn give_up_rights(parent: Option<u32>, cpu_time: u64) -> io::Result<()> {
    die_first();
    bound(Resource::As, MAX_SPACE, true)?;
    bound(Resource::Data, COMPILER_MEMORY, true)?;
    bound(Resource::Cpu, cpu_time, true)?;
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
    // Nobody waits for it without its parent. A change of the user undoes this, and the parent may be gone already.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if parent.is_some_and(|parent| parent != parent_id()) {
        return Err(io::Error::other("nobody waits"));
    }
    // Only now, that another user's process may not look into.
    bound(Resource::Nofile, 64, true)?;
    super::filter::install()
}

/// When memory is short, rather this process than any other. containerd's own children would be the last.
fn die_first() {
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
}

/// Sets a limit, which can be lower already.
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
