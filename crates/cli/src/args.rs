//! The command line.

use std::{
    ffi::OsString,
    net::IpAddr,
    path::{Path, PathBuf},
};

use clap::{CommandFactory, Parser, Subcommand, error::ErrorKind};

/// Serves a folder of WebAssembly workers over HTTP.
#[derive(Debug, Parser)]
#[command(name = "wws", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: Serve,
    #[command(flatten)]
    pub(crate) old: Old,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Load and compile a project; print its routes, or everything that is wrong with it
    Check(Named),
    /// Print the routes of a project
    Routes(Named),
    /// Ask the project's server that runs here; succeeds if it answers without an error of its own
    Health(Health),
    /// Compile ahead what a project's containers will need
    Precompile(Precompile),
    /// Compile one module: from standard input to standard output, with nothing to lose
    #[command(hide = true)]
    Compile(Compile),
    /// Print all settings as Markdown
    Settings,
    /// Serve as the first process of a container
    #[command(hide = true)]
    ServeContainer(Container),
    /// List, install, check and uninstall language runtimes of a project
    Runtimes(Runtimes),
}

/// A folder and how it is loaded.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Folder {
    /// The project's folder
    #[arg(default_value = ".")]
    pub(crate) path: PathBuf,
    /// Goes before every route and asset, as `/api`
    #[arg(long)]
    pub(crate) prefix: Option<String>,
    /// Glob of files and folders to leave out; may be given several times
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    pub(crate) ignore: Vec<String>,
}

/// The same for commands beside a server that runs: in a container the shim names the directory that is served, and what was given
/// after the entry point. The server itself does not look at these variables.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Named {
    /// The project's folder
    #[arg(default_value = ".", env = "WWS_FOLDER", hide_env = true)]
    path: PathBuf,
    /// Goes before every route and asset, as `/api`
    #[arg(long)]
    prefix: Option<String>,
    /// Glob of files and folders to leave out; may be given several times
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    ignore: Vec<String>,
}

/// What was given after the entry point of the container in which this command runs: a JSON array, from the shim.
const GIVEN: &str = "WWS_ARGUMENTS";

impl Named {
    /// The project, and the address that its server was told by arguments.
    pub(crate) fn resolve(self) -> (Folder, Option<IpAddr>, Option<u16>) {
        let given = std::env::var(GIVEN).unwrap_or_default();
        self.resolve_with(&given)
    }

    fn resolve_with(self, given: &str) -> (Folder, Option<IpAddr>, Option<u16>) {
        // The server has reported what is wrong with them, and has not started.
        let given = serde_json::from_str::<Vec<String>>(given)
            .ok()
            .and_then(|words| AfterEntrypoint::try_parse_from(words).ok())
            .unwrap_or_default();
        let ignore = if self.ignore.is_empty() {
            given.ignore
        } else {
            self.ignore
        };
        let folder = Folder {
            path: self.path,
            prefix: self.prefix.or(given.prefix),
            ignore,
        };
        (folder, given.host, given.port)
    }
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Health {
    #[command(flatten)]
    pub(crate) folder: Named,
    /// What is asked for; any status below 500 is a good answer
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub(crate) request: String,
    /// Seconds that the answer may take
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) timeout: u64,
    /// Ask again until there is a good answer, for so many seconds at most [default: 60]
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "60",
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    pub(crate) wait: Option<u64>,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Precompile {
    /// The project's folder: of an image's root file system, or on this machine
    pub(crate) path: PathBuf,
    /// Where compiled code is kept; nobody else may write there
    #[arg(long, default_value = "/var/lib/wws/code")]
    pub(crate) store: PathBuf,
    /// Bytes of the store; what was not used for longest goes first
    #[arg(long, value_name = "BYTES", default_value_t = 2 << 30)]
    pub(crate) max: u64,
    /// Folder on the store's file system that gets a link to each entry that the project needs
    #[arg(long, value_name = "FOLDER")]
    pub(crate) links: Option<PathBuf>,
    /// The folder is the root of a container
    #[arg(long)]
    pub(crate) container: bool,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Compile {
    /// As an interpreter whose state can be kept
    #[arg(long)]
    pub(crate) interpreter: bool,
    /// The process that waits for it: without that it ends
    #[arg(long, value_name = "PID")]
    pub(crate) parent: Option<u32>,
    /// CPU time that it may take
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) cpu_time: u64,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) folder: Folder,
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, value_parser = host)]
    pub(crate) host: Option<IpAddr>,
    /// Port to listen on; 0 takes a free one [default: 8080]
    #[arg(short, long)]
    pub(crate) port: Option<u16>,
    /// First install the runtimes that `.wws.toml` lists and which are missing
    #[arg(short, long)]
    pub(crate) install_runtimes: bool,
    /// Bytes of memory that the container may use
    #[arg(long, hide = true)]
    pub(crate) memory: Option<u64>,
}

