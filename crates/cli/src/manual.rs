//! `wws completions` and `wws man`: what other programs show of the command line. Both are made
//! from the table of arguments.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_complete::{Generator, Shell};

use crate::EXIT_CANNOT_CREATE;
use crate::args::{Args, CompletionShell, Man};

const NAME: &str = "wws";

/// Prints the completions of a shell.
pub(crate) fn completions(shell: CompletionShell) -> ExitCode {
    let shell = match shell {
        CompletionShell::Bash => Shell::Bash,
        CompletionShell::Zsh => Shell::Zsh,
        CompletionShell::Fish => Shell::Fish,
    };
    let mut command = shown(Args::command());
    command.set_bin_name(NAME);
    command.build();
    let mut text = Vec::new();
    match shell.try_generate(&command, &mut text) {
        Ok(()) => print(&text),
        Err(error) => failed(1, &error.to_string()),
    }
}

/// Prints a manual page, or writes all of them into a directory.
pub(crate) fn man(args: &Man) -> ExitCode {
    let command = shown(Args::command()).disable_help_subcommand(true);
    if let Some(directory) = &args.directory {
        return match write_all(command, directory) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let directory = directory.display();
                failed(EXIT_CANNOT_CREATE, &format!("{directory}: {error}"))
            }
        };
    }
    let page = match &args.command {
        None => Some(command),
        Some(name) => page_of(command, name),
    };
    let Some(page) = page else {
        let name = args.command.as_deref().unwrap_or_default();
        return failed(2, &format!("no command `{name}`: wws help lists them"));
    };
    let mut text = Vec::new();
    match clap_mangen::Man::new(page).render(&mut text) {
        Ok(()) => print(&text),
        Err(error) => failed(1, &error.to_string()),
    }
}

fn write_all(command: Command, directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(command, directory)
}

/// The page of a command: `build` calls it `wws-NAME`.
fn page_of(mut command: Command, name: &str) -> Option<Command> {
    command.build();
    command.find_subcommand(name).cloned()
}

/// The command without those that users do not call.
fn shown(command: Command) -> Command {
    let mut kept = Command::new(NAME).version(env!("CARGO_PKG_VERSION"));
    if let Some(about) = command.get_about() {
        kept = kept.about(about.clone());
    }
    kept.args(command.get_arguments().filter(|one| !one.is_hide_set()))
        .args_conflicts_with_subcommands(true)
        .subcommands(
            command
                .get_subcommands()
                .filter(|one| !one.is_hide_set())
                .cloned(),
        )
}

fn print(text: &[u8]) -> ExitCode {
    match io::stdout().lock().write_all(text) {
        // Who reads has enough: `wws man | head`.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => failed(1, &error.to_string()),
        _ => ExitCode::SUCCESS,
    }
}

fn failed(code: u8, error: &str) -> ExitCode {
    eprintln!("wws: {error}");
    ExitCode::from(code)
}
