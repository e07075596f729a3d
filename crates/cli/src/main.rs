//! `wws`: serves a directory of workers, on a developer's machine and as the init process of a
//! container.

mod args;
mod build;
mod check;
mod code;
mod colour;
mod command;
mod control;
mod credentials;
mod dev;
mod doctor;
mod environment;
mod git;
mod health;
mod install;
mod kv;
mod loader;
mod log;
mod manual;
mod memory;
mod new;
mod precompile;
mod progress;
mod project;
mod registry;
mod reload;
mod routes;
mod run;
mod runtimes;
mod sandbox;
mod schema;
mod scratch;
mod seccomp;
mod serve;
mod settings;
mod signals;
mod table;
mod threads;
mod watch;

use std::process::ExitCode;

use args::{Args, Command, SchemaOf};
use project::ServerLocation;

/// `EX_CONFIG` of `sysexits.h`: the project does not load.
const EXIT_CONFIG: u8 = 78;

/// `EX_USAGE`.
const EXIT_USAGE: u8 = 64;

/// `EX_DATAERR`: input is not what it should be.
const EXIT_DATA: u8 = 65;

/// `EX_CANTCREAT`: a file cannot be created.
const EXIT_CANNOT_CREATE: u8 = 73;

/// `EX_OSERR`: the OS gives this process too few resources.
const EXIT_OS: u8 = 71;

fn main() -> ExitCode {
    memory::share_c_heap();
    memory::return_at_once();
    let args = Args::of_process();
    match args.command {
        None => {
            let path = args.serve.project.path.clone();
            match git::url(&path) {
                Some(url) => git::serve(url, &args.git, args.serve),
                None if args.git.is_given() => {
                    eprintln!(
                        "wws: `--git-*` and `--env` are for the URL of a repository, and {} is \
                         none",
                        path.display()
                    );
                    ExitCode::from(EXIT_USAGE)
                }
                None => serve::serve(args.serve, ServerLocation::Machine),
            }
        }
        Some(Command::New(args)) => new::new(&args),
        Some(Command::Dev(args)) => serve::serve(args.into_serve(), ServerLocation::Machine),
        Some(Command::Check(args)) => check::check(&args.project.resolve().0, args.json),
        Some(Command::Routes(args)) => check::routes(&args.project.resolve().0, args.json),
        Some(Command::Build(args)) => build::build(&args),
        Some(Command::Run(args)) => run::run(args),
        Some(Command::Reload(args)) => control::reload(args),
        Some(Command::Kv(args)) => kv::key_value(args),
        Some(Command::Health(args)) => health::health(&args),
        Some(Command::Settings) => {
            print!("{}", settings::markdown());
            ExitCode::SUCCESS
        }
        Some(Command::Schema { of }) => {
            let schema = match of {
                SchemaOf::Project => schema::project(),
                SchemaOf::Worker => schema::worker(),
            };
            print!("{}", schema::printed(&schema));
            ExitCode::SUCCESS
        }
        Some(Command::Precompile(args)) => precompile::precompile(&args),
        Some(Command::Compile(args)) => precompile::compile(&args),
        Some(Command::ServeContainer(container)) => match container.into_serve() {
            Ok(args) => serve::serve(args, ServerLocation::Container),
            Err(error) => error.exit(),
        },
        Some(Command::Runtimes(args)) if git::url(&args.path).is_some() => {
            eprintln!(
                "wws: runtimes are installed in a directory of this machine, and {} is the URL of \
                 a repository",
                args.path.display()
            );
            ExitCode::from(EXIT_USAGE)
        }
        Some(Command::Runtimes(args)) => runtimes::runtimes(&args),
        Some(Command::Install(args)) => install::install(&args),
        Some(Command::Doctor(args)) => doctor::doctor(&args),
        Some(Command::Completions { shell }) => manual::completions(shell),
        Some(Command::Man(args)) => manual::man(&args),
    }
}
