//! `wws schema`: the committed schemas are what it prints, and the TOML files of this repository
//! follow them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn printed(of: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wws"));
    let output = command.arg("schema").args(of).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn schema(of: &[&str]) -> Value {
    serde_json::from_str(&printed(of)).unwrap()
}

fn parse(text: &str) -> Value {
    toml::from_str(text).unwrap()
}

/// Whether a text matches one of the patterns that the schemas have.
fn matches(pattern: &str, text: &str) -> bool {
    let unit = text.trim().trim_start_matches(|c: char| c.is_ascii_digit());
    let has_number = unit.len() < text.trim().len();
    match pattern {
        r"^[A-Za-z0-9_-]+$" => {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
            !text.is_empty() && text.chars().all(is_plain)
        }
        r"^\s*[0-9]+\s*(ms|s|m|min|h)?\s*$" => {
            has_number && ["", "ms", "s", "m", "min", "h"].contains(&unit.trim())
        }
        r"^\s*[0-9]+\s*([bB]|[kKmMgG]([iI]?[bB])?)?\s*$" => {
            let unit = unit.trim().to_lowercase();
            has_number
                && [
                    "", "b", "k", "kb", "kib", "m", "mb", "mib", "g", "gb", "gib",
                ]
                .contains(&unit.as_str())
        }
        r"^[^/\\\x00]+$" => !text.is_empty() && !text.contains(['/', '\\', '\0']),
        "^[0-9a-fA-F]{64}$" => text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()),
        "^/" => text.starts_with('/'),
        _ => panic!("the test does not know the pattern {pattern}"),
    }
}

/// What is wrong with a value. Knows the keywords of the schemas, and no others.
fn problems(schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut require = |holds: bool, what: &str| {
        if !holds {
            found.push(format!("{at}: {what}: {value}"));
        }
    };
    let mut nested = Vec::new();
    let empty = serde_json::Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&empty);
    for (keyword, expected) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$schema" | "title" | "description" | "default" => {}
            "type" => {
                let is_it = match expected.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "integer" => value.is_u64() || value.is_i64(),
                    "boolean" => value.is_boolean(),
                    other => panic!("the test does not know the type {other}"),
                };
                require(is_it, "has another type");
            }
            "propertyNames" => {
                let names = value.as_object().into_iter().flat_map(|table| table.keys());
                for name in names {
                    nested.extend(problems(expected, &name.as_str().into(), at));
                }
            }
            "enum" => require(
                expected.as_array().unwrap().contains(value),
                "unknown value",
            ),
            "const" => require(expected == value, "another value"),
            "anyOf" => {
                let mut schemas = expected.as_array().unwrap().iter();
                let any = schemas.any(|schema| problems(schema, value, at).is_empty());
                require(any, "has none of the types");
            }
            "minimum" => require(
                value
                    .as_i64()
                    .is_none_or(|n| n >= expected.as_i64().unwrap()),
                "too small",
            ),
            "maximum" => require(
                value
                    .as_u64()
                    .is_none_or(|n| n <= expected.as_u64().unwrap()),
                "too large",
            ),
            "minLength" => require(value.as_str().is_none_or(|text| !text.is_empty()), "empty"),
            "pattern" => require(
                value
                    .as_str()
                    .is_none_or(|text| matches(expected.as_str().unwrap(), text)),
                "another form",
            ),
            "required" => {
                for key in expected.as_array().unwrap() {
                    let key = key.as_str().unwrap();
                    require(value.get(key).is_some(), &format!("without `{key}`"));
                }
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    nested.extend(problems(expected, item, at));
                }
            }
            "properties" => {
                for (key, schema) in properties {
                    if let Some(value) = value.get(key) {
                        nested.extend(problems(schema, value, &format!("{at}.{key}")));
                    }
                }
            }
            "additionalProperties" => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    if properties.contains_key(key) {
                        continue;
                    }
                    match expected {
                        Value::Bool(allowed) => require(*allowed, &format!("unknown `{key}`")),
                        schema => nested.extend(problems(schema, value, &format!("{at}.{key}"))),
                    }
                }
            }
            other => panic!("the test does not know the keyword {other}"),
        }
    }
    found.extend(nested);
    found
}

