//! `wws kv`: reads and changes the entries of a project's key/value store, also while servers use
//! it.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;
use wws_kv::{
    BackupError, BackupReader, BackupWriter, ContentsError, EntryFilter, StoreContents,
    StoreLimits, StoredEntry,
};
use wws_project::{Problems, StoreDefinition, StorePlace};
use wws_server::{NotReadable, store_contents};

use crate::args::{KeyValue, KeyValueCommand};
use crate::{EXIT_CANNOT_CREATE, EXIT_CONFIG, EXIT_DATA, environment};

/// The most entries that an import stores together.
const BATCH_ENTRIES: usize = 256;

/// The most bytes that an import stores together, unless one entry is larger.
const BATCH_BYTES: usize = 1 << 20;

/// Runs the command.
pub(crate) fn key_value(args: KeyValue) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Project(#[source] Problems),
    #[error(transparent)]
    WhichStore(#[from] WhichStoreError),
    #[error(transparent)]
    NotReadable(#[from] NotReadable),
    #[error(transparent)]
    Contents(#[from] ContentsError),
    #[error("the store `{store}` has no key `{key}` in the namespace `{namespace}`")]
    NoKey {
        store: String,
        namespace: String,
        key: String,
    },
    #[error("{}: {source}", .file.display())]
    Input {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}, {source}; {imported} entries were imported", .file.display())]
    Backup {
        file: PathBuf,
        #[source]
        source: BackupError,
        imported: u64,
    },
    #[error("{source}; {imported} entries were imported")]
    Stopped {
        #[source]
        source: ContentsError,
        imported: u64,
    },
    #[error("cannot write {}: {source}", .file.display())]
    CannotCreate {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
    #[error("cannot start: {0}")]
    Runtime(#[source] io::Error),
}

/// Why no store can be chosen.
#[derive(Debug, thiserror::Error)]
enum WhichStoreError {
    #[error("no store is called `{name}`: .wws.toml defines {}", list(.defined))]
    Unknown { name: String, defined: Vec<String> },
    #[error(
        "the project defines no store ([stores.NAME] in .wws.toml): what workers keep is in the \
         memory of the server, which no other process can read"
    )]
    Undefined,
    #[error("which store? --store NAME, one of {}", list(.0))]
    Ambiguous(Vec<String>),
}

/// Names of stores, for people.
fn list(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        _ => names.join(", "),
    }
}

impl Failure {
    fn report(&self) -> ExitCode {
        match self {
            // Who reads has enough: `wws kv list | head`.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return ExitCode::SUCCESS;
            }
            Self::Project(problems) => eprintln!("{problems}"),
            _ => eprintln!("wws: {self}"),
        }
        match self {
            Self::Project(_) | Self::WhichStore(_) => ExitCode::from(EXIT_CONFIG),
            Self::Backup { .. } => ExitCode::from(EXIT_DATA),
            Self::CannotCreate { .. } => ExitCode::from(EXIT_CANNOT_CREATE),
            _ => ExitCode::FAILURE,
        }
    }
}

fn run(args: KeyValue) -> Result<(), Failure> {
    let options = environment::load_options(environment::is_in_container());
    let stores = wws_project::stores(&args.path, &options).map_err(Failure::Project)?;
    let definition = choose(&stores, args.store.as_deref())?;
    let is_changed = matches!(
        args.command,
        KeyValueCommand::Import { .. } | KeyValueCommand::Set { .. }
    );
    let env = environment::own_variables();
    let (contents, limits) = store_contents(definition, &env, is_changed)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)?;
    let store = OpenStore {
        name: definition.name.clone(),
        contents,
        limits,
    };
    runtime.block_on(store.execute(args.command))
}

/// The store of a name, or the only one that lasts.
fn choose<'s>(
    stores: &'s [StoreDefinition],
    name: Option<&str>,
) -> Result<&'s StoreDefinition, WhichStoreError> {
    let names = || stores.iter().map(|store| store.name.clone()).collect();
    if let Some(name) = name {
        let found = stores.iter().find(|store| store.name == name);
        return found.ok_or_else(|| WhichStoreError::Unknown {
            name: name.to_owned(),
            defined: names(),
        });
    }
    let mut lasting = stores
        .iter()
        .filter(|store| store.place != StorePlace::Memory);
    match (lasting.next(), lasting.next(), stores) {
        (Some(store), None, _) | (None, _, [store]) => Ok(store),
        (None, _, []) => Err(WhichStoreError::Undefined),
        _ => Err(WhichStoreError::Ambiguous(names())),
    }
}

