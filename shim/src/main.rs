//! The containerd runtime shim `io.containerd.wws.v1`: containers of workers, and ordinary ones beside them.
//!
//! containerd runs `start` for a new container. That leaves one process behind, `serve`, which answers containerd's task service
//! for the container, or for all containers of a pod, and has the OCI runtime of the host do the work. `delete` clears up after
//! a `serve` that died.

mod args;
mod bundle;
mod cgroup;
mod cleanup;
mod code;
mod console;
mod container;
mod entry;
mod error;
mod events;
mod exec;
mod info;
mod log;
mod mount;
mod oom;
mod options;
mod process;
mod reaper;
mod rootfs;
mod runc;
mod serve;
mod service;
mod shell;
mod spec;
mod start;
mod stats;
mod stdio;
mod thread;
mod time;

use std::io::Write;
use std::process::ExitCode;

use args::{Args, Command};

fn main() -> ExitCode {
    // As containerd expects: the answer alone on standard output, all else on standard error.
    let answer = Args::parse(std::env::args().skip(1)).and_then(|args| match args.command {
        Command::Start => start::start(&args).map(String::into_bytes),
        Command::Delete => cleanup::delete(&args),
        Command::Serve => serve::serve(&args).map(|()| Vec::new()),
        Command::Info => info::info(),
        Command::Version => {
            Ok(concat!("containerd-shim-wws-v1 ", env!("CARGO_PKG_VERSION"), "\n").into())
        }
        Command::Help => Ok(args::HELP.into()),
    });
    let written = answer.map_err(|error| error.to_string()).and_then(|bytes| {
        std::io::stdout()
            .write_all(&bytes)
            .map_err(|error| error.to_string())
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("containerd-shim-wws-v1: {error}");
            ExitCode::FAILURE
        }
    }
}
