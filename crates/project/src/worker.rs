//! A worker: a file that answers requests, and its TOML.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use http::Method;

use crate::{
    Cors, Instances, Limits, Network, Origins, WorkerLog,
    beneath::{self, Root},
    execution::Execution,
    problem::Problem,
    reach::{self, is_private_host},
    reader::{LocatedText, Reader},
    route::Segment,
    secret::{self, SecretFiles},
    stores::{self, KeyValue},
};

/// The index of a worker in its project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub(crate) usize);

impl WorkerId {
    /// The index into [`crate::Project::workers`].
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }
}

/// A file that answers requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    /// Its index.
    pub id: WorkerId,
    /// The name, for logs.
    pub name: String,
    /// The file, relative to the project's root.
    pub path: PathBuf,
    /// The route with the prefix, as `/api/[id]`.
    pub route: String,
    /// What it runs as.
    pub(crate) execution: Execution,
    /// `[vars]`, with those from the environment and from files filled in.
    pub vars: BTreeMap<String, String>,
    /// Its namespace of a key/value store.
    pub kv: Option<KeyValue>,
    /// The directories that it sees.
    pub directories: Vec<WorkerDirectory>,
    /// Outgoing HTTP.
    pub http: HttpRequests,
    /// The limits of one call.
    pub limits: Limits,
    /// What of its output is logged.
    pub log: WorkerLog,
    /// Which pages of other origins may read its responses.
    pub cors: Option<Cors>,
    /// How long its instances live.
    pub instances: Instances,
    /// Why it cannot be called. Empty unless `[server] strict` is false.
    pub problems: Vec<Problem>,
    /// The route below the prefix.
    pub(crate) segments: Vec<Segment>,
}

impl Worker {
    /// What it runs as.
    #[must_use]
    pub fn execution(&self) -> Execution {
        self.execution
    }

    /// Whether another project has the same worker: the same file with the same route and settings.
    /// What the file contains is not compared.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let renumbered = Self {
            id: other.id,
            ..self.clone()
        };
        renumbered == *other
    }
}

/// A directory that a worker sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerDirectory {
    /// The path relative to the project's root, normalized; the directory exists.
    pub from: PathBuf,
    /// The absolute path at which the guest sees it.
    pub to: String,
    /// Whether its files are data, and not workers or assets.
    pub holds_data: bool,
}

/// The outgoing HTTP of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequests {
    /// Hosts as `host` or `host:port`.
    pub allowed_hosts: Vec<String>,
    /// The allowed methods.
    pub allowed_methods: Vec<Method>,
    /// Whether plain `http:` is allowed.
    pub allow_http: bool,
    /// Private networks that names may resolve to.
    pub allow_private: Vec<Network>,
    /// Whether only public hosts are reached, whatever is allowed besides.
    pub public_only: bool,
}

impl Default for HttpRequests {
    fn default() -> Self {
        Self {
            allowed_hosts: Vec::new(),
            allowed_methods: vec![
                Method::GET,
                Method::POST,
                Method::PUT,
                Method::PATCH,
                Method::DELETE,
            ],
            allow_http: false,
            allow_private: Vec::new(),
            public_only: false,
        }
    }
}

/// The content of a worker's TOML.
#[derive(Default)]
pub(crate) struct Config {
    pub(crate) name: Option<String>,
    pub(crate) vars: BTreeMap<String, String>,
    pub(crate) kv: Option<KeyValue>,
    /// The problem that the worker has no use for `consistency = "serial"`.
    pub(crate) needless_serial: Option<Problem>,
    pub(crate) directories: Vec<WorkerDirectory>,
    pub(crate) http: HttpRequests,
    pub(crate) limits: Limits,
    pub(crate) log: WorkerLog,
    pub(crate) cors: Option<Cors>,
    pub(crate) instances: Instances,
}

/// What is needed to read a worker's TOML.
pub(crate) struct Context<'c> {
    pub(crate) root: &'c Root,
    /// The directory of the worker, relative to the root.
    pub(crate) directory: &'c Path,
    pub(crate) env: &'c BTreeMap<String, String>,
    pub(crate) secrets: SecretFiles<'c>,
    pub(crate) defaults: &'c Defaults,
}

/// What the project sets for all workers.
#[derive(Default)]
pub(crate) struct Defaults {
    pub(crate) limits: Limits,
    pub(crate) log: WorkerLog,
    /// Origins of pages that may read responses.
    pub(crate) origins: Origins,
    /// The names of the key/value stores.
    pub(crate) stores: Vec<String>,
    /// Whether workers reach public hosts alone.
    pub(crate) public_only: bool,
}

