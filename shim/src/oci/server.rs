//! The server `wws` in a container: its name, its paths, and what it serves.

use std::path::PathBuf;

/// The name by which the commands of the server are called in a container of workers.
pub(crate) const SERVER_NAME: &str = "wws";

/// The path of the server in a container of workers: in the file system in memory that containers
/// have as `/dev`, so that neither the image nor its writable layer is touched.
pub(crate) const SERVER: &str = "/dev/wws";

/// The path of the server where `/dev` is not the container's own.
pub(crate) const SERVER_IN_ROOT: &str = "/.wws/server";

/// The path of the compiled code, by the path of the server. The server looks only there, and the
/// shim always mounts something: neither the image nor a volume can provide code.
pub(super) const CODE: [(&str, &str); 2] =
    [(SERVER, "/dev/wws-code"), (SERVER_IN_ROOT, "/.wws/code")];

/// The command of the server that serves a container.
pub(super) const SERVE: &str = "serve-container";

/// What a container of workers serves, and with which server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServedProject {
    /// The path of the server in the container.
    pub(crate) server: &'static str,
    /// The path of the project in the container: a directory, or one worker.
    pub(crate) path: PathBuf,
    /// The arguments after the entry point.
    pub(crate) arguments: Vec<String>,
    /// Whether the image has a program with the server's name on the PATH.
    pub(crate) has_own_server: bool,
    /// Whether the container has a shell.
    pub(crate) has_shell: bool,
}
