//! How the operating system ranks the threads of long calls.

/// Nice value of such a thread: it gets about a tenth of a processor that others want, too.
const NICE: i32 = 10;

/// It gets its part in slices of this length, in nanoseconds: the shortest that Linux knows. Others wait for a slice's end.
const SLICE: u64 = 100_000;

/// The first version of `struct sched_attr` of `linux/sched/types.h`.
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Has the calling thread run only when no other thread wants its CPU (`SCHED_IDLE` of sched(7)).
/// The kernel wakes others on a CPU that runs such a thread as if it were idle: with a nice value
/// alone, two threads that serve requests may have to share a CPU while a long call has another.
/// Where the system refuses, the thread is only less polite.
pub(crate) fn run_when_idle() {
    if !set(libc::SCHED_IDLE, 0, 0) {
        give_way();
    }
}

/// Lets the calling thread give way to others, but for a small part. Where the system refuses, the
/// thread is only less polite.
pub(crate) fn give_way() {
    // The slice of such a thread since Linux 6.12; nothing before.
    if !set(libc::SCHED_OTHER, NICE, SLICE) {
        // On Linux this is the thread's own value.
        let _ = rustix::process::setpriority_process(None, NICE);
    }
}

/// `sched_setattr` for the calling thread. Returns whether it was done.
fn set(policy: libc::c_int, nice: i32, runtime: u64) -> bool {
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: policy as u32,
        flags: 0,
        nice,
        priority: 0,
        runtime,
        deadline: 0,
        period: 0,
    };
    // SAFETY: the argument has the size that it says and outlives the call; 0 is the calling thread.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) == 0 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    #[test]
    fn a_thread_that_runs_when_idle_has_that_policy() {
        std::thread::spawn(|| {
            super::run_when_idle();
            // SAFETY: 0 is the calling thread.
            assert_eq!(unsafe { libc::sched_getscheduler(0) }, libc::SCHED_IDLE);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_thread_gives_way_and_others_stay_as_they_are() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        std::thread::spawn(move || {
            super::give_way();
            assert_eq!(nice(), super::NICE);
        })
        .join()
        .unwrap();
        assert_eq!(nice(), before);
    }
}
