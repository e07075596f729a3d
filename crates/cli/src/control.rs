//! `wws reload`: asks the project's running server to load the project again, and waits for the
//! result.
//!
//! The server listens on a Unix socket in the abstract namespace, which needs no directory that can
//! be written to. Such a socket belongs to a network namespace, which containers of a pod share:
//! its name has the mount namespace, and only the server's own user and root are answered.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use wws_project::hex;

use crate::args::Reload as ReloadArgs;
use crate::reload::{Reload, report, report_json};
use crate::routes::problem_values;

/// Commands that wait at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 4;

/// The pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

/// How long the answer may take to be read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the command waits for a reload.
const LIMIT: Duration = Duration::from_secs(600);

/// The maximum size of each part of an answer, in bytes.
const MAX_PART: usize = 1 << 20;

/// Comes between the two parts of an answer: the text, and the same as JSON. Neither has it.
const SEPARATOR: u8 = 0;

/// The first byte of an answer: whether the project was loaded.
const LOADED: u8 = b'+';
const FAILED: u8 = b'-';

/// The address of the server of a project.
fn address(project: &Path) -> io::Result<SocketAddr> {
    let project = project.canonicalize()?;
    // Without `/proc`, the project alone has to do.
    let namespace = std::fs::read_link("/proc/self/ns/mnt").unwrap_or_default();
    let mut hash = Sha256::new();
    hash.update(namespace.as_os_str().as_bytes());
    hash.update([0]);
    hash.update(project.as_os_str().as_bytes());
    let mut name = OsString::from("wws-reload-");
    name.push(hex::encode(&hash.finalize()));
    SocketAddr::from_abstract_name(name.as_bytes())
}

/// Whether a process of this user, or of root, may be trusted.
fn is_trusted(user: u32) -> bool {
    user == 0 || user == geteuid().as_raw()
}

/// The socket of a server.
pub(crate) struct ControlSocket(tokio::net::UnixListener);

impl ControlSocket {
    /// Listens for commands. Needs a runtime.
    ///
    /// # Errors
    /// Another server serves the same project, or the system's error.
    pub(crate) fn bind(project: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind_addr(&address(project)?)?;
        listener.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(listener).map(Self)
    }