impl Config {
    pub(crate) fn read(
        reader: &Reader<'_>,
        context: &Context<'_>,
        warnings: &mut Vec<Problem>,
    ) -> Self {
        let mut config = Self {
            limits: context.defaults.limits.clone(),
            log: context.defaults.log.clone(),
            ..Self::default()
        };
        config.name = reader.text("name").map(|text| text.value);
        if let Some(text) = reader.scalar(
            "version",
            &[
                crate::setting::TomlType::Text,
                crate::setting::TomlType::Integer,
            ],
            "\"1\"",
        ) && text.value != "1"
        {
            reader.problem(
                &text.at,
                format!("`version` is `{}`, the only one is \"1\"", text.value),
            );
        }
        for (name, value) in reader.map("vars") {
            config.variable(reader, context, warnings, name, value);
        }
        reader.table("data", |data| {
            data.table("kv", |kv| {
                if let Some((kv, needless)) = stores::read_worker(kv, &context.defaults.stores) {
                    config.kv = Some(kv);
                    config.needless_serial = needless;
                }
            })
        });
        for directory in reader.tables("folders", |table| read_directory(table, context)) {
            let Some((directory, at)) = directory else {
                continue;
            };
            if config
                .directories
                .iter()
                .any(|other| other.to == directory.to)
            {
                reader.problem(&at, format!("two directories are at `{}`", directory.to));
            }
            config.directories.push(directory);
        }
        reader.table("features", |features| {
            let public_only = context.defaults.public_only;
            features.table("http_requests", |table| {
                config.http.read(table, public_only)
            });
            features.table("wasi_nn", |table| {
                if table
                    .texts("allowed_backends")
                    .is_some_and(|backends| !backends.is_empty())
                {
                    warnings.push(table.located(
                        table.at(),
                        "wasi-nn is not available: a worker that imports it does not load",
                    ));
                }
            });
        });
        // Wasm Workers Server 1.x has no limits: an unknown key is a mistake.
        reader.table("limits", |table| {
            config.limits.read(table);
            table.refuse_unknown_keys();
        });
        reader.table("log", |table| {
            config.log.read(table);
            table.refuse_unknown_keys();
        });
        reader.table("cors", |table| {
            let mut cors = Cors::default();
            cors.read(table);
            table.refuse_unknown_keys();
            if let Some(problem) = cors.problem(&context.defaults.origins) {
                table.problem(table.at(), problem);
            }
            config.cors = Some(cors);
        });
        // New as well.
        reader.table("instances", |table| {
            config.instances.read(table);
            table.refuse_unknown_keys();
            if let Some(problem) = config.instances.problem() {
                table.problem(table.at(), problem);
            }
        });
        config
    }

    fn variable(
        &mut self,
        reader: &Reader<'_>,
        context: &Context<'_>,
        warnings: &mut Vec<Problem>,
        name: LocatedText,
        value: LocatedText,
    ) {
        if name.value.is_empty() || name.value.contains(['=', '\0']) {
            reader.problem(&name.at, "the name of a variable is empty or has a `=`");
            return;
        }
        if value.value.contains('\0') {
            reader.problem(&value.at, "the value of a variable has a NUL character");
            return;
        }
        let text = match Variable::of(&value.value) {
            Variable::Text(text) => match secret::named(text) {
                None => text.to_owned(),
                Some(path) => match context.secrets.read(path) {
                    Ok(text) => text,
                    Err(error) => {
                        reader.problem(&value.at, format!("`{}`: {error}", name.value));
                        return;
                    }
                },
            },
            Variable::FromEnv(wanted) => match context.env.get(wanted) {
                Some(text) => text.clone(),
                None => {
                    warnings.push(
                        reader
                            .located(
                                &value.at,
                                format!(
                                    "the environment has no `{wanted}`: `{}` is empty",
                                    name.value
                                ),
                            )
                            .help(format!(
                                "set it: `docker run -e {wanted}=...`, `{wanted}=... wws`, or \
                                 `{wanted}=...` in `.env` for `wws`; a text that begins with a \
                                 dollar is written with two: `$${wanted}`"
                            )),
                    );
                    String::new()
                }
            },
        };
        self.vars.insert(name.value, text);
    }
}

