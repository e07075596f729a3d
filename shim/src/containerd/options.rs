//! Settings that containerd's client or configuration passes along with a container, told apart by their type's address.
//!
//! `containerd.runc.v1.Options` comes from `ctr` and from clients that think of runc. For a runtime it does not know, the CRI
//! plugin and Docker send `runtimeoptions.v1.Options`: a text in TOML with the same names as in containerd's documentation of
//! runc's options (`BinaryName`, `SystemdCgroup`, ...), or the path of a file with such a text. containerd's Go client of 1.x sends
//! `containerd.linux.runc.CreateOptions` for settings of a container (the owner of its streams, as `ctr run --uidmap` has one) where the
//! runtime is not runc's.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, CodedInputStream, Message};
use containerd_shim_protos::shim::oci;
use serde::{Deserialize, Serialize};

use super::wire::skip;
use crate::error::{Error, OnPath, Result};
use crate::sys::log;

/// The largest file of options, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Types of options.
const RUNC: [&str; 2] = [
    "containerd.runc.v1.Options",
    "containerd.linux.runc.Options",
];
const CREATE: &str = "containerd.linux.runc.CreateOptions";
const GENERIC: [&str; 2] = ["runtimeoptions.v1.Options", "cri.runtimeoptions.v1.Options"];

/// How a container is to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Options {
    /// The OCI runtime's name on the PATH, or its path; empty for `runc`.
    pub(crate) binary_name: String,
    /// The folder for the OCI runtime's state; empty for our own. The namespace is added.
    pub(crate) root: String,
    /// Whether systemd makes the cgroups; none to tell by the cgroup's path.
    pub(crate) systemd_cgroup: Option<bool>,
    /// The control group for the shim itself; empty for containerd's own.
    pub(crate) shim_cgroup: String,
    /// Do not use pivot_root (for a root file system in memory).
    pub(crate) no_pivot_root: bool,
    /// Do not make a kernel key ring for the container.
    pub(crate) no_new_keyring: bool,
    /// The owner of the container's standard streams.
    pub(crate) io_uid: u32,
    /// Their group.
    pub(crate) io_gid: u32,
    /// For checkpoints, which we do not make.
    pub(crate) criu_path: String,
    /// The same.
    pub(crate) criu_image_path: String,
    /// The same.
    pub(crate) criu_work_path: String,
    /// Of the generic type itself; says what the options are, where a client cares to.
    pub(crate) type_url: String,
    /// A file with all of these.
    pub(crate) config_path: String,
}

impl Options {
    /// Reads what came with a request. Nothing is the default.
    ///
    /// # Errors
    /// A type that is not known, a message or text that is broken, a setting that does not exist: named.
    pub(crate) fn from_any(any: Option<&Any>) -> Result<Self> {
        let Some(any) = any else {
            return Ok(Self::default());
        };
        match kind_of(any) {
            "" => Ok(Self::default()),
            kind if RUNC.contains(&kind) => {
                let options = oci::Options::parse_from_bytes(&any.value)
                    .map_err(|error| broken(&any.type_url, &error))?;
                Ok(options.into())
            }
            CREATE => create(&any.value).map_err(|error| broken(&any.type_url, &error)),
            kind if GENERIC.contains(&kind) => {
                let generic =
                    Generic::parse(&any.value).map_err(|error| broken(&any.type_url, &error))?;
                generic.read()
            }
            _ => Err(Error::InvalidArgument(format!(
                "runtime options of type {:?} are not known: expected containerd.runc.v1.Options or runtimeoptions.v1.Options",
                any.type_url
            ))),
        }
    }

    /// Whether this is a type of options that we read.
    pub(crate) fn knows(any: &Any) -> bool {
        let kind = kind_of(any);
        kind == CREATE || RUNC.contains(&kind) || GENERIC.contains(&kind)
    }

    fn from_toml(text: &str, source: &str) -> Result<Self> {
        let broken = |error: toml::de::Error| Error::InvalidArgument(format!("{source}: {error}"));
        let given: toml::Table = toml::from_str(text).map_err(broken)?;
        for name in Self::unknown(&given) {
            // As of containerd's own shim, whose settings change: one configuration is to serve several releases.
            log::warning!("{source}: there is no setting {name}: it has no effect");
        }
        toml::from_str(text).map_err(broken)
    }

    /// The settings of a table that are none of ours.
    fn unknown(given: &toml::Table) -> Vec<&str> {
        // A setting without a value is part of it here, unlike in TOML.
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
            // `false` is not sent: it cannot be told from nothing.
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

/// `CreateOptions`, as far as the name says what runc does today. Source: containerd 1.x, `runtime/linux/runctypes/runc.proto`.
fn create(bytes: &[u8]) -> protobuf::Result<Options> {
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
            (_, kind) => skip(&mut input, kind)?,
        }
    }
    Ok(options)
}

