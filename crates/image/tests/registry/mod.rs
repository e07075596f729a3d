//! A registry on loopback that takes and gives images, as the OCI distribution specification has
//! it: it checks digests, and takes a manifest only after everything that it names.

#![allow(clippy::unwrap_used, dead_code)]

mod request;

use std::collections::HashMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};

use request::ReceivedRequest;

/// How a registry wants to know who pushes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum RegistryAuth {
    Nobody,
    Basic,
    /// A token from the registry's own `/token`.
    Token,
    /// A token from another host, by http.
    TokenFromElsewhere,
    /// Nobody, but uploads go to another host, by http.
    UploadElsewhere,
    /// Nobody may push.
    Forbidden,
    /// A user, but blobs are on another host.
    BlobsElsewhere(SocketAddr),
}

/// `user:pass`.
pub(crate) const BASIC: &str = "Basic dXNlcjpwYXNz";
const TOKEN: &str = "Bearer secret-token";

#[derive(Default)]
pub(crate) struct RegistryState {
    pub(crate) blobs: HashMap<String, Vec<u8>>,
    /// Type and content, by digest or tag.
    pub(crate) manifests: HashMap<String, (String, Vec<u8>)>,
    /// `METHOD PATH`.
    pub(crate) requests: Vec<String>,
    /// Headers of authorization that it got.
    pub(crate) authorizations: Vec<String>,
}

pub(crate) struct Registry {
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<Mutex<RegistryState>>,
}

impl Registry {
    /// Starts a registry, which runs as long as the test.
    pub(crate) fn start(wanted: RegistryAuth) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(RegistryState::default()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, state) = (stream.unwrap(), Arc::clone(&shared));
                thread::spawn(move || serve(&stream, wanted, address, &state));
            }
        });
        Self { address, state }
    }
}

fn serve(
    mut stream: &TcpStream,
    wanted: RegistryAuth,
    address: SocketAddr,
    state: &Mutex<RegistryState>,
) {
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let Some(request) = ReceivedRequest::read(stream) else {
        return;
    };
    let (method, path) = request.method_and_target();
    state
        .lock()
        .unwrap()
        .requests
        .push(format!("{method} {path}"));
    let authorizations = request.header("authorization");
    state.lock().unwrap().authorizations.extend(authorizations);
    let (status, headers, answer) = answer(
        &Request {
            method,
            path,
            kind: request.header("content-type").unwrap_or_default(),
            authorization: request.header("authorization"),
            body: &request.body,
            wanted,
            address,
        },
        &mut state.lock().unwrap(),
    );
    let mut head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n",
        answer.len()
    );
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    let _ = stream.write_all(format!("{head}\r\n").as_bytes());
    if method != "HEAD" {
        let _ = stream.write_all(&answer);
    }
}

struct Request<'a> {
    method: &'a str,
    path: &'a str,
    kind: String,
    authorization: Option<String>,
    body: &'a [u8],
    wanted: RegistryAuth,
    address: SocketAddr,
}

type Answer = (&'static str, Vec<(&'static str, String)>, Vec<u8>);

fn error(status: &'static str, message: &str) -> Answer {
    let body = serde_json::json!({ "errors": [{ "code": "X", "message": message }] });
    (status, Vec::new(), body.to_string().into_bytes())
}

