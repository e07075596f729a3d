//! A network bridge of its own for a private Docker, which would otherwise take the machine's
//! `docker0`.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{self, Command};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command;

/// What all of them are called, before the number of their process. A device's name has 15 bytes at
/// most.
const PREFIX: &str = "wwst";

const LIMIT: Duration = Duration::from_secs(10);

/// A bridge with an address. It is removed when dropped.
#[derive(Debug)]
pub struct Bridge {
    name: String,
    address: Ipv4Addr,
}

impl Bridge {
    /// Makes this process's bridge; there is one at a time.
    ///
    /// # Errors
    /// `ip` of iproute2 is missing or refuses.
    pub fn new() -> Result<Self> {
        sweep()?;
        let pid = process::id();
        // In the part of the private addresses that Docker itself takes last.
        let third = u8::try_from(pid % 120).unwrap_or(0) + 128;
        let bridge = Self {
            name: format!("{PREFIX}{pid}"),
            address: Ipv4Addr::new(172, 31, third, 1),
        };
        let name = bridge.name.as_str();
        ip(&["link", "add", name, "type", "bridge"])?;
        ip(&["address", "add", &bridge.subnet(), "dev", name])?;
        ip(&["link", "set", name, "up"])?;
        Ok(bridge)
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's address on it, which containers reach.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The network of its containers.
    #[must_use]
    pub fn network(&self) -> String {
        let [a, b, c, _] = self.address.octets();
        format!("{a}.{b}.{c}.0/24")
    }

    fn subnet(&self) -> String {
        format!("{}/24", self.address)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            eprintln!("removing the bridge {}: {error:#}", self.name);
        }
    }
}

/// Removes the bridges of processes that ended before they could.
///
/// # Errors
/// `ip` refuses.
pub fn sweep() -> Result<()> {
    for entry in fs::read_dir("/sys/class/net")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX);
        if owner
            .is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
        {
            remove(&name)?;
        }
    }
    Ok(())
}

/// Removes the bridge `name`, if it is there.
///
/// # Errors
/// `ip` refuses.
pub fn remove(name: &str) -> Result<()> {
    match Path::new("/sys/class/net").join(name).exists() {
        true => ip(&["link", "delete", name]),
        false => Ok(()),
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    command::run(Command::new("ip").args(arguments), LIMIT)?
        .success()
        .with_context(|| format!("ip {} (of the package iproute2)", arguments.join(" ")))?;
    Ok(())
}
