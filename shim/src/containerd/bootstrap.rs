//! The start parameters: what containerd writes to the standard input of `start`.
//!
//! Releases before 2.3 write the options of the runtime alone, an `Any`. From 2.3 on it is
//! `containerd.runtime.bootstrap.v1.BootstrapParams`, which also has what flags and variables of
//! the environment have, and is to replace them:
//!
//! 1. `instance_id`: the value of `-id`. It tells the message from options.
//! 2. `namespace`: must be that of `-namespace`.
//! 3. `log_level`: the least important lines that the shim logs, and whether the OCI runtime logs
//!    for debugging.
//! 4. `containerd_version` has no effect: what the shim does depends on the messages that it gets,
//!    not on the release that sends them.
//! 5. `containerd_ttrpc_address`: where events go, instead of `TTRPC_ADDRESS`.
//! 6. `containerd_grpc_address`: where events go without the former, and part of the socket's name,
//!    instead of `-address`.
//! 7. `containerd_binary`: the program that publishes events without a ttrpc address, instead of
//!    `-publish-binary`.
//! 8. `extensions`: the options of the runtime. Other types have no effect: containerd sends none
//!    yet, and a shim is free to ignore those that it does not know.
//! 9. `socket_dir`: the directory of the shim's socket, and of those that receive terminals.
//!
//! The bundle is no field: it is the working directory. Fields of later releases have no effect.

use std::io::Read;
use std::path::PathBuf;

use containerd_shim_protos::bootstrap_api::BootstrapParams;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, Message};

use super::options::Options;
use crate::error::{Error, Result};
use crate::sys::log::Level;

/// The most that is read from standard input, in bytes.
const MAX_INPUT: u64 = 1024 * 1024;

/// What containerd passes to `start`. Apart from the options, releases before 2.3 pass nothing of
/// it here: strings are empty then.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct StartParameters {
    /// The options of the runtime.
    pub(crate) options: Options,
    /// containerd's namespace of the container.
    pub(crate) namespace: String,
    /// What to log.
    pub(crate) level: Option<Level>,
    /// containerd's main socket.
    pub(crate) address: String,
    /// containerd's ttrpc socket.
    pub(crate) ttrpc_address: String,
    /// containerd's own program.
    pub(crate) publisher: String,
    /// The directory of the shim's socket, an absolute path.
    pub(crate) socket_directory: Option<PathBuf>,
}

impl StartParameters {
    /// Reads the parameters for the container `id`.
    ///
    /// # Errors
    /// Standard input cannot be read, or what containerd passes is broken.
    pub(crate) fn read(input: impl Read, id: &str) -> Result<Self> {
        let mut bytes = Vec::new();
        input
            .take(MAX_INPUT)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::io("read the options from standard input", error))?;
        Self::parse(&bytes, id)
    }

    fn parse(bytes: &[u8], id: &str) -> Result<Self> {
        // Releases before containerd 2.3 pass JSON. The options come again with the container.
        if bytes.first() == Some(&b'{') {
            return Ok(Self::default());
        }
        let broken =
            |what: &str, error: protobuf::Error| Error::invalid_argument(what).with_source(error);
        let any = Any::parse_from_bytes(bytes)
            .map_err(|error| broken("the runtime options on standard input", error))?;
        if any.type_url.is_empty() || any.type_url != id {
            return Ok(Self {
                options: Options::from_any(Some(&any))?,
                ..Self::default()
            });
        }
        let parameters = BootstrapParams::parse_from_bytes(bytes)
            .map_err(|error| broken("the start parameters on standard input", error))?;
        parameters.try_into()
    }
}

impl TryFrom<BootstrapParams> for StartParameters {
    type Error = Error;

    fn try_from(parameters: BootstrapParams) -> Result<Self> {
        let extensions = parameters.extensions.iter();
        let options = extensions
            .filter_map(|extension| extension.value.as_ref())
            .find(|any| Options::knows(any));
        let socket_directory = parameters.socket_dir.filter(|path| !path.is_empty());
        let socket_directory = socket_directory.map(PathBuf::from);
        if let Some(path) = &socket_directory
            && !path.is_absolute()
        {
            return Err(Error::invalid_argument(format!(
                "the start parameters: socket_dir is no absolute path: {}",
                path.display()
            )));
        }
        Ok(Self {
            options: Options::from_any(options)?,
            namespace: parameters.namespace,
            level: Some(Level::from_number(parameters.log_level.value())),
            address: parameters.containerd_grpc_address,
            ttrpc_address: parameters.containerd_ttrpc_address,
            publisher: parameters.containerd_binary,
            socket_directory,
        })
    }
}

