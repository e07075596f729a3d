//! What containerd writes to the standard input of `start`.

use std::io::Read;

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, Message};

use super::options::Options;
use super::wire::fields;
use crate::error::{Error, Result};

/// The most that containerd passes to standard input, in bytes.
const MAX_INPUT: u64 = 1024 * 1024;

/// The options that containerd passes along with the container `id`; none is the default.
pub(crate) fn read_options(input: impl Read, id: &str) -> Result<Options> {
    let mut bytes = Vec::new();
    input
        .take(MAX_INPUT)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io("read the options from standard input", error))?;
    // As releases before containerd 2.3 did. The options come again with the container.
    if bytes.first() == Some(&b'{') {
        return Ok(Options::default());
    }
    let any = Any::parse_from_bytes(&bytes)
        .map_err(|error| Error::InvalidArgument(format!("the runtime's options: {error}")))?;
    if any.type_url.is_empty() || any.type_url != id {
        return Options::from_any(Some(&any));
    }
    // containerd 2.3 and newer pass a message whose first field is the container's name.
    let extensions = extensions(&bytes)
        .map_err(|error| Error::InvalidArgument(format!("containerd's parameters: {error}")))?;
    let mut known = extensions.iter().filter(|any| Options::knows(any));
    Options::from_any(known.next())
}

/// The extensions of `containerd.runtime.bootstrap.v1.BootstrapParams`: field 8, each a message whose field 1 is an `Any`.
fn extensions(bytes: &[u8]) -> protobuf::Result<Vec<Any>> {
    let mut all = Vec::new();
    for extension in fields(bytes, 8)? {
        for value in fields(&extension, 1)? {
            all.push(Any::parse_from_bytes(&value)?);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn options_may_come_or_not() {
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

        // As containerd 2.3 passes them: a name, a name space, a level, extensions.
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
}
