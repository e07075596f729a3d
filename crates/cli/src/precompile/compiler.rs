//! Runs the compiling process: passes the module, takes the code, and bounds its time.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use wws_server::{CompileFailure, Job, ModuleKind};

use super::{MAX_SIZE, REJECTED};

/// Bytes of a module or of code that are in memory.
const PIECE: usize = 64 << 10;

/// A process that is killed when it is no longer needed.
struct Compiler {
    child: Child,
    /// Readable once it has exited.
    end: OwnedFd,
}

impl Drop for Compiler {
    fn drop(&mut self) {
        // It may have exited by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Compiles in another process.
pub(super) fn in_process(job: Job<'_>, code: &mut dyn Write) -> Result<(), CompileFailure> {
    // This program, whatever was installed at its path meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["compile", "--parent"])
        .arg(std::process::id().to_string())
        .arg("--cpu-time")
        .arg(job.cpu_time.as_secs().max(1).to_string());
    if job.kind == ModuleKind::Interpreter {
        command.arg("--interpreter");
    }
    run(&mut command, job, code)
}

fn run(command: &mut Command, job: Job<'_>, code: &mut dyn Write) -> Result<(), CompileFailure> {
    let mut child = command
        .env_clear()
        .current_dir(Path::new(OsStr::new("/")))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Opened for reading, because only the cache may be opened for writing: output is discarded
        // in any case.
        .stderr(File::open("/dev/null")?)
        .spawn()?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let Some(end) = Pid::from_raw(child.id().cast_signed())
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
    else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(io::Error::other("a process without a handle").into());
    };
    let mut compiler = Compiler { child, end };
    let (Some(mut stdin), Some(mut stdout)) = (stdin, stdout) else {
        return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
    };
    let (wasm, until, cpu_time) = (job.wasm, job.until, job.cpu_time);
    let passed = std::thread::scope(|scope| {
        let read = scope.spawn(move || give(wasm, &mut stdin));
        let ended = take(&mut stdout, code, until).and_then(|()| wait(&compiler.end, until));
        if ended.is_err() {
            // Lets the other thread end.
            let _ = compiler.child.kill();
        }
        let read = read.join().map_err(|_| io::Error::other("a panic"))?;
        ended.and(read)
    });
    passed.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => {
            CompileFailure::Machine("the compiler got too little CPU time to finish".into())
        }
        _ => error.into(),
    })?;
    failure(compiler.child.wait()?, cpu_time).map_or(Ok(()), Err)
}

/// Why the compiler exited with `status`; `None` if it succeeded.
fn failure(status: ExitStatus, cpu_time: Duration) -> Option<CompileFailure> {
    let machine = |text: &str| Some(CompileFailure::Machine(text.to_owned()));
    match (status.code(), status.signal()) {
        (Some(0), _) => None,
        (Some(code), _) if code == i32::from(REJECTED) => Some(CompileFailure::Rejected(
            "it is not a module that can be compiled".into(),
        )),
        // It could not be confined, or its input or output broke.
        (Some(1), _) => machine("the compiling process could not be set up"),
        (_, Some(libc::SIGXCPU)) => Some(CompileFailure::CpuTime(cpu_time)),
        (_, Some(libc::SIGKILL)) => {
            machine("the compiler was killed: the machine may be out of memory")
        }
        (_, Some(libc::SIGTERM | libc::SIGINT | libc::SIGHUP)) => machine("the compiler was ended"),
        _ => Some(CompileFailure::Crashed(status.to_string())),
    }
}

/// Writes the module.
fn give(wasm: &mut (dyn Read + Send), stdin: &mut dyn Write) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        match wasm.read(&mut buffer) {
            Ok(0) => return Ok(()),
            // A process that exits early reports it by its exit code.
            Ok(len) if stdin.write_all(&buffer[..len]).is_err() => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads the code.
fn take(stdout: &mut (impl Read + AsFd), code: &mut dyn Write, until: Instant) -> io::Result<()> {
    let (mut buffer, mut left) = (vec![0; PIECE], MAX_SIZE);
    loop {
        wait(&*stdout, until)?;
        let len = stdout.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        left = left
            .checked_sub(len as u64)
            .ok_or(io::ErrorKind::FileTooLarge)?;
        code.write_all(&buffer[..len])?;
    }
}

/// Waits until there is something to read, or the end.
fn wait(of: &impl AsFd, until: Instant) -> io::Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::new(of, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sh(script: &str, wasm: &[u8], limit: Duration) -> Result<Vec<u8>, CompileFailure> {
        let (mut wasm, mut code) = (wasm, Vec::new());
        let job = Job {
            kind: ModuleKind::Module,
            wasm: &mut wasm,
            until: Instant::now() + limit,
            cpu_time: limit,
        };
        run(Command::new("/bin/sh").args(["-c", script]), job, &mut code).map(|()| code)
    }

    #[test]
    fn compiler_process_returns_its_output() {
        let large = vec![7; 3 << 20];
        let limit = Duration::from_secs(60);
        assert_eq!(sh("exec cat", &large, limit).unwrap(), large);
        assert!(sh("cat; exit 3", &large, limit).is_err());
        assert!(sh("exit 3", &large, limit).is_err());
        // Code that is complete before the module was read is not an error here: the reader's hash
        // detects it.
        assert_eq!(sh("echo x", &[], limit).unwrap(), b"x\n");
    }

    #[test]
    fn kills_a_compiler_after_its_time() {
        let limit = Duration::from_millis(300);
        // A process that neither reads nor writes; one that writes forever; and one that is done
        // but stays.
        for script in ["exec sleep 60", "exec yes", "exec >&-; exec sleep 60"] {
            let started = Instant::now();
            let failure = sh(script, &vec![7; 3 << 20], limit).unwrap_err();
            // The machine may have been busy.
            let is_machine = matches!(failure, CompileFailure::Machine(_));
            assert!(is_machine, "{script}: {failure}");
            assert!(started.elapsed() < Duration::from_secs(30), "{script}");
        }
    }

    #[test]
    fn tells_failures_of_the_module_from_failures_of_the_machine() {
        let of = |script: &str| sh(script, &[], Duration::from_secs(60)).unwrap_err();
        let rejected = of(&format!("exit {REJECTED}"));
        assert!(
            matches!(rejected, CompileFailure::Rejected(_)),
            "{rejected}"
        );
        let slow = of("ulimit -S -t 1; while :; do :; done");
        assert!(matches!(slow, CompileFailure::CpuTime(_)), "{slow}");
        for script in ["kill -ABRT $$", "kill -SEGV $$", "exit 101"] {
            let crashed = of(script);
            assert!(matches!(crashed, CompileFailure::Crashed(_)), "{crashed}");
        }
        for script in ["kill -KILL $$", "kill -TERM $$", "exit 1"] {
            let machine = of(script);
            assert!(matches!(machine, CompileFailure::Machine(_)), "{machine}");
        }
    }
}
