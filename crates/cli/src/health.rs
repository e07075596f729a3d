//! `wws health`: asks a server that runs, as health checks of Docker and probes of Kubernetes do that run a command.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::{args::Health, environment, serve::Place};

/// What tells a status: `HTTP/1.1 200`.
const STATUS_LINE: usize = 12;

/// Asks the server of a project, and says by its exit code whether it answers.
pub(crate) fn health(args: &Health) -> ExitCode {
    let place = if environment::is_in_container() {
        Place::Container
    } else {
        Place::Machine
    };
    let address = match environment::load(&args.folder.clone().into(), false, None) {
        Ok(project) => reachable(place.address(project.settings())),
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::FAILURE;
        }
    };
    match ask(address, &args.request, Duration::from_secs(args.timeout)) {
        Ok(status) if status < 500 => {
            println!("{address}{}: {status}", args.request);
            ExitCode::SUCCESS
        }
        Ok(status) => failed(address, &args.request, &format!("status {status}")),
        Err(error) => failed(address, &args.request, &error.to_string()),
    }
}

fn failed(address: SocketAddr, path: &str, problem: &str) -> ExitCode {
    eprintln!("wws: {address}{path}: {problem}");
    ExitCode::FAILURE
}

/// Where a server that listens on all addresses is asked.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// The status of the answer to `GET path`. The whole may take `limit`.
fn ask(address: SocketAddr, path: &str, limit: Duration) -> std::io::Result<u16> {
    let invalid = |text: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, text);
    if !path.starts_with('/') || path.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(invalid("the path must begin with / and have no spaces"));
    }
    let end = Instant::now() + limit;
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_write_timeout(Some(limit))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: wws-health\r\nconnection: close\r\n\r\n"
    )?;
    let mut head = [0; STATUS_LINE];
    let mut filled = 0;
    while filled < head.len() {
        // A slow answer is none: each byte more must come within what is left.
        let left = end.saturating_duration_since(Instant::now());
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match stream.read(&mut head[filled..]) {
            Ok(0) => return Err(invalid("the connection was closed without an answer")),
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return Err(std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    format!("no answer within {} s", limit.as_secs()),
                ));
            }
            Err(error) => return Err(error),
        }
    }
    std::str::from_utf8(&head)
        .ok()
        .and_then(|head| head.strip_prefix("HTTP/1."))
        .and_then(|rest| rest.get(2..))
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| invalid("no answer of HTTP"))
}
