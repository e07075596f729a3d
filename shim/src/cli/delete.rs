//! `delete`: clears up after a container whose shim is gone. Called any number of times, it does what is left to do.

use std::path::{Path, PathBuf};

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::{Message, MessageField};

use crate::cli::args::Args;
use crate::cli::start;
use crate::container::code::Code;
use crate::error::{Error, Result};
use crate::oci::bundle;
use crate::oci::mount;
use crate::oci::spec::Spec;
use crate::runc::{self, Runc};
use crate::sys::reaper::KILLED;
use crate::sys::time;

/// Clears up, and returns the message that containerd wants to read. What could not be done is told on standard error, which
/// containerd logs.
///
/// # Errors
/// The bundle cannot be found, or the message not be written.
pub(crate) fn delete(args: &Args) -> Result<Vec<u8>> {
    let bundle = bundle_of(args)?;
    let options = bundle::load_options(&bundle);
    let runc = Runc::new(options, &args.namespace, &bundle, args.debug);
    let steps = [
        runc.delete_now(&args.id),
        mount::unmount_all(&bundle.join("rootfs")),
    ];
    runc.remove_empty_groups();
    for error in steps.into_iter().filter_map(Result::err) {
        eprintln!("clear up after container {}: {error}", args.id);
    }
    if let Some(code) = Code::of(&args.namespace, &args.id) {
        code.remove();
    }
    if let Some(address) = bundle::load_address(&bundle) {
        let link = Spec::read(&bundle)
            .ok()
            .and_then(|spec| start::link_path(&args.address, &args.namespace, &spec, &args.id));
        remove_socket(&address, link.as_deref());
    }
    let answer = DeleteResponse {
        pid: runc::read_pid(&bundle.join(bundle::INIT_PID)).unwrap_or(0),
        exit_status: KILLED,
        exited_at: MessageField::some(time::now()),
        ..DeleteResponse::default()
    };
    answer
        .write_to_bytes()
        .map_err(|error| Error::Other(format!("write the answer: {error}")))
}

/// The bundle: as named, or else beside the working directory, which is a bundle.
fn bundle_of(args: &Args) -> Result<PathBuf> {
    if let Some(bundle) = &args.bundle {
        return Ok(bundle.clone());
    }
    let here = std::env::current_dir().map_err(|error| Error::io("find the bundle", error))?;
    Ok(here.parent().unwrap_or(&here).join(&args.id))
}

/// Removes a socket at which nobody answers, and the link to it. At a pod's, the shim of the others may.
fn remove_socket(address: &str, link: Option<&Path>) {
    let path = Path::new(address.trim_start_matches("unix://"));
    if !path.is_absolute() {
        return;
    }
    let removed = start::remove_dead(path).and_then(|alone| {
        drop(alone);
        match link {
            Some(link) if !path.exists() => start::unlink(link, path),
            _ => Ok(()),
        }
    });
    if let Err(error) = removed {
        eprintln!("clear up: {error}");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_a_socket_without_a_shim_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let address = format!("unix://{}", path.display());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        remove_socket(&address, Some(&link));
        assert!(path.exists() && link.is_symlink());
        drop(listener);
        remove_socket(&address, Some(&link));
        assert!(!path.exists() && !link.is_symlink());
    }
}
