//! `.wws.toml`: the project's settings, and the language runtimes that it lists.

use std::{collections::BTreeMap, path::PathBuf};

use crate::beneath::Root;
use crate::execution::{InterpreterOrigin, LanguageSpec};
use crate::hex;
use crate::limits::Limits;
use crate::log::WorkerLog;
use crate::network::Network;
use crate::reach;
use crate::reader::{LocatedText, Reader, one_of};
use crate::runtime::{File, Runtime, Status};
use crate::setting::{TomlType, Value as _};
use crate::settings::ServerSettings;
use crate::stores::{self, StoreContext, Stores};

/// The file with a project's settings.
pub(crate) const FILE: &str = ".wws.toml";

/// The content of `.wws.toml`.
#[derive(Default)]
pub(crate) struct Config {
    pub(crate) settings: ServerSettings,
    pub(crate) limits: Limits,
    pub(crate) log: WorkerLog,
    pub(crate) runtimes: Vec<Runtime>,
    pub(crate) stores: Stores,
}

impl Config {
    /// `languages`: what the `kit` of a runtime may be; `None` to accept any.
    pub(crate) fn read(
        reader: &Reader<'_>,
        root: &Root,
        languages: Option<&[LanguageSpec]>,
        hashed: &BTreeMap<PathBuf, String>,
        container: bool,
        public_only: bool,
    ) -> Self {
        let mut config = Self::default();
        check_version(reader);
        reader.table("server", |table| {
            config.settings.read(table);
            if public_only
                && let Some(text) = table.scalar("allow_private", Vec::<Network>::TOML, "")
            {
                let message = format!("`{}` is no public network", text.value);
                table.problem_with_help(&text.at, message, reach::ALLOW);
            }
        });
        reader.table("limits", |table| config.limits.read(table));
        reader.table("log", |table| config.log.read(table));
        config.stores = stores::read(reader, &StoreContext { root, container });
        for mut runtime in runtimes(reader, languages) {
            runtime.unusable = runtime.check(root, hashed);
            config.runtimes.push(runtime);
        }
        config
    }
}

/// The listed runtimes, installed or not.
pub(crate) fn runtimes(reader: &Reader<'_>, languages: Option<&[LanguageSpec]>) -> Vec<Runtime> {
    let repositories = reader.tables("repositories", |table| {
        let name = plain_name(table, "name", "the repository's name");
        table.text("url");
        table.tables("runtimes", |table| {
            read_runtime(table, name.as_deref(), languages)
        })
    });
    repositories.into_iter().flatten().flatten().collect()
}

/// Reads the index of a repository.
pub(crate) fn read_index(reader: &Reader<'_>, repository: &str) -> Vec<Runtime> {
    check_version(reader);
    let runtimes = reader.tables("runtimes", |table| {
        read_runtime(table, Some(repository), None)
    });
    runtimes.into_iter().flatten().collect()
}

fn check_version(reader: &Reader<'_>) {
    if let Some(text) = reader.scalar("version", &[TomlType::Text, TomlType::Integer], "1")
        && text.value != "1"
    {
        reader.problem(
            &text.at,
            format!("`version` is {}, the only one is 1", text.value),
        );
    }
}

fn read_runtime(
    table: &Reader<'_>,
    repository: Option<&str>,
    languages: Option<&[LanguageSpec]>,
) -> Option<Runtime> {
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
    let kit = read_kit(table, languages);
    let extensions = table.texts("extensions").unwrap_or_default();
    let extensions: Vec<String> = extensions
        .into_iter()
        .filter_map(|text| extension(table, text, languages))
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
    let driven = DrivenRuntime {
        args: &args,
        files: polyfill.is_some() || wrapper.is_some(),
        extensions: &extensions,
        binary: binary.as_ref().and_then(Option::as_ref),
    };
    if let Some(kit) = &kit {
        driven.check(table, kit);
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

/// The parts of a runtime that matter if a language of the server drives it.
struct DrivenRuntime<'a> {
    args: &'a [String],
    files: bool,
    extensions: &'a [String],
    binary: Option<&'a File>,
}

impl DrivenRuntime<'_> {
    fn check(&self, table: &Reader<'_>, name: &str) {
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
                "write a table [repositories.runtimes.binary.checksum] with `type = \"sha256\"` \
                 and `value`",
            );
        }
    }
}

fn extension(
    table: &Reader<'_>,
    text: LocatedText,
    languages: Option<&[LanguageSpec]>,
) -> Option<String> {
    let name = text.value.trim_start_matches('.');
    if name.is_empty() || name.contains(['.', '/']) || is_reserved(name, languages) {
        table.problem(
            &text.at,
            format!("`{}` is no extension that a runtime can have", text.value),
        );
        return None;
    }
    Some(name.to_owned())
}

/// Whether files with an extension are workers without a runtime, or never.
fn is_reserved(extension: &str, languages: Option<&[LanguageSpec]>) -> bool {
    let mut built_in = languages
        .unwrap_or_default()
        .iter()
        .filter(|language| language.interpreter == InterpreterOrigin::BuiltIn);
    matches!(extension, "wasm" | "toml")
        || built_in.any(|language| language.extensions.contains(&extension))
}

/// The `kit` of a runtime: a language whose interpreter a project installs.
fn read_kit(table: &Reader<'_>, languages: Option<&[LanguageSpec]>) -> Option<String> {
    let text = table.text("kit")?;
    let Some(languages) = languages else {
        return Some(text.value);
    };
    let names: Vec<&str> = languages
        .iter()
        .filter(|language| language.interpreter == InterpreterOrigin::Runtime)
        .map(|language| language.name)
        .collect();
    if names.contains(&text.value.as_str()) {
        return Some(text.value);
    }
    table.problem(
        &text.at,
        format!(
            "`kit` is `{}`, expected one of {}",
            text.value,
            names.join(", ")
        ),
    );
    None
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
            if hex::decode::<32>(&value.value).is_none() {
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

/// Reads a text that is one component of a path.
fn plain_name(table: &Reader<'_>, key: &'static str, what: &str) -> Option<String> {
    let Some(text) = table.text(key) else {
        table.missing(key, &format!("{key} = {what} in quotes"));
        return None;
    };
    let name = &text.value;
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0', '\\']) {
        table.problem(
            &text.at,
            format!("`{name}` is not a name of a file or directory: {what} becomes one"),
        );
        return None;
    }
    Some(text.value)
}
