//! `-info`: the features of the runtime, for containerd 2 and its CRI plugin.

use std::io;
use std::path::Path;

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};

use serde_json::{Value, json};

use crate::containerd::bootstrap::read_options;
use crate::error::{Error, Result};
use crate::oci::mount::idmap;
use crate::runc::Runc;

/// The name of the runtime in containerd's configuration.
pub(crate) const NAME: &str = "io.containerd.wws.v1";

/// The type of the OCI runtime's features.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Returns the message that containerd reads.
///
/// # Errors
/// The options are broken.
pub(crate) fn info() -> Result<Vec<u8>> {
    let options = read_options(io::stdin())?;
    // The OCI runtime decides about everything except the root file system.
    let features = Runc::new(options, "", Path::new("/"), false).features();
    let features = features.map(|features| match idmap::is_supported() {
        true => features,
        false => without_id_maps(features),
    });
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
        .map_err(|error| Error::unknown("encode the response").with_source(error))
}

/// Removes ID-mapped mounts, which Kubernetes uses for pods with user namespaces, from the OCI
/// runtime's features.
fn without_id_maps(features: Vec<u8>) -> Vec<u8> {
    let Ok(mut all) = serde_json::from_slice::<Value>(&features) else {
        return features;
    };
    match all.pointer_mut("/linux/mountExtensions/idmap/enabled") {
        Some(enabled) => *enabled = json!(false),
        None => return features,
    }
    all.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn removes_id_maps_and_nothing_else() {
        let features = |enabled: bool| {
            json!({"ociVersionMin": "1.0.0", "linux": {
                "namespaces": ["user"], "mountExtensions": {"idmap": {"enabled": enabled}},
            }})
        };
        let left = without_id_maps(features(true).to_string().into_bytes());
        assert_eq!(
            serde_json::from_slice::<Value>(&left).unwrap(),
            features(false)
        );
        for other in ["", r#"{"linux":{}}"#] {
            assert_eq!(without_id_maps(other.into()), other.as_bytes());
        }
    }
}
