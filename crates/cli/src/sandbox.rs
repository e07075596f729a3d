//! Restricts a server before it reads untrusted files: capabilities, new privileges, and system
//! calls that it does not need. An attacker who takes over the process cannot use them.
//!
//! [`enter`] is called first, while there is one thread: all others inherit it. [`load_no_code`] is
//! called when the loading thread has been started, before any other one. [`close`] is called when
//! everything is loaded and the socket is bound.

mod threads;

use std::io;
use std::path::Path;

use rustix::fs::{Access, AtFlags, Mode, OFlags, accessat};
use rustix::process::{geteuid, getpid};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition};
use wws_project::{Project, StorePlace};

use crate::seccomp::{self, Rules, argument, filter, masked, refused, rule};

/// System calls that a server may make with any arguments: files, sockets, memory, threads and
/// clocks. Not allowed are other programs and processes (`execve`, `fork`, `ptrace`,
/// `process_vm_writev`, `pidfd_open`), mounts and namespaces, keys, kernel modules, BPF,
/// performance events, `io_uring`, users and groups, and the machine's clock, name and swap.
#[rustfmt::skip]
const ALLOWED: &[libc::c_long] = &[
    // Files.
    libc::SYS_read, libc::SYS_readv, libc::SYS_pread64, libc::SYS_preadv, libc::SYS_preadv2,
    libc::SYS_write, libc::SYS_writev, libc::SYS_pwrite64, libc::SYS_pwritev, libc::SYS_pwritev2,
    libc::SYS_openat, libc::SYS_openat2, libc::SYS_close, libc::SYS_close_range,
    libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_statfs, libc::SYS_fstatfs,
    libc::SYS_lseek, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_readlinkat,
    libc::SYS_getdents64, libc::SYS_mkdirat, libc::SYS_unlinkat, libc::SYS_renameat,
    libc::SYS_renameat2, libc::SYS_linkat, libc::SYS_symlinkat, libc::SYS_ftruncate,
    libc::SYS_truncate, libc::SYS_fallocate, libc::SYS_fadvise64, libc::SYS_readahead,
    libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_sync_file_range, libc::SYS_flock,
    libc::SYS_fcntl, libc::SYS_utimensat, libc::SYS_fchmod, libc::SYS_fchmodat,
    libc::SYS_copy_file_range, libc::SYS_sendfile, libc::SYS_splice, libc::SYS_dup, libc::SYS_dup3,
    libc::SYS_pipe2, libc::SYS_memfd_create, libc::SYS_umask, libc::SYS_getcwd,
    libc::SYS_inotify_init1, libc::SYS_inotify_add_watch, libc::SYS_inotify_rm_watch,
    // What is ready.
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2,
    libc::SYS_ppoll, libc::SYS_pselect6, libc::SYS_eventfd2, libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime,
    // Sockets, of the families of FAMILIES.
    libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4, libc::SYS_connect,
    libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_getsockopt, libc::SYS_setsockopt,
    libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_sendmsg, libc::SYS_recvmsg,
    libc::SYS_sendmmsg, libc::SYS_recvmmsg, libc::SYS_shutdown,
    // Memory.
    libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_mincore,
    libc::SYS_mlock, libc::SYS_mlock2, libc::SYS_munlock, libc::SYS_msync, libc::SYS_membarrier,
    // Threads. glibc falls back from the call whose flags cannot be seen, see NOT_THERE.
    libc::SYS_clone3, libc::SYS_futex, libc::SYS_futex_waitv, libc::SYS_set_robust_list,
    libc::SYS_get_robust_list, libc::SYS_rseq, libc::SYS_set_tid_address, libc::SYS_exit,
    libc::SYS_exit_group, libc::SYS_sched_yield, libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity, libc::SYS_sched_setattr, libc::SYS_sched_getattr,
    libc::SYS_sched_getparam, libc::SYS_sched_getscheduler, libc::SYS_sched_setscheduler,
    libc::SYS_getpriority, libc::SYS_setpriority, libc::SYS_getcpu,
    // What this is, and what it has used.
    libc::SYS_gettid, libc::SYS_getpid, libc::SYS_getppid, libc::SYS_getuid, libc::SYS_geteuid,
    libc::SYS_getgid, libc::SYS_getegid, libc::SYS_getgroups, libc::SYS_getpgid, libc::SYS_getsid,
    libc::SYS_getrusage, libc::SYS_sysinfo, libc::SYS_uname, libc::SYS_prlimit64,
    libc::SYS_getrlimit, libc::SYS_times, libc::SYS_prctl, libc::SYS_seccomp,
    // To give up capabilities.
    libc::SYS_capget, libc::SYS_capset,
    // Orphans, where this is a container's init process.
    libc::SYS_wait4, libc::SYS_waitid,
    // Clocks and random numbers.
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep, libc::SYS_gettimeofday, libc::SYS_getrandom,
    // Signals.
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigpending, libc::SYS_rt_sigsuspend, libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack, libc::SYS_restart_syscall,
];

