//! `wws check` and `wws routes`.

use std::{collections::BTreeMap, process::ExitCode};

use wws_project::{Problem, Problems, Project};
use wws_server::{Compiling, OpenedStores, PrepareOptions};

use crate::{args::ProjectArgs, code, environment, progress, routes};

/// Loads and compiles a project; prints its routes, or all its problems.
pub(crate) fn check(given: &ProjectArgs, json: bool) -> ExitCode {
    with_compiled(given, |project| print_routes(project, json))
        .map_or_else(|problems| failed(&problems, json), |()| ExitCode::SUCCESS)
}

fn print_routes(project: &Project, json: bool) {
    match json {
        true => println!("{}", routes::json(project)),
        false => print!("{}", routes::table(project)),
    }
}

/// Loads and compiles a project, and prints its warnings.
///
/// # Errors
/// All its problems.
pub(crate) fn with_compiled<T>(
    given: &ProjectArgs,
    use_project: impl FnOnce(&Project) -> T,
) -> Result<T, Problems> {
    let code = code::of_container().unwrap_or_else(|error| {
        eprintln!("warning: {error}");
        None
    });
    let project = environment::load_strictly(given, code.as_ref())?;
    warn(project.warnings());
    let compiling = Compiling::default();
    let prepared = progress::while_compiling(
        &compiling,
        |text| eprintln!("{text}"),
        || {
            let options = PrepareOptions {
                env: environment::variables(),
                code: code.or_else(|| code::of_user(&project, &given.path, &compiling)),
                compiling: compiling.clone(),
                stores: OpenedStores::trial(),
                ..PrepareOptions::default()
            };
            wws_server::prepare(project, &options)
        },
    );
    let server = prepared?;
    warn(&server.warnings());
    Ok(use_project(&server.project()))
}

/// Prints the routes of a project.
pub(crate) fn routes(given: &ProjectArgs, json: bool) -> ExitCode {
    match environment::load(given, false, BTreeMap::new()) {
        Ok(project) => {
            warn(project.warnings());
            print_routes(&project, json);
            ExitCode::SUCCESS
        }
        Err(problems) => failed(&problems, json),
    }
}

fn warn(warnings: &[Problem]) {
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
}

fn failed(problems: &Problems, json: bool) -> ExitCode {
    if json {
        println!("{}", routes::problems_json(problems.all()));
    } else {
        eprintln!("{problems}");
    }
    ExitCode::FAILURE
}
