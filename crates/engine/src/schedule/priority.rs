//! The priority of the slow lane's threads.

/// Nice value of the threads: they get about a tenth of a CPU that others use, too.
const NICE: i32 = 10;

/// Time slice of the threads in nanoseconds, for whose end other threads wait: Linux's minimum.
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

/// Lets the calling thread run only while no other thread wants its CPU (`SCHED_IDLE` of sched(7)).
/// The kernel treats a CPU that runs such a thread as idle when it wakes others: with a nice value
/// alone, two threads that serve requests may share a CPU while a long call has another. A failure
/// only delays other threads.
pub(crate) fn run_when_idle() {
    if !set(libc::SCHED_IDLE, 0, 0) {
        give_way();
    }
}

/// Lowers the priority of the calling thread, which keeps a small part of each CPU. A failure only
/// delays other threads.
pub fn give_way() {
    // The time slice, since Linux 6.12. Older kernels ignore it.
    if !set(libc::SCHED_OTHER, NICE, SLICE) {
        // On Linux, this sets the value of the thread.
        let _ = rustix::process::setpriority_process(None, NICE);
    }
}

/// Calls `sched_setattr` for the calling thread. Returns whether it succeeded.
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
    // SAFETY: `sched_setattr` asks for a `struct sched_attr` of the size that its first field
    // names. `attr` is one, and outlives the call; 0 is the calling thread.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) == 0 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    #[test]
    fn runs_when_idle_with_that_policy() {
        std::thread::spawn(|| {
            super::run_when_idle();
            // SAFETY: `sched_getscheduler` asks for a thread's id, or 0 for the calling thread.
            assert_eq!(unsafe { libc::sched_getscheduler(0) }, libc::SCHED_IDLE);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn lowers_priority_of_the_calling_thread_only() {
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
