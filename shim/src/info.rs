//! `-info`: what the runtime is and can do, for containerd 2 and its Kubernetes interface.

use std::io;
use std::path::Path;

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};

use crate::error::{Error, Result};
use crate::runc::Runc;
use crate::start;

/// The name by which containerd knows the runtime.
pub(crate) const NAME: &str = "io.containerd.wws.v1";

/// The type of what the OCI runtime says of itself.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// The message that containerd wants to read.
///
/// # Errors
/// Options that are broken.
pub(crate) fn info() -> Result<Vec<u8>> {
    let options = start::read_options(io::stdin(), "")?;
    // All that can be done with containers is done by the OCI runtime.
    let features = Runc::new(options, "", Path::new("/"), false).features();
    let info = RuntimeInfo {
        name: NAME.to_owned(),
        version: MessageField::some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..RuntimeVersion::default()
        }),
        features: features
            .map(|value| Any {
                type_url: FEATURES.to_owned(),
                value,
                ..Any::default()
            })
            .into(),
        ..RuntimeInfo::default()
    };
    info.write_to_bytes()
        .map_err(|error| Error::Other(format!("write the answer: {error}")))
}
