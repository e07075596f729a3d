//! The process' environment, as projects and settings see it.

use std::{collections::BTreeMap, path::Path};

use wws_project::{LoadOptions, Problems, Project};

use crate::args::Folder;

/// All variables; those that aren't UTF-8 cannot be named in a project.
pub(crate) fn variables() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Where the shim puts this program in a container.
const IN_CONTAINER: [&str; 2] = ["/dev/wws", "/.wws/server"];

/// Whether this is a command that was started inside a container.
pub(crate) fn is_in_container() -> bool {
    std::env::current_exe()
        .is_ok_and(|program| IN_CONTAINER.iter().any(|path| program == Path::new(path)))
}

/// Where the shim puts the code of a container's project.
const CODE: &str = "/dev/wws-code";

/// Loads a folder, whose compiled code may be in the folder `code`.
pub(crate) fn load(
    folder: &Folder,
    container: bool,
    code: Option<&Path>,
) -> Result<Project, Problems> {
    let inside = is_in_container();
    let code = code.or_else(|| inside.then_some(Path::new(CODE)));
    let options = LoadOptions {
        prefix: folder.prefix.clone(),
        ignore: folder.ignore.clone(),
        env: variables(),
        container: container || inside,
        hashed: code.map(wws_server::hashed).unwrap_or_default(),
    };
    wws_project::load(&folder.path, &options)
}