/// The name of a type: the part of its address after the last slash, as some put a host before it.
fn kind_of(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// `runtimeoptions.v1.Options`: `type_url` = 1, `config_path` = 2, `config_body` = 3.
#[derive(Debug, Default)]
struct Generic {
    path: String,
    body: String,
}

impl Generic {
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
                (_, kind) => skip(&mut input, kind)?,
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
        let file = File::open(path).on("open the runtime's options", path)?;
        file.take(MAX_FILE)
            .read_to_string(&mut text)
            .on("read the runtime's options", path)?;
        Options::from_toml(&text, &path.display().to_string())
    }
}

fn broken(kind: &str, error: &protobuf::Error) -> Error {
    Error::InvalidArgument(format!("runtime options of type {kind}: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    fn any(type_url: &str, value: Vec<u8>) -> Any {
        Any {
            type_url: type_url.to_owned(),
            value,
            ..Any::default()
        }
    }

    /// Fields of a message, all of wire type 2.
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
    fn options_of_runc_are_taken_by_their_type() {
        let options = oci::Options {
            binary_name: "crun".to_owned(),
            systemd_cgroup: true,
            shim_cgroup: "/shims".to_owned(),
            root: "/r".to_owned(),
            io_uid: 7,
            ..oci::Options::default()
        };
        let any = any(
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
    fn the_table_of_the_cri_plugins_configuration_is_taken() {
        let toml = "  BinaryName = \"/usr/bin/crun\"\n  SystemdCgroup = true\n";
        let any = any("runtimeoptions.v1.Options", message(&[(1, "x"), (3, toml)]));
        let options = Options::from_any(Some(&any)).unwrap();
        assert_eq!(options.binary_name, "/usr/bin/crun");
        assert_eq!(options.systemd_cgroup, Some(true));
    }

    #[test]
    fn keeps_false_apart_from_nothing() {
        let read = |toml| {
            let any = any("runtimeoptions.v1.Options", message(&[(3, toml)]));
            Options::from_any(Some(&any)).unwrap().systemd_cgroup
        };
        assert_eq!(read("SystemdCgroup = false"), Some(false));
        assert_eq!(read("Root = \"/r\""), None);
        let runc = oci::Options::default().write_to_bytes().unwrap();
        let any = any("containerd.runc.v1.Options", runc);
        assert_eq!(Options::from_any(Some(&any)).unwrap().systemd_cgroup, None);
    }

    #[test]
    fn a_file_of_options_is_read() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"Root = \"/elsewhere\"").unwrap();
        let path = file.path().to_str().unwrap();
        let by_field = any("cri.runtimeoptions.v1.Options", message(&[(2, path)]));
        assert_eq!(
            Options::from_any(Some(&by_field)).unwrap().root,
            "/elsewhere"
        );
        let by_text = any(
            "runtimeoptions.v1.Options",
            message(&[(3, &format!("ConfigPath = {path:?}"))]),
        );
        assert_eq!(
            Options::from_any(Some(&by_text)).unwrap().root,
            "/elsewhere"
        );
    }

    #[test]
    fn what_the_go_client_sends_for_other_runtimes_is_taken() {
        // no_pivot_root, terminal (of no use), an empty namespace (the same), no_new_keyring, shim_cgroup, io_uid, io_gid.
        let bytes = b"\x08\x01\x20\x01\x32\x03net\x40\x01\x4a\x06/shims\x50\xa0\x8d\x06\x58\x07";
        let any = any("containerd.linux.runc.CreateOptions", bytes.to_vec());
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
    fn nothing_is_the_default() {
        assert_eq!(Options::from_any(None).unwrap(), Options::default());
        let empty = any("", Vec::new());
        assert_eq!(Options::from_any(Some(&empty)).unwrap(), Options::default());
    }

    #[test]
    fn an_unknown_setting_is_found_and_leaves_the_others_in_force() {
        let toml = "SystemdCgroup = true\nBinaryNane = \"crun\"\n[Other]\nA = 1";
        let table = toml::from_str(toml).unwrap();
        assert_eq!(Options::unknown(&table), ["BinaryNane", "Other"]);
        let any = any("runtimeoptions.v1.Options", message(&[(3, toml)]));
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
    fn knows_all_of_its_settings() {
        let all = serde_json::to_value(Options::default()).unwrap();
        let table = all.as_object().unwrap().keys();
        let table = table.map(|name| (name.clone(), toml::Value::Boolean(true)));
        assert!(Options::unknown(&table.collect()).is_empty());
    }

    #[test]
    fn a_setting_of_the_wrong_kind_is_named_with_its_line() {
        let toml = "SystemdCgroup = true\nBinaryName = 7";
        let any = any("runtimeoptions.v1.Options", message(&[(3, toml)]));
        let error = Options::from_any(Some(&any)).unwrap_err().to_string();
        assert!(
            error.contains("line 2") && error.contains("BinaryName"),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_type_and_a_broken_message_are_refused() {
        for (kind, bytes) in [
            ("windows.Options", vec![]),
            ("containerd.runc.v1.Options", vec![0xff]),
            (CREATE, vec![0x52]),
            ("runtimeoptions.v1.Options", vec![0x1a, 0x7f]),
        ] {
            let error = Options::from_any(Some(&any(kind, bytes))).unwrap_err();
            assert!(
                matches!(&error, Error::InvalidArgument(text) if text.contains(kind)),
                "{error}"
            );
        }
    }
}