/// What the shim says. What the image says comes after `--`, so that it is none of the shim's options.
#[derive(Debug, clap::Args)]
pub(crate) struct Container {
    /// Bytes of memory that the container may use
    #[arg(long)]
    memory: Option<u64>,
    /// The project's directory, and what the image or its user gives after the entry point
    words: Vec<OsString>,
}

/// What an image or its user may give after the entry point of a container of workers.
#[derive(Debug, Default, Parser)]
#[command(
    name = "wws",
    no_binary_name = true,
    disable_help_flag = true,
    override_usage = "ENTRYPOINT [--host IP] [--port PORT] [--prefix PREFIX] [--ignore GLOB]..."
)]
pub(crate) struct AfterEntrypoint {
    /// The entry point once more, as images and their users give it
    again: Option<PathBuf>,
    #[arg(long)]
    prefix: Option<String>,
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    ignore: Vec<String>,
    #[arg(long, value_parser = host)]
    host: Option<IpAddr>,
    #[arg(short, long)]
    port: Option<u16>,
}

impl AfterEntrypoint {
    /// Reads what is given after the entry point of a container that serves `directory`.
    ///
    /// # Errors
    /// There is no such argument, or another directory is named.
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
    one == other
        || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

impl Container {
    /// How the container is served.
    ///
    /// # Errors
    /// As of [`AfterEntrypoint::parse_for`].
    pub(crate) fn into_serve(self) -> Result<Serve, clap::Error> {
        let mut words = self.words.into_iter();
        let path = words
            .next()
            .map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let given = AfterEntrypoint::parse_for(&path, words)?;
        Ok(Serve {
            folder: Folder {
                path,
                prefix: given.prefix,
                ignore: given.ignore,
            },
            host: given.host,
            port: given.port,
            install_runtimes: false,
            memory: self.memory,
        })
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Runtimes {
    #[command(subcommand)]
    pub(crate) command: RuntimesCommand,
    /// The project's folder
    #[arg(long, value_name = "FOLDER", default_value = ".", global = true)]
    pub(crate) path: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RuntimesCommand {
    /// Print the runtimes that a repository has, and which are here
    List(From),
    /// Install a runtime and list it in `.wws.toml`; without a name, install all that is listed there and missing
    Install {
        /// As `python`
        name: Option<String>,
        /// A version or a tag
        #[arg(default_value = "latest")]
        version: String,
        #[command(flatten)]
        from: From,
    },
    /// Say of each listed runtime whether it is installed; fails if one is not
    Check,
    /// Remove a runtime, and its entry in `.wws.toml`
    Uninstall {
        /// As `python`
        name: String,
        /// A version or a tag
        version: String,
    },
}

/// A repository of runtimes.
#[derive(Debug, clap::Args)]
pub(crate) struct From {
    /// Another repository than the built-in one: a folder with `index.toml`, or the URL of such a file
    #[arg(long, value_name = "URL", env = "WWS_REPO_URL")]
    repo_url: Option<String>,
    /// What it is called in `.wws.toml` [default: as its host or folder]
    #[arg(long, value_name = "NAME", env = "WWS_REPO_NAME")]
    repo_name: Option<String>,
}

impl From {
    /// Where it is; `None` for the built-in one.
    pub(crate) fn location(&self) -> Option<&str> {
        self.repo_url.as_deref().filter(|text| !text.is_empty())
    }

    /// What it is called.
    pub(crate) fn name(&self) -> Option<&str> {
        self.repo_name.as_deref().filter(|text| !text.is_empty())
    }
}

/// What Wasm Workers Server 1.x had, and this does not have yet.
#[derive(Debug, clap::Args)]
pub(crate) struct Old {
    #[arg(long, hide = true)]
    enable_panel: bool,
    #[arg(long, hide = true)]
    cors: Vec<String>,
    #[arg(long, hide = true)]
    git_commit: Option<String>,
    #[arg(long, hide = true)]
    git_tag: Option<String>,
    #[arg(long, hide = true)]
    git_branch: Option<String>,
    #[arg(long, hide = true)]
    git_folder: Option<String>,
}

impl Old {
    /// What to say of an old way that does not work.
    pub(crate) fn message(&self, path: &std::path::Path) -> Option<String> {
        let git = [
            &self.git_commit,
            &self.git_tag,
            &self.git_branch,
            &self.git_folder,
        ];
        let text = path.to_string_lossy();
        if self.enable_panel {
            Some("`--enable-panel` is not in this version; `wws routes` prints the workers".into())
        } else if !self.cors.is_empty() {
            Some(
                "`--cors` is not in this version: let workers answer OPTIONS and set the headers"
                    .into(),
            )
        } else if git.iter().any(|flag| flag.is_some())
            || ["https://", "http://", "git@", "ssh://"]
                .iter()
                .any(|start| text.starts_with(start))
        {
            Some("projects from git are not in this version: clone it, and give its folder".into())
        } else {
            None
        }
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::Path;

    fn parse(args: &[&str]) -> Args {
        Args::try_parse_from(std::iter::once("wws").chain(args.iter().copied())).unwrap()
    }

    #[test]
    fn a_folder_is_served_without_a_command() {
        let args = parse(&[
            "-p",
            "81",
            "--host",
            "localhost",
            "--ignore",
            "a,b",
            "--ignore",
            "c",
            "site",
        ]);
        assert!(args.command.is_none());
        assert_eq!(args.serve.folder.path, Path::new("site"));
        assert_eq!(args.serve.folder.ignore, ["a", "b", "c"]);
        assert_eq!(
            (args.serve.port, args.serve.host),
            (Some(81), Some([127, 0, 0, 1].into()))
        );
        assert_eq!(parse(&[]).serve.folder.path, Path::new("."));
    }

    #[test]
    fn commands_have_their_folder() {
        let Some(Command::Check(named)) = parse(&["check", "site", "--prefix", "/x"]).command
        else {
            unreachable!()
        };
        let (folder, ..) = named.resolve_with("");
        assert_eq!(
            (folder.path.as_path(), folder.prefix.as_deref()),
            (Path::new("site"), Some("/x"))
        );
        assert_eq!(container(&[]).unwrap().folder.path, Path::new("/"));
    }

    fn container(args: &[&str]) -> Result<Serve, clap::Error> {
        let Some(Command::ServeContainer(container)) =
            parse(&[&["serve-container"], args].concat()).command
        else {
            unreachable!()
        };
        container.into_serve()
    }

    #[test]
    fn takes_arguments_after_the_entry_point() {
        let args = [
            "--memory",
            "5",
            "--",
            "/",
            "--port",
            "81",
            "--host=::1",
            "--prefix",
            "/v1",
            "--ignore",
            "a,b",
        ];
        let serve = container(&args).unwrap();
        assert_eq!(serve.folder.path, Path::new("/"));
        assert_eq!(serve.folder.prefix.as_deref(), Some("/v1"));
        assert_eq!(serve.folder.ignore, ["a", "b"]);
        assert_eq!((serve.port, serve.memory), (Some(81), Some(5)));
        assert_eq!(serve.host, Some(std::net::Ipv6Addr::LOCALHOST.into()));
    }

    #[test]
    fn takes_the_entry_point_twice() {
        for args in [
            ["--", "/", "/"],
            ["--", "/", "//"],
            ["--", "/proc", "/proc/."],
        ] {
            let serve = container(&args).unwrap();
            assert_eq!(serve.folder.path, Path::new(args[1]));
        }
        let error = container(&["--", "/", "/proc"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("'/proc'"), "{error}");
    }

    #[test]
    fn rejects_other_arguments_without_naming_hidden_ones() {
        for word in [
            "--code=/x",
            "--memory=1",
            "--nope",
            "-x",
            "--install-runtimes",
        ] {
            let text = container(&["--", "/", word]).unwrap_err().to_string();
            assert!(text.contains("unexpected argument"), "{text}");
            assert!(text.contains("ENTRYPOINT [--host"), "{text}");
            for hidden in ["serve-container", "<CODE>", "[WORDS]"] {
                assert!(!text.contains(hidden), "{word}: {text}");
            }
        }
    }

    #[test]
    fn commands_in_a_container_know_its_arguments() {
        let named = |args: &[&str]| match parse(args).command {
            Some(Command::Routes(named)) => named,
            _ => unreachable!(),
        };
        let given = r#"["/", "--port", "81", "--prefix", "/a", "--ignore", "x"]"#;
        let (folder, host, port) = named(&["routes"]).resolve_with(given);
        assert_eq!((host, port), (None, Some(81)));
        assert_eq!(
            (folder.prefix.as_deref(), &folder.ignore[..]),
            (Some("/a"), &["x".to_owned()][..])
        );
        let (folder, ..) = named(&["routes", "--prefix", "/b"]).resolve_with(given);
        assert_eq!(folder.prefix.as_deref(), Some("/b"));
        let (folder, ..) = named(&["routes"]).resolve_with("no JSON");
        assert_eq!(folder.prefix, None);
    }

    #[test]
    fn waiting_for_health_takes_its_seconds_or_none() {
        let wait = |args: &[&str]| match parse(args).command {
            Some(Command::Health(health)) => (health.wait, health.folder.path),
            _ => unreachable!(),
        };
        assert_eq!(wait(&["health"]).0, None);
        assert_eq!(wait(&["health", "--wait=5"]).0, Some(5));
        let (seconds, path) = wait(&["health", "--wait", "site"]);
        assert_eq!((seconds, path.as_path()), (Some(60), Path::new("site")));
    }

    #[test]
    fn an_options_value_is_no_folder() {
        let Some(Command::Health(health)) = parse(&["health", "--request", "/x"]).command else {
            unreachable!()
        };
        assert_eq!(health.request, "/x");
        assert_eq!(health.folder.path, Path::new("."));
    }

    #[test]
    fn runtimes_have_their_place_and_their_repository() {
        let runtimes = |args: &[&str]| match parse(args).command {
            Some(Command::Runtimes(runtimes)) => runtimes,
            _ => unreachable!(),
        };
        let args = runtimes(&["runtimes", "install", "python", "--path", "site"]);
        assert_eq!(args.path, Path::new("site"));
        let RuntimesCommand::Install { name, version, .. } = args.command else {
            unreachable!()
        };
        assert_eq!(
            (name.as_deref(), version.as_str()),
            (Some("python"), "latest")
        );
        let args = runtimes(&["runtimes", "list", "--repo-url", "../r", "--repo-name", "r"]);
        let RuntimesCommand::List(from) = args.command else {
            unreachable!()
        };
        assert_eq!((from.location(), from.name()), (Some("../r"), Some("r")));
        assert!(parse(&["-i", "site"]).serve.install_runtimes);
    }

    #[test]
    fn old_ways_are_explained() {
        for (args, says) in [
            (vec!["--cors", "*", "."], "--cors"),
            (vec!["--enable-panel"], "panel"),
            (vec!["--git-branch", "main", "x"], "git"),
            (vec!["https://git.example/x.git"], "git"),
        ] {
            let args = parse(&args);
            assert!(
                args.old
                    .message(&args.serve.folder.path)
                    .unwrap()
                    .contains(says),
                "{says}"
            );
        }
        assert_eq!(parse(&["."]).old.message(Path::new(".")), None);
    }
}