#[test]
fn committed_schemas_are_what_the_command_prints() {
    for (of, file) in [
        (&[][..], "wws.schema.json"),
        (&["project"], "wws.schema.json"),
        (&["worker"], "worker.schema.json"),
    ] {
        let path = root().join("docs/reference").join(file);
        let committed = fs::read_to_string(&path).unwrap();
        assert!(
            committed == printed(of),
            "{}: write it again with `wws schema`",
            path.display()
        );
    }
}

/// TOML files of projects and workers in a directory of the repository.
fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !["target", "node_modules"].contains(&name.as_str()) {
            files(&path, found);
        } else if name.ends_with(".toml") && name != "Cargo.toml" {
            found.push(path);
        }
    }
}

#[test]
fn example_files_follow_the_schemas() {
    let (project, worker) = (schema(&[]), schema(&["worker"]));
    let mut found = Vec::new();
    for directory in ["images", "test/projects"] {
        files(&root().join(directory), &mut found);
    }
    let mut checked = [0, 0];
    for path in found {
        let is_worker = path.file_name().unwrap() != ".wws.toml";
        let value = parse(&fs::read_to_string(&path).unwrap());
        let schema = if is_worker { &worker } else { &project };
        let problems = problems(schema, &value, "");
        assert!(problems.is_empty(), "{}: {problems:?}", path.display());
        checked[usize::from(is_worker)] += 1;
    }
    assert!(checked[0] >= 3 && checked[1] >= 10, "{checked:?}");
}

#[test]
fn the_schemas_reject_what_the_server_rejects() {
    let (project, worker) = (schema(&[]), schema(&["worker"]));
    for (schema, text) in [
        (&project, "version = 2"),
        (&project, "servr = {}"),
        (&project, "[server]\nport = 65536"),
        (&project, "[server]\nport = '80'"),
        (&project, "[server]\nheader_timeout = '10 parsecs'"),
        (&project, "[server]\nmax_body = '1 TiB'"),
        (&project, "[server]\nlog_format = 'xml'"),
        (&project, "[server]\naccess_log = 'yes'"),
        (&project, "[limits]\nmemory = 1"),
        (&project, "[[repositories]]\nname = 'a/b'"),
        (
            &project,
            "[[repositories]]\nname = 'a'\n[[repositories.runtimes]]\nname = 'r'\nversion = '1'",
        ),
        (&worker, "[limits]\nmemry = 1"),
        (&worker, "[vars]\nA = 1"),
        (&worker, "[[folders]]\nfrom = 'data'\nto = 'data'"),
        (&worker, "[[folders]]\nto = '/data'"),
        (&worker, "[data.kv]\nnamespace = ''"),
        (
            &worker,
            "[data.kv]\nnamespace = 'n'\nconsistency = 'eventual'",
        ),
        (&project, "[stores.a]\npath = 'kv'"),
        (&project, "[stores.a]\nkind = 'disk'"),
        (&project, "[stores.a]\nkind = 'file'\nsize = 1"),
        (&project, "[stores.'a b']\nkind = 'memory'"),
    ] {
        assert!(!problems(schema, &parse(text), "").is_empty(), "{text}");
    }
    for (schema, text) in [
        (
            &project,
            "version = '1'\n[server]\nport = 80\nheader_timeout = 5\nmax_body = '1 mib'\n\
             ignore = ['a', 'b']\nmemory = 0\n[stores.main-2]\nkind = 'file'\npath = './data/kv'\n\
             max_size = '1GiB'",
        ),
        (
            &worker,
            "name = 'w'\nother = 1\n[features.http_requests]\nallowed_hosts = ['a.example']\n\
             [data.kv]\nnamespace = 'n'",
        ),
    ] {
        assert_eq!(problems(schema, &parse(text), ""), [""; 0], "{text}");
    }
}
