//! A plain HTTP/1.1 client. Every call has a time limit and its own connection.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use ureq::http::{HeaderMap, Request};

use crate::wait::patience;

/// The longest that one call may take, on an ordinary machine.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// The largest answer body that is read, in bytes.
const MAX_BODY: u64 = 64 * 1024 * 1024;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// All header fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("an answer that is not JSON: {}", self.text()))
    }

    /// The first value of the header field `name`, where it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Gets `path` of the server on 127.0.0.1:`port`. Every status is an answer.
///
/// # Errors
/// No complete answer came within [`TIMEOUT`].
pub fn get(port: u16, path: &str) -> Result<Answer> {
    get_from(Ipv4Addr::LOCALHOST, port, path)
}

/// Gets `path` of the server on `address`:`port`. Every status is an answer.
///
/// # Errors
/// No complete answer came within [`TIMEOUT`].
pub fn get_from(address: impl Into<IpAddr>, port: u16, path: &str) -> Result<Answer> {
    let server = SocketAddr::new(address.into(), port);
    send(Request::get(format!("http://{server}{path}")).body(())?)
}

/// Sends `request`. Every status is an answer, redirects are not followed.
///
/// # Errors
/// No complete answer came within [`TIMEOUT`].
pub fn send(request: Request<impl ureq::AsSendBody>) -> Result<Answer> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(patience(TIMEOUT)))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .max_idle_connections(0)
        .allow_non_standard_methods(true)
        .build()
        .into();
    let (parts, body) = agent.run(request)?.into_parts();
    let body = body.into_with_config().limit(MAX_BODY).read_to_vec()?;
    Ok(Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body,
    })
}
