//! The command line.

mod git;
mod image;
mod kv;
#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    net::IpAddr,
    path::{Path, PathBuf},
};

use clap::{CommandFactory, Parser, Subcommand, error::ErrorKind};
use wws_project::{AdminAddress, Origins, PanelAccess};

pub(crate) use git::{Git, Revision};
pub(crate) use image::{Build, Run};
pub(crate) use kv::{KeyValue, KeyValueCommand};

/// Serves a directory of WebAssembly workers over HTTP.
#[derive(Debug, Parser)]
#[command(name = "wws", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: Serve,
    #[command(flatten)]
    pub(crate) git: Git,
}

impl Args {
    /// Parses the arguments of this process. Exits if they are invalid, or after `--help`.
    pub(crate) fn of_process() -> Self {
        Self::parse_from(command_first(std::env::args_os()))
    }
}

/// Arguments in the order of this version: `wws PROJECT runtimes ...` of Wasm Workers Server 1.x is
/// `wws runtimes --path PROJECT ...`.
fn command_first(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<_> = words.into_iter().collect();
    if let [_, project, command, ..] = words.as_slice()
        && command == "runtimes"
        && !project.to_string_lossy().starts_with('-')
        && Args::command().find_subcommand(project).is_none()
        && project != "help"
    {
        words.swap(1, 2);
        words.insert(2, "--path".into());
    }
    words
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a project with a worker to start from
    New(New),
    /// Serve a project while it is written: with the panel, and again after each change
    Dev(Dev),
    /// Load and compile a project; print its routes, or all its problems
    Check(Listing),
    /// Print the routes of a project
    Routes(Listing),
    /// Pack a project as an image, without Docker
    Build(Build),
    /// Serve an image, without a container
    Run(Run),
    /// Have the project's running server load the project again, and print what has changed or all
    /// problems
    Reload(Reload),
    /// Read and change the entries of a key/value store, also while a server uses it
    Kv(KeyValue),
    /// Check the project's running server; succeeds if it answers without a server error
    Health(Health),
    /// Compile ahead of time what a project's containers will need
    Precompile(Precompile),
    /// Compile one module from standard input to standard output, in a confined process
    #[command(hide = true)]
    Compile(Compile),
    /// Print all settings as Markdown
    Settings,
    /// Print the JSON Schema of `.wws.toml`, or of a worker's TOML
    Schema {
        /// Which file the schema is of
        #[arg(value_enum, default_value_t)]
        of: SchemaOf,
    },
    /// Serve as the init process of a container
    #[command(hide = true)]
    ServeContainer(Container),
    /// List, install, check and uninstall language runtimes of a project
    Runtimes(Runtimes),
    /// Copy the shim to where containerd finds it, and print what to configure
    Install(Install),
    /// Check whether this machine can run containers of workers, and print what to do
    Doctor(Doctor),
    /// Print the completions of a shell
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: CompletionShell,
    },
    /// Print the manual page of `wws` or of one of its commands
    Man(Man),
}

/// How the host is checked.
#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    /// Print the findings as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where the shim is installed.
#[derive(Debug, clap::Args)]
pub(crate) struct Install {
    /// The directory to copy it to
    #[arg(long, value_name = "DIRECTORY", default_value = "/usr/local/bin")]
    pub(crate) to: PathBuf,
    /// The shim [default: the file containerd-shim-wws-v1 beside this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) shim: Option<PathBuf>,
    /// The directory as the node names it, where that is mounted elsewhere [default: that of --to]
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) node_directory: Option<PathBuf>,
    /// Wait for SIGTERM when it is done, as in a DaemonSet
    #[arg(long)]
    pub(crate) stay: bool,
    /// Remove the shim instead
    #[arg(long)]
    pub(crate) remove: bool,
}

/// A shell with completions.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum CompletionShell {
    Bash,
    Zsh,
    Fish,
}

/// Which manual page.
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// The command, as `build`; without it, the page of `wws`
    pub(crate) command: Option<String>,
    /// Write all pages into this directory instead
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "command")]
    pub(crate) directory: Option<PathBuf>,
}

