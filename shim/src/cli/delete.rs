//! `delete`: clears up after a container whose shim is gone. Called any number of times, it does what is left to do.

use std::path::PathBuf;

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::{Message, MessageField};

use crate::cli::args::Args;
use crate::cli::socket;
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
            .and_then(|spec| socket::link_path(&args.address, &args.namespace, &spec, &args.id));
        socket::remove_socket(&address, link.as_deref());
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
