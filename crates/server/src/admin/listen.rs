//! The socket for operators: of TCP, or a Unix socket.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use wws_project::AdminAddress;

use crate::status::answer::StatusClient;

/// Connections that the kernel queues until they are accepted.
const BACKLOG: u32 = 128;

/// A connection of an operator.
pub(crate) trait AdminStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> AdminStream for S {}

/// A socket that listens for operators.
pub(crate) enum AdminListener {
    Tcp(TcpListener),
    /// A socket whose file is removed with the listener.
    Unix(UnixListener, PathBuf),
}

impl AdminListener {
    /// Listens on an address; `None` if the admin address is off.
    ///
    /// # Errors
    /// The address is in use, or does not belong to this machine.
    pub(crate) fn bind(address: &AdminAddress) -> io::Result<Option<Self>> {
        Ok(match address {
            AdminAddress::Off => None,
            AdminAddress::Tcp(address) => Some(Self::Tcp(listen(*address)?)),
            AdminAddress::Unix(path) => {
                remove_unused(path)?;
                let listener = UnixListener::bind(path)?;
                // Only this user's processes, and those of root.
                fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
                Some(Self::Unix(listener, path.clone()))
            }
        })
    }

    /// The address that it listens on.
    pub(crate) fn address(&self) -> io::Result<AdminAddress> {
        Ok(match self {
            Self::Tcp(listener) => AdminAddress::Tcp(listener.local_addr()?),
            Self::Unix(_, path) => AdminAddress::Unix(path.clone()),
        })
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<(Box<dyn AdminStream>, StatusClient)> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                let client = match peer.ip().to_canonical().is_loopback() {
                    true => StatusClient::Local,
                    false => StatusClient::Remote,
                };
                (Box::new(stream), client)
            }
            Self::Unix(listener, _) => (Box::new(listener.accept().await?.0), StatusClient::Local),
        })
    }
}

impl Drop for AdminListener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = fs::remove_file(path);
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A server that has just stopped must not keep its successor from starting.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Removes a socket that is not listened on: a killed server left it behind.
fn remove_unused(path: &Path) -> io::Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a file that is no socket",
        ));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn takes_over_the_socket_of_a_killed_server_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let address = AdminAddress::Unix(path.clone());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = AdminListener::bind(&address).unwrap().unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let second = AdminListener::bind(&address).err().unwrap();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert!(!path.exists());
        fs::write(&path, "data").unwrap();
        assert!(AdminListener::bind(&address).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    }
}