/// Older calls for the same, which this architecture still has.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OLDER: &[libc::c_long] = &[
    libc::SYS_open, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink,
    libc::SYS_getdents, libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_unlink, libc::SYS_rename,
    libc::SYS_link, libc::SYS_symlink, libc::SYS_chmod, libc::SYS_dup2, libc::SYS_pipe,
    libc::SYS_poll, libc::SYS_select, libc::SYS_epoll_create, libc::SYS_epoll_wait,
    libc::SYS_eventfd, libc::SYS_inotify_init, libc::SYS_time, libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[libc::c_long] = &[];

/// Calls that fail as if the kernel did not know them, so that the caller uses another one.
const NOT_THERE: &[libc::c_long] = &[libc::SYS_clone3];

/// Families of sockets.
const FAMILIES: [libc::c_int; 3] = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX];

/// Capabilities that a server may need: to bind a low port, and for files of other users if it is
/// root.
const USEFUL: CapabilitySet = CapabilitySet::NET_BIND_SERVICE.union(FILES);
const FILES: CapabilitySet = CapabilitySet::DAC_OVERRIDE
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER);

/// Gives up what no server needs. To be called while the process has one thread.
///
/// # Errors
/// The kernel or an outer filter does not allow it.
pub(crate) fn enter() -> io::Result<()> {
    keep_capabilities(USEFUL)?;
    rustix::thread::set_no_new_privs(true)?;
    for filter in [server_filter()?, not_there_filter()?] {
        seccomp::apply(&filter)?;
    }
    Ok(())
}

/// Gives up executable memory for this thread and those that it starts.
///
/// # Errors
/// As for [`enter`].
pub(crate) fn load_no_code() -> io::Result<()> {
    seccomp::apply(&code_filter()?)
}

/// Gives up, for all threads, the capabilities that a server does not need once its socket is
/// bound.
///
/// # Errors
/// As for [`enter`].
pub(crate) fn close(needed: NeededRights) -> io::Result<()> {
    threads::keep_capabilities(needed.0)
}

/// The capabilities that a project's server needs once its socket is bound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NeededRights(CapabilitySet);

impl NeededRights {
    pub(crate) fn of(project: &Project) -> Self {
        Self(capabilities_for(project))
    }

    /// Whether a project needs no others. Only root has any.
    pub(crate) fn cover(self, project: &Project) -> bool {
        !geteuid().is_root() || self.0.contains(capabilities_for(project))
    }
}

/// The capabilities that a project's server needs once its socket is bound: none, unless root
/// serves files of others.
fn capabilities_for(project: &Project) -> CapabilitySet {
    // Workers and stores may write to files of other users, as root could before.
    let mut workers = project.workers().iter();
    let mut stores = project.stores().iter();
    let writes = workers.any(|worker| !worker.directories.is_empty())
        || stores.any(|store| store.place != StorePlace::Memory);
    if writes {
        return FILES;
    }
    let workers = project.workers().iter().map(|worker| &*worker.path);
    let assets = project.assets().iter().map(|asset| &*asset.path);
    let files: Vec<&Path> = workers.chain(assets).collect();
    match readable_without_capabilities(project.root(), &files) {
        true => CapabilitySet::empty(),
        false => CapabilitySet::DAC_READ_SEARCH,
    }
}

/// Whether all files of a directory are readable by their modes and owners alone.
fn readable_without_capabilities(root: &Path, files: &[&Path]) -> bool {
    // Capabilities belong to a thread: this one has none, and ends.
    let without = || -> io::Result<bool> {
        keep_capabilities(CapabilitySet::empty())?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty())?;
        let readable = |file: &&Path| accessat(&root, *file, Access::READ_OK, AtFlags::EACCESS);
        Ok(files.iter().all(|file| readable(file).is_ok()))
    };
    std::thread::scope(|scope| match scope.spawn(without).join() {
        Ok(readable) => readable.unwrap_or(false),
        Err(_) => false,
    })
}

