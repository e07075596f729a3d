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

/// Lets the calling thread give way to others. Where the system refuses, the thread is only less polite.
pub(crate) fn give_way() {
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: libc::SCHED_OTHER as u32,
        flags: 0,
        nice: NICE,
        priority: 0,
        // The slice of such a thread since Linux 6.12; nothing before.
        runtime: SLICE,
        deadline: 0,
        period: 0,
    };
    // SAFETY: the argument has the size that it says and outlives the call; 0 is the calling thread.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if set != 0 {
        // On Linux this is the thread's own value.
        let _ = rustix::process::setpriority_process(None, NICE);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

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
