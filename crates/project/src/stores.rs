//! The key/value stores of a project: `[stores.NAME]` in `.wws.toml`, and what a worker uses of
//! them: `[data.kv]` in its TOML.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::beneath::{Root, normalize};
use crate::problem::Problem;
use crate::reach::{self, PublicHosts};
use crate::reader::{LocatedText, Reader, one_of};
use crate::secret::{self, SecretFiles};
use crate::setting::settings;

const GIB: u64 = 1 << 30;

settings! {
    /// Limits of a key/value store.
    pub struct StoreSettings in "stores.NAME" {
        /// Maximum size of a key; a change with a larger one fails.
        max_key: u64 = 4 << 10, 1 => 64 << 10;
        /// Maximum size of a value; a change with a larger one fails.
        max_value: u64 = 1 << 20, 1 => 64 << 20;
        /// Maximum size of the store: of its keys and values in memory, of the database in a file;
        /// then changes that need more room fail.
        max_size: u64 = GIB, 64 << 10 => 1024 * GIB;
    }
}

/// Where a store keeps its entries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StorePlace {
    /// In the memory of the server.
    Memory,
    /// In a file with this absolute path.
    File(PathBuf),
    /// In Redis or Valkey.
    Redis(RedisUrl),
}

/// The URL of a Redis, which may have a password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// The URL, for its client alone.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisUrl(..)")
    }
}

/// What a URL of Redis begins with.
const SCHEMES: [&str; 3] = ["redis://", "rediss://", "redis+unix://"];

/// A key/value store that `.wws.toml` defines.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreDefinition {
    /// Its name.
    pub name: String,
    /// Where it keeps its entries.
    pub place: StorePlace,
    /// Its limits.
    pub limits: StoreSettings,
    /// The place of the definition.
    at: Problem,
    /// The place of its URL.
    url_at: Option<Problem>,
}

impl StoreDefinition {
    /// A problem of the store, at its definition.
    #[must_use]
    pub fn problem(&self, message: impl Into<String>) -> Problem {
        Problem {
            message: format!("the store `{}`: {}", self.name, message.into()),
            ..self.at.clone()
        }
    }
}

/// Reads the URLs that are in the environment and in files. Returns problems, which show no value.
pub(crate) fn read_urls(
    stores: &mut [StoreDefinition],
    env: &BTreeMap<String, String>,
    secrets: SecretFiles<'_>,
    public_hosts: Option<&PublicHosts>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for store in stores {
        let StorePlace::Redis(url) = &mut store.place else {
            continue;
        };
        let at = store.url_at.clone().unwrap_or_else(|| store.at.clone());
        let variable = url.0.strip_prefix('$').map(|name| {
            let braced = name
                .strip_prefix('{')
                .and_then(|name| name.strip_suffix('}'));
            braced.unwrap_or(name).to_owned()
        });
        let is_given = |hosts: &PublicHosts| {
            let name = variable.as_ref();
            name.is_some_and(|name| hosts.given.contains(name))
        };
        if public_hosts.is_some_and(|hosts| !is_given(hosts)) {
            let name = &store.name;
            let message = format!("the store `{name}` uses a Redis that the project chooses");
            let help = format!(
                "give its URL by `url = \"$NAME\"` and `-e NAME=URL`; {}",
                reach::ALLOW
            );
            problems.push(Problem { message, ..at }.help(help));
            continue;
        }
        let mut problem = |message: String| {
            problems.push(Problem {
                message,
                ..at.clone()
            })
        };
        let text = match (secret::named(&url.0), variable) {
            (Some(path), _) => secrets.read(path).map_err(|error| error.to_string()),
            (None, Some(name)) => env
                .get(&name)
                .cloned()
                .ok_or_else(|| format!("the environment has no `{name}`")),
            (None, None) => Ok(url.0.clone()),
        };
        match text {
            Err(message) => problem(message),
            Ok(text) if SCHEMES.iter().any(|scheme| text.starts_with(scheme)) => url.0 = text,
            Ok(_) => problem(format!(
                "the URL begins with none of {}",
                SCHEMES.join(", ")
            )),
        }
    }
    problems
}

