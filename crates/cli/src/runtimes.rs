//! `wws runtimes`: the language runtimes of a project.

use std::{path::Path, process::ExitCode};

use serde_json::{Value, json};
use wws_project::{Runtime, Status};
use wws_runtimes::{Error, Fetch, FetchOptions, InstallOutcome, LockedProject, Repository};

use crate::{
    args::{RepositoryArgs, Runtimes, RuntimesCommand},
    environment,
    progress::Bar,
    table,
};

/// Runs the command.
pub(crate) fn runtimes(args: &Runtimes) -> ExitCode {
    let from = &args.from;
    let place = RuntimesCommandContext {
        directory: &args.path,
        bar: Bar::default(),
    };
    let done = match &args.command {
        RuntimesCommand::List { json } => place.list(from, *json),
        RuntimesCommand::Install {
            name: Some(name),
            version,
        } => place.install(name, version, from),
        RuntimesCommand::Install { name: None, .. } => place.install_missing(),
        RuntimesCommand::Check { json } => place.check(*json),
        RuntimesCommand::Uninstall { name, version } => place.uninstall(name, version),
    };
    done.unwrap_or_else(|error| failed(&error))
}

/// Installs missing runtimes that a project lists; returns whether all are installed.
pub(crate) fn install_missing(directory: &Path) -> bool {
    let place = RuntimesCommandContext {
        directory,
        bar: Bar::default(),
    };
    place
        .install_missing()
        .unwrap_or_else(|error| failed(&error))
        == ExitCode::SUCCESS
}

fn failed(error: &Error) -> ExitCode {
    eprintln!("wws: {error}");
    ExitCode::FAILURE
}

type CommandResult = Result<ExitCode, Error>;

/// Whether a project has a runtime.
#[derive(Clone, Copy)]
enum Here {
    Installed,
    /// In `.wws.toml` alone.
    Listed,
    No,
}

impl Here {
    fn of_listed(runtime: &Runtime) -> Self {
        match runtime.unusable {
            None => Self::Installed,
            Some(_) => Self::Listed,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Installed => "installed",
            Self::Listed => "listed, not installed",
            Self::No => "",
        }
    }
}

fn as_value(runtime: &Runtime, here: Here) -> Value {
    json!({
        "name": runtime.name,
        "version": runtime.version,
        "tags": runtime.tags,
        "extensions": runtime.extensions,
        "repository": runtime.repository,
        "status": runtime.status.name(),
        "listed": !matches!(here, Here::No),
        "installed": matches!(here, Here::Installed),
    })
}

struct RuntimesCommandContext<'a> {
    directory: &'a Path,
    bar: Bar,
}

