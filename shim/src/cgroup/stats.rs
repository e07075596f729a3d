//! What a container uses, in the messages that containerd's clients read (`docker stats`, `ctr task metrics`, CRI).

mod files;
mod v1;
mod v2;

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};

/// Reads the figures of a control group. What the kernel does not tell is 0.
///
/// # Errors
/// A message that cannot be written.
pub(crate) fn read(cgroup: &Cgroup) -> Result<Any> {
    let (name, value) = match cgroup {
        Cgroup::V1(_) => (
            "io.containerd.cgroups.v1.Metrics",
            v1::read(cgroup).write_to_bytes(),
        ),
        Cgroup::V2(folder) => (
            "io.containerd.cgroups.v2.Metrics",
            v2::read(folder).write_to_bytes(),
        ),
    };
    Ok(Any {
        type_url: name.to_owned(),
        value: value.map_err(|error| Error::Other(format!("figures of the container: {error}")))?,
        ..Any::default()
    })
}
