//! `start`: a shim for a container, or the one that the containers of its pod share.

use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, CodedInputStream, Message};
use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen as listen_at,
    socket_with,
};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::cgroup;
use crate::cli::args::Args;
use crate::containerd::options::{self, Options};
use crate::error::{Error, OnPath, Result};
use crate::oci::bundle;
use crate::oci::rootfs;
use crate::oci::spec::Spec;

/// The folder of shims' sockets, which containerd makes too.
const SOCKETS: &str = "/run/containerd/s";

/// How many may wait to be answered.
const BACKLOG: i32 = 128;

/// The most that containerd passes to standard input, in bytes.
const MAX_INPUT: u64 = 1024 * 1024;

/// The newest version of the task service that we answer.
const NEWEST: u32 = 3;

/// Starts a shim, or finds the one of the pod, and returns what containerd wants to read: its address.
///
/// # Errors
/// The bundle is broken, or the machine's refusal. Then no shim is left.
pub(crate) fn start(args: &Args) -> Result<String> {
    let here = Path::new(".");
    let spec = Spec::read(here)?;
    let options = read_options(io::stdin(), &args.id)?;
    let group = spec.group().unwrap_or(&args.id);
    let path = socket_path(&args.address, &args.namespace, group);
    let address = format!("unix://{}", path.display());
    // First of all: on a full disk it fails, and nobody would end a shim that runs.
    bundle::save_address(here, &address)?;
    if let Some(listener) = listen(&path)? {
        let link = link_path(&args.address, &args.namespace, &spec, &args.id);
        let started = launch(args, &path, link.as_deref(), listener, &options);
        if started.is_err() {
            // Nobody listens there.
            let _ = fs::remove_file(&path);
        }
        started?;
    }
    let newest = std::env::var("MAX_SHIM_VERSION").ok();
    Ok(answer(&address, newest.as_deref()))
}

/// The options that containerd passes along with the container `id`; none is the default.
pub(crate) fn read_options(input: impl Read, id: &str) -> Result<Options> {
    let mut bytes = Vec::new();
    input
        .take(MAX_INPUT)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io("read the options from standard input", error))?;
    // As releases before containerd 2.3 did. The options come again with the container.
    if bytes.first() == Some(&b'{') {
        return Ok(Options::default());
    }
    let any = Any::parse_from_bytes(&bytes)
        .map_err(|error| Error::InvalidArgument(format!("the runtime's options: {error}")))?;
    if any.type_url.is_empty() || any.type_url != id {
        return Options::from_any(Some(&any));
    }
    // containerd 2.3 and newer pass a message whose first field is the container's name.
    let extensions = extensions(&bytes)
        .map_err(|error| Error::InvalidArgument(format!("containerd's parameters: {error}")))?;
    let mut known = extensions.iter().filter(|any| Options::knows(any));
    Options::from_any(known.next())
}

/// The extensions of `containerd.runtime.bootstrap.v1.BootstrapParams`: field 8, each a message whose field 1 is an `Any`.
fn extensions(bytes: &[u8]) -> protobuf::Result<Vec<Any>> {
    let mut all = Vec::new();
    for extension in fields(bytes, 8)? {
        for value in fields(&extension, 1)? {
            all.push(Any::parse_from_bytes(&value)?);
        }
    }
    Ok(all)
}

/// The fields of a message that have this number and are bytes.
fn fields(message: &[u8], number: u32) -> protobuf::Result<Vec<Vec<u8>>> {
    const BYTES: u32 = 2;
    let mut found = Vec::new();
    let mut input = CodedInputStream::from_bytes(message);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        if (tag >> 3, tag & 7) == (number, BYTES) {
            found.push(input.read_bytes()?);
            continue;
        }
        options::skip(&mut input, tag & 7)?;
    }
    Ok(found)
}

