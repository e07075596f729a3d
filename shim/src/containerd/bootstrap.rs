//! The start parameters: what containerd writes to the standard input of `start`.

use std::io::Read;

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, Message};

use super::options::Options;
use super::wire::bytes_fields;
use crate::error::{Error, Result};

/// The most that is read from standard input, in bytes.
const MAX_INPUT: u64 = 1024 * 1024;

/// Reads the options that containerd passes for the container `id`. Without options, returns the
/// default.
///
/// # Errors
/// Standard input cannot be read, or what containerd passes is broken.
pub(crate) fn read_options(input: impl Read, id: &str) -> Result<Options> {
    let mut bytes = Vec::new();
    input
        .take(MAX_INPUT)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io("read the options from standard input", error))?;
    parse_options(&bytes, id)
}

fn parse_options(bytes: &[u8], id: &str) -> Result<Options> {
    // Releases before containerd 2.3 pass JSON. The options come again with the container.
    if bytes.first() == Some(&b'{') {
        return Ok(Options::default());
    }
    let broken =
        |what: &str, error: protobuf::Error| Error::invalid_argument(what).with_source(error);
    let any = Any::parse_from_bytes(bytes)
        .map_err(|error| broken("the runtime options on standard input", error))?;
    if any.type_url.is_empty() || any.type_url != id {
        return Options::from_any(Some(&any));
    }
    // containerd 2.3 and newer pass a message whose first field is the container's ID.
    let extensions = parse_extensions(bytes)
        .map_err(|error| broken("the start parameters on standard input", error))?;
    let mut known = extensions.iter().filter(|any| Options::knows(any));
    Options::from_any(known.next())
}

/// Returns the extensions of `containerd.runtime.bootstrap.v1.BootstrapParams`: field 8, each a
/// message whose field 1 is an `Any`.
fn parse_extensions(bytes: &[u8]) -> protobuf::Result<Vec<Any>> {
    let mut all = Vec::new();
    for extension in bytes_fields(bytes, 8)? {
        for value in bytes_fields(&extension, 1)? {
            all.push(Any::parse_from_bytes(&value)?);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_options_in_all_three_formats() {
        let read = |bytes: &[u8]| read_options(bytes, "c1").unwrap();
        assert_eq!(read(b""), Options::default());
        assert_eq!(read(br#"{"instance_id":"x"}"#), Options::default());
        let any = Any {
            type_url: "runtimeoptions.v1.Options".to_owned(),
            // `config_body` is the third field.
            value: b"\x1a\x15ShimCgroup = \"/shims\"".to_vec(),
            ..Any::default()
        };
        let bytes = any.write_to_bytes().unwrap();
        assert_eq!(read(&bytes).shim_cgroup, "/shims");

        // As containerd 2.3 passes them: ID, namespace, log level, extensions.
        let field = |number: u8, bytes: &[u8]| {
            let length = u8::try_from(bytes.len()).unwrap();
            [&[number << 3 | 2, length], bytes].concat()
        };
        let other = field(1, &field(1, b"other.v1.Settings"));
        let parameters = [
            field(1, b"c1"),
            field(2, b"default"),
            vec![3 << 3, 2],
            field(8, &other),
            field(8, &field(1, &bytes)),
        ];
        assert_eq!(read(&parameters.concat()).shim_cgroup, "/shims");
        assert_eq!(read(&parameters[..4].concat()), Options::default());
    }

    proptest! {
        #[test]
        fn parses_any_bytes(
            bytes in any::<Vec<u8>>(),
            likely in prop::collection::vec(
                prop::sample::select(
                    vec![0x0a, 0x02, b'c', b'1', 0x42, 0x04, 0x1a, 0x00, 0xff, b'{'],
                ),
                0..24,
            ),
        ) {
            let _ = parse_options(&bytes, "c1");
            let _ = parse_options(&likely, "c1");
            let _ = parse_options(&likely, "");
        }

        #[test]
        fn parses_start_parameters(id in "[a-z]{1,20}", root in "[a-zA-Z0-9/._-]{0,60}") {
            let options = containerd_shim_protos::shim::oci::Options {
                root: root.clone(),
                ..Default::default()
            };
            let any = Any {
                type_url: "containerd.runc.v1.Options".to_owned(),
                value: options.write_to_bytes().unwrap(),
                ..Any::default()
            };
            let field = |number: u8, bytes: &[u8]| {
                let mut field = vec![number << 3 | 2];
                let length = u8::try_from(bytes.len()).unwrap();
                field.extend(if length < 0x80 { vec![length] } else { vec![length | 0x80, 1] });
                [field, bytes.to_vec()].concat()
            };
            let extension = field(8, &field(1, &any.write_to_bytes().unwrap()));
            let parameters = [field(1, id.as_bytes()), extension].concat();
            prop_assert_eq!(parse_options(&parameters, &id).unwrap().root, root);
        }
    }
}
