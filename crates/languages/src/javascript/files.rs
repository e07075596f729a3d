//! File operations of the kit's `node:fs/promises`. They block, and run on threads that may block.

use std::io::{Error, ErrorKind};

use bytes::Bytes;
use wws_engine::{Charge, Directories, FileStat, NoMemory, WriteMode};

use super::exception::KitException;

/// The maximum number of names of a directory.
const NAMES: usize = 100_000;

/// The maximum size of a list of names, in bytes.
const LIST: u64 = 1 << 20;

/// Bytes of a file that are read at least.
const FIRST: u64 = 64 << 10;

/// One operation.
pub(super) struct FileCall {
    pub(super) name: String,
    pub(super) path: String,
    /// The new path of `rename`.
    pub(super) to: String,
    pub(super) content: Bytes,
    /// Bytes that may be read.
    pub(super) limit: u64,
    /// Empty; covers what is read.
    pub(super) charge: Charge,
}

/// Runs an operation. A failure is `CODE:message`, as the kit expects it.
pub(super) fn run(
    directories: &Directories,
    mut call: FileCall,
) -> Result<(String, Option<Bytes>), KitException> {
    if call.name == "read" {
        return read(directories, call);
    }
    let charge = &mut call.charge;
    if call.name == "list" && !charge.grow_to(LIST) {
        return Err(KitException::no_memory(NoMemory(LIST)));
    }
    let path = call.path.as_str();
    let nothing = |()| (String::new(), None);
    let write = |mode| directories.write(path, &call.content, mode).map(nothing);
    let stat = |stat: FileStat| {
        let kind = match stat {
            FileStat {
                is_directory: true, ..
            } => "directory",
            FileStat { is_link: true, .. } => "link",
            FileStat { is_file: true, .. } => "file",
            _ => "other",
        };
        (format!("{kind} {} {}", stat.size, stat.modified), None)
    };
    let result = match call.name.as_str() {
        "write" => write(WriteMode::Replace),
        "append" => write(WriteMode::Append),
        "create" => write(WriteMode::New),
        "list" => directories
            .list(path, NAMES)
            .map(|names| (names.join("\0"), None)),
        "stat" => directories.stat(path).map(stat),
        "lstat" => directories.stat_link(path).map(stat),
        "make" => directories.create(path).map(nothing),
        "unlink" => directories.remove_file(path).map(nothing),
        "rmdir" => directories.remove_directory(path).map(nothing),
        "rename" => directories.rename(path, &call.to).map(nothing),
        name => Err(Error::other(format!("no operation {name}"))),
    };
    result.map_err(|error| failure(&error, &call.name, path))
}

/// Reads a file. Its bytes keep their charge until the guest has them.
fn read(
    directories: &Directories,
    call: FileCall,
) -> Result<(String, Option<Bytes>), KitException> {
    let FileCall {
        path,
        limit,
        mut charge,
        ..
    } = call;
    let fail = |error| failure(&error, "read", &path);
    // The size of a file may be wrong: files of the kernel have none.
    let mut most = directories
        .stat(&path)
        .map_err(fail)?
        .size
        .max(FIRST)
        .min(limit);
    loop {
        if !charge.grow_to(most) {
            return Err(KitException::no_memory(NoMemory(most)));
        }
        match directories.read(&path, most) {
            Ok(bytes) => return Ok((String::new(), Some(charge.hold(bytes.into())))),
            Err(error) if error.kind() == ErrorKind::FileTooLarge && most < limit => {
                most = most.saturating_mul(4).min(limit);
            }
            Err(error) => return Err(fail(error)),
        }
    }
}

/// The failure of an operation on a path that is in no directory of the worker.
pub(super) fn not_found(name: &str, path: &str) -> KitException {
    failure(&ErrorKind::NotFound.into(), name, path)
}

fn failure(error: &Error, name: &str, path: &str) -> KitException {
    let (code, what) = describe(error);
    KitException::new(code, format!("{code}: {what}, {name} '{path}'"))
}

fn describe(error: &Error) -> (&'static str, String) {
    let (code, what) = match error.kind() {
        ErrorKind::NotFound => (
            "ENOENT",
            "no such file or directory, or not in a directory of this worker",
        ),
        ErrorKind::PermissionDenied => ("EACCES", "permission denied"),
        ErrorKind::AlreadyExists => ("EEXIST", "it is there already"),
        ErrorKind::NotADirectory => ("ENOTDIR", "not a directory"),
        ErrorKind::IsADirectory => ("EISDIR", "it is a directory"),
        ErrorKind::DirectoryNotEmpty => ("ENOTEMPTY", "the directory is not empty"),
        ErrorKind::ReadOnlyFilesystem => ("EROFS", "the directory is read-only"),
        ErrorKind::FileTooLarge => ("EFBIG", "larger than `limits.memory`"),
        ErrorKind::StorageFull => ("ENOSPC", "no space left"),
        ErrorKind::QuotaExceeded => ("EDQUOT", "no space left for this user"),
        ErrorKind::CrossesDevices => ("EACCES", "the path leaves its directory"),
        ErrorKind::ResourceBusy => ("EBUSY", "it is a directory of `[[folders]]` itself"),
        ErrorKind::InvalidInput => ("EINVAL", "not a path"),
        ErrorKind::InvalidFilename => ("ENAMETOOLONG", "the name is too long"),
        _ => return ("EIO", error.to_string()),
    };
    (code, what.to_owned())
}
