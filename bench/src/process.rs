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
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self::start_with_output(command, arguments)
    }

    /// [`Self::start`] with output to where the command has it.
    pub(crate) fn start_with_output(
        mut command: Command,
        arguments: impl Fn(u16) -> Vec<String>,
    ) -> Result<Self> {
        let port = free_port()?;
        command.args(arguments(port));
        Self::listening(command, port)
    }

    /// Starts what listens on the free port that it is given.
    pub(crate) fn start_on(command: impl FnOnce(u16) -> Result<Command>) -> Result<Self> {
        let port = free_port()?;
        let mut command = command(port)?;
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self::listening(command, port)
    }

    fn listening(mut command: Command, port: u16) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let mut server = Self { child, port };
        wait::until(
            &format!("{command:?} listens"),
            // Interpreters are compiled.
            Duration::from_secs(300),
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
        // Servers with workers of their own end these when they are asked to.
        let asked = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(asked, rustix::process::Signal::TERM);
        for _ in 0..100 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}
