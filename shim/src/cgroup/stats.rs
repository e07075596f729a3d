//! Resource usage of a container, in the messages that containerd's clients read (`docker stats`,
//! `ctr task metrics`, CRI).

mod files;
mod v1;
mod v2;

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};

/// Reads the statistics of a cgroup. What the kernel does not report is 0.
///
/// # Errors
/// The message cannot be encoded.
pub(crate) fn read(cgroup: &Cgroup) -> Result<Any> {
    let (name, value) = match cgroup {
        Cgroup::V1(_) => (
            "io.containerd.cgroups.v1.Metrics",
            v1::read(cgroup).write_to_bytes(),
        ),
        Cgroup::V2(directory) => (
            "io.containerd.cgroups.v2.Metrics",
            v2::read(directory).write_to_bytes(),
        ),
    };
    Ok(Any {
        type_url: name.to_owned(),
        value: value.map_err(|error| {
            Error::unknown("encode the statistics of the container").with_source(error)
        })?,
        ..Any::default()
    })
}