/// What the value of a variable means.
#[derive(Debug, PartialEq, Eq)]
enum Variable<'t> {
    /// The variable with this name in the server's environment.
    FromEnv(&'t str),
    /// The text itself.
    Text(&'t str),
}

impl<'t> Variable<'t> {
    fn of(text: &'t str) -> Self {
        let Some(rest) = text.strip_prefix('$') else {
            return Self::Text(text);
        };
        // `$$` is an escaped dollar.
        if rest.starts_with('$') {
            return Self::Text(rest);
        }
        let name = rest
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
            .unwrap_or(rest);
        // A text that cannot be a name: the hash of a password begins with `$2b$`.
        let is_name = !name.is_empty() && !name.contains([' ', '$', '{', '}', '=', '/']);
        if is_name {
            Self::FromEnv(name)
        } else {
            Self::Text(text)
        }
    }
}

impl HttpRequests {
    fn read(&mut self, reader: &Reader<'_>, public_only: bool) {
        self.public_only = public_only;
        if let Some(hosts) = reader.texts("allowed_hosts") {
            for host in hosts {
                if let Some(message) = wrong_host(&host.value) {
                    reader.problem_with_help(
                        &host.at,
                        format!("`{}` {message}", host.value),
                        "write a host, as \"api.example.com\", or a host and a port, as \
                         \"api.example.com:8443\"",
                    );
                } else {
                    if public_only && is_private_host(&host.value) {
                        let message = format!("`{}` is no public host", host.value);
                        reader.problem_with_help(&host.at, message, reach::ALLOW);
                    }
                    self.allowed_hosts.push(host.value);
                }
            }
        }
        if let Some(methods) = reader.texts("allowed_methods") {
            self.allowed_methods.clear();
            for method in methods {
                match Method::from_bytes(method.value.to_ascii_uppercase().as_bytes()) {
                    Ok(known) if is_supported(&known) => self.allowed_methods.push(known),
                    _ => reader.problem(
                        &method.at,
                        format!(
                            "`{}` is no method: expected GET, POST, PUT, PATCH, DELETE, OPTIONS or \
                             HEAD",
                            method.value
                        ),
                    ),
                }
            }
        }
        if let Some(allow) = reader.boolean("allow_http") {
            self.allow_http = allow;
        }
        for text in reader.texts("allow_private").unwrap_or_default() {
            if public_only {
                let message = format!("`{}` is no public network", text.value);
                reader.problem_with_help(&text.at, message, reach::ALLOW);
            }
            match text.value.parse() {
                Ok(network) => self.allow_private.push(network),
                Err(error) => reader.problem(&text.at, format!("`{}` {error}", text.value)),
            }
        }
    }
}

fn is_supported(method: &Method) -> bool {
    matches!(
        method.as_str(),
        "GET" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" | "HEAD"
    )
}

fn wrong_host(host: &str) -> Option<&'static str> {
    if host.is_empty() {
        Some("is empty")
    } else if host.contains("://") {
        Some("is a URL, not a host")
    } else if host.contains(|c: char| c.is_whitespace() || c.is_control() || "/?#@\\,".contains(c))
    {
        Some("is no host")
    } else {
        None
    }
}

type Located<T> = (T, std::ops::Range<usize>);

fn read_directory(table: &Reader<'_>, context: &Context<'_>) -> Option<Located<WorkerDirectory>> {
    let from = table.text("from");
    let to = table.text("to");
    let holds_data = table.boolean("data").unwrap_or(true);
    if from.is_none() {
        table.missing("from", "from = \"./DIRECTORY\"");
    }
    if to.is_none() {
        table.missing("to", "to = \"/mnt/DIRECTORY\"");
    }
    let (from, to) = (from?, to?);
    let place = guest_path(&to.value);
    if place.is_none() {
        table.problem(
            &to.at,
            format!(
                "`{}`: expected an absolute path of the guest, as \"/mnt/libs\"",
                to.value
            ),
        );
    }
    let Some(path) = beneath::normalize(context.directory, Path::new(&from.value)) else {
        table.problem_with_help(
            &from.at,
            format!("the directory `{}` is outside the project", from.value),
            "a worker sees only directories of its project: put or mount it below the project's \
             root",
        );
        return None;
    };
    if path.starts_with(".wws") {
        table.problem_with_help(
            &from.at,
            format!(
                "the directory `{}` holds the project's runtimes",
                path.display()
            ),
            "what a worker is given, it can write to: copy what it needs to a directory of its own",
        );
        return None;
    }
    if let Err(error) = context.root.directory(&path) {
        let shown = path.display();
        if beneath::leaves_root(&error) {
            table.problem_with_help(
                &from.at,
                format!(
                    "the directory `{shown}` is outside the project: a link on its way leads there"
                ),
                "put or mount the directory itself below the project's root",
            );
        } else {
            table.problem_with_help(
                &from.at,
                format!("cannot open the directory `{shown}`: {error}"),
                "`from` is relative to the worker's own directory; in a container, mount a volume \
                 there or copy it into the image",
            );
        }
        return None;
    }
    Some((
        WorkerDirectory {
            from: path,
            to: place?,
            holds_data,
        },
        to.at,
    ))
}

/// An absolute path without `.` and `..`.
fn guest_path(text: &str) -> Option<String> {
    let rest = text.strip_prefix('/')?;
    if text.contains('\0') {
        return None;
    }
    let mut path = String::new();
    for segment in rest
        .split('/')
        .filter(|segment| !segment.is_empty() && *segment != ".")
    {
        if segment == ".." {
            return None;
        }
        path.push('/');
        path.push_str(segment);
    }
    Some(if path.is_empty() { "/".into() } else { path })
}

#[cfg(test)]
mod tests {
    use super::Variable::{self, FromEnv, Text};

    #[test]
    fn dollar_reads_the_environment_and_two_escape_it() {
        for (text, expected) in [
            ("$TOKEN", FromEnv("TOKEN")),
            ("${TOKEN}", FromEnv("TOKEN")),
            ("$my-token.1", FromEnv("my-token.1")),
            ("$$TOKEN", Text("$TOKEN")),
            ("$$", Text("$")),
            ("$$$", Text("$$")),
            ("$", Text("$")),
            ("$ 5", Text("$ 5")),
            ("5 $", Text("5 $")),
            ("$2b$12$abc/def", Text("$2b$12$abc/def")),
            ("${A", Text("${A")),
            ("", Text("")),
        ] {
            assert_eq!(Variable::of(text), expected, "{text}");
        }
    }
}