/// A project to create.
#[derive(Debug, clap::Args)]
pub(crate) struct New {
    /// The language of its worker
    #[arg(value_enum, value_name = "LANGUAGE")]
    pub(crate) language: Language,
    /// The directory to create
    #[arg(value_name = "DIRECTORY")]
    pub(crate) path: PathBuf,
}

/// A language of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Language {
    #[value(alias = "js")]
    Javascript,
    Python,
    Ruby,
    Rust,
    Go,
    C,
    #[value(alias = "c++")]
    Cpp,
    Zig,
    /// A component for `wasi:http`, in Rust
    Component,
}

/// What a JSON Schema is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SchemaOf {
    /// `.wws.toml`
    #[default]
    Project,
    /// A worker's TOML
    Worker,
}

/// A project and how it is loaded.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ProjectArgs {
    /// The project: a directory with workers, or one worker
    #[arg(default_value = ".")]
    pub(crate) path: PathBuf,
    /// Prefix of every route and asset, as `/api`
    #[arg(long)]
    pub(crate) prefix: Option<String>,
    /// Glob of files and directories to ignore; may be given several times
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    pub(crate) ignore: Vec<String>,
}

/// A project for commands next to a running server: in a container, the shim sets the directory
/// that is served and the arguments after the entry point. The server itself does not read these
/// variables.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RunningProject {
    /// The project's directory
    #[arg(default_value = ".", env = "WWS_FOLDER", hide_env = true)]
    path: PathBuf,
    /// Prefix of every route and asset, as `/api`
    #[arg(long)]
    prefix: Option<String>,
    /// Glob of files and directories to ignore; may be given several times
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    ignore: Vec<String>,
}

/// A project that is listed.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Listing {
    #[command(flatten)]
    pub(crate) project: RunningProject,
    /// Print routes and problems as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A project whose server loads it again.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Reload {
    #[command(flatten)]
    pub(crate) project: RunningProject,
    /// Print what has changed, or all problems, as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The arguments after the entry point of the container that this command runs in: a JSON array,
/// set by the shim.
const GIVEN: &str = "WWS_ARGUMENTS";

impl RunningProject {
    /// The project, and the address in its server's arguments.
    pub(crate) fn resolve(self) -> (ProjectArgs, Option<IpAddr>, Option<u16>) {
        let given = std::env::var(GIVEN).unwrap_or_default();
        self.resolve_with(&given)
    }

