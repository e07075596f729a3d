//! Sends a message by HTTP/1.1.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::settings::TraceEndpoint;

/// Bytes of a response that are read: its first line is all that matters.
const MAX_RESPONSE: u64 = 4096;

/// Why a message did not arrive.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// Connection and response took too long.
    #[error("no answer in {0:?}")]
    TimedOut(Duration),
    /// The connection could not be opened, or broke.
    #[error("{endpoint:?}: {source}")]
    Connection {
        /// Where the message was sent.
        endpoint: TraceEndpoint,
        /// The cause.
        source: io::Error,
    },
    /// The collector rejected the message.
    #[error("the status is {0}")]
    Status(String),
}

/// Posts a message. The connection is not kept: containers are not created often.
pub(super) async fn post(endpoint: &TraceEndpoint, body: &[u8]) -> Result<(), SendError> {
    let sent = timeout(endpoint.timeout, exchange(endpoint, body)).await;
    let response = match sent {
        Err(_) => return Err(SendError::TimedOut(endpoint.timeout)),
        Ok(Err(source)) => {
            return Err(SendError::Connection {
                endpoint: endpoint.clone(),
                source,
            });
        }
        Ok(Ok(response)) => response,
    };
    let status = response.get(9..12).unwrap_or_default();
    match status {
        [b'2', ..] => Ok(()),
        _ => {
            let status = String::from_utf8_lossy(status).into_owned();
            Err(SendError::Status(status))
        }
    }
}

async fn exchange(endpoint: &TraceEndpoint, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = connect(&endpoint.host, endpoint.port).await?;
    let host = match endpoint.host.contains(':') {
        true => format!("[{}]", endpoint.host),
        false => endpoint.host.clone(),
    };
    let mut request = format!(
        "POST {} HTTP/1.1\r\nhost: {host}:{}\r\ncontent-type: application/x-protobuf\r\n\
         content-length: {}\r\nconnection: close\r\n{}\r\n",
        endpoint.path,
        endpoint.port,
        body.len(),
        endpoint.headers,
    )
    .into_bytes();
    request.extend_from_slice(body);
    stream.write_all(&request).await?;
    let mut response = Vec::new();
    stream.take(MAX_RESPONSE).read_to_end(&mut response).await?;
    Ok(response)
}

async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    // The usual hosts need no resolver, whose thread costs memory.
    let address = match host {
        "localhost" => Some(IpAddr::from(Ipv4Addr::LOCALHOST)),
        other => other.parse().ok(),
    };
    match address {
        Some(address) => TcpStream::connect((address, port)).await,
        None => TcpStream::connect((host, port)).await,
    }
}
