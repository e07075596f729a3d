//! The containerd runtime shim `io.containerd.wws.v1`: containers of workers, and ordinary ones beside them.
//!
//! containerd runs `start` for a new container. That leaves one process behind, `serve`, which answers containerd's task service
//! for the container, or for all containers of a pod, and has the OCI runtime of the host do the work. `delete` clears up after
//! a `serve` that died.

mod cgroup;
mod cli;
mod container;
mod containerd;
mod error;
mod oci;
mod process;
mod runc;
mod stdio;
mod sys;
mod task;

use std::io::Write;
use std::process::ExitCode;

use crate::cli::args::{self, Args, Command};
use crate::cli::{delete, info, serve, start};

fn main() -> ExitCode {
    // As containerd expects: the answer alone on standard output, all else on standard error.
    let answer = Args::parse(std::env::args().skip(1)).and_then(|args| match args.command {
        Command::Start => start::start(&args).map(String::into_bytes),
        Command::Delete => delete::delete(&args),
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