/// Gives up all capabilities of this thread except some.
fn keep_capabilities(kept: CapabilitySet) -> io::Result<()> {
    let had = rustix::thread::capabilities(None)?;
    let kept = CapabilitySets {
        effective: had.effective & kept,
        permitted: had.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, kept)?)
}

/// Allows what a server needs, and rejects everything else.
fn server_filter() -> io::Result<BpfProgram> {
    let mut rules: Rules = ALLOWED
        .iter()
        .chain(OLDER)
        .map(|call| (*call, Vec::new()))
        .collect();
    let families = FAMILIES.map(|family| argument(0, SeccompCmpOp::Eq, family));
    let families: Vec<_> = families
        .into_iter()
        .map(|family| rule([family]))
        .collect::<io::Result<_>>()?;
    rules.insert(libc::SYS_socket, families.clone());
    rules.insert(libc::SYS_socketpair, families);
    // Threads, not processes, nor namespaces.
    let thread = libc::CLONE_THREAD;
    let threads = rule([argument(0, masked(thread), thread)])?;
    rules.insert(libc::SYS_clone, vec![threads]);
    // Signals only to this process.
    let own = rule([argument(
        0,
        SeccompCmpOp::Eq,
        getpid().as_raw_nonzero().get(),
    )])?;
    rules.insert(libc::SYS_kill, vec![own.clone()]);
    rules.insert(libc::SYS_tgkill, vec![own]);
    // No input is simulated on the user's terminal.
    let typing = [libc::TIOCSTI, libc::TIOCLINUX].map(|request| {
        SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, request)
            .map_err(io::Error::other)
    });
    rules.insert(libc::SYS_ioctl, vec![rule(typing)?]);
    // Code is written first and executed afterwards; no memory is both writable and executable.
    let (write, exec) = (libc::PROT_WRITE, libc::PROT_EXEC);
    let data = rule([argument(2, masked(exec), 0)])?;
    let code = rule([argument(2, masked(write | exec), exec)])?;
    rules.insert(libc::SYS_mmap, vec![data.clone()]);
    rules.insert(libc::SYS_mprotect, vec![data, code]);
    filter(rules, SeccompAction::Allow, refused(libc::EPERM))
}

/// For [`NOT_THERE`].
fn not_there_filter() -> io::Result<BpfProgram> {
    let rules = NOT_THERE.iter().map(|call| (*call, Vec::new())).collect();
    filter(rules, refused(libc::ENOSYS), SeccompAction::Allow)
}

