//! The process' environment, as projects and settings see it.

use std::collections::BTreeMap;

use wws_project::{LoadOptions, Problems, Project};

use crate::args::Folder;

/// All variables; those that aren't UTF-8 cannot be named in a project.
pub(crate) fn variables() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Loads a folder.
pub(crate) fn load(folder: &Folder, container: bool) -> Result<Project, Problems> {
    let options = LoadOptions {
        prefix: folder.prefix.clone(),
        ignore: folder.ignore.clone(),
        env: variables(),
        container,
    };
    wws_project::load(&folder.path, &options)
}
