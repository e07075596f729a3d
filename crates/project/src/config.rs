//! `.wws.toml`: the project's settings, and the language runtimes that it lists.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::{
    Limits, ServerSettings,
    beneath::Root,
    reader::{Reader, Text},
    setting::Kind,
};

/// Where a project's settings stand.
pub(crate) const FILE: &str = ".wws.toml";

/// A language runtime that `.wws.toml` lists.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// The repository that it is from.
    pub repository: String,
    /// As `python`.
    pub name: String,
    /// As `3.11.1+20230217-1`.
    pub version: String,
    /// Other names of the version, as `latest`.
    pub tags: Vec<String>,
    /// Extensions of the files that it runs, without the dot.
    pub extensions: Vec<String>,
    /// The whole argument vector of the interpreter.
    pub args: Vec<String>,
    /// Its environment.
    pub envs: BTreeMap<String, String>,
    /// The interpreter.
    pub binary: File,
    /// A library that lies beside the source.
    pub polyfill: Option<File>,
    /// A text around the source, which stands for its `{source}`.
    pub wrapper: Option<File>,
    /// An example of a worker; nothing runs it.
    pub template: Option<File>,
    /// The server's own way of driving the interpreter; `None` for one that is a command which reads `/src`.
    pub kit: Option<Kit>,
    /// What its repository says of it.
    pub status: Status,
    /// Why it cannot be used; `None` when it is installed.
    pub unusable: Option<String>,
}

/// A kit of the server's: it drives an interpreter from a snapshot, and needs nothing else of the project than that interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kit {
    /// `python`
    Python,
    /// `ruby`
    Ruby,
}

impl Kit {
    /// As `.wws.toml` names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Ruby => "ruby",
        }
    }
}

/// What a repository says of a runtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// To be used.
    Active,
    /// Not to be installed any more.
    Yanked,
    /// Better replaced.
    Deprecated,
    /// Nothing.
    #[default]
    Unknown,
}

impl Status {
    const ALL: [Self; 4] = [Self::Active, Self::Yanked, Self::Deprecated, Self::Unknown];

    /// As `.wws.toml` names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Yanked => "yanked",
            Self::Deprecated => "deprecated",
            Self::Unknown => "unknown",
        }
    }
}

/// A file of a runtime.
#[derive(Clone, Debug)]
pub struct File {
    /// Where it came from.
    pub url: Option<String>,
    /// Its name in [`Runtime::folder`].
    pub filename: String,
    /// SHA-256 of its content, in lower-case hex.
    pub sha256: Option<String>,
}

impl File {
    /// The SHA-256 that its content should have.
    #[must_use]
    pub fn digest(&self) -> Option<[u8; 32]> {
        let hex = self.sha256.as_ref()?;
        let mut digest = [0; 32];
        for (index, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some(digest)
    }
}

impl Runtime {
    /// Where its files lie, relative to the project's root.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        Path::new(".wws/runtimes")
            .join(&self.repository)
            .join(&self.name)
            .join(&self.version)
    }

    /// Path of one of its files, relative to the project's root.
    #[must_use]
    pub fn file(&self, file: &File) -> PathBuf {
        self.folder().join(&file.filename)
    }

    /// What is wrong with its files. Those in `hashed` are known to have that SHA-256.
    fn check(&self, root: &Root, hashed: &BTreeMap<PathBuf, String>) -> Option<String> {
        let files = std::iter::once(&self.binary)
            .chain(&self.polyfill)
            .chain(&self.wrapper);
        files.into_iter().find_map(|file| {
            let path = self.file(file);
            let name = path.display();
            let found = match hashed.get(&path) {
                Some(known) => Ok(known.clone()),
                None => sha256(root, &path),
            };
            match found {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Some(format!("{name} is missing"))
                }
                Err(error) => Some(format!("{name}: {error}")),
                Ok(found) => match &file.sha256 {
                    Some(wanted) if *wanted != found => Some(format!(
                        "{name} is damaged: its sha256 is {found}, expected {wanted}"
                    )),
                    _ => None,
                },
            }
        })
    }
}

fn sha256(root: &Root, path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut root.file(path)?, &mut hash)?;
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// What `.wws.toml` says.
#[derive(Default)]
pub(crate) struct Config {
    pub(crate) settings: ServerSettings,
    pub(crate) limits: Limits,
    pub(crate) runtimes: Vec<Runtime>,
}

impl Config {
    pub(crate) fn read(
        reader: &Reader<'_>,
        root: &Root,
        hashed: &BTreeMap<PathBuf, String>,
    ) -> Self {
        let mut config = Self::default();
        check_version(reader);
        reader.table("server", |table| config.settings.read(table));
        reader.table("limits", |table| config.limits.read(table));
        for mut runtime in runtimes(reader) {
            runtime.unusable = runtime.check(root, hashed);
            config.runtimes.push(runtime);
        }
        config
    }
}

/// The runtimes that are listed, whether they are installed or not.
pub(crate) fn runtimes(reader: &Reader<'_>) -> Vec<Runtime> {
    let repositories = reader.tables("repositories", |table| {
        let name = plain_name(table, "name", "the repository's name");
        table.text("url");
        table.tables("runtimes", |table| read_runtime(table, name.as_deref()))
    });
    repositories.into_iter().flatten().flatten().collect()
}

/// Reads a repository's index.
pub(crate) fn read_index(reader: &Reader<'_>, repository: &str) -> Vec<Runtime> {
    check_version(reader);
    let runtimes = reader.tables("runtimes", |table| read_runtime(table, Some(repository)));
    runtimes.into_iter().flatten().collect()
}

