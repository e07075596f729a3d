//! The containerd runtime shim `io.containerd.wws.v1`: containers of workers, and ordinary ones
//! beside them.
//!
//! containerd runs `start` for a new container. `start` leaves one process behind, `serve`, which
//! answers containerd's task service for the container, or for all containers of a pod, and calls
//! the OCI runtime of the host. `delete` cleans up after a `serve` that died.
//!
//! Each room uses those below it only:
//!
//! ```text
//! cli          commands, and the socket of the shim
//! task         containerd's task service
//! container    containers, from creation to teardown
//! process      processes of a container      runc      calls of the OCI runtime
//! server       the program `wws`
//! stdio        streams      oci      bundles      cgroup      cgroups
//! containerd   options and events      trace      spans
//! sys          threads, child processes, time, log
//! error
//! ```

mod cgroup;
mod cli;
mod container;
mod containerd;
mod error;
mod oci;
mod process;
mod runc;
mod server;
mod stdio;
mod sys;
mod task;
mod trace;

use std::io::Write;
use std::process::ExitCode;

use crate::cli::args::{self, Args, Command};
use crate::cli::{delete, info, serve, start};
use crate::error::{Error, Result};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("containerd-shim-wws-v1: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the command. Only the response goes to standard output, as containerd parses it.
fn run() -> Result<()> {
    let args = Args::parse(std::env::args().skip(1))?;
    let response = match args.command {
        Command::Start => start::start(&args)?.into_bytes(),
        Command::Delete => delete::delete(&args)?,
        Command::Serve => {
            serve::serve(&args)?;
            Vec::new()
        }
        Command::Info => info::info()?,
        Command::Version => {
            concat!("containerd-shim-wws-v1 ", env!("CARGO_PKG_VERSION"), "\n").into()
        }
        Command::Help => args::HELP.into(),
    };
    std::io::stdout()
        .write_all(&response)
        .map_err(|error| Error::io("write to standard output", error))
}
