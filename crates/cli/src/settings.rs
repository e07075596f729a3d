//! `wws settings`: all settings as Markdown, for `docs/reference/settings.md`.

use std::fmt::Write;

use wws_project::{
    Cors, Instances, Limits, ServerSettings, StoreSettings, WorkerLog, settings::Setting,
};

/// The whole page.
pub(crate) fn markdown() -> String {
    let mut text = String::from(
        "# Settings\n\n\
         Made by `wws settings`. Durations are written `\"500ms\"`, `\"10s\"`, `\"2m\"` or \
         `\"1h\"`; sizes `\"64KiB\"`, `\"10MiB\"` or a number of bytes.\n\n\
         Editors check and complete these files with a JSON Schema, named in the file's first \
         line: `#:schema URL` with the URL or path of `docs/reference/wws.schema.json` for \
         `.wws.toml`, of `docs/reference/worker.schema.json` for a worker's TOML. `wws schema` and \
         `wws schema worker` print them.\n\n\
         ## `[server]`\n\n\
         In `.wws.toml`. The environment wins over the file, flags of `wws` win over both.\n\n",
    );
    table(&mut text, &ServerSettings::table(), true);
    text.push_str(
        "\n## `[limits]`\n\n\
         Bounds of one call of a worker: in `.wws.toml` for all workers, in a worker's TOML for \
         that one.\n\n",
    );
    table(&mut text, &Limits::table(), false);
    text.push_str(
        "\n## `[log]`\n\n\
         What a worker itself logs: in `.wws.toml` for all workers, in a worker's TOML for that \
         one.\n\n",
    );
    table(&mut text, &WorkerLog::table(), false);
    text.push_str(
        "\n## `[cors]`\n\n\
         Which pages of other origins may read a worker's responses: in the worker's TOML.\n\n",
    );
    table(&mut text, &Cors::table(), false);
    text.push_str(
        "\n## `[instances]`\n\n\
         How long the instances of a worker live, in the worker's TOML: see \
         [instances](../configure/worker.md#instances).\n\n",
    );
    table(&mut text, &Instances::table(), false);
    text.push_str(
        "\n## `[stores.NAME]`\n\n\
         Limits of a key/value store, in `.wws.toml`: see [stores](../configure/stores.md).\n\n",
    );
    table(&mut text, &StoreSettings::table(), false);
    text
}

fn table(text: &mut String, settings: &[Setting], env: bool) {
    let (head, line) = if env {
        ("| environment ", "| --- ")
    } else {
        ("", "")
    };
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "| setting | value | default {head}| what it does |\n| --- | --- | --- {line}| --- |"
    );
    for Setting {
        name,
        expected,
        default,
        doc,
        ..
    } in settings
    {
        let default = if default.is_empty() {
            String::new()
        } else {
            format!("`{default}`")
        };
        let env = if env {
            format!("| `WWS_{}` ", name.to_ascii_uppercase())
        } else {
            String::new()
        };
        let _ = writeln!(text, "| `{name}` | {expected} | {default} {env}| {doc} |");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn lists_every_setting() {
        let text = super::markdown();
        assert!(
            text.contains("| `port` | a port number (0 to 65535) |  | `WWS_PORT` |"),
            "{text}"
        );
        assert!(
            text.contains("| `cpu_time` | a duration such as \"10s\" or \"500ms\" | `5s` |"),
            "{text}"
        );
    }
}
