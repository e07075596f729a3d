//! System calls of the compiling process: those that a compiler needs whose input and output are pipes. It cannot open a file, make
//! a socket or a process, or ask for memory that can be run.
//!
//! Source: `seccomp(2)`, `linux/filter.h`. A call that is not listed fails with EPERM rather than ends the process: the C library tries
//! calls that it can do without.

use std::io;

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Option<u32> = Some(0xc000_003e);
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: Option<u32> = Some(0xc000_00b7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: Option<u32> = None;

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

/// Of `struct seccomp_data`: number, architecture, and the lower half of an argument.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const fn argument(index: u32) -> u32 {
    let upper_first = cfg!(target_endian = "big");
    16 + 8 * index + if upper_first { 4 } else { 0 }
}

const fn load(offset: u32) -> sock_filter {
    filter(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0)
}

const fn filter(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

const fn give(verdict: u32) -> sock_filter {
    filter(BPF_RET | BPF_K, verdict, 0, 0)
}

/// From now on, for this thread and those that it makes.
pub(super) fn install() -> io::Result<()> {
    let Some(architecture) = ARCHITECTURE else {
        return Ok(());
    };
    let program = program(architecture);
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies the program, which lives until then, and writes nothing.
    let done = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    match done {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // A kernel without filters.
            error if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            error => Err(error),
        },
    }
}

fn program(architecture: u32) -> Vec<sock_filter> {
    let is = BPF_JMP | BPF_JEQ | BPF_K;
    let has = BPF_JMP | BPF_JSET | BPF_K;
    let refused = |error: i32| libc::SECCOMP_RET_ERRNO | error.cast_unsigned();
    let number = |call: libc::c_long| u32::try_from(call).unwrap_or(u32::MAX);
    let allow = libc::SECCOMP_RET_ALLOW;
    let mut program = vec![
        load(ARCH),
        filter(is, architecture, 1, 0),
        give(libc::SECCOMP_RET_KILL_PROCESS),
        load(NUMBER),
    ];
    for call in ALLOWED {
        program.extend([filter(is, number(call), 0, 1), give(allow)]);
    }
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        program.extend([
            filter(is, number(call), 0, 4),
            load(argument(2)),
            filter(has, libc::PROT_EXEC.cast_unsigned(), 0, 1),
            give(refused(libc::EPERM)),
            give(allow),
        ]);
    }
    // Threads, by the call whose flags can be seen.
    program.extend([
        filter(is, number(libc::SYS_clone), 0, 4),
        load(argument(0)),
        filter(has, libc::CLONE_THREAD.cast_unsigned(), 0, 1),
        give(allow),
        give(refused(libc::EPERM)),
        filter(is, number(libc::SYS_clone3), 0, 1),
        give(refused(libc::ENOSYS)),
        give(refused(libc::EPERM)),
    ]);
    program
}
