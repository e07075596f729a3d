//! File operations of the kit's `node:fs/promises`. They block: they run on threads that may.

use std::io::{Error, ErrorKind};

use bytes::Bytes;
use wws_engine::{Folders, WriteMode};

/// Names of one folder, at most.
const NAMES: usize = 100_000;

/// One operation.
pub(super) struct FileCall {
    pub(super) name: String,
    pub(super) path: String,
    /// The new path of `rename`.
    pub(super) to: String,
    pub(super) content: Vec<u8>,
    /// Bytes that may be read.
    pub(super) limit: u64,
}

/// Does it. A failure is `CODE:message`, as the kit wants it.
pub(super) fn run(folders: &Folders, call: &FileCall) -> Result<(String, Option<Bytes>), String> {
    let path = call.path.as_str();
    let nothing = |()| (String::new(), None);
    let result = match call.name.as_str() {
        "read" => folders
            .read(path, call.limit)
            .map(|bytes| (String::new(), Some(bytes.into()))),
        "write" => folders
            .write(path, &call.content, WriteMode::Replace)
            .map(nothing),
        "append" => folders
            .write(path, &call.content, WriteMode::Append)
            .map(nothing),
        "list" => folders
            .list(path, NAMES)
            .map(|names| (names.join("\0"), None)),
        "stat" => folders.stat(path).map(|stat| {
            let kind = if stat.is_folder { "folder" } else { "file" };
            (format!("{kind} {} {}", stat.size, stat.modified), None)
        }),
        "make" => folders.make(path).map(nothing),
        "remove" => folders.remove(path).map(nothing),
        "rename" => folders.rename(path, &call.to).map(nothing),
        name => Err(Error::other(format!("no operation {name}"))),
    };
    result.map_err(|error| {
        let (code, what) = describe(&error);
        format!("{code}:{code}: {what}, {} '{path}'", call.name)
    })
}

fn describe(error: &Error) -> (&'static str, String) {
    let (code, what) = match error.kind() {
        ErrorKind::NotFound => (
            "ENOENT",
            "no such file or folder, or not in a folder of this worker",
        ),
        ErrorKind::PermissionDenied => ("EACCES", "permission denied"),
        ErrorKind::AlreadyExists => ("EEXIST", "it is there already"),
        ErrorKind::NotADirectory => ("ENOTDIR", "not a folder"),
        ErrorKind::IsADirectory => ("EISDIR", "it is a folder"),
        ErrorKind::DirectoryNotEmpty => ("ENOTEMPTY", "the folder is not empty"),
        ErrorKind::ReadOnlyFilesystem => ("EROFS", "the folder is read-only"),
        ErrorKind::FileTooLarge => ("EFBIG", "larger than `limits.memory`"),
        ErrorKind::StorageFull => ("ENOSPC", "no space left"),
        ErrorKind::CrossesDevices => ("EACCES", "the path leaves its folder"),
        ErrorKind::InvalidInput => ("EINVAL", "not a path"),
        _ => return ("EIO", error.to_string()),
    };
    (code, what.to_owned())
}