/// Our own name for a group's socket: a shim of another runtime never answers at it.
fn socket_path(address: &str, namespace: &str, group: &str) -> PathBuf {
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
fn listen(path: &Path) -> Result<Option<UnixListener>> {
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

fn launch(
    args: &Args,
    path: &Path,
    link: Option<&Path>,
    listener: UnixListener,
    options: &Options,
) -> Result<()> {
    let own = std::env::current_exe().map_err(|error| Error::io("find this program", error))?;
    let mut command = Command::new(own);
    command
        .args(["-namespace", &args.namespace])
        .args(["-id", &args.id])
        .args(["-address", &args.address])
        .args(["-publish-binary", &args.publisher])
        .arg("-socket")
        .arg(path);
    if let Some(link) = link {
        command.arg("-link").arg(link);
    }
    if args.debug {
        command.arg("-debug");
    }
    let mut child = command
        .arg("serve")
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // What ends containerd's group does not end us.
        .process_group(0)
        .spawn()
        .map_err(|error| Error::io("start the shim", error))?;
    let settled = settle(child.id(), options);
    if settled.is_err() {
        // Gone or going.
        let _ = child.kill();
        let _ = child.wait();
    }
    settled
}

/// Puts the shim where it belongs.
fn settle(pid: u32, options: &Options) -> Result<()> {
    if !options.shim_cgroup.is_empty() {
        cgroup::join(&options.shim_cgroup, pid)?;
    }
    // Out of memory, the kernel should end a shim rather than containerd. Not permitted is not needed.
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    if let Ok(score) = own.trim().parse::<i32>() {
        let score = (score + 1).min(1000).to_string();
        let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), score);
    }
    Ok(())
}

/// containerd 1.6 takes the bare address; since 1.7 it says which version it knows, and takes JSON.
fn answer(address: &str, newest: Option<&str>) -> String {
    match newest.and_then(|version| version.parse::<u32>().ok()) {
        None => address.to_owned(),
        Some(version) => {
            let version = version.clamp(2, NEWEST);
            json!({"version": version, "address": address, "protocol": "ttrpc"}).to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_containerd_gets_the_answer_it_knows() {
        assert_eq!(answer("unix:///s", None), "unix:///s");
        let version = |newest| -> serde_json::Value {
            let value: serde_json::Value =
                serde_json::from_str(&answer("unix:///s", Some(newest))).unwrap();
            assert_eq!(value["address"], "unix:///s");
            assert_eq!(value["protocol"], "ttrpc");
            value["version"].clone()
        };
        assert_eq!(version("2"), 2);
        assert_eq!(version("3"), 3);
        assert_eq!(version("9"), 3);
    }

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
    fn options_may_come_or_not() {
        let read = |bytes: &[u8]| read_options(bytes, "c1").unwrap();
        assert_eq!(read(b""), Options::default());
        assert_eq!(read(br#"{"instance_id":"x"}"#), Options::default());
        let any = Any {
            type_url: "runtimeoptions.v1.Options".to_owned(),
            // `config_body` is the third field.
            value: b"\x1a\x15ShimCgroup = \"/shims\"".to_vec(),
            ..Any::default()
        };
        let bytes = any.write_to_bytes().unwrap();
        assert_eq!(read(&bytes).shim_cgroup, "/shims");

        // As containerd 2.3 passes them: a name, a name space, a level, extensions.
        let field = |number: u8, bytes: &[u8]| {
            let length = u8::try_from(bytes.len()).unwrap();
            [&[number << 3 | 2, length], bytes].concat()
        };
        let other = field(1, &field(1, b"other.v1.Settings"));
        let parameters = [
            field(1, b"c1"),
            field(2, b"default"),
            vec![3 << 3, 2],
            field(8, &other),
            field(8, &field(1, &bytes)),
        ];
        assert_eq!(read(&parameters.concat()).shim_cgroup, "/shims");
        assert_eq!(read(&parameters[..4].concat()), Options::default());
    }
}