/// A store that the command works on.
struct OpenStore {
    name: String,
    contents: StoreContents,
    limits: StoreLimits,
}

impl OpenStore {
    async fn execute(mut self, command: KeyValueCommand) -> Result<(), Failure> {
        match command {
            KeyValueCommand::Export {
                filter,
                output,
                json,
            } => {
                let filter = EntryFilter {
                    namespace: filter.namespace.as_deref(),
                    prefix: filter.prefix.as_deref().unwrap_or_default(),
                };
                match output {
                    None => self.export(filter, io::stdout()).await.map(drop),
                    Some(file) => self.export_to(filter, &file, json).await,
                }
            }
            KeyValueCommand::Import { input, json } => self.import(&input, json).await,
            KeyValueCommand::Get {
                namespace,
                key,
                json,
            } => self.get(namespace, key, json).await,
            KeyValueCommand::Set {
                namespace,
                key,
                value,
                ttl,
            } => {
                let value = match value.as_str() {
                    "-" => self.value_from(io::stdin().lock())?,
                    _ => value.into_bytes(),
                };
                let ttl = ttl.map(Duration::from_secs);
                let entry = StoredEntry::new(&namespace, &key, value, ttl);
                Ok(self.contents.put(vec![entry]).await?)
            }
            KeyValueCommand::Delete { namespace, key } => {
                match self.contents.delete(&namespace, &key).await? {
                    true => Ok(()),
                    false => Err(self.no_key(namespace, key)),
                }
            }
            KeyValueCommand::List {
                namespace,
                prefix,
                json,
            } => {
                let prefix = prefix.unwrap_or_default();
                self.list(namespace.as_deref(), &prefix, json).await
            }
        }
    }

    fn no_key(self, namespace: String, key: String) -> Failure {
        Failure::NoKey {
            store: self.name,
            namespace,
            key,
        }
    }

    async fn get(self, namespace: String, key: String, json: bool) -> Result<(), Failure> {
        let Some(entry) = self.contents.get(&namespace, &key).await? else {
            return Err(self.no_key(namespace, key));
        };
        let mut output = io::stdout().lock();
        if json {
            BackupWriter::of_entries(output).entry(&entry)?;
        } else {
            output.write_all(&entry.value)?;
            output.write_all(b"\n")?;
        }
        Ok(())
    }

    /// A value, of which no more than its limit and one byte are read.
    fn value_from(&self, input: impl Read) -> Result<Vec<u8>, Failure> {
        let mut value = Vec::new();
        let read = input
            .take(self.limits.value as u64 + 1)
            .read_to_end(&mut value);
        match read {
            Ok(_) => Ok(value),
            Err(source) => Err(Failure::Input {
                file: "standard input".into(),
                source,
            }),
        }
    }

    async fn list(self, namespace: Option<&str>, prefix: &str, json: bool) -> Result<(), Failure> {
        let mut output = BufWriter::new(io::stdout());
        if namespace.is_none() && !json {
            for name in self.contents.namespaces().await? {
                writeln!(output, "{}", printable(&name))?;
            }
            return Ok(output.flush()?);
        }
        let filter = EntryFilter { namespace, prefix };
        let print = |entry: StoredEntry| -> Result<(), Failure> {
            if json {
                let mut line = json!({
                    "namespace": entry.namespace,
                    "key": entry.key,
                    "bytes": entry.value.len(),
                });
                if let Some(at) = entry.expires {
                    line["expires_ms"] = at.into();
                }
                writeln!(output, "{line}")?;
            } else {
                writeln!(output, "{}", printable(&entry.key))?;
            }
            Ok(())
        };
        self.contents.each(filter, print).await?;
        Ok(output.flush()?)
    }

    /// Writes a backup. Returns the number of its entries.
    async fn export(
        &self,
        filter: EntryFilter<'_>,
        output: impl Write + Send,
    ) -> Result<u64, Failure> {
        let mut backup = BackupWriter::begin(BufWriter::new(output))?;
        let add = |entry: StoredEntry| Ok::<_, Failure>(backup.entry(&entry)?);
        self.contents.each(filter, add).await?;
        let (_, entries) = backup.end()?;
        Ok(entries)
    }