impl RuntimesCommandContext<'_> {
    fn fetch(&self) -> Result<Fetch<'_>, Error> {
        let options = FetchOptions {
            env: environment::variables(),
            ..FetchOptions::default()
        };
        Fetch::new(self.directory, options, &self.bar)
    }

    fn list(&self, from: &RepositoryArgs, as_json: bool) -> CommandResult {
        let listed = wws_project::runtimes(self.directory)?;
        let repository = match from.location() {
            Some(_) => repository(from, &self.fetch()?)?,
            None => Repository::built_in()?,
        };
        let is = |a: &Runtime, b: &Runtime| {
            (&a.repository, &a.name, &a.version) == (&b.repository, &b.name, &b.version)
        };
        let others = listed
            .iter()
            .filter(|listed| !repository.runtimes.iter().any(|known| is(known, listed)));
        let runtimes: Vec<_> = repository
            .runtimes
            .iter()
            .chain(others)
            .map(|runtime| {
                let here = listed.iter().find(|listed| is(listed, runtime));
                (runtime, here.map_or(Here::No, Here::of_listed))
            })
            .collect();
        if as_json {
            let runtimes = runtimes
                .iter()
                .map(|(runtime, here)| as_value(runtime, *here));
            println!("{}", json!({ "runtimes": runtimes.collect::<Vec<_>>() }));
            return Ok(ExitCode::SUCCESS);
        }
        let mut rows =
            vec![["NAME", "VERSION", "TAGS", "FILES", "REPOSITORY", "HERE"].map(Into::into)];
        for (runtime, here) in runtimes {
            let status = match runtime.status {
                Status::Yanked | Status::Deprecated => format!(" ({})", runtime.status.name()),
                Status::Active | Status::Unknown => String::new(),
            };
            let extensions: Vec<String> = runtime
                .extensions
                .iter()
                .map(|extension| format!(".{extension}"))
                .collect();
            rows.push([
                runtime.name.clone(),
                runtime.version.clone() + &status,
                runtime.tags.join(", "),
                extensions.join(", "),
                runtime.repository.clone(),
                here.words().into(),
            ]);
        }
        print!("{}", table::aligned(&rows));
        Ok(ExitCode::SUCCESS)
    }

    fn install(&self, name: &str, version: &str, from: &RepositoryArgs) -> CommandResult {
        let fetch = self.fetch()?;
        let locked = LockedProject::open(self.directory)?;
        if from.location().is_none() {
            let listed = locked.runtimes()?;
            let mut listed = listed
                .iter()
                .filter(|listed| is_called(listed, name, version));
            if let Some(runtime) = listed.next() {
                return self.install_listed(&locked, runtime, &fetch);
            }
        }
        let repository = repository(from, &fetch)?;
        let runtime = repository.find(name, version)?;
        if runtime.status == Status::Deprecated {
            eprintln!(
                "warning: {} {} is deprecated",
                runtime.name, runtime.version
            );
        }
        let done = locked.add(&repository, runtime, &fetch)?;
        said(runtime, done);
        Ok(ExitCode::SUCCESS)
    }

    fn install_listed(
        &self,
        locked: &LockedProject,
        runtime: &Runtime,
        fetch: &Fetch<'_>,
    ) -> CommandResult {
        match locked.install(runtime, fetch) {
            Ok(done) => {
                said(runtime, done);
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => {
                let code = failed(&error);
                let name = &runtime.name;
                let built_in = Repository::built_in()?;
                if runtime.repository != built_in.name && built_in.find(name, "latest").is_ok() {
                    let command = self.command(&format!("install {name} latest"));
                    eprintln!("    `{command}` installs the one of the built-in repository");
                }
                Ok(code)
            }
        }
    }

    fn install_missing(&self) -> CommandResult {
        let fetch = self.fetch()?;
        let locked = LockedProject::open(self.directory)?;
        let mut code = ExitCode::SUCCESS;
        for runtime in locked.runtimes()? {
            if runtime.unusable.is_some()
                && self.install_listed(&locked, &runtime, &fetch)? != ExitCode::SUCCESS
            {
                code = ExitCode::FAILURE;
            }
        }
        Ok(code)
    }

    fn check(&self, as_json: bool) -> CommandResult {
        let listed = wws_project::runtimes(self.directory)?;
        if as_json {
            let all = listed.iter().map(|runtime| {
                let mut value = as_value(runtime, Here::of_listed(runtime));
                value["problem"] = json!(runtime.unusable);
                value
            });
            println!("{}", json!({ "runtimes": all.collect::<Vec<_>>() }));
            let are_installed = listed.iter().all(|runtime| runtime.unusable.is_none());
            return Ok(ExitCode::from(u8::from(!are_installed)));
        }
        if listed.is_empty() {
            println!("no runtime is listed in .wws.toml");
        }
        let mut code = ExitCode::SUCCESS;
        for Runtime {
            name,
            version,
            unusable,
            ..
        } in &listed
        {
            match unusable {
                None => println!("{name} {version}: installed"),
                Some(why) => {
                    let command = self.command(&format!("install {name} {version}"));
                    println!("{name} {version}: not installed: {why}\n    `{command}`");
                    code = ExitCode::FAILURE;
                }
            }
        }
        Ok(code)
    }

    fn uninstall(&self, name: &str, version: &str) -> CommandResult {
        let locked = LockedProject::open(self.directory)?;
        let listed = locked.runtimes()?;
        let is_tagged = |runtime: &&Runtime| {
            runtime.name == name && runtime.tags.iter().any(|tag| tag == version)
        };
        let mut gone: Vec<&Runtime> = listed
            .iter()
            .filter(|runtime| is_called(runtime, name, version))
            .collect();
        if gone.is_empty() {
            gone.extend(listed.iter().find(is_tagged));
        }
        if gone.is_empty() {
            eprintln!(
                "wws: {name} {version} is not listed in .wws.toml; `{}`",
                self.command("check")
            );
            return Ok(ExitCode::FAILURE);
        }
        for runtime in gone {
            locked.remove(runtime)?;
            println!("{} {}: removed", runtime.name, runtime.version);
        }
        Ok(ExitCode::SUCCESS)
    }

    /// A command for this project, as the user types it.
    fn command(&self, rest: &str) -> String {
        if self.directory == Path::new(".") {
            format!("wws runtimes {rest}")
        } else {
            format!("wws runtimes --path {} {rest}", self.directory.display())
        }
    }
}

fn repository(from: &RepositoryArgs, fetch: &Fetch<'_>) -> Result<Repository, Error> {
    match from.location() {
        Some(location) => Repository::open(location, from.name(), fetch),
        None => Repository::built_in(),
    }
}

fn is_called(runtime: &Runtime, name: &str, version: &str) -> bool {
    runtime.name == name && runtime.version == version
}

fn said(runtime: &Runtime, done: InstallOutcome) {
    let what = match done {
        InstallOutcome::Now => "installed",
        InstallOutcome::Before => "is installed",
    };
    println!(
        "{} {}: {what} in {}",
        runtime.name,
        runtime.version,
        runtime.directory().display()
    );
}