/// How the changes of a request meet those of others, for workers that read their namespace at the
/// start of a request and print it at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// The changes of requests that run at once are merged, key by key.
    #[default]
    Merge,
    /// Requests of a namespace run one after another.
    Serial,
}

impl Consistency {
    /// All values.
    pub const ALL: [Self; 2] = [Self::Merge, Self::Serial];

    /// The name in TOML.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Merge => "merge",
            Self::Serial => "serial",
        }
    }
}

/// What a worker uses of the key/value stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The namespace.
    pub namespace: String,
    /// The name of the store; `None` for the one in memory that every project has.
    pub store: Option<String>,
    /// How changes of requests meet.
    pub consistency: Consistency,
}

/// Reads `[data.kv]`. With the problem that `serial` is for workers that do not need it.
pub(crate) fn read_worker(
    kv: &Reader<'_>,
    stores: &[String],
) -> Option<(KeyValue, Option<Problem>)> {
    let namespace = kv.text("namespace");
    match &namespace {
        Some(text) if text.value.is_empty() => kv.problem(&text.at, "the namespace is empty"),
        Some(_) => {}
        None => kv.missing("namespace", "namespace = \"NAME\""),
    }
    let store = kv.text("store");
    if let Some(text) = &store
        && !stores.contains(&text.value)
    {
        kv.problem_with_help(
            &text.at,
            format!("no store is called `{}`", text.value),
            match stores {
                [] => "define it in .wws.toml: [stores.NAME] with `kind`".to_owned(),
                known => format!(".wws.toml defines {}", known.join(", ")),
            },
        );
    }
    let consistency = one_of(kv, "consistency", &Consistency::ALL, Consistency::name);
    let needless = (consistency == Some(Consistency::Serial)).then(|| {
        kv.located(
            kv.at(),
            "`data.kv.consistency` is \"serial\", which is for workers of the JSON protocol",
        )
        .help("this language changes the store atomically: see `increment` and `compareAndSet`")
    });
    Some((
        KeyValue {
            namespace: namespace?.value,
            store: store.map(|text| text.value),
            consistency: consistency.unwrap_or_default(),
        },
        needless,
    ))
}

/// What definitions of stores are checked against.
pub(crate) struct StoreContext<'c> {
    pub(crate) root: &'c Root,
    /// Whether absolute paths are those of a container.
    pub(crate) container: bool,
}

/// The kinds of stores.
const KINDS: [&str; 3] = ["memory", "file", "redis"];

/// The key/value stores of a project.
#[derive(Default)]
pub(crate) struct Stores {
    pub(crate) definitions: Vec<StoreDefinition>,
    /// The names of all, also of those whose definitions have problems.
    pub(crate) names: Vec<String>,
}

/// Reads `[stores]`.
pub(crate) fn read(reader: &Reader<'_>, context: &StoreContext<'_>) -> Stores {
    let mut stores = Stores::default();
    reader.tables_by_name("stores", |name, table| {
        stores.names.push(name.value.clone());
        let Some(definition) = read_store(name, table, context) else {
            return;
        };
        let mut others = stores.definitions.iter();
        let twice = others.find(|other| {
            other.place == definition.place && definition.place != StorePlace::Memory
        });
        if let Some(other) = twice {
            let message = format!(
                "the stores `{}` and `{}` are in the same place",
                other.name, definition.name
            );
            table.problem_with_help(table.at(), message, "give each a place of its own");
        }
        stores.definitions.push(definition);
    });
    stores
}