    fn resolve_with(self, given: &str) -> (ProjectArgs, Option<IpAddr>, Option<u16>) {
        // Invalid arguments were reported by the server, which has not started.
        let given = serde_json::from_str::<Vec<String>>(given)
            .ok()
            .and_then(|words| AfterEntrypoint::try_parse_from(words).ok())
            .unwrap_or_default();
        let ignore = if self.ignore.is_empty() {
            given.ignore
        } else {
            self.ignore
        };
        let project = ProjectArgs {
            path: self.path,
            prefix: self.prefix.or(given.prefix),
            ignore,
        };
        (project, given.host, given.port)
    }
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Health {
    #[command(flatten)]
    pub(crate) project: RunningProject,
    /// The path to request; any status below 500 is healthy
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub(crate) request: String,
    /// Seconds until the check fails
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 2,
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    pub(crate) timeout: u64,
    /// Repeat the check until it succeeds, for this many seconds at most [default: 60]
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "60",
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    pub(crate) wait: Option<u64>,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Precompile {
    /// The project's directory
    pub(crate) path: PathBuf,
    /// The worker in it that is the whole project, as `wws DIRECTORY/FILE` serves it
    #[arg(long)]
    pub(crate) file: Option<PathBuf>,
    /// The code cache; no other user may write to it
    #[arg(long, default_value = "/var/lib/wws/code")]
    pub(crate) store: PathBuf,
    /// Bytes of the code cache; the least recently used entries are removed first
    #[arg(long, value_name = "BYTES", default_value_t = 2 << 30)]
    pub(crate) max: u64,
    /// Directory on the cache's file system that gets a link to each entry that the project needs
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) links: Option<PathBuf>,
    /// The directory is the root of a container
    #[arg(long)]
    pub(crate) container: bool,
    /// Wait for the modules of other projects that are being compiled, 10 minutes at most
    #[arg(long)]
    pub(crate) patient: bool,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Compile {
    /// Compile an interpreter, whose state can be exported
    #[arg(long)]
    pub(crate) interpreter: bool,
    /// The process that waits for the result; without it, this process exits
    #[arg(long, value_name = "PID")]
    pub(crate) parent: Option<u32>,
    /// CPU time of the compilation
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) cpu_time: u64,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) project: ProjectArgs,
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, value_parser = host)]
    pub(crate) host: Option<IpAddr>,
    /// Port to listen on; 0 takes a free one [default: 8080]
    #[arg(short, long)]
    pub(crate) port: Option<u16>,
    /// Address for metrics, health checks and the panel, as 127.0.0.1:9090 or unix:/PATH
    #[arg(long, value_name = "ADDRESS", value_parser = admin)]
    pub(crate) admin: Option<AdminAddress>,
    /// Origins whose pages may read responses, as `https://app.example`, or * for all; may be given
    /// several times
    #[arg(long, value_name = "ORIGINS", value_parser = origins)]
    pub(crate) cors: Vec<Origins>,
    /// Serve the panel at /_panel/ of the workers' port as well: to clients on this machine
    /// (loopback), or to any
    #[arg(
        long,
        value_name = "CLIENTS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "loopback",
        value_parser = panel
    )]
    pub(crate) enable_panel: Option<PanelAccess>,
    /// Load the project again when one of its files has changed
    #[arg(long)]
    pub(crate) watch: bool,
    /// First install missing runtimes that `.wws.toml` lists
    #[arg(short, long)]
    pub(crate) install_runtimes: bool,
    /// Bytes of memory that the container may use
    #[arg(long, hide = true)]
    pub(crate) memory: Option<u64>,
    /// For a developer who watches: `wws dev`.
    #[arg(skip)]
    pub(crate) dev: bool,
}

/// A project that is being written.
#[derive(Debug, clap::Args)]
pub(crate) struct Dev {
    #[command(flatten)]
    serve: Serve,
}

impl Dev {
    /// The arguments of its server.
    pub(crate) fn into_serve(self) -> Serve {
        let panel = self.serve.enable_panel.unwrap_or(PanelAccess::Loopback);
        Serve {
            watch: true,
            enable_panel: Some(panel),
            dev: true,
            ..self.serve
        }
    }
}

/// Arguments from the shim. Arguments of the image come after `--`, so that they cannot be options
/// of the shim.
#[derive(Debug, clap::Args)]
pub(crate) struct Container {
    /// Bytes of memory that the container may use
    #[arg(long)]
    memory: Option<u64>,
    /// The project's directory, and the arguments after the entry point
    words: Vec<OsString>,
}

/// Arguments that an image or its user may give after the entry point of a container of workers.
#[derive(Debug, Default, Parser)]
#[command(
    name = "wws",
    no_binary_name = true,
    disable_help_flag = true,
    override_usage = "ENTRYPOINT [--host IP] [--port PORT] [--prefix PREFIX] [--ignore GLOB]... \
        [--admin ADDRESS]"
)]
pub(crate) struct AfterEntrypoint {
    /// The entry point again, as images and their users give it
    again: Option<PathBuf>,
    #[arg(long)]
    prefix: Option<String>,
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    ignore: Vec<String>,
    #[arg(long, value_parser = host)]
    host: Option<IpAddr>,
    #[arg(short, long)]
    port: Option<u16>,
    #[arg(long, value_name = "ADDRESS", value_parser = admin)]
    admin: Option<AdminAddress>,
}