fn check_version(reader: &Reader<'_>) {
    if let Some(text) = reader.scalar("version", &[Kind::Text, Kind::Integer], "1")
        && text.value != "1"
    {
        reader.problem(
            &text.at,
            format!("`version` is {}, the only one is 1", text.value),
        );
    }
}

fn read_runtime(table: &Reader<'_>, repository: Option<&str>) -> Option<Runtime> {
    let name = plain_name(table, "name", "the runtime's name");
    let version = plain_name(table, "version", "its version");
    let words = |key| -> Vec<String> {
        table
            .texts(key)
            .unwrap_or_default()
            .into_iter()
            .map(|text| text.value)
            .collect()
    };
    let tags = words("tags");
    let args = words("args");
    let status = one_of(table, "status", &Status::ALL, Status::name).unwrap_or_default();
    let kit = one_of(table, "kit", &[Kit::Python, Kit::Ruby], Kit::name);
    let extensions = table.texts("extensions").unwrap_or_default();
    let extensions: Vec<String> = extensions
        .into_iter()
        .filter_map(|text| extension(table, text))
        .collect();
    let envs = table
        .map("envs")
        .into_iter()
        .map(|(name, value)| (name.value, value.value))
        .collect();
    let binary = table.table("binary", read_file);
    if binary.is_none() {
        table.missing(
            "binary",
            "a table [repositories.runtimes.binary] with `filename`",
        );
    }
    let polyfill = table.table("polyfill", read_file).flatten();
    let wrapper = table.table("wrapper", read_file).flatten();
    let template = table.table("template", read_file).flatten();
    let of_kit = OfKit {
        args: &args,
        files: polyfill.is_some() || wrapper.is_some(),
        extensions: &extensions,
        binary: binary.as_ref().and_then(Option::as_ref),
    };
    if let Some(kit) = kit {
        of_kit.check(table, kit);
    }
    Some(Runtime {
        repository: repository?.to_owned(),
        name: name?,
        version: version?,
        tags,
        extensions,
        args,
        envs,
        binary: binary??,
        polyfill,
        wrapper,
        template,
        kit,
        status,
        unusable: None,
    })
}

/// What matters of a runtime that a kit of the server's drives.
struct OfKit<'a> {
    args: &'a [String],
    files: bool,
    extensions: &'a [String],
    binary: Option<&'a File>,
}

impl OfKit<'_> {
    fn check(&self, table: &Reader<'_>, kit: Kit) {
        let name = kit.name();
        if !self.args.is_empty() || self.files {
            table.problem_with_help(
                table.at(),
                format!("the kit `{name}` has no use for `args`, `polyfill` and `wrapper`"),
                "remove them, or `kit`: with it the server drives the interpreter itself",
            );
        }
        if self.extensions.is_empty() {
            table.problem_with_help(
                table.at(),
                format!("the kit `{name}` needs the extensions of its files"),
                "write extensions = [\"EXTENSION\"]",
            );
        }
        if self.binary.is_some_and(|binary| binary.sha256.is_none()) {
            table.problem_with_help(
                table.at(),
                format!("the kit `{name}` needs the checksum of its binary"),
                "write a table [repositories.runtimes.binary.checksum] with `type = \"sha256\"` and `value`",
            );
        }
    }
}

/// A text that is the name of one of some values.
fn one_of<T: Copy>(
    table: &Reader<'_>,
    key: &'static str,
    values: &[T],
    name: impl Fn(T) -> &'static str,
) -> Option<T> {
    let text = table.text(key)?;
    let found = values.iter().find(|value| name(**value) == text.value);
    if found.is_none() {
        let names: Vec<&str> = values.iter().map(|value| name(*value)).collect();
        table.problem(
            &text.at,
            format!(
                "`{key}` is `{}`, expected one of {}",
                text.value,
                names.join(", ")
            ),
        );
    }
    found.copied()
}

fn extension(table: &Reader<'_>, text: Text) -> Option<String> {
    let name = text.value.trim_start_matches('.');
    if name.is_empty() || name.contains(['.', '/']) || matches!(name, "wasm" | "js" | "toml") {
        table.problem(
            &text.at,
            format!("`{}` is no extension that a runtime can have", text.value),
        );
        return None;
    }
    Some(name.to_owned())
}

fn read_file(table: &Reader<'_>) -> Option<File> {
    let url = table.text("url").map(|text| text.value);
    let filename = plain_name(table, "filename", "the file's name");
    let sha256 = table
        .table("checksum", |table| {
            if let Some(kind) = table.text("type")
                && kind.value != "sha256"
            {
                table.problem(
                    &kind.at,
                    format!(
                        "`checksum.type` is `{}`, the only one is sha256",
                        kind.value
                    ),
                );
            }
            let value = table.text("value")?;
            if value.value.len() != 64 || !value.value.bytes().all(|byte| byte.is_ascii_hexdigit())
            {
                table.problem(
                    &value.at,
                    "`checksum.value` is no sha256: expected 64 hexadecimal digits",
                );
                return None;
            }
            Some(value.value.to_ascii_lowercase())
        })
        .flatten();
    Some(File {
        url,
        filename: filename?,
        sha256,
    })
}

/// A text that is one component of a path.
fn plain_name(table: &Reader<'_>, key: &'static str, what: &str) -> Option<String> {
    let Some(text) = table.text(key) else {
        table.missing(key, &format!("{key} = {what} in quotes"));
        return None;
    };
    let name = &text.value;
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0', '\\']) {
        table.problem(
            &text.at,
            format!("`{name}` is no name of a file or folder: {what} becomes one"),
        );
        return None;
    }
    Some(text.value)
}
