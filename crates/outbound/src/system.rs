//! Name resolution of the system: `resolv.conf` and `hosts`, as an image or a container engine left
//! them.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    time::SystemTime,
};

use hickory_resolver::{
    Hosts,
    config::{ResolverConfig, ResolverOpts},
    system_conf::parse_resolv_conf,
};

use crate::error::chain;

/// The maximum size of a file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The version of a file; `None` if it does not exist.
type Stamp = Option<(Option<SystemTime>, u64)>;

/// The versions of both files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version([Stamp; 2]);

impl Version {
    pub(crate) fn of(directory: &Path) -> Self {
        Self(["resolv.conf", "hosts"].map(|name| {
            let metadata = directory.join(name).metadata().ok()?;
            Some((metadata.modified().ok(), metadata.len()))
        }))
    }
}

/// The name servers. Without any, names in `hosts` can still be resolved; every other look-up
/// fails.
pub(crate) fn servers(directory: &Path) -> (ResolverConfig, ResolverOpts) {
    let path = directory.join("resolv.conf");
    let parsed = read(&path)
        .map_err(|error| error.to_string())
        .and_then(|text| parse_resolv_conf(&text).map_err(|error| chain(&error)));
    match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            tracing::warn!(file = %path.display(), error, "no name servers for outgoing requests");
            (
                ResolverConfig::from_name_servers(Vec::new()),
                ResolverOpts::default(),
            )
        }
    }
}

pub(crate) fn hosts(directory: &Path) -> Hosts {
    let path = directory.join("hosts");
    let mut hosts = Hosts::default();
    let read = read(&path).and_then(|text| hosts.read_hosts_conf(text.as_slice()));
    if let Err(error) = read
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(file = %path.display(), %error, "hosts not read");
    }
    hosts
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Reading a pipe would never end.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let mut text = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut text)?;
    Ok(text)
}