fn read_store(
    name: &LocatedText,
    table: &Reader<'_>,
    context: &StoreContext<'_>,
) -> Option<StoreDefinition> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if name.value.is_empty() || !name.value.chars().all(is_plain) {
        table.problem(
            &name.at,
            format!(
                "`{}` is no name of a store: letters, digits, `-` and `_`",
                name.value
            ),
        );
    }
    let kind = one_of(table, "kind", &KINDS, |kind| kind);
    let path = table.text("path");
    let mut limits = StoreSettings::default();
    limits.read(table);
    if limits.max_value > limits.max_size {
        table.problem(
            table.at(),
            "`max_value` is more than `max_size`: such a value never fits",
        );
    }
    if let (Some(path), Some(kind)) = (&path, kind)
        && kind != "file"
    {
        table.problem(
            &path.at,
            format!("a store of the kind `{kind}` has no `path`"),
        );
    }
    let url = table.text("url");
    if let (Some(url), Some(kind)) = (&url, kind)
        && kind != "redis"
    {
        table.problem(
            &url.at,
            format!("a store of the kind `{kind}` has no `url`"),
        );
    }
    if kind == Some("redis") && table.has("max_size") {
        table.problem(
            table.at(),
            "a store of the kind `redis` has no `max_size`: Redis has a limit of its own \
             (`maxmemory`)",
        );
    }
    let place = match kind {
        Some("redis") => match &url {
            Some(url) => StorePlace::Redis(RedisUrl(url.value.clone())),
            None => {
                table.missing("url", "url = \"redis://HOST:6379\" or url = \"$REDIS_URL\"");
                return None;
            }
        },
        Some("memory") => StorePlace::Memory,
        Some("file") => match &path {
            Some(path) => StorePlace::File(file(table, path, context)?),
            None => {
                table.missing("path", "path = \"./data/kv\"");
                return None;
            }
        },
        _ => {
            if !table.has("kind") {
                table.missing("kind", "kind = \"memory\", \"file\" or \"redis\"");
            }
            return None;
        }
    };
    Some(StoreDefinition {
        name: name.value.clone(),
        place,
        limits,
        at: table.located(table.at(), ""),
        url_at: url.map(|url| table.located(&url.at, "")),
    })
}

/// The absolute path of a store's file.
fn file(table: &Reader<'_>, text: &LocatedText, context: &StoreContext<'_>) -> Option<PathBuf> {
    let (path, shown) = (Path::new(&text.value), &text.value);
    if path.is_absolute() && context.container {
        return match normalize(Path::new(""), path.strip_prefix("/").unwrap_or(path)) {
            Some(below) if below.file_name().is_some() => Some(Path::new("/").join(below)),
            _ => {
                table.problem(&text.at, format!("`{shown}` is no path of a file"));
                None
            }
        };
    }
    let Some(below) = normalize(Path::new(""), path) else {
        table.problem_with_help(
            &text.at,
            format!("the file `{shown}` is outside the project"),
            "write a path inside the project, as \"./data/kv\"; in a container, also the absolute \
             path of a volume",
        );
        return None;
    };
    let first = below.components().next();
    let first = first.map(|component| component.as_os_str());
    if below.file_name().is_none() || text.value.ends_with('/') {
        table.problem(&text.at, format!("`{shown}` is no path of a file"));
        return None;
    }
    if first.is_some_and(|first| first == "public" || first == ".wws") {
        table.problem_with_help(
            &text.at,
            format!("the file `{shown}` would be in a directory that holds files of the project"),
            "put the store into a directory of its own, as \"./data/kv\"",
        );
        return None;
    }
    if below.extension().is_some() {
        table.problem_with_help(
            &text.at,
            format!("the file `{shown}` has an extension: it could be taken for a worker"),
            "write a name without a dot, as \"./data/kv\"",
        );
        return None;
    }
    match context.root.real_path_of_new(&below) {
        Some(path) => Some(path),
        None => {
            table.problem(
                &text.at,
                format!("the file `{shown}` is outside the project: a link on its way leads there"),
            );
            None
        }
    }
}
