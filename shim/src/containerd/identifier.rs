//! Identifiers that containerd assigns to namespaces, containers and processes.

use crate::error::{Error, Result};

/// Checks an identifier that becomes part of paths and of the OCI runtime's command line.
///
/// # Errors
/// The identifier would change the meaning of a path or command line.
pub(crate) fn check_identifier(what: &str, name: &str) -> Result<()> {
    // containerd's own rule is narrower (letters, digits, `-_.`), and may change.
    let bad = name.is_empty()
        || name.len() > 255
        || name.starts_with(['-', '.'])
        || name.contains(['/', '\0', '\n']);
    if bad {
        return Err(Error::invalid_argument(format!(
            "{what} {name:?} is not the name of a container or namespace"
        )));
    }
    Ok(())
}