/// Reads the options that containerd passes to `-info`. Without options, returns the default.
///
/// # Errors
/// Standard input cannot be read, or what containerd passes is broken.
pub(crate) fn read_options(input: impl Read) -> Result<Options> {
    StartParameters::read(input, "").map(|parameters| parameters.options)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::error::ErrorCode;
    use containerd_shim_protos::bootstrap_api::Extension;
    use containerd_shim_protos::protobuf::MessageField;
    use containerd_shim_protos::shim::oci;
    use proptest::prelude::*;

    #[test]
    fn reads_options_in_all_three_formats() {
        let read = |bytes: &[u8]| StartParameters::read(bytes, "c1").unwrap().options;
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

        // As containerd 2.3 passes them: with the container's ID.
        let parameters = |extensions: &[&Any]| {
            let extensions = extensions.iter().map(|any| Extension {
                value: MessageField::some((*any).clone()),
                ..Extension::default()
            });
            let parameters = BootstrapParams {
                instance_id: "c1".to_owned(),
                extensions: extensions.chain([Extension::default()]).collect(),
                ..BootstrapParams::default()
            };
            parameters.write_to_bytes().unwrap()
        };
        let other = Any {
            type_url: "other.v1.Settings".to_owned(),
            ..Any::default()
        };
        assert_eq!(read(&parameters(&[&other, &any])).shim_cgroup, "/shims");
        assert_eq!(read(&parameters(&[&other])), Options::default());
        assert_eq!(read_options(&bytes[..]).unwrap().shim_cgroup, "/shims");
    }

    /// Appends a field of bytes to a message.
    fn append(message: &mut Vec<u8>, number: u8, bytes: &[u8]) {
        message.push(number << 3 | 2);
        message.push(u8::try_from(bytes.len()).unwrap());
        message.extend_from_slice(bytes);
    }

    #[test]
    fn reads_all_parameters() {
        let options = oci::Options {
            shim_cgroup: "/shims".to_owned(),
            ..oci::Options::default()
        };
        let mut any = Vec::new();
        append(
            &mut any,
            1,
            b"type.googleapis.com/containerd.runc.v1.Options",
        );
        append(&mut any, 2, &options.write_to_bytes().unwrap());
        let mut extension = Vec::new();
        append(&mut extension, 1, &any);
        // By hand, as the generated message of a test and of the shim would agree on any numbers.
        let mut message = Vec::new();
        append(&mut message, 1, b"c1");
        append(&mut message, 2, b"k8s.io");
        // LOG_LEVEL_DEBUG: negative numbers take ten bytes.
        message.extend([3 << 3, 0xfc]);
        message.extend([0xff; 8]);
        message.push(1);
        append(&mut message, 4, b"v2.4.2");
        append(&mut message, 5, b"/run/containerd/containerd.sock.ttrpc");
        append(&mut message, 6, b"/run/containerd/containerd.sock");
        append(&mut message, 7, b"/usr/bin/containerd");
        append(&mut message, 8, &extension);
        append(&mut message, 9, b"/run/sockets");
        // Fields of a release to come: a number, eight bytes, bytes, four bytes.
        message.extend([10 << 3, 7, 11 << 3 | 1, 1, 2, 3, 4, 5, 6, 7, 8]);
        append(&mut message, 12, b"new");
        message.extend([13 << 3 | 5, 1, 2, 3, 4]);
        let read = StartParameters::read(&message[..], "c1").unwrap();
        let expected = StartParameters {
            options: Options {
                shim_cgroup: "/shims".to_owned(),
                ..Options::default()
            },
            namespace: "k8s.io".to_owned(),
            level: Some(Level::Debug),
            address: "/run/containerd/containerd.sock".to_owned(),
            ttrpc_address: "/run/containerd/containerd.sock.ttrpc".to_owned(),
            publisher: "/usr/bin/containerd".to_owned(),
            socket_directory: Some("/run/sockets".into()),
        };
        assert_eq!(read, expected);
        // What is absent has the default of the protocol.
        let mut message = Vec::new();
        append(&mut message, 1, b"c1");
        append(&mut message, 9, b"");
        let expected = StartParameters {
            level: Some(Level::Info),
            ..StartParameters::default()
        };
        assert_eq!(StartParameters::read(&message[..], "c1").unwrap(), expected);
    }

    #[test]
    fn rejects_broken_parameters() {
        let error = |field: u8, bytes: &[u8]| {
            let mut message = Vec::new();
            append(&mut message, 1, b"c1");
            append(&mut message, field, bytes);
            StartParameters::read(&message[..], "c1").unwrap_err()
        };
        for (field, bytes, expected) in [
            (
                9,
                b"run/s".as_slice(),
                "socket_dir is no absolute path: run/s",
            ),
            (5, b"\xff", "the start parameters on standard input"),
            (
                8,
                b"\x0a\x05short",
                "the start parameters on standard input",
            ),
        ] {
            let error = error(field, bytes);
            assert_eq!(error.code(), ErrorCode::InvalidArgument);
            assert!(error.to_string().contains(expected), "{error}");
        }
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
            let _ = StartParameters::parse(&bytes, "c1");
            let _ = StartParameters::parse(&likely, "c1");
            let _ = StartParameters::parse(&likely, "");
        }

        #[test]
        fn parses_start_parameters(id in "[a-z]{1,20}", root in "[a-zA-Z0-9/._-]{0,60}") {
            let options = oci::Options {
                root: root.clone(),
                ..Default::default()
            };
            let any = Any {
                type_url: "containerd.runc.v1.Options".to_owned(),
                value: options.write_to_bytes().unwrap(),
                ..Any::default()
            };
            let parameters = BootstrapParams {
                instance_id: id.clone(),
                extensions: vec![Extension {
                    value: MessageField::some(any),
                    ..Extension::default()
                }],
                ..BootstrapParams::default()
            };
            let bytes = parameters.write_to_bytes().unwrap();
            let read = StartParameters::parse(&bytes, &id).unwrap();
            prop_assert_eq!(read.options.root, root);
        }
    }
}
