//! `wws check` and `wws routes`.

use std::{collections::BTreeMap, fmt::Display, process::ExitCode};

use wws_project::{Problem, Project};
use wws_server::{Compiling, OpenedStores, PrepareOptions};

use crate::{args::Folder, code, environment, progress, routes};

/// Loads and compiles a project; prints its routes, or all its problems.
pub(crate) fn check(folder: &Folder) -> ExitCode {
    with_compiled(folder, |project| print!("{}", routes::table(project)))
        .map_or_else(|problems| failed(&problems), |()| ExitCode::SUCCESS)
}

/// Loads and compiles a project, and prints its warnings.
///
/// # Errors
/// All its problems, as text.
pub(crate) fn with_compiled<T>(
    folder: &Folder,
    use_project: impl FnOnce(&Project) -> T,
) -> Result<T, String> {
    let code = code::of_container().unwrap_or_else(|error| {
        eprintln!("warning: {error}");
        None
    });
    let project =
        environment::load_strictly(folder, code.as_ref()).map_err(|error| error.to_string())?;
    warn(project.warnings());
    let compiling = Compiling::default();
    let prepared = progress::while_compiling(
        &compiling,
        |text| eprintln!("{text}"),
        || {
            let options = PrepareOptions {
                env: environment::variables(),
                code: code.or_else(|| code::of_user(&project, &compiling)),
                compiling: compiling.clone(),
                stores: OpenedStores::trial(),
                ..PrepareOptions::default()
            };
            wws_server::prepare(project, &options)
        },
    );
    let server = prepared.map_err(|error| error.to_string())?;
    warn(&server.warnings());
    Ok(use_project(&server.project()))
}

/// Prints the routes of a project.
pub(crate) fn routes(folder: &Folder) -> ExitCode {
    match environment::load(folder, false, BTreeMap::new()) {
        Ok(project) => {
            warn(project.warnings());
            print!("{}", routes::table(&project));
            ExitCode::SUCCESS
        }
        Err(problems) => failed(&problems),
    }
}

fn warn(warnings: &[Problem]) {
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
}

fn failed(problems: &dyn Display) -> ExitCode {
    eprintln!("{problems}");
    ExitCode::FAILURE
}
