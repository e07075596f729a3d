//! A network for containers, by the plugins of CNI, on a bridge of its own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::bridge::Bridge;
use crate::{wait, workspace};

/// Its name.
pub const NAME: &str = "wws-test";

/// Where the library of CNI keeps what it did, whoever uses it.
const CACHE: &str = "/var/lib/cni";

/// A bridge that the plugins connect containers to.
#[derive(Debug)]
pub struct Network {
    bridge: Bridge,
    /// The cache is ours alone.
    made_cache: bool,
}

impl Network {
    /// A network on `bridge`.
    ///
    /// # Errors
    /// The plugins are not unpacked.
    pub fn new(bridge: Bridge) -> Result<Self> {
        Self::plugins()?;
        Ok(Self {
            bridge,
            made_cache: !Path::new(CACHE).exists(),
        })
    }

    /// The directory of the plugins.
    ///
    /// # Errors
    /// They are not unpacked.
    pub fn plugins() -> Result<PathBuf> {
        Ok(workspace::tools("cni")?.join("usr/lib/cni"))
    }

    /// Writes the network's configuration into `directory`, with what it notes below it.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let text = json!({
            "cniVersion": "0.4.0",
            "name": NAME,
            "plugins": [{
                "type": "bridge",
                "bridge": self.bridge.name(),
                "isGateway": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": directory.join("addresses"),
                    "ranges": [[{ "subnet": self.bridge.network() }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            }],
        });
        fs::create_dir_all(directory)?;
        fs::write(directory.join("10-wws-test.conflist"), text.to_string())
            .with_context(|| directory.display().to_string())
    }

    /// Fails unless, within seconds, no container is connected.
    ///
    /// # Errors
    /// What is connected.
    pub fn expect_no_ports(&self) -> Result<()> {
        let ports = Path::new("/sys/class/net").join(self.bridge.name());
        let mut last = Vec::new();
        let gone = wait::until("no port left", crate::container::LIMIT, || {
            last = fs::read_dir(ports.join("brif"))?
                .map(|entry| Ok(entry?.file_name()))
                .collect::<Result<_>>()?;
            Ok(last.is_empty().then_some(()))
        });
        if gone.is_err() {
            bail!("network devices left: {last:?}");
        }
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if self.made_cache
            && let Err(error) = fs::remove_dir_all(CACHE)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("removing {CACHE}: {error}");
        }
    }
}