fn answer(request: &Request<'_>, state: &mut RegistryState) -> Answer {
    let address = request.address;
    if let Some(query) = request.path.strip_prefix("/token?") {
        let scoped = ["pull%2Cpush", "pull"].iter().any(|actions| {
            query.starts_with(&format!("scope=repository%3Ateam%2Fhello%3A{actions}&"))
        });
        return if scoped
            && query.contains("service=us")
            && request.authorization.as_deref() == Some(BASIC)
        {
            (
                "200 OK",
                Vec::new(),
                br#"{"token":"secret-token"}"#.to_vec(),
            )
        } else {
            error("401 Unauthorized", "wrong user")
        };
    }
    let expected = match request.wanted {
        RegistryAuth::Basic | RegistryAuth::BlobsElsewhere(_) => {
            Some((BASIC, "Basic realm=\"us\"".to_owned()))
        }
        RegistryAuth::Token => Some((
            TOKEN,
            format!("Bearer realm=\"http://{address}/token\",service=\"us\",scope=\"a,b\""),
        )),
        RegistryAuth::TokenFromElsewhere => Some((
            TOKEN,
            "Bearer realm=\"http://registry.invalid/token\"".to_owned(),
        )),
        _ => None,
    };
    if let Some((authorization, challenge)) = expected
        && request.authorization.as_deref() != Some(authorization)
    {
        let (status, _, body) = error("401 Unauthorized", "who are you?");
        return (status, vec![("www-authenticate", challenge)], body);
    }
    let Some(path) = request.path.strip_prefix("/v2/team/hello/") else {
        return error("404 Not Found", "no such repository");
    };
    match (request.method, path.split_once('/')) {
        ("GET", Some(("blobs", digest))) => match (request.wanted, state.blobs.get(digest)) {
            (RegistryAuth::BlobsElsewhere(other), Some(_)) => {
                let location = format!("http://{other}/v2/team/hello/blobs/{digest}");
                (
                    "307 Temporary Redirect",
                    vec![("location", location)],
                    Vec::new(),
                )
            }
            (_, Some(blob)) => ("200 OK", Vec::new(), blob.clone()),
            (_, None) => error("404 Not Found", "no such blob"),
        },
        ("GET", Some(("manifests", reference))) => match state.manifests.get(reference) {
            Some((kind, bytes)) => (
                "200 OK",
                vec![("content-type", kind.clone())],
                bytes.clone(),
            ),
            None => error("404 Not Found", "no such manifest"),
        },
        ("HEAD", Some(("blobs", digest))) if state.blobs.contains_key(digest) => {
            ("200 OK", Vec::new(), Vec::new())
        }
        ("HEAD", _) => ("404 Not Found", Vec::new(), Vec::new()),
        ("POST", Some(("blobs", "uploads/"))) => match request.wanted {
            RegistryAuth::Forbidden => error("403 Forbidden", "not \u{1b}[2Jyours"),
            RegistryAuth::UploadElsewhere => {
                let location = "http://registry.invalid/upload".to_owned();
                ("202 Accepted", vec![("location", location)], Vec::new())
            }
            _ => (
                "202 Accepted",
                vec![("location", "/v2/team/hello/blobs/uploads/7?state=x".into())],
                Vec::new(),
            ),
        },
        ("PUT", Some(("blobs", upload))) => {
            let digest: String = Sha256::digest(request.body)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            if upload != format!("uploads/7?state=x&digest=sha256%3A{digest}") {
                return error("400 Bad Request", "another digest");
            }
            state
                .blobs
                .insert(format!("sha256:{digest}"), request.body.to_vec());
            ("201 Created", Vec::new(), Vec::new())
        }
        ("PUT", Some(("manifests", reference))) => {
            let Ok(manifest) = serde_json::from_slice::<Value>(request.body) else {
                return error("400 Bad Request", "no JSON");
            };
            let named = ["layers", "manifests"]
                .iter()
                .filter_map(|key| manifest[*key].as_array())
                .flatten();
            let named = named.chain(manifest.get("config"));
            for descriptor in named {
                let digest = descriptor["digest"].as_str().unwrap();
                if !state.blobs.contains_key(digest) && !state.manifests.contains_key(digest) {
                    return error("404 Not Found", "an unknown blob");
                }
            }
            let digest: String = Sha256::digest(request.body)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let manifest = (request.kind.clone(), request.body.to_vec());
            for name in [reference.to_owned(), format!("sha256:{digest}")] {
                state.manifests.insert(name, manifest.clone());
            }
            ("201 Created", Vec::new(), Vec::new())
        }
        _ => error("405 Method Not Allowed", "what?"),
    }
}
