//! A shim as one file, which carries `wws`.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::container::LIMIT;
use crate::{command, workspace};

/// The name of the shim, by which containerd finds it.
pub const SHIM: &str = "containerd-shim-wws-v1";

/// Makes a shim in `directory` that carries `wws` with `more` at its end, which changes no
/// function.
///
/// # Errors
/// The programs are not built, or the shim cannot be written.
pub fn pack(directory: &Path, more: &[u8]) -> Result<PathBuf> {
    let server = directory.join("carried");
    fs::copy(workspace::programs()?.join("wws"), &server)?;
    File::options()
        .append(true)
        .open(&server)?
        .write_all(more)?;
    let shim = directory.join(SHIM);
    let mut pack = Command::new(workspace::root().join("scripts/one-file.py"));
    pack.arg(workspace::programs()?.join(SHIM))
        .arg(&server)
        .arg(&shim);
    command::run(&mut pack, LIMIT)?.success()?;
    fs::remove_file(server)?;
    Ok(shim)
}
