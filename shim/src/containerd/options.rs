//! Runtime options: settings that a client or the configuration of containerd passes with a
//! container. Their type is named by the type URL.
//!
//! * `containerd.runc.v1.Options` comes from `ctr` and from clients that expect runc.
//! * `runtimeoptions.v1.Options` comes from the CRI plugin and Docker for runtimes that they do not
//!   know: TOML with the names of containerd's documentation of runc's options (`BinaryName`,
//!   `SystemdCgroup`, ...), or the path of a file with such TOML.
//! * `containerd.linux.runc.CreateOptions` comes from containerd 1.x's Go client for settings of a
//!   container, such as the owner of its streams (`ctr run --uidmap`), where the runtime is not
//!   runc.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, CodedInputStream, Message};
use containerd_shim_protos::shim::oci;
use serde::{Deserialize, Serialize};

use super::wire::skip_field;
use crate::error::{Error, PathContext, Result};
use crate::sys::log;

/// The largest file of options, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Type names of options.
const RUNC: [&str; 2] = [
    "containerd.runc.v1.Options",
    "containerd.linux.runc.Options",
];
const CREATE: &str = "containerd.linux.runc.CreateOptions";
const GENERIC: [&str; 2] = ["runtimeoptions.v1.Options", "cri.runtimeoptions.v1.Options"];

/// How to run a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Options {
    /// The OCI runtime's name on the PATH, or its path; empty for `runc`.
    pub(crate) binary_name: String,
    /// The directory of the OCI runtime's state; empty for the default. The namespace is appended.
    pub(crate) root: String,
    /// Whether systemd creates the cgroups; `None` to decide by the cgroup's path.
    pub(crate) systemd_cgroup: Option<bool>,
    /// The cgroup of the shim itself; empty for that of containerd.
    pub(crate) shim_cgroup: String,
    /// Do not use pivot_root (for a root file system in memory).
    pub(crate) no_pivot_root: bool,
    /// Do not create a kernel key ring for the container.
    pub(crate) no_new_keyring: bool,
    /// The owner of the container's standard streams.
    pub(crate) io_uid: u32,
    /// The group of the container's standard streams.
    pub(crate) io_gid: u32,
    /// For checkpoints, which the shim does not support.
    pub(crate) criu_path: String,
    /// For checkpoints.
    pub(crate) criu_image_path: String,
    /// For checkpoints.
    pub(crate) criu_work_path: String,
    /// A field of the generic type: names the type of the options, if the client sets it.
    pub(crate) type_url: String,
    /// A file with all of these settings.
    pub(crate) config_path: String,
}

impl Options {
    /// Parses the options of a request. Without options, returns the default.
    ///
    /// # Errors
    /// The type is unknown, the message or text is broken, or a setting has the wrong type.
    pub(crate) fn from_any(any: Option<&Any>) -> Result<Self> {
        let Some(any) = any else {
            return Ok(Self::default());
        };
        match type_name(any) {
            "" => Ok(Self::default()),
            kind if RUNC.contains(&kind) => {
                let options = oci::Options::parse_from_bytes(&any.value)
                    .map_err(|error| broken(&any.type_url, error))?;
                Ok(options.into())
            }
            CREATE => {
                parse_create_options(&any.value).map_err(|error| broken(&any.type_url, error))
            }
            kind if GENERIC.contains(&kind) => {
                let generic = GenericOptions::parse(&any.value)
                    .map_err(|error| broken(&any.type_url, error))?;
                generic.read()
            }
            _ => Err(Error::invalid_argument(format!(
                "runtime options of type {:?} are not supported: expected \
                 containerd.runc.v1.Options or runtimeoptions.v1.Options",
                any.type_url
            ))),
        }
    }

    /// Returns whether this is a supported type of options.
    pub(crate) fn knows(any: &Any) -> bool {
        let kind = type_name(any);
        kind == CREATE || RUNC.contains(&kind) || GENERIC.contains(&kind)
    }