    /// Answers commands until the future is dropped.
    pub(crate) async fn serve(self, reload: Reload) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            // Never closed.
            let place = places.clone().acquire_owned().await;
            match self.0.accept().await {
                Ok((stream, _)) => {
                    let reload = reload.clone();
                    tokio::spawn(async move {
                        let _place = place;
                        let _ = answer(stream, &reload).await;
                    });
                }
                Err(error) => {
                    tracing::debug!("cannot accept commands: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Loads the project again for a command.
async fn answer(mut stream: tokio::net::UnixStream, reload: &Reload) -> io::Result<()> {
    if !is_trusted(stream.peer_cred()?.uid()) {
        return Ok(());
    }
    let (first, text, json) = match reload.now().await {
        Some(Ok(reloaded)) => (LOADED, report(&reloaded), report_json(&reloaded)),
        Some(Err(problems)) => {
            let json = json!({ "reloaded": false, "problems": problem_values(problems.all()) });
            (FAILED, problems.to_string(), json)
        }
        None => {
            let text = "a defect of the server: loading panicked";
            (
                FAILED,
                text.into(),
                json!({ "reloaded": false, "error": text }),
            )
        }
    };
    let bytes = encode(first, &text, &json.to_string());
    tokio::time::timeout(WRITE_TIMEOUT, stream.write_all(&bytes)).await?
}

/// An answer. A text that is too long is cut; JSON that is too long is left out.
fn encode(first: u8, text: &str, json: &str) -> Vec<u8> {
    let mut bytes = vec![first];
    let text = &text.as_bytes()[..text.len().min(MAX_PART)];
    bytes.extend(text.iter().filter(|byte| **byte != SEPARATOR));
    if json.len() <= MAX_PART {
        bytes.push(SEPARATOR);
        bytes.extend_from_slice(json.as_bytes());
    }
    bytes
}

/// What a server answered.
struct Answer {
    loaded: bool,
    text: String,
    json: Option<String>,
}

impl Answer {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first()?;
        let mut parts = rest.splitn(2, |byte| *byte == SEPARATOR);
        let mut part = || Some(String::from_utf8_lossy(parts.next()?).into_owned());
        Some(Self {
            loaded: *first == LOADED,
            text: part().unwrap_or_default(),
            json: part(),
        })
    }
}

/// Has the project's server load it again; the exit code says whether it did.
pub(crate) fn reload(args: ReloadArgs) -> ExitCode {
    let (project, _, _) = args.project.resolve();
    let answer = ask(&project.path).map_err(|error| {
        let shown = project.path.display();
        let why = match error.kind() {
            io::ErrorKind::ConnectionRefused => "no server of this project runs here".into(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("no answer within {} s", LIMIT.as_secs())
            }
            _ => error.to_string(),
        };
        format!("cannot reload {shown}: {why}")
    });
    let is_loaded = answer.as_ref().is_ok_and(|answer| answer.loaded);
    match answer {
        Ok(answer) if args.json => {
            let none = || {
                let error = "the result is too long for JSON: see the log of the server";
                json!({ "reloaded": is_loaded, "error": error }).to_string()
            };
            println!("{}", answer.json.unwrap_or_else(none));
        }
        Err(error) if args.json => println!("{}", json!({ "reloaded": false, "error": error })),
        Ok(answer) if is_loaded => println!("{}", answer.text),
        Ok(answer) => {
            eprintln!("{}", answer.text);
            eprintln!("wws: not reloaded: the project is served as it was loaded before");
        }
        Err(error) => eprintln!("wws: {error}"),
    }
    ExitCode::from(u8::from(!is_loaded))
}

/// Asks the server of a project.
fn ask(project: &Path) -> io::Result<Answer> {
    let mut stream = UnixStream::connect_addr(&address(project)?)?;
    // The name is anybody's who takes it first.
    if !is_trusted(socket_peercred(&stream)?.uid.as_raw()) {
        return Err(io::Error::other("its server runs as another user"));
    }
    stream.set_read_timeout(Some(LIMIT))?;
    let mut bytes = Vec::new();
    // The first byte, two parts and what separates them.
    (&mut stream)
        .take(2 * MAX_PART as u64 + 2)
        .read_to_end(&mut bytes)?;
    Answer::decode(&bytes).ok_or_else(|| {
        io::Error::other("the server gave no answer: it stops, or this is another user")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn one_server_of_a_project_listens() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = ControlSocket::bind(one.path()).unwrap();
        let second = ControlSocket::bind(one.path()).err().unwrap();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        assert!(ControlSocket::bind(other.path()).is_ok());
        drop(first);
        let link = other.path().join("link");
        std::os::unix::fs::symlink(one.path(), &link).unwrap();
        let again = ControlSocket::bind(&link).unwrap();
        assert!(ControlSocket::bind(one.path()).is_err());
        drop(again);
        let nobody = ask(one.path()).err().unwrap();
        assert_eq!(nobody.kind(), io::ErrorKind::ConnectionRefused);
        assert!(is_trusted(0) && is_trusted(geteuid().as_raw()));
        assert!(!is_trusted(geteuid().as_raw() + 1));
    }

    #[test]
    fn an_answer_has_a_text_and_json() {
        let answer = Answer::decode(&encode(LOADED, "a\0b", "{}")).unwrap();
        assert!(answer.loaded);
        assert_eq!(
            (answer.text.as_str(), answer.json.as_deref()),
            ("ab", Some("{}"))
        );
        let long = "x".repeat(MAX_PART + 1);
        let answer = Answer::decode(&encode(FAILED, &long, &long)).unwrap();
        assert!(!answer.loaded);
        assert_eq!((answer.text.len(), answer.json), (MAX_PART, None));
        assert!(Answer::decode(b"").is_none());
    }
}
