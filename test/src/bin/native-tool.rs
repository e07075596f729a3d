//! A native program of the test images that does what tests of standard streams and of processes
//! need.
//!
//! ```text
//! cat PATH [SECONDS]    copies a file to standard output, after a while
//! streams               names what its standard streams are
//! orphan SECONDS        says `started`, leaves a process behind that holds its streams, and exits
//! sleep SECONDS         does nothing
//! hold MIB SECONDS      takes memory, and keeps it for a while
//! effective-uid         names the user whose rights it has
//! ```

use std::fs::{self, File};
use std::process::Command;
use std::time::Duration;
use std::{env, io, thread};

fn main() -> io::Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["cat", path] => cat(path),
        ["cat", path, seconds] => {
            sleep(seconds)?;
            cat(path)
        }
        ["streams"] => {
            for stream in ["0", "1", "2"] {
                println!(
                    "{}",
                    fs::read_link(format!("/proc/self/fd/{stream}"))?.display()
                );
            }
            Ok(())
        }
        ["orphan", seconds] => {
            println!("started");
            Command::new(env::current_exe()?)
                .args(["sleep", seconds])
                .spawn()
                .map(drop)
        }
        ["sleep", seconds] => sleep(seconds),
        ["hold", mebibytes, seconds] => {
            let mebibytes: usize = mebibytes.parse().map_err(io::Error::other)?;
            // Written to, so that it is really taken.
            let memory = std::hint::black_box(vec![1u8; mebibytes << 20]);
            sleep(seconds)?;
            drop(memory);
            Ok(())
        }
        ["effective-uid"] => {
            let uid = rustix::process::geteuid().as_raw();
            println!("Effective uid: {uid}");
            Ok(())
        }
        _ => Err(io::Error::other(
            "usage: cat PATH [SECONDS] | streams | orphan SECONDS | sleep SECONDS | hold MIB \
             SECONDS | effective-uid",
        )),
    }
}

fn cat(path: &str) -> io::Result<()> {
    io::copy(&mut File::open(path)?, &mut io::stdout()).map(drop)
}

fn sleep(seconds: &str) -> io::Result<()> {
    let seconds = seconds.parse().map_err(io::Error::other)?;
    thread::sleep(Duration::from_secs(seconds));
    Ok(())
}
