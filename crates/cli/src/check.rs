//! `wws check` and `wws routes`.

use std::{collections::BTreeMap, fmt::Display, process::ExitCode};

use wws_project::Problem;
use wws_server::{Compiling, PrepareOptions};

use crate::{args::Folder, code, environment, progress, routes};

/// Loads and compiles a project; prints its routes, or all its problems.
pub(crate) fn check(folder: &Folder) -> ExitCode {
    let code = code::of_container().unwrap_or_else(|error| {
        eprintln!("warning: {error}");
        None
    });
    let project = match environment::load_strictly(folder, code.as_ref()) {
        Ok(project) => project,
        Err(problems) => return failed(&problems),
    };
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
                ..PrepareOptions::default()
            };
            wws_server::prepare(project, &options)
        },
    );
    match prepared {
        Ok(server) => {
            warn(&server.warnings());
            print!("{}", routes::table(&server.project()));
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
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
