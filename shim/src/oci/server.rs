//! Our server in a container: its name, its paths, and what it serves.

use std::path::PathBuf;

/// Our server's name, by which its commands are called in a container of workers.
pub(crate) const SERVER_NAME: &str = "wws";

/// Where a container of workers finds our server: in the memory file system that containers have as `/dev`, so that neither the
/// image nor its writable layer is touched.
pub(crate) const SERVER: &str = "/dev/wws";

/// The same where `/dev` is none of the container's own.
pub(crate) const SERVER_IN_ROOT: &str = "/.wws/server";

/// Where it finds its compiled code, by where the server is. The server looks there and nowhere else, so there is always a mount
/// of ours: neither the image nor a volume has a say in it.
pub(super) const CODE: [(&str, &str); 2] =
    [(SERVER, "/dev/wws-code"), (SERVER_IN_ROOT, "/.wws/code")];

/// The server's command that serves a container.
pub(super) const SERVE: &str = "serve-container";

/// What a container of workers serves, and by which program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Workers {
    /// Our server's path in the container.
    pub(crate) server: &'static str,
    /// The project's folder in the container.
    pub(crate) folder: PathBuf,
    /// What the image or its user gives after the entry point.
    pub(crate) arguments: Vec<String>,
    /// The container's own PATH has a program of our server's name.
    pub(crate) has_own: bool,
    /// It has a shell.
    pub(crate) has_shell: bool,
}
