//! `wws schema`: JSON Schemas of `.wws.toml` and of a worker's TOML, which editors use.

use serde_json::{Map, Value, json};
use wws_project::{
    Consistency, Cors, Instances, Limits, ServerSettings, StoreSettings, TomlType, Unit, WorkerLog,
    settings::Setting,
};

/// The dialect of the schemas: the one that TOML editors know.
const DIALECT: &str = "http://json-schema.org/draft-07/schema#";

/// `"10s"`, `"500ms"`: as the settings are parsed.
const DURATION: &str = r"^\s*[0-9]+\s*(ms|s|m|min|h)?\s*$";

/// `"64MiB"`, `"4096"`.
const SIZE: &str = r"^\s*[0-9]+\s*([bB]|[kKmMgG]([iI]?[bB])?)?\s*$";

/// One component of a path.
const FILE_NAME: &str = r"^[^/\\\x00]+$";

const SHA256: &str = "^[0-9a-fA-F]{64}$";

/// The schema of `.wws.toml`.
pub(crate) fn project() -> Value {
    let runtimes = list(runtime());
    let repository = object(
        "A repository of language runtimes.",
        json!({
            "name": file_name("The repository's name."),
            "url": text("The address of its index."),
            "runtimes": runtimes,
        }),
        &["name"],
    );
    let mut schema = object(
        "Settings of a project of workers.",
        json!({
            "version": version(),
            "server": settings("Settings of the server.", &ServerSettings::table()),
            "limits": settings("Limits of one call, for all workers.", &Limits::table()),
            "log": settings("What workers log.", &WorkerLog::table()),
            "stores": {
                "type": "object",
                "description": "Key/value stores.",
                "propertyNames": { "pattern": "^[A-Za-z0-9_-]+$" },
                "additionalProperties": store(),
            },
            "repositories": list(repository),
        }),
        &[],
    );
    name(&mut schema, ".wws.toml");
    schema
}

/// The schema of a worker's TOML. Unknown keys are allowed, as they are warnings, except for
/// limits and instances.
pub(crate) fn worker() -> Value {
    let directory = open_object(
        "A directory of the project that the worker sees.",
        json!({
            "from": text("The directory, relative to the worker's own."),
            "to": {
                "type": "string",
                "pattern": "^/",
                "description": "The absolute path at which the worker sees it.",
            },
            "data": {
                "type": "boolean",
                "default": true,
                "description": "Whether the directory holds data: then no file in it is a worker \
                    or an asset.",
            },
        }),
        &["from", "to"],
    );
    let http = open_object(
        "Outgoing HTTP requests.",
        json!({
            "allowed_hosts": texts("Hosts, as `api.example.com` or `api.example.com:8443`."),
            "allowed_methods": texts("Methods; all but OPTIONS and HEAD by default."),
            "allow_http": {
                "type": "boolean",
                "default": false,
                "description": "Whether plain `http:` is allowed.",
            },
            "allow_private": texts("Private networks that the hosts may be in, as `10.0.0.0/8`."),
        }),
        &[],
    );
    let nn = open_object(
        "Not available; accepted for compatibility.",
        json!({ "allowed_backends": texts("Not available.") }),
        &[],
    );
    let kv = open_object(
        "The key/value store.",
        json!({
            "namespace": {
                "type": "string",
                "minLength": 1,
                "description": "Workers with the same namespace of a store share keys.",
            },
            "store": text("The name of a store of `.wws.toml`; without it, the namespace is in the \
                memory of the server."),
            "consistency": {
                "enum": Consistency::ALL.map(Consistency::name),
                "default": Consistency::default().name(),
                "description": "How the changes of requests that run at once meet.",
            },
        }),
        &["namespace"],
    );
    let mut schema = open_object(
        "A worker's settings.",
        json!({
            "name": text("The worker's name in logs."),
            "version": version(),
            "vars": {
                "type": "object",
                "additionalProperties": { "type": "string" },
                "description": "Variables; a value of `$NAME` is taken from the server's \
                    environment, one of `file:/PATH` from a file.",
            },
            "data": open_object("Data of the worker.", json!({ "kv": kv }), &[]),
            "folders": list(directory),
            "features": open_object(
                "What the worker may use.",
                json!({ "http_requests": http, "wasi_nn": nn }),
                &[],
            ),
            "limits": settings("Limits of one call of this worker.", &Limits::table()),
            "log": settings("What the worker logs.", &WorkerLog::table()),
            "cors": settings("Which pages of other origins may read responses.", &Cors::table()),
            "instances": settings("How long the worker's instances live.", &Instances::table()),
        }),
        &[],
    );
    name(&mut schema, "TOML of a worker");
    schema
}

