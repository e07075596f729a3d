//! The socket of the shim, and the link to it where containerd's own tools look.

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

use crate::error::{OnPath, Result};
use crate::oci::rootfs;
use crate::oci::spec::Spec;

/// The folder of shims' sockets, which containerd makes too.
const SOCKETS: &str = "/run/containerd/s";

/// How many may wait to be answered.
const BACKLOG: i32 = 128;

/// Our own name for a group's socket: a shim of another runtime never answers at it.
pub(crate) fn socket_path(address: &str, namespace: &str, group: &str) -> PathBuf {
    let mut hash = Sha256::new();
    for part in ["io.containerd.wws.v1", address, namespace, group] {
        hash.update(part);
        hash.update([0]);
    }
    Path::new(SOCKETS).join(hexadecimal(&hash.finalize()))
}

/// Where containerd's own tools (`ctr shim`) look for the shim's socket: a link to it, as a shim of another runtime may answer there.
/// `None` for a group that a client chose, which containers of several runtimes may share.
pub(crate) fn link_path(address: &str, namespace: &str, spec: &Spec, id: &str) -> Option<PathBuf> {
    let group = match (spec.sandbox(), spec.group()) {
        (Some(sandbox), _) => sandbox,
        (None, None) => id,
        (None, Some(_)) => return None,
    };
    // containerd's rule: the hash of these as one cleaned path.
    let name = rootfs::absolute(
        Path::new("/"),
        &Path::new(address).join(namespace).join(group),
    );
    let hash = Sha256::digest(name.as_os_str().as_encoded_bytes());
    address
        .starts_with('/')
        .then(|| Path::new(SOCKETS).join(hexadecimal(&hash)))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes `link` lead to `socket`, unless a socket or another shim's link is there.
pub(crate) fn link(link: &Path, socket: &Path) -> Result<()> {
    let _alone = lock(socket)?;
    if fs::read_link(link).is_ok_and(|to| !answers(&to)) {
        // Left behind by a shim that was killed.
        fs::remove_file(link).on("remove", link)?;
    }
    match symlink(socket, link) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.on("link", link),
    }
}

/// Removes `link` if it leads to `socket`.
pub(crate) fn unlink(link: &Path, socket: &Path) -> Result<()> {
    let _alone = lock(socket)?;
    match fs::read_link(link) {
        Ok(to) if to == socket => fs::remove_file(link).on("remove", link),
        _ => Ok(()),
    }
}

/// A new socket, or `None` if a shim answers there.
pub(crate) fn listen(path: &Path) -> Result<Option<UnixListener>> {
    let _alone = remove_dead(path)?;
    if path.exists() {
        return Ok(None);
    }
    bind_private(path).on("listen at", path).map(Some)
}

/// Removes a socket of a shim that was killed; one that is answered stays. No other shim or clearing up does the same at that time,
/// until what is returned is dropped: of two that find a dead socket, the second would remove the first's new one.
pub(crate) fn remove_dead(path: &Path) -> Result<fs::File> {
    let alone = lock(path)?;
    if !answers(path)
        && let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error).on("remove", path);
    }
    Ok(alone)
}

/// Locks the directory of a socket.
fn lock(socket: &Path) -> Result<fs::File> {
    let directory = socket.parent().unwrap_or(Path::new(SOCKETS));
    fs::create_dir_all(directory).on("create", directory)?;
    let lock = fs::File::open(directory).on("open", directory)?;
    flock(&lock, FlockOperation::LockExclusive).on("lock", directory)?;
    Ok(lock)
}

/// Whether a shim listens there. Does not wait for it.
fn answers(path: &Path) -> bool {
    let connected =
        stream_socket().and_then(|socket| connect(&socket, &SocketAddrUnix::new(path)?));
    // Too many wait for it already.
    matches!(connected, Ok(()) | Err(Errno::AGAIN))
}

/// Listens at a socket that nobody else's processes can reach, whatever the mask of rights.
fn bind_private(path: &Path) -> rustix::io::Result<UnixListener> {
    let socket = stream_socket()?;
    // Of a socket that has no name yet: the name gets these rights with it.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen_at(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}

fn stream_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Removes a socket at which nobody answers, and the link to it. At a pod's, the shim of the others may.
pub(crate) fn remove_socket(address: &str, link: Option<&Path>) {
    let path = Path::new(address.trim_start_matches("unix://"));
    if !path.is_absolute() {
        return;
    }
    let removed = remove_dead(path).and_then(|alone| {
        drop(alone);
        match link {
            Some(link) if !path.exists() => unlink(link, path),
            _ => Ok(()),
        }
    });
    if let Err(error) = removed {
        eprintln!("clear up: {error}");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn sockets_differ_by_all_that_makes_a_group() {
        let path = socket_path("/a", "n", "g");
        assert_eq!(path, socket_path("/a", "n", "g"));
        for other in [
            socket_path("/b", "n", "g"),
            socket_path("/a", "m", "g"),
            socket_path("/a", "n", "h"),
            socket_path("/a", "ng", ""),
        ] {
            assert_ne!(path, other);
        }
        assert!(path.as_os_str().len() < 100, "a socket's path is bounded");
    }

    #[test]
    fn the_link_is_where_containerd_looks() {
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
    fn a_link_is_made_and_removed_where_nobody_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let (place, socket, other) = (at("link"), at("socket"), at("other"));
        let _shim = UnixListener::bind(&socket).unwrap();
        link(&place, &socket).unwrap();
        assert_eq!(fs::read_link(&place).unwrap(), socket);
        // Of a shim that answers.
        link(&place, &other).unwrap();
        unlink(&place, &other).unwrap();
        assert_eq!(fs::read_link(&place).unwrap(), socket);
        unlink(&place, &socket).unwrap();
        assert!(!place.is_symlink());
        // Of one that was killed.
        symlink(&other, &place).unwrap();
        link(&place, &socket).unwrap();
        assert_eq!(fs::read_link(&place).unwrap(), socket);
        fs::remove_file(&place).unwrap();
        // Another runtime's socket, dead or not.
        drop(UnixListener::bind(&place).unwrap());
        link(&place, &socket).unwrap();
        unlink(&place, &socket).unwrap();
        assert!(place.exists() && !place.is_symlink());
    }

    #[test]
    fn of_many_who_find_a_dead_socket_one_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
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
            assert!(answers(&path));
            drop(all);
            assert!(!answers(&path));
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_socket_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _listener = listen(&path).unwrap().unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn only_a_socket_without_a_shim_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let address = format!("unix://{}", path.display());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        remove_socket(&address, Some(&link));
        assert!(path.exists() && link.is_symlink());
        drop(listener);
        remove_socket(&address, Some(&link));
        assert!(!path.exists() && !link.is_symlink());
    }
}
