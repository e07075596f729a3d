//! Ports for servers that are started later.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result};

/// How many ports are considered.
const COUNT: u16 = 12_000;

/// A port of 127.0.0.1 that nobody listens on.
///
/// # Errors
/// There is none.
pub fn free() -> Result<u16> {
    free_of(Ipv4Addr::LOCALHOST.into())
}

/// The same, of any address of this machine.
///
/// It is below the ports that the kernel gives to connections, which would take it before its
/// server does.
///
/// # Errors
/// There is none.
pub fn free_of(address: IpAddr) -> Result<u16> {
    static USED: AtomicU16 = AtomicU16::new(0);
    let first = first_of_connections()?.saturating_sub(COUNT).max(1024);
    // Not those of other test programs, which may be about to be used.
    let offset = (process::id() * 97 % u32::from(COUNT)) as u16;
    (0..COUNT)
        .map(|_| first + (offset + USED.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT)
        .find(|port| TcpListener::bind((address, *port)).is_ok())
        .with_context(|| format!("no free port of {address}"))
}

/// The first of the ports that the kernel gives to connections.
fn first_of_connections() -> Result<u16> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let first = range.split_whitespace().next().context("no port")?;
    Ok(first.parse()?)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn gives_each_port_once_and_none_of_connections() -> Result<()> {
        let ports = (0..100).map(|_| free()).collect::<Result<Vec<u16>>>()?;
        let first = first_of_connections()?.max(1024 + COUNT);
        assert!(ports.iter().all(|port| *port < first));
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 100);
        Ok(())
    }
}
