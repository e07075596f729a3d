//! System calls of the compiling process: those that a compiler needs whose input and output are
//! pipes. It cannot open a file, create a socket or a process, or allocate executable memory.
//!
//! A call that is not listed fails with EPERM instead of killing the process: the C library tries
//! calls that it can do without.

use std::io;

use seccompiler::SeccompAction;

use crate::seccomp::{Rules, apply, argument, filter, masked, refused, rule};

const ALLOWED: [libc::c_long; 35] = [
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_ppoll,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_membarrier,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_restart_syscall,
    libc::SYS_getcpu,
];

/// Restricts this thread and those that it starts.
///
/// # Errors
/// An outer filter does not allow it.
pub(super) fn install() -> io::Result<()> {
    let mut rules: Rules = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    let exec = libc::PROT_EXEC;
    let data = rule([argument(2, masked(exec), 0)])?;
    rules.insert(libc::SYS_mmap, vec![data.clone()]);
    rules.insert(libc::SYS_mprotect, vec![data]);
    // Threads are started with `clone`, whose flags can be checked; glibc falls back to it.
    let thread = libc::CLONE_THREAD;
    rules.insert(
        libc::SYS_clone,
        vec![rule([argument(0, masked(thread), thread)])?],
    );
    rules.insert(libc::SYS_clone3, Vec::new());
    let not_there: Rules = [(libc::SYS_clone3, Vec::new())].into();
    // In this order: the second filter forbids further filters.
    apply(&filter(
        not_there,
        refused(libc::ENOSYS),
        SeccompAction::Allow,
    )?)?;
    apply(&filter(rules, SeccompAction::Allow, refused(libc::EPERM))?)
}