fn store() -> Value {
    let mut schema = settings("A key/value store.", &StoreSettings::table());
    schema["properties"]["kind"] = json!({
        "enum": ["memory", "file", "redis"],
        "description": "Where it keeps its entries.",
    });
    schema["properties"]["path"] = text("The database of a file store, relative to the project.");
    schema["properties"]["url"] = text(
        "The URL of Redis or Valkey: redis://, rediss:// or redis+unix://; `$NAME` is taken from \
         the environment, `file:/PATH` from a file.",
    );
    schema["required"] = json!(["kind"]);
    schema
}

fn runtime() -> Value {
    let checksum = object(
        "The checksum of the file.",
        json!({
            "type": { "const": "sha256" },
            "value": { "type": "string", "pattern": SHA256 },
        }),
        &["value"],
    );
    let file = |description: &str| {
        object(
            description,
            json!({
                "url": text("Where it is fetched."),
                "filename": file_name("Its name."),
                "checksum": checksum,
            }),
            &["filename"],
        )
    };
    object(
        "A language runtime.",
        json!({
            "name": file_name("Its name."),
            "version": file_name("Its version."),
            "tags": texts("Other names of the version."),
            "status": { "enum": ["active", "yanked", "deprecated", "unknown"] },
            "extensions": texts("Extensions of the files that it runs."),
            "args": texts("All arguments of the interpreter."),
            "envs": {
                "type": "object",
                "additionalProperties": { "type": "string" },
                "description": "Variables of the interpreter.",
            },
            "kit": text("The language of the server that drives the interpreter."),
            "binary": file("The interpreter."),
            "polyfill": file("A library that is placed next to the source."),
            "wrapper": file("A text around the source, which replaces its `{source}`."),
            "template": file("An example of a worker."),
        }),
        &["name", "version", "binary"],
    )
}

/// A table of settings, which knows no other keys.
fn settings(description: &str, table: &[Setting]) -> Value {
    let settings = table.iter().map(|it| (it.name.to_owned(), setting(it)));
    let properties: Map<String, Value> = settings.collect();
    object(description, Value::Object(properties), &[])
}

fn setting(setting: &Setting) -> Value {
    let mut types: Vec<Value> = setting.toml.iter().map(|it| toml(setting, *it)).collect();
    let mut schema = match types.len() {
        1 => types.remove(0),
        _ => json!({ "anyOf": types }),
    };
    schema["description"] = setting.doc.into();
    if !setting.default.is_empty() {
        schema["default"] = default(setting);
    }
    schema
}

/// The schema of a value of one TOML type.
fn toml(setting: &Setting, toml: TomlType) -> Value {
    match toml {
        TomlType::Boolean => json!({ "type": "boolean" }),
        TomlType::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        TomlType::Text if !setting.values.is_empty() => json!({ "enum": setting.values }),
        TomlType::Text => match setting.unit {
            Some(Unit::Duration) => json!({ "type": "string", "pattern": DURATION }),
            Some(Unit::Size) => json!({ "type": "string", "pattern": SIZE }),
            Some(Unit::Count) | None => json!({ "type": "string" }),
        },
        TomlType::Integer => {
            let (least, most) = match (setting.unit, setting.bounds) {
                // Bounds are milliseconds, an integer is seconds.
                (Some(Unit::Duration), (least, most)) => (least.div_ceil(1000), most / 1000),
                (_, bounds) => bounds,
            };
            let mut schema = json!({ "type": "integer", "minimum": least });
            if most < u64::MAX {
                schema["maximum"] = most.into();
            }
            schema
        }
    }
}

/// The default in its TOML type.
fn default(setting: &Setting) -> Value {
    let text = setting.default.as_str();
    let typed = match setting.toml {
        [TomlType::Integer] => text.parse::<u64>().ok().map(Value::from),
        [TomlType::Boolean] => text.parse::<bool>().ok().map(Value::from),
        _ => None,
    };
    typed.unwrap_or_else(|| text.into())
}

fn version() -> Value {
    json!({ "enum": [1, "1"], "description": "The version of the format." })
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

fn texts(description: &str) -> Value {
    json!({ "type": "array", "items": { "type": "string" }, "description": description })
}

fn file_name(description: &str) -> Value {
    json!({ "type": "string", "pattern": FILE_NAME, "description": description })
}

fn list(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

/// A table that knows no other keys.
fn object(description: &str, properties: Value, required: &[&str]) -> Value {
    let mut schema = open_object(description, properties, required);
    schema["additionalProperties"] = false.into();
    schema
}

/// A table that may have other keys.
fn open_object(description: &str, properties: Value, required: &[&str]) -> Value {
    let mut schema = json!({
        "type": "object",
        "description": description,
        "properties": properties,
    });
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema
}

fn name(schema: &mut Value, title: &str) {
    schema["$schema"] = DIALECT.into();
    schema["title"] = title.into();
}

/// The text of a schema, as it is printed.
pub(crate) fn printed(schema: &Value) -> String {
    format!("{schema:#}\n")
}