/// Rejects executable memory.
fn code_filter() -> io::Result<BpfProgram> {
    let exec = libc::PROT_EXEC;
    let code = rule([argument(2, masked(exec), exec)])?;
    let rules = [libc::SYS_mmap, libc::SYS_mprotect].map(|call| (call, vec![code.clone()]));
    filter(rules.into(), refused(libc::EPERM), SeccompAction::Allow)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::process::Command;

    use rustix::io::Errno;

    /// Runs `test` in a restricted thread, which ends with it.
    fn inside(test: impl FnOnce() + Send) {
        let run = || {
            enter().unwrap();
            test();
        };
        std::thread::scope(|scope| scope.spawn(run).join().unwrap());
    }

    fn status(field: &str) -> String {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.unwrap().trim().to_owned()
    }

    /// Makes a system call and returns its error.
    fn call(number: libc::c_long, arguments: [usize; 6]) -> Option<Errno> {
        let [a, b, c, d, e, f] = arguments;
        // SAFETY: the tests make calls that the filter refuses, or whose pointers are null, so that
        // no memory is touched.
        let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
        (result < 0).then(|| Errno::from_io_error(&io::Error::last_os_error()).unwrap())
    }

    #[test]
    fn drops_capabilities_and_new_privileges() {
        inside(|| {
            let kept = u64::from_str_radix(&status("CapEff:"), 16).unwrap();
            // CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_NET_BIND_SERVICE.
            assert_eq!(kept & !(0b1110 | 1 << 10), 0);
            assert_eq!(status("CapEff:"), status("CapPrm:"));
            assert_eq!(status("NoNewPrivs:"), "1");
            assert_eq!(status("Seccomp:"), "2");
            keep_capabilities(CapabilitySet::empty()).unwrap();
            assert_eq!(status("CapPrm:"), "0000000000000000");
        });
    }

    #[test]
    fn seccomp_denies_exec_fork_and_administration() {
        inside(|| {
            let error = Command::new("/bin/true").status().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM));
            for number in [
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_ptrace,
                libc::SYS_process_vm_readv,
                libc::SYS_process_vm_writev,
                libc::SYS_pidfd_open,
                libc::SYS_mount,
                libc::SYS_umount2,
                libc::SYS_pivot_root,
                libc::SYS_chroot,
                libc::SYS_unshare,
                libc::SYS_setns,
                libc::SYS_bpf,
                libc::SYS_perf_event_open,
                libc::SYS_io_uring_setup,
                libc::SYS_userfaultfd,
                libc::SYS_keyctl,
                libc::SYS_init_module,
                libc::SYS_kexec_load,
                libc::SYS_open_by_handle_at,
                libc::SYS_personality,
                libc::SYS_setuid,
                libc::SYS_pkey_mprotect,
                libc::SYS_shmat,
                // Of the x32 ABI, and none at all.
                0x4000_0000 + 520,
                100_000,
            ] {
                assert_eq!(call(number, [0; 6]), Some(Errno::PERM), "call {number}");
            }
            assert_eq!(call(libc::SYS_clone3, [0; 6]), Some(Errno::NOSYS));
            let fork = [libc::SIGCHLD as usize, 0, 0, 0, 0, 0];
            assert_eq!(call(libc::SYS_clone, fork), Some(Errno::PERM));
            let parent = [std::os::unix::process::parent_id() as usize, 0, 0, 0, 0, 0];
            assert_eq!(call(libc::SYS_kill, parent), Some(Errno::PERM));
            let own = [std::process::id() as usize, 0, 0, 0, 0, 0];
            assert_eq!(call(libc::SYS_kill, own), None);
            let netlink = [
                libc::AF_NETLINK as usize,
                libc::SOCK_RAW as usize,
                0,
                0,
                0,
                0,
            ];
            assert_eq!(call(libc::SYS_socket, netlink), Some(Errno::PERM));
            let typed = [0, libc::TIOCSTI as usize, 0, 0, 0, 0];
            assert_eq!(call(libc::SYS_ioctl, typed), Some(Errno::PERM));
            // What a server does regularly.
            std::thread::spawn(|| ()).join().unwrap();
            std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            std::net::UdpSocket::bind("[::1]:0").unwrap();
            std::os::unix::net::UnixStream::pair().unwrap();
            tempfile::tempfile().unwrap().set_len(1).unwrap();
        });
    }

    /// A page with its final protection.
    fn page(first: libc::c_int, then: libc::c_int) -> Result<(), Errno> {
        let size = rustix::param::page_size();
        let map = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, to which there is no other pointer.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), size, first, map, -1, 0) };
        let failed = || Errno::from_io_error(&io::Error::last_os_error()).unwrap();
        if page == libc::MAP_FAILED {
            return Err(failed());
        }
        // SAFETY: the mapping is this function's own, and nothing refers to it.
        let changed = match unsafe { libc::mprotect(page, size, then) } {
            0 => Ok(()),
            _ => Err(failed()),
        };
        // SAFETY: the mapping is this function's own, and nothing uses it any more.
        unsafe { libc::munmap(page, size) };
        changed
    }

    #[test]
    fn memory_is_never_writable_and_executable() {
        const READ: libc::c_int = libc::PROT_READ;
        const WRITE: libc::c_int = libc::PROT_WRITE;
        const EXEC: libc::c_int = libc::PROT_EXEC;
        inside(|| {
            assert_eq!(page(READ | EXEC, READ), Err(Errno::PERM));
            assert_eq!(page(READ | WRITE, READ | WRITE | EXEC), Err(Errno::PERM));
            assert_eq!(page(READ | WRITE, WRITE | EXEC), Err(Errno::PERM));
            assert_eq!(page(READ | WRITE, READ | EXEC), Ok(()));
            seccompiler::apply_filter(&code_filter().unwrap()).unwrap();
            assert_eq!(page(READ | WRITE, READ | EXEC), Err(Errno::PERM));
            assert_eq!(page(READ | WRITE, READ), Ok(()));
        });
    }

    #[test]
    fn finds_files_that_need_capabilities_to_read() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let readable = || readable_without_capabilities(directory.path(), &[Path::new("file")]);
        assert!(readable());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(readable());
        chown(&file, Some(65534), Some(65534)).unwrap();
        assert!(!readable());
        // This thread has its own still.
        assert!(fs::read(&file).is_ok());
    }
}
