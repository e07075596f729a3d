//! The files that a shim writes to a container's bundle, for `delete` in case the shim dies.

use std::fs;
use std::mem::discriminant;
use std::path::Path;

use serde_json::{Map, Value};

use crate::containerd::options::Options;
use crate::error::{Error, PathContext, Result};

/// The directory on which the root file system is mounted.
pub(crate) const ROOTFS: &str = "rootfs";

/// The file with the PID of the init process.
pub(crate) const INIT_PID: &str = "init.pid";

/// The file with the address of the shim, which containerd 1.6 reads.
pub(crate) const ADDRESS: &str = "address";

/// The file with the options of the container.
const OPTIONS: &str = "wws-options.json";

/// Saves the options of the container.
///
/// # Errors
/// The bundle cannot be written.
pub(crate) fn save_options(bundle: &Path, options: &Options) -> Result<()> {
    let path = bundle.join(OPTIONS);
    let text = serde_json::to_vec(options)
        .map_err(|error| Error::unknown("write the options").with_source(error))?;
    fs::write(&path, text).with_path("write", &path)
}

/// Loads the options of the container; the default if there are none. Settings that a newer shim
/// may have saved are skipped.
pub(crate) fn load_options(bundle: &Path) -> Options {
    let known = serde_json::to_value(Options::default()).unwrap_or_default();
    let text = fs::read(bundle.join(OPTIONS)).unwrap_or_default();
    let mut saved: Map<String, Value> = serde_json::from_slice(&text).unwrap_or_default();
    saved.retain(|name, value| {
        let same = |default: &Value| match default {
            // A setting without a default is a boolean.
            Value::Null => value.is_boolean() || value.is_null(),
            default => discriminant(default) == discriminant(value),
        };
        known.get(name).is_some_and(same)
    });
    serde_json::from_value(saved.into()).unwrap_or_default()
}

/// Saves the address of the shim atomically.
///
/// # Errors
/// The bundle cannot be written.
pub(crate) fn save_address(bundle: &Path, address: &str) -> Result<()> {
    let part = bundle.join("address.part");
    fs::write(&part, address).with_path("write", &part)?;
    fs::rename(&part, bundle.join(ADDRESS)).with_path("rename", &part)
}

/// Loads the address of the shim, if there is one.
pub(crate) fn load_address(bundle: &Path) -> Option<String> {
    let address = fs::read_to_string(bundle.join(ADDRESS)).ok()?;
    Some(address.trim().to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn skips_settings_of_a_newer_shim() {
        let bundle = tempfile::tempdir().unwrap();
        let text = r#"{"Root":"/r","SystemdCgroup":true,"New":1,"BinaryName":["crun"]}"#;
        fs::write(bundle.path().join(OPTIONS), text).unwrap();
        let expected = Options {
            root: "/r".to_owned(),
            systemd_cgroup: Some(true),
            ..Options::default()
        };
        assert_eq!(load_options(bundle.path()), expected);
    }

    #[test]
    fn loads_what_was_saved() {
        let bundle = tempfile::tempdir().unwrap();
        assert_eq!(load_options(bundle.path()), Options::default());
        assert_eq!(load_address(bundle.path()), None);
        let options = Options {
            binary_name: "crun".to_owned(),
            systemd_cgroup: Some(true),
            ..Options::default()
        };
        save_options(bundle.path(), &options).unwrap();
        save_address(bundle.path(), "unix:///run/s").unwrap();
        assert_eq!(load_options(bundle.path()), options);
        assert_eq!(
            load_address(bundle.path()).as_deref(),
            Some("unix:///run/s")
        );
    }

    proptest! {
        #[test]
        fn loads_any_options_that_were_saved(
            names in any::<[String; 3]>(),
            ids in any::<[u32; 2]>(),
            flags in any::<[bool; 2]>(),
            systemd_cgroup in any::<Option<bool>>(),
        ) {
            let bundle = tempfile::tempdir().unwrap();
            let [binary_name, root, shim_cgroup] = names;
            let options = Options {
                binary_name,
                root,
                shim_cgroup,
                systemd_cgroup,
                no_pivot_root: flags[0],
                no_new_keyring: flags[1],
                io_uid: ids[0],
                io_gid: ids[1],
                ..Options::default()
            };
            save_options(bundle.path(), &options).unwrap();
            prop_assert_eq!(load_options(bundle.path()), options);
        }

        #[test]
        fn loads_from_any_file(
            bytes in any::<Vec<u8>>(),
            json in "\\{\"[A-Z][a-zA-Z]{0,12}\":[0-9a-z\"]{0,6}\\}",
        ) {
            let bundle = tempfile::tempdir().unwrap();
            for text in [&bytes[..], json.as_bytes()] {
                fs::write(bundle.path().join(OPTIONS), text).unwrap();
                load_options(bundle.path());
            }
        }
    }
}
