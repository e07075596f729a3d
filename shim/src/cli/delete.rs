//! `delete`: cleans up after a container whose shim died. Can be called any number of times.

use std::path::PathBuf;

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::{Message, MessageField};

use super::args::Args;
use super::socket;
use crate::container::code::ContainerCode;
use crate::container::teardown::{RuntimeDeletion, Teardown};
use crate::error::{Error, Result};
use crate::oci::bundle;
use crate::oci::spec::Spec;
use crate::runc::{self, Runc};
use crate::sys::log::Level;
use crate::sys::reaper::KILLED_EXIT_CODE;
use crate::sys::time;

/// Cleans up, and returns the message that containerd reads. Failures of steps are written to
/// standard error, which containerd logs.
///
/// # Errors
/// The bundle cannot be found, or the message cannot be encoded.
pub(crate) fn delete(args: &Args) -> Result<Vec<u8>> {
    let bundle = find_bundle(args)?;
    let options = bundle::load_options(&bundle);
    let runc = Runc::new(
        options,
        &args.namespace,
        &bundle,
        args.level == Level::Debug,
    );
    let code = ContainerCode::for_container(&args.namespace, &args.id);
    let spec = Spec::read(&bundle).ok();
    let teardown = Teardown {
        id: &args.id,
        bundle: &bundle,
        runc: &runc,
        deletion: RuntimeDeletion::Blocking,
        cgroups_path: spec.as_ref().map_or("", Spec::cgroups_path),
        code: code.as_ref(),
        compile_task: None,
        processes: Vec::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|error| Error::io("start the async runtime", error))?;
    for failure in runtime.block_on(teardown.run()) {
        eprintln!("clean up after container {}: {:#}", args.id, failure.error);
    }
    if let Some(address) = bundle::load_address(&bundle) {
        let link = spec
            .and_then(|spec| socket::link_path(&args.address, &args.namespace, &spec, &args.id));
        if let Err(error) = socket::remove_socket(&address, link.as_deref()) {
            eprintln!("clean up after the shim of {}: {error:#}", args.id);
        }
    }
    let response = DeleteResponse {
        pid: runc::read_pid(&bundle.join(bundle::INIT_PID)).unwrap_or(0),
        exit_status: KILLED_EXIT_CODE,
        exited_at: MessageField::some(time::now()),
        ..DeleteResponse::default()
    };
    response
        .write_to_bytes()
        .map_err(|error| Error::unknown("encode the response").with_source(error))
}

/// Returns the bundle that the arguments name, or else the one beside the working directory, which
/// is a bundle.
fn find_bundle(args: &Args) -> Result<PathBuf> {
    if let Some(bundle) = &args.bundle {
        return Ok(bundle.clone());
    }
    let here = std::env::current_dir().map_err(|error| Error::io("find the bundle", error))?;
    Ok(here.parent().unwrap_or(&here).join(&args.id))
}