impl AfterEntrypoint {
    /// Parses the arguments after the entry point of a container that serves `directory`.
    ///
    /// # Errors
    /// An argument is unknown, or another directory is named.
    fn parse_for(
        directory: &Path,
        words: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, clap::Error> {
        let parsed = Self::try_parse_from(words)?;
        if let Some(again) = &parsed.again
            && !is_same_directory(directory, again)
        {
            let message = format!(
                "unexpected argument '{}': the container serves its entry point {}, and one \
                 container serves one directory",
                again.display(),
                directory.display()
            );
            return Err(Self::command().error(ErrorKind::UnknownArgument, message));
        }
        Ok(parsed)
    }
}

fn is_same_directory(one: &Path, other: &Path) -> bool {
    let is_same = |real: PathBuf| other.canonicalize().is_ok_and(|other| other == real);
    one == other || one.canonicalize().is_ok_and(is_same)
}

impl Container {
    /// Arguments for serving the container.
    ///
    /// # Errors
    /// As for [`AfterEntrypoint::parse_for`].
    pub(crate) fn into_serve(self) -> Result<Serve, clap::Error> {
        let mut words = self.words.into_iter();
        let path = words
            .next()
            .map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let given = AfterEntrypoint::parse_for(&path, words)?;
        Ok(Serve {
            project: ProjectArgs {
                path,
                prefix: given.prefix,
                ignore: given.ignore,
            },
            host: given.host,
            port: given.port,
            admin: given.admin,
            cors: Vec::new(),
            enable_panel: None,
            watch: false,
            install_runtimes: false,
            memory: self.memory,
            dev: false,
        })
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Runtimes {
    #[command(subcommand)]
    pub(crate) command: RuntimesCommand,
    #[command(flatten)]
    pub(crate) from: RepositoryArgs,
    /// The project's directory
    #[arg(long, value_name = "DIRECTORY", default_value = ".", global = true)]
    pub(crate) path: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RuntimesCommand {
    /// Print the runtimes of a repository, and which are installed
    List {
        /// Print them as JSON
        #[arg(long)]
        json: bool,
    },
    /// Install a runtime and list it in `.wws.toml`; without a name, install all missing ones that
    /// are listed there
    Install {
        /// The name, as `python`
        name: Option<String>,
        /// A version or a tag
        #[arg(default_value = "latest")]
        version: String,
    },
    /// Print whether each listed runtime is installed; fails if one is not
    Check {
        /// Print them as JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a runtime, and its entry in `.wws.toml`
    Uninstall {
        /// The name, as `python`
        name: String,
        /// A version or a tag
        version: String,
    },
}

/// A repository of runtimes.
#[derive(Debug, clap::Args)]
pub(crate) struct RepositoryArgs {
    /// Another repository than the built-in one: a directory with `index.toml`, or the URL of such
    /// a file
    #[arg(long, value_name = "URL", env = "WWS_REPO_URL", global = true)]
    repo_url: Option<String>,
    /// Its name in `.wws.toml` [default: that of its host or directory]
    #[arg(long, value_name = "NAME", env = "WWS_REPO_NAME", global = true)]
    repo_name: Option<String>,
}

impl RepositoryArgs {
    /// Where it is; `None` for the built-in one.
    pub(crate) fn location(&self) -> Option<&str> {
        self.repo_url.as_deref().filter(|text| !text.is_empty())
    }

    /// Its name.
    pub(crate) fn name(&self) -> Option<&str> {
        self.repo_name.as_deref().filter(|text| !text.is_empty())
    }
}

fn admin(text: &str) -> Result<AdminAddress, String> {
    AdminAddress::new(text).ok_or_else(|| format!("expected {}", AdminAddress::expected()))
}

fn origins(text: &str) -> Result<Origins, String> {
    Origins::new(text).ok_or_else(|| format!("expected {}", Origins::expected()))
}

fn panel(text: &str) -> Result<PanelAccess, String> {
    PanelAccess::new(text).ok_or_else(|| "expected off, loopback or any".into())
}

fn host(text: &str) -> Result<IpAddr, String> {
    match text {
        "localhost" => Ok(IpAddr::from([127, 0, 0, 1])),
        _ => text
            .trim_matches(['[', ']'])
            .parse()
            .map_err(|_| "expected an IP address, as 0.0.0.0".into()),
    }
}