    fn from_toml(text: &str, source: &str) -> Result<Self> {
        let broken = |error: toml::de::Error| Error::invalid_argument(source).with_source(error);
        let given: toml::Table = toml::from_str(text).map_err(broken)?;
        for name in Self::unknown(&given) {
            // As containerd's own shim: one configuration may serve several releases.
            log::warning!("{source}: there is no setting {name}: it has no effect");
        }
        toml::from_str(text).map_err(broken)
    }

    /// Returns the settings of a table that do not exist.
    fn unknown(given: &toml::Table) -> Vec<&str> {
        // Unlike TOML, JSON also shows settings without a value.
        let known = serde_json::to_value(Self::default()).unwrap_or_default();
        let names = given.keys().map(String::as_str);
        names.filter(|name| known.get(name).is_none()).collect()
    }
}

impl From<oci::Options> for Options {
    fn from(options: oci::Options) -> Self {
        Self {
            binary_name: options.binary_name,
            root: options.root,
            // Protobuf does not send `false`: it looks like an absent value.
            systemd_cgroup: options.systemd_cgroup.then_some(true),
            shim_cgroup: options.shim_cgroup,
            no_pivot_root: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            io_uid: options.io_uid,
            io_gid: options.io_gid,
            criu_image_path: options.criu_image_path,
            criu_work_path: options.criu_work_path,
            ..Self::default()
        }
    }
}

/// Parses the settings of `CreateOptions` that runc still has. Source: containerd 1.x,
/// `runtime/linux/runctypes/runc.proto`.
fn parse_create_options(bytes: &[u8]) -> protobuf::Result<Options> {
    const NUMBER: u32 = 0;
    const BYTES: u32 = 2;
    let mut options = Options::default();
    let mut input = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        match (tag >> 3, tag & 7) {
            (1, NUMBER) => options.no_pivot_root = input.read_bool()?,
            (8, NUMBER) => options.no_new_keyring = input.read_bool()?,
            (9, BYTES) => options.shim_cgroup = input.read_string()?,
            (10, NUMBER) => options.io_uid = input.read_uint32()?,
            (11, NUMBER) => options.io_gid = input.read_uint32()?,
            (_, kind) => skip_field(&mut input, kind)?,
        }
    }
    Ok(options)
}

/// Returns the name of a type: the part of the type URL after the last slash.
fn type_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// The fields of `runtimeoptions.v1.Options`: `type_url` = 1, `config_path` = 2, `config_body` = 3.
#[derive(Debug, Default)]
struct GenericOptions {
    path: String,
    body: String,
}

impl GenericOptions {
    fn parse(bytes: &[u8]) -> protobuf::Result<Self> {
        const PATH: u32 = 2;
        const BODY: u32 = 3;
        const BYTES: u32 = 2;
        let mut generic = Self::default();
        let mut input = CodedInputStream::from_bytes(bytes);
        while let Some(tag) = input.read_raw_tag_or_eof()? {
            match (tag >> 3, tag & 7) {
                (PATH, BYTES) => generic.path = input.read_string()?,
                (BODY, BYTES) => {
                    generic.body = String::from_utf8_lossy(&input.read_bytes()?).into_owned();
                }
                (_, kind) => skip_field(&mut input, kind)?,
            }
        }
        Ok(generic)
    }

    fn read(&self) -> Result<Options> {
        let options = Options::from_toml(&self.body, "the runtime's options")?;
        let path = if self.path.is_empty() {
            &options.config_path
        } else {
            &self.path
        };
        if path.is_empty() {
            return Ok(options);
        }
        let path = Path::new(path);
        let mut text = String::new();
        let file = File::open(path).with_path("open the runtime's options", path)?;
        file.take(MAX_FILE)
            .read_to_string(&mut text)
            .with_path("read the runtime's options", path)?;
        Options::from_toml(&text, &path.display().to_string())
    }
}

