//! The socket of the shim, and the link to it at the path that containerd's own tools use.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen as listen_at,
    socket_with,
};
use sha2::{Digest, Sha256};

use crate::error::{PathContext, Result};
use crate::oci::rootfs;
use crate::oci::spec::Spec;
use crate::sys::hex::hexadecimal;

/// The directory of the sockets of shims where containerd names no other one. containerd's own
/// tools know this one alone.
pub(super) const SOCKETS: &str = "/run/containerd/s";

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 128;

/// Returns the path of a group's socket in `directory`. It contains the runtime's name, so that no
/// shim of another runtime answers there.
pub(crate) fn socket_path(
    directory: &Path,
    address: &str,
    namespace: &str,
    group: &str,
) -> PathBuf {
    let mut hash = Sha256::new();
    for part in ["io.containerd.wws.v1", address, namespace, group] {
        hash.update(part);
        hash.update([0]);
    }
    directory.join(hexadecimal(&hash.finalize()))
}

/// Returns the directory of a socket.
pub(crate) fn directory(socket: &Path) -> &Path {
    let parent = socket.parent();
    parent
        .filter(|parent| parent.is_absolute())
        .unwrap_or(Path::new(SOCKETS))
}

/// Returns the path at which containerd's own tools (`ctr shim`) expect the socket. It gets a link,
/// as a shim of another runtime may answer there. `None` for a group that a client chose, which
/// containers of several runtimes may share.
pub(crate) fn link_path(address: &str, namespace: &str, spec: &Spec, id: &str) -> Option<PathBuf> {
    let group = match (spec.sandbox(), spec.group()) {
        (Some(sandbox), _) => sandbox,
        (None, None) => id,
        (None, Some(_)) => return None,
    };
    // containerd's rule: the hash of these as one cleaned path.
    let name = rootfs::normalize(
        Path::new("/"),
        &Path::new(address).join(namespace).join(group),
    );
    let hash = Sha256::digest(name.as_os_str().as_encoded_bytes());
    address
        .starts_with('/')
        .then(|| Path::new(SOCKETS).join(hexadecimal(&hash)))
}

/// Makes `link` lead to `socket`, unless a socket or another shim's link is there.
pub(crate) fn create_link(link: &Path, socket: &Path) -> Result<()> {
    let _alone = lock(link)?;
    if fs::read_link(link).is_ok_and(|to| !is_served(&to)) {
        // Left behind by a shim that was killed.
        fs::remove_file(link).with_path("remove", link)?;
    }
    match symlink(socket, link) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.with_path("link", link),
    }
}

/// Removes `link` if it leads to `socket`.
pub(crate) fn remove_link(link: &Path, socket: &Path) -> Result<()> {
    let _alone = lock(link)?;
    match fs::read_link(link) {
        Ok(to) if to == socket => fs::remove_file(link).with_path("remove", link),
        _ => Ok(()),
    }
}

/// Creates a socket, or returns `None` if a shim answers there.
pub(crate) fn listen(path: &Path) -> Result<Option<UnixListener>> {
    let _alone = remove_unserved_socket(path)?;
    if path.exists() {
        return Ok(None);
    }
    bind_private(path).with_path("listen at", path).map(Some)
}

/// Removes the socket of a shim that was killed; one that is served stays. Returns a lock: until it
/// is dropped, no other process does the same. Otherwise, of two processes that find a dead socket,
/// the second would remove the new socket of the first.
pub(crate) fn remove_unserved_socket(path: &Path) -> Result<fs::File> {
    let alone = lock(path)?;
    if !is_served(path)
        && let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error).with_path("remove", path);
    }
    Ok(alone)
}

/// Locks the directory of a socket, or of a link to one.
fn lock(socket: &Path) -> Result<fs::File> {
    let directory = directory(socket);
    fs::create_dir_all(directory).with_path("create", directory)?;
    let lock = fs::File::open(directory).with_path("open", directory)?;
    flock(&lock, FlockOperation::LockExclusive).with_path("lock", directory)?;
    Ok(lock)
}

/// Returns whether a shim listens there. Does not wait for an answer.
fn is_served(path: &Path) -> bool {
    let connected =
        stream_socket().and_then(|socket| connect(&socket, &SocketAddrUnix::new(path)?));
    // EAGAIN: the shim listens, and too many connections wait.
    matches!(connected, Ok(()) | Err(Errno::AGAIN))
}

