//! Names that containerd gives: of namespaces, containers and processes.

use crate::error::{Error, Result};

/// Checks a name that becomes part of paths and of the OCI runtime's command line.
pub(crate) fn identifier(what: &str, name: &str) -> Result<()> {
    // containerd's rule is narrower (letters, digits, `-_.`) and its own to change.
    let bad = name.is_empty()
        || name.len() > 255
        || name.starts_with(['-', '.'])
        || name.contains(['/', '\0', '\n']);
    if bad {
        return Err(Error::InvalidArgument(format!(
            "{what} {name:?} is not the name of a container or namespace"
        )));
    }
    Ok(())
}
