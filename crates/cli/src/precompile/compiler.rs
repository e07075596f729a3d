//! Runs the compiling process: passes the module, takes the code, and bounds its time.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use wws_server::{Job, ModuleKind};

use super::MAX_SIZE;

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
pub(super) fn in_process(job: Job<'_>, code: &mut dyn Write) -> io::Result<()> {
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

fn run(command: &mut Command, job: Job<'_>, code: &mut dyn Write) -> io::Result<()> {
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
        return Err(io::Error::other("a process without a handle"));
    };
    let mut compiler = Compiler { child, end };
    let (Some(mut stdin), Some(mut stdout)) = (stdin, stdout) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let (wasm, until) = (job.wasm, job.until);
    std::thread::scope(|scope| {
        let read = scope.spawn(move || give(wasm, &mut stdin));
        let ended = take(&mut stdout, code, until).and_then(|()| wait(&compiler.end, until));
        if ended.is_err() {
            // Lets the other thread end.
            let _ = compiler.child.kill();
        }
        let read = read.join().map_err(|_| io::Error::other("a panic"))?;
        ended.and(read)
    })?;
    let status = compiler.child.wait()?;
    if !status.success() {
        return Err(io::Error::other(format!(
            "the compiler ended with {status}"
        )));
    }
    Ok(())
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
    use std::time::Duration;

    fn sh(script: &str, wasm: &[u8], limit: Duration) -> io::Result<Vec<u8>> {
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
    fn what_goes_in_comes_out() {
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
    fn one_that_does_not_end_is_ended() {
        let limit = Duration::from_millis(300);
        // A process that neither reads nor writes; one that writes forever; and one that is done
        // but stays.
        for script in ["exec sleep 60", "exec yes", "exec >&-; exec sleep 60"] {
            let started = Instant::now();
            let error = sh(script, &vec![7; 3 << 20], limit).unwrap_err();
            let kinds = [io::ErrorKind::TimedOut, io::ErrorKind::FileTooLarge];
            assert!(kinds.contains(&error.kind()), "{script}: {error}");
            assert!(started.elapsed() < Duration::from_secs(30), "{script}");
        }
    }
}