    /// Writes a backup into a file, whole or not at all.
    async fn export_to(
        &self,
        filter: EntryFilter<'_>,
        file: &Path,
        json: bool,
    ) -> Result<(), Failure> {
        let failed = |source| Failure::CannotCreate {
            file: file.to_owned(),
            source,
        };
        let directory = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // For its owner alone: what workers store may be anything.
        let mut output = tempfile::Builder::new()
            .prefix(".wws-backup-")
            .tempfile_in(directory)
            .map_err(failed)?;
        let entries = match self.export(filter, &mut output).await {
            Err(Failure::Output(error)) => return Err(failed(error)),
            exported => exported?,
        };
        output.as_file().sync_all().map_err(failed)?;
        output.persist(file).map_err(|error| failed(error.error))?;
        let directory = File::open(directory).and_then(|directory| directory.sync_all());
        directory.map_err(failed)?;
        match json {
            true => println!("{}", json!({ "exported": entries })),
            false => println!("exported {} to {}", counted(entries), file.display()),
        }
        Ok(())
    }

    async fn import(mut self, input: &Path, json: bool) -> Result<(), Failure> {
        let mut imported = Imported::default();
        if input == Path::new("-") {
            let name = Path::new("standard input");
            self.import_from(name, io::stdin().lock(), &mut imported)
                .await?;
        } else {
            let open = || {
                let opened = File::open(input).map(BufReader::new);
                opened.map_err(|source| Failure::Input {
                    file: input.to_owned(),
                    source,
                })
            };
            let file = open()?;
            // What can be read only once is checked as it is imported.
            let is_file = file.get_ref().metadata().is_ok_and(|data| data.is_file());
            let again = if is_file {
                let mut backup = BackupReader::new(file, self.limits);
                while next(&mut backup, input, 0)?.is_some() {}
                open()?
            } else {
                file
            };
            self.import_from(input, again, &mut imported).await?;
        }
        let Imported { stored, expired } = imported;
        match json {
            true => println!("{}", json!({ "imported": stored, "expired": expired })),
            false if expired > 0 => println!(
                "imported {}; left out {expired} whose time has passed",
                counted(stored)
            ),
            false => println!("imported {}", counted(stored)),
        }
        Ok(())
    }

    async fn import_from(
        &mut self,
        name: &Path,
        input: impl BufRead,
        imported: &mut Imported,
    ) -> Result<(), Failure> {
        let mut backup = BackupReader::new(input, self.limits);
        let mut batch = Batch::default();
        while let Some(entry) = next(&mut backup, name, imported.stored)? {
            if entry.is_expired() {
                imported.expired += 1;
                continue;
            }
            if !batch.takes(&entry) {
                self.store(&mut batch, imported).await?;
            }
            batch.add(entry);
        }
        self.store(&mut batch, imported).await
    }

    async fn store(&mut self, batch: &mut Batch, imported: &mut Imported) -> Result<(), Failure> {
        let Batch { entries, .. } = std::mem::take(batch);
        if entries.is_empty() {
            return Ok(());
        }
        let (count, started) = (entries.len() as u64, Instant::now());
        let stored = self.contents.put(entries).await;
        stored.map_err(|source| Failure::Stopped {
            source,
            imported: imported.stored,
        })?;
        imported.stored += count;
        // Servers that use the store have their turn.
        tokio::time::sleep(started.elapsed()).await;
        Ok(())
    }
}

/// What an import has done.
#[derive(Default)]
struct Imported {
    stored: u64,
    expired: u64,
}

/// Entries of one namespace that are stored together.
#[derive(Default)]
struct Batch {
    entries: Vec<StoredEntry>,
    bytes: usize,
}

impl Batch {
    fn takes(&self, entry: &StoredEntry) -> bool {
        self.entries.first().is_none_or(|first| {
            first.namespace == entry.namespace
                && self.entries.len() < BATCH_ENTRIES
                && self.bytes + size(entry) <= BATCH_BYTES
        })
    }

    fn add(&mut self, entry: StoredEntry) {
        self.bytes += size(&entry);
        self.entries.push(entry);
    }
}

fn size(entry: &StoredEntry) -> usize {
    entry.key.len() + entry.value.len()
}

fn next(
    backup: &mut BackupReader<impl BufRead>,
    file: &Path,
    imported: u64,
) -> Result<Option<StoredEntry>, Failure> {
    backup.next_entry().map_err(|source| Failure::Backup {
        file: file.to_owned(),
        source,
        imported,
    })
}

fn counted(entries: u64) -> String {
    match entries {
        1 => "1 entry".into(),
        entries => format!("{entries} entries"),
    }
}

/// Keys are anybody's: none may look like a line of its own, or be read by a terminal.
fn printable(text: &str) -> impl Display + '_ {
    std::fmt::from_fn(move |f| {
        text.chars().try_for_each(|character| match character {
            character if character.is_control() => write!(f, "{}", character.escape_default()),
            character => write!(f, "{character}"),
        })
    })
}
