//! What a shim leaves in a container's bundle, for the one that clears up if it dies.

use std::fs;
use std::mem::discriminant;
use std::path::Path;

use serde_json::{Map, Value};

use crate::containerd::options::Options;
use crate::error::{Error, OnPath, Result};

/// The number of the container's first process.
pub(crate) const INIT_PID: &str = "init.pid";

/// The address of the shim, as containerd 1.6 wants it there.
pub(crate) const ADDRESS: &str = "address";

/// How the container is run.
const OPTIONS: &str = "wws-options.json";

/// Notes how the container is run.
///
/// # Errors
/// The folder cannot be written.
pub(crate) fn save_options(bundle: &Path, options: &Options) -> Result<()> {
    let path = bundle.join(OPTIONS);
    let text = serde_json::to_vec(options).map_err(|error| Error::Other(error.to_string()))?;
    fs::write(&path, text).on("write", &path)
}

/// How the container is run; the default if nothing is noted. A newer shim may have noted more than we know: that is left out, and
/// what we know is kept.
pub(crate) fn load_options(bundle: &Path) -> Options {
    let known = serde_json::to_value(Options::default()).unwrap_or_default();
    let text = fs::read(bundle.join(OPTIONS)).unwrap_or_default();
    let mut noted: Map<String, Value> = serde_json::from_slice(&text).unwrap_or_default();
    noted.retain(|name, value| {
        let same = |default: &Value| match default {
            // Of the kind that the setting has where it is given.
            Value::Null => value.is_boolean() || value.is_null(),
            default => discriminant(default) == discriminant(value),
        };
        known.get(name).is_some_and(same)
    });
    serde_json::from_value(noted.into()).unwrap_or_default()
}

/// Notes the shim's address, whole or not at all.
///
/// # Errors
/// The folder cannot be written.
pub(crate) fn save_address(bundle: &Path, address: &str) -> Result<()> {
    let part = bundle.join("address.part");
    fs::write(&part, address).on("write", &part)?;
    fs::rename(&part, bundle.join(ADDRESS)).on("rename", &part)
}

/// The shim's address, if it is noted.
pub(crate) fn load_address(bundle: &Path) -> Option<String> {
    let address = fs::read_to_string(bundle.join(ADDRESS)).ok()?;
    Some(address.trim().to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_newer_shim_noted_besides_is_left_out() {
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
    fn what_was_noted_is_found() {
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
}
