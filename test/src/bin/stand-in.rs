//! `stand-in FOLDER`: the stand-in for the outside service, until it is killed.
//!
//! Leaves `ca.pem` (the authority to trust) and `resolve` (the value of `WWS_RESOLVE`) in FOLDER; `resolve` comes last,
//! whole, when the server listens.

use std::path::PathBuf;
use std::{env, fs, thread};

use anyhow::{Context, Result};
use wws_test::stand_in::StandIn;

fn main() -> Result<()> {
    let folder = PathBuf::from(env::args_os().nth(1).context("usage: stand-in FOLDER")?);
    let server = StandIn::start()?;
    fs::write(folder.join("ca.pem"), server.authority())?;
    let resolve = folder.join("resolve");
    fs::write(resolve.with_extension("part"), server.resolve())?;
    fs::rename(resolve.with_extension("part"), &resolve)?;
    loop {
        thread::park();
    }
}