/// Listens at a socket that only processes of the same user can connect to, whatever the umask.
fn bind_private(path: &Path) -> rustix::io::Result<UnixListener> {
    let socket = stream_socket()?;
    // Before the socket has a name: the name gets these permissions.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen_at(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}

fn stream_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Removes a socket that no shim serves, and the link to it. The shim of a pod may still serve
/// other containers.
///
/// # Errors
/// The file system rejects it.
pub(crate) fn remove_socket(address: &str, link: Option<&Path>) -> Result<()> {
    let path = Path::new(address.trim_start_matches("unix://"));
    if !path.is_absolute() {
        return Ok(());
    }
    drop(remove_unserved_socket(path)?);
    match link {
        Some(link) if !path.exists() => remove_link(link, path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn paths_differ_by_address_namespace_and_group() {
        let at =
            |address, namespace, group| socket_path(Path::new(SOCKETS), address, namespace, group);
        let path = at("/a", "n", "g");
        assert_eq!(path, at("/a", "n", "g"));
        for other in [
            at("/b", "n", "g"),
            at("/a", "m", "g"),
            at("/a", "n", "h"),
            at("/a", "ng", ""),
        ] {
            assert_ne!(path, other);
        }
        assert_eq!(directory(&path), Path::new(SOCKETS));
        // The longest directory that containerd accepts (`maxSocketDirLen`), and the longest path
        // of a socket.
        let longest = format!("/{}", "d".repeat(41));
        let path = socket_path(Path::new(&longest), "/a", "n", "g");
        assert_eq!(path.as_os_str().len(), 107);
        assert_eq!(directory(&path), Path::new(&longest));
        assert!(SocketAddrUnix::new(&path).is_ok());
        // `serve` without a socket.
        assert_eq!(directory(Path::new("")), Path::new(SOCKETS));
    }

    #[test]
    fn links_where_containerd_looks() {
        let spec = |annotations: serde_json::Value| {
            let bundle = tempfile::tempdir().unwrap();
            let text = json!({ "annotations": annotations }).to_string();
            fs::write(bundle.path().join("config.json"), text).unwrap();
            Spec::read(bundle.path()).unwrap()
        };
        let at = |spec: &Spec| link_path("/run/containerd/containerd.sock", "default", spec, "c1");
        // sha256 of /run/containerd/containerd.sock/default/c1
        let expected =
            format!("{SOCKETS}/d25aa4ef11a84e954e74a5bcff06557d0b6ea8d0c00243896f29826694bbd888");
        assert_eq!(at(&spec(json!({}))), Some(expected.into()));
        let sandbox = spec(json!({"io.kubernetes.cri.sandbox-id": "c1"}));
        assert_eq!(at(&sandbox), at(&spec(json!({}))));
        assert_eq!(
            at(&spec(json!({"io.containerd.runc.v2.group": "c1"}))),
            None
        );
        let same = link_path(
            "/run//containerd/./containerd.sock",
            "default",
            &sandbox,
            "c2",
        );
        assert_eq!(same, at(&sandbox));
    }

    #[test]
    fn creates_and_removes_a_link_unless_another_shim_owns_the_path() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let (link_path, socket, other) = (at("link"), at("socket"), at("other"));
        let _shim = UnixListener::bind(&socket).unwrap();
        create_link(&link_path, &socket).unwrap();
        assert_eq!(fs::read_link(&link_path).unwrap(), socket);
        // Of a shim that is served.
        create_link(&link_path, &other).unwrap();
        remove_link(&link_path, &other).unwrap();
        assert_eq!(fs::read_link(&link_path).unwrap(), socket);
        remove_link(&link_path, &socket).unwrap();
        assert!(!link_path.is_symlink());
        // Of a shim that was killed.
        symlink(&other, &link_path).unwrap();
        create_link(&link_path, &socket).unwrap();
        assert_eq!(fs::read_link(&link_path).unwrap(), socket);
        fs::remove_file(&link_path).unwrap();
        // The socket of another runtime, dead or not.
        drop(UnixListener::bind(&link_path).unwrap());
        create_link(&link_path, &socket).unwrap();
        remove_link(&link_path, &socket).unwrap();
        assert!(link_path.exists() && !link_path.is_symlink());
    }

    #[test]
    fn links_to_a_socket_in_another_directory() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("sockets/s");
        let link = directory.path().join("links/l");
        let _shim = listen(&socket).unwrap().unwrap();
        create_link(&link, &socket).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), socket);
        remove_link(&link, &socket).unwrap();
        assert!(!link.is_symlink() && socket.exists());
    }

    #[test]
    fn one_of_many_takes_over_a_dead_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        for _ in 0..20 {
            drop(UnixListener::bind(&path).unwrap());
            let starts: Vec<_> = (0..8)
                .map(|_| {
                    let path = path.clone();
                    std::thread::spawn(move || listen(&path).unwrap())
                })
                .collect();
            // Kept until all have looked.
            let all: Vec<_> = starts.into_iter().map(|one| one.join().unwrap()).collect();
            assert_eq!(all.iter().flatten().count(), 1);
            assert!(is_served(&path));
            drop(all);
            // A child of another test holds the socket between its fork and its exec.
            for _ in 0..1000 {
                if !is_served(&path) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            assert!(!is_served(&path));
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn creates_sockets_for_the_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let _listener = listen(&path).unwrap().unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn removes_only_a_socket_that_is_not_served() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let address = format!("unix://{}", path.display());
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        remove_socket(&address, Some(&link)).unwrap();
        assert!(path.exists() && link.is_symlink());
        drop(listener);
        // A child of another test holds the socket between its fork and its exec.
        for _ in 0..1000 {
            remove_socket(&address, Some(&link)).unwrap();
            if !path.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(!path.exists() && !link.is_symlink());
    }
}
