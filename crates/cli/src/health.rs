//! `wws health`: checks a running server, for health checks of Docker and exec probes of
//! Kubernetes.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{args::Health, environment, project::ServerLocation, routes::problem_values};

/// The length of the part with the status: `HTTP/1.1 200`.
const STATUS_LINE: usize = 12;

/// The pause between two checks of `--wait`.
const PAUSE: Duration = Duration::from_millis(100);

/// Checks the server of a project; the exit code says whether it is healthy.
pub(crate) fn health(args: &Health) -> ExitCode {
    let place = if environment::is_in_container() {
        ServerLocation::Container
    } else {
        ServerLocation::Machine
    };
    let (project, host, port) = args.project.clone().resolve();
    let addresses = match wws_project::server_settings(&project.path, &environment::variables()) {
        Ok(mut settings) => {
            settings.host = host.or(settings.host);
            settings.port = port.or(settings.port);
            reachable(place.address(&settings))
        }
        Err(problems) => {
            if args.json {
                let problems = problem_values(problems.all());
                println!("{}", json!({ "healthy": false, "problems": problems }));
            } else {
                eprintln!("{problems}");
            }
            return ExitCode::FAILURE;
        }
    };
    let started = Instant::now();
    let limit = Duration::from_secs(args.timeout);
    let wait = args.wait.map_or(Duration::ZERO, Duration::from_secs);
    let mut checked = ask_any(&addresses, &args.request, limit);
    while !is_good(&checked) && started.elapsed() + PAUSE <= wait {
        thread::sleep(PAUSE);
        checked = ask_any(&addresses, &args.request, limit);
    }
    let is_healthy = is_good(&checked);
    if args.json {
        println!("{}", as_json(&checked, &args.request));
    } else {
        let problem = match checked {
            Ok((address, status)) if is_healthy => {
                println!("{address}{}: {status}", args.request);
                return ExitCode::SUCCESS;
            }
            Ok((address, status)) => format!("{address}{}: status {status}", args.request),
            Err((address, error)) => format!("{address}{}: {error}", args.request),
        };
        match args.wait {
            Some(seconds) => eprintln!("wws: {problem}; no good answer within {seconds} s"),
            None => eprintln!("wws: {problem}"),
        }
    }
    ExitCode::from(u8::from(!is_healthy))
}

/// The status of a response, or why there is none, and the address that was asked.
type Checked = Result<(SocketAddr, u16), (SocketAddr, std::io::Error)>;

fn is_good(checked: &Checked) -> bool {
    matches!(checked, Ok((_, status)) if *status < 500)
}

fn as_json(checked: &Checked, path: &str) -> Value {
    let (address, status, error) = match checked {
        Ok((address, status)) => (address, Some(status), None),
        Err((address, error)) => (address, None, Some(error.to_string())),
    };
    json!({
        "healthy": is_good(checked),
        "address": address.to_string(),
        "path": path,
        "status": status,
        "error": error,
    })
}

/// The addresses to check of a server that listens on all addresses. One that listens on `::`
/// answers on both families, of which a container may have only one.
fn reachable(address: SocketAddr) -> Vec<SocketAddr> {
    let at = |ip: IpAddr| SocketAddr::new(ip, address.port());
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => vec![at(Ipv4Addr::LOCALHOST.into())],
        IpAddr::V6(ip) if ip.is_unspecified() => vec![
            at(Ipv4Addr::LOCALHOST.into()),
            at(Ipv6Addr::LOCALHOST.into()),
        ],
        _ => vec![address],
    }
}

/// The status of the first response, or the first problem.
fn ask_any(addresses: &[SocketAddr], path: &str, limit: Duration) -> Checked {
    let mut first = None;
    for address in addresses {
        match ask(*address, path, limit) {
            Ok(status) => return Ok((*address, status)),
            Err(error) if nobody_is_there(&error) => {
                first.get_or_insert((*address, error));
            }
            Err(error) => return Err((*address, error)),
        }
    }
    Err(first.unwrap_or_else(|| {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        (nowhere, std::io::ErrorKind::AddrNotAvailable.into())
    }))
}

fn nobody_is_there(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{
        AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable, Unsupported,
    };
    matches!(
        error.kind(),
        AddrNotAvailable | ConnectionRefused | HostUnreachable | NetworkUnreachable | Unsupported
    ) || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

/// The status of the response to `GET path`, within `limit`.
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
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: wws-health\r\nconnection: close\r\n\
         \r\n"
    )?;
    let mut head = [0; STATUS_LINE];
    let mut filled = 0;
    while filled < head.len() {
        // A slow response fails: every further byte must arrive within the remaining time.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn probes_loopback_of_both_families_for_a_wildcard_address() {
        let of = |text: &str| -> Vec<String> {
            let all = reachable(text.parse().unwrap());
            all.iter().map(ToString::to_string).collect()
        };
        assert_eq!(of("0.0.0.0:80"), ["127.0.0.1:80"]);
        assert_eq!(of("[::]:80"), ["127.0.0.1:80", "[::1]:80"]);
        assert_eq!(of("10.0.0.1:80"), ["10.0.0.1:80"]);
    }

    #[test]
    fn tries_the_next_address_if_the_connection_is_refused() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let open = listener.local_addr().unwrap();
        let closed = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), open.port()));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                // The request may come in pieces.
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.extend(byte);
                }
                stream.write_all(b"HTTP/1.1 204 No\r\n\r\n").unwrap();
            }
        });
        let limit = Duration::from_secs(5);
        assert_eq!(ask_any(&[closed, open], "/", limit).unwrap(), (open, 204));
        let (address, error) = ask_any(&[closed], "/", limit).unwrap_err();
        assert_eq!(address, closed);
        assert!(nobody_is_there(&error), "{error}");
    }
}
