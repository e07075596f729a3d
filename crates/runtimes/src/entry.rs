//! The lines of `.wws.toml` that list a runtime.

use wws_project::{File, Runtime};

/// A TOML string. JSON's escapes are TOML's.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// `[[repositories]]` without its runtimes.
pub(crate) fn of_repository(name: &str, url: Option<&str>) -> String {
    let mut lines = Lines::default();
    lines.line("[[repositories]]");
    lines.value("name", quoted(name));
    if let Some(url) = url {
        lines.value("url", quoted(url));
    }
    lines.0
}

/// `[[repositories.runtimes]]`.
pub(crate) fn of_runtime(runtime: &Runtime) -> String {
    let mut lines = Lines::default();
    lines.line("[[repositories.runtimes]]");
    lines.value("name", quoted(&runtime.name));
    lines.value("version", quoted(&runtime.version));
    lines.list("tags", &runtime.tags);
    lines.value("status", quoted(runtime.status.name()));
    lines.list("extensions", &runtime.extensions);
    lines.list("args", &runtime.args);
    if !runtime.envs.is_empty() {
        let envs: Vec<String> = runtime
            .envs
            .iter()
            .map(|(name, value)| format!("{} = {}", quoted(name), quoted(value)))
            .collect();
        lines.value("envs", format!("{{ {} }}", envs.join(", ")));
    }
    if let Some(kit) = &runtime.kit {
        lines.value("kit", quoted(kit));
    }
    lines.file("binary", Some(&runtime.binary));
    lines.file("polyfill", runtime.polyfill.as_ref());
    lines.file("wrapper", runtime.wrapper.as_ref());
    lines.file("template", runtime.template.as_ref());
    lines.0
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    fn value(&mut self, key: &str, value: String) {
        self.line(&format!("{key} = {value}"));
    }

    fn list(&mut self, key: &str, texts: &[String]) {
        if !texts.is_empty() {
            let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
            self.value(key, format!("[{}]", texts.join(", ")));
        }
    }

    fn file(&mut self, key: &str, file: Option<&File>) {
        let Some(file) = file else {
            return;
        };
        self.line(&format!("\n[repositories.runtimes.{key}]"));
        if let Some(url) = &file.url {
            self.value("url", quoted(url));
        }
        self.value("filename", quoted(&file.filename));
        if let Some(sha256) = &file.sha256 {
            let sha256 = quoted(sha256);
            self.value(
                "checksum",
                format!("{{ type = \"sha256\", value = {sha256} }}"),
            );
        }
    }
}
