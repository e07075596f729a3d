//! Arguments of `wws kv`.

use std::path::PathBuf;

/// The entries of a project's key/value store.
#[derive(Debug, clap::Args)]
pub(crate) struct KeyValue {
    #[command(subcommand)]
    pub(crate) command: KeyValueCommand,
    /// The project's directory
    #[arg(
        long,
        value_name = "DIRECTORY",
        default_value = ".",
        env = "WWS_FOLDER",
        hide_env = true,
        global = true
    )]
    pub(crate) path: PathBuf,
    /// The store's name in `.wws.toml` [default: the only one that lasts]
    #[arg(long, value_name = "NAME", global = true)]
    pub(crate) store: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum KeyValueCommand {
    /// Write a backup: a line of JSON for each entry
    Export {
        #[command(flatten)]
        filter: Filter,
        /// The file to write; it is replaced when the backup is complete [default: standard output]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Print the result as JSON
        #[arg(long, requires = "output")]
        json: bool,
    },
    /// Store the entries of a backup; other keys stay
    Import {
        /// The backup, or `-` for standard input; a file is checked before the first change
        #[arg(value_name = "FILE")]
        input: PathBuf,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the value of a key; fails if there is none
    Get {
        /// The namespace
        namespace: String,
        /// The key
        key: String,
        /// Print the entry as JSON, as in a backup
        #[arg(long)]
        json: bool,
    },
    /// Set the value of a key
    Set {
        /// The namespace
        namespace: String,
        /// The key
        key: String,
        /// The value, or `-` for standard input
        #[arg(allow_hyphen_values = true)]
        value: String,
        /// Remove the key after this time
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
        ttl: Option<u64>,
    },
    /// Remove a key; fails if there is none
    Delete {
        /// The namespace
        namespace: String,
        /// The key
        key: String,
    },
    /// Print the namespaces, or the keys of one
    List {
        /// The namespace
        namespace: Option<String>,
        /// Only keys that begin with this text
        #[arg(long, value_name = "TEXT", requires = "namespace")]
        prefix: Option<String>,
        /// Print an object with the size and the time of removal for each key
        #[arg(long)]
        json: bool,
    },
}

/// Which entries.
#[derive(Debug, clap::Args)]
pub(crate) struct Filter {
    /// Only entries of this namespace
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Only keys that begin with this text
    #[arg(long, value_name = "TEXT")]
    pub(crate) prefix: Option<String>,
}