fn broken(kind: &str, error: protobuf::Error) -> Error {
    Error::invalid_argument(format!("runtime options of type {kind}")).with_source(error)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::error::ErrorCode;
    use proptest::prelude::*;
    use std::io::Write;

    fn any_of(type_url: &str, value: Vec<u8>) -> Any {
        Any {
            type_url: type_url.to_owned(),
            value,
            ..Any::default()
        }
    }

    /// Encodes fields of wire type 2.
    fn message(fields: &[(u8, &str)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, text) in fields {
            bytes.push(number << 3 | 2);
            let mut length = text.len();
            while length >= 0x80 {
                bytes.push((length & 0x7f) as u8 | 0x80);
                length >>= 7;
            }
            bytes.push(length as u8);
            bytes.extend(text.bytes());
        }
        bytes
    }

    #[test]
    fn parses_options_of_runc() {
        let options = oci::Options {
            binary_name: "crun".to_owned(),
            systemd_cgroup: true,
            shim_cgroup: "/shims".to_owned(),
            root: "/r".to_owned(),
            io_uid: 7,
            ..oci::Options::default()
        };
        let any = any_of(
            "types.googleapis.com/containerd.runc.v1.Options",
            options.write_to_bytes().unwrap(),
        );
        assert_eq!(
            Options::from_any(Some(&any)).unwrap(),
            Options {
                binary_name: "crun".to_owned(),
                systemd_cgroup: Some(true),
                shim_cgroup: "/shims".to_owned(),
                root: "/r".to_owned(),
                io_uid: 7,
                ..Options::default()
            }
        );
    }

    #[test]
    fn parses_the_table_of_the_cri_plugin() {
        let toml = "  BinaryName = \"/usr/bin/crun\"\n  SystemdCgroup = true\n";
        let any = any_of("runtimeoptions.v1.Options", message(&[(1, "x"), (3, toml)]));
        let options = Options::from_any(Some(&any)).unwrap();
        assert_eq!(options.binary_name, "/usr/bin/crun");
        assert_eq!(options.systemd_cgroup, Some(true));
    }

    #[test]
    fn tells_false_from_an_absent_value() {
        let read = |toml| {
            let any = any_of("runtimeoptions.v1.Options", message(&[(3, toml)]));
            Options::from_any(Some(&any)).unwrap().systemd_cgroup
        };
        assert_eq!(read("SystemdCgroup = false"), Some(false));
        assert_eq!(read("Root = \"/r\""), None);
        let runc = oci::Options::default().write_to_bytes().unwrap();
        let any = any_of("containerd.runc.v1.Options", runc);
        assert_eq!(Options::from_any(Some(&any)).unwrap().systemd_cgroup, None);
    }

    #[test]
    fn reads_a_file_of_options() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"Root = \"/elsewhere\"").unwrap();
        let path = file.path().to_str().unwrap();
        let by_field = any_of("cri.runtimeoptions.v1.Options", message(&[(2, path)]));
        assert_eq!(
            Options::from_any(Some(&by_field)).unwrap().root,
            "/elsewhere"
        );
        let by_text = any_of(
            "runtimeoptions.v1.Options",
            message(&[(3, &format!("ConfigPath = {path:?}"))]),
        );
        assert_eq!(
            Options::from_any(Some(&by_text)).unwrap().root,
            "/elsewhere"
        );
    }

    #[test]
    fn parses_what_the_go_client_sends_for_other_runtimes() {
        // no_pivot_root, terminal and namespace (both unused), no_new_keyring, shim_cgroup, io_uid,
        // io_gid.
        let bytes = b"\x08\x01\x20\x01\x32\x03net\x40\x01\x4a\x06/shims\x50\xa0\x8d\x06\x58\x07";
        let any = any_of("containerd.linux.runc.CreateOptions", bytes.to_vec());
        assert!(Options::knows(&any));
        assert_eq!(
            Options::from_any(Some(&any)).unwrap(),
            Options {
                no_pivot_root: true,
                no_new_keyring: true,
                shim_cgroup: "/shims".to_owned(),
                io_uid: 100_000,
                io_gid: 7,
                ..Options::default()
            }
        );
    }

    #[test]
    fn returns_the_default_without_options() {
        assert_eq!(Options::from_any(None).unwrap(), Options::default());
        let empty = any_of("", Vec::new());
        assert_eq!(Options::from_any(Some(&empty)).unwrap(), Options::default());
    }

    #[test]
    fn finds_an_unknown_setting_and_keeps_the_others() {
        let toml = "SystemdCgroup = true\nBinaryNane = \"crun\"\n[Other]\nA = 1";
        let table = toml::from_str(toml).unwrap();
        assert_eq!(Options::unknown(&table), ["BinaryNane", "Other"]);
        let any = any_of("runtimeoptions.v1.Options", message(&[(3, toml)]));
        let options = Options::from_any(Some(&any)).unwrap();
        assert_eq!(
            options,
            Options {
                systemd_cgroup: Some(true),
                ..Options::default()
            }
        );
    }

    #[test]
    fn knows_all_settings() {
        let all = serde_json::to_value(Options::default()).unwrap();
        let table = all.as_object().unwrap().keys();
        let table = table.map(|name| (name.clone(), toml::Value::Boolean(true)));
        assert!(Options::unknown(&table.collect()).is_empty());
    }

    #[test]
    fn names_a_setting_of_the_wrong_type_with_its_line() {
        let toml = "SystemdCgroup = true\nBinaryName = 7";
        let any = any_of("runtimeoptions.v1.Options", message(&[(3, toml)]));
        let error = Options::from_any(Some(&any)).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("line 2") && error.contains("BinaryName"),
            "{error}"
        );
    }

    #[test]
    fn rejects_an_unknown_type_and_a_broken_message() {
        for (kind, bytes) in [
            ("windows.Options", vec![]),
            ("containerd.runc.v1.Options", vec![0xff]),
            (CREATE, vec![0x52]),
            ("runtimeoptions.v1.Options", vec![0x1a, 0x7f]),
        ] {
            let error = Options::from_any(Some(&any_of(kind, bytes))).unwrap_err();
            assert!(
                error.code() == ErrorCode::InvalidArgument && error.to_string().contains(kind),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn parses_any_bytes(
            kind in prop::sample::select(
                vec![RUNC[0], RUNC[1], CREATE, GENERIC[0], GENERIC[1], "x"],
            ),
            bytes in any::<Vec<u8>>(),
            toml in "([A-Za-z]{0,8} = [0-9a-z\"]{0,6}\n){0,3}",
        ) {
            let _ = Options::from_any(Some(&any_of(kind, bytes)));
            let _ = Options::from_any(Some(&any_of(kind, message(&[(3, &toml)]))));
        }

        #[test]
        fn parses_what_runc_clients_encode(
            names in any::<[String; 3]>(),
            ids in any::<[u32; 2]>(),
            flags in any::<[bool; 3]>(),
        ) {
            let [binary_name, root, shim_cgroup] = names;
            let encoded = oci::Options {
                binary_name: binary_name.clone(),
                root: root.clone(),
                shim_cgroup: shim_cgroup.clone(),
                io_uid: ids[0],
                io_gid: ids[1],
                no_pivot_root: flags[0],
                no_new_keyring: flags[1],
                systemd_cgroup: flags[2],
                ..oci::Options::default()
            };
            let bytes = encoded.write_to_bytes().unwrap();
            let options = Options::from_any(Some(&any_of(RUNC[0], bytes))).unwrap();
            prop_assert_eq!(options, Options {
                binary_name,
                root,
                shim_cgroup,
                io_uid: ids[0],
                io_gid: ids[1],
                no_pivot_root: flags[0],
                no_new_keyring: flags[1],
                systemd_cgroup: flags[2].then_some(true),
                ..Options::default()
            });
        }
    }
}
