//! A server that is measured: a process of its own, which ends with its handle.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use wws_test::wait;

/// A started server.
pub(crate) struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// Starts `command`, which gets a free port from `arguments`, and waits until it answers.
    pub(crate) fn start(
        mut command: Command,
        arguments: impl Fn(u16) -> Vec<String>,
    ) -> Result<Self> {
        let port = free_port()?;
        let child = command
            .args(arguments(port))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let mut server = Self { child, port };
        wait::until(
            &format!("{command:?} listens"),
            Duration::from_secs(60),
            || {
                if let Some(status) = server.child.try_wait()? {
                    bail!("{command:?} has ended: {status}");
                }
                Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok())
            },
        )?;
        Ok(server)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}
