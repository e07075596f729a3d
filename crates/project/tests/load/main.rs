//! Directories as users have them, loaded.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod routes;
mod runtimes;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use wws_project::{Execution, LoadOptions, Problems, Project, RouteMatch, load};

use common::options;

/// A project of files and their texts.
fn directory(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (path, text) in files {
        write(dir.path(), path, text);
    }
    dir
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn open(dir: &TempDir) -> Result<Project, Problems> {
    load(dir.path(), &options())
}

fn problems(dir: &TempDir) -> Vec<String> {
    open(dir)
        .unwrap_err()
        .all()
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn found(project: &Project, path: &str) -> String {
    match project.find(path) {
        RouteMatch::Asset(asset) => asset.path.display().to_string(),
        RouteMatch::Worker { worker, params } => {
            let params: String = params
                .iter()
                .map(|(name, value)| format!(" {name}={value}"))
                .collect();
            format!("{}{params}", worker.path.display())
        }
        RouteMatch::AssetAt(url) => format!("at {url}"),
        RouteMatch::NotFound => "-".into(),
    }
}

#[test]
fn reads_grants_from_the_toml_of_a_worker() {
    let dir = directory(&[
        ("api/fetch.wasm", ""),
        ("libs/x", ""),
        (
            "api/fetch.toml",
            r#"
name = "fetch"
version = "1"
[vars]
MESSAGE = "hello"
TOKEN = "$TOKEN"
PRICE = "$ 5"
[data.kv]
namespace = "counter"
[[folders]]
from = "../libs"
to = "/mnt//libs/"
[features.http_requests]
allowed_hosts = ["api.example.com", "127.0.0.1:81"]
allowed_methods = ["get", "POST"]
allow_http = true
allow_private = ["10.0.0.0/8", "fd00::/8"]
[limits]
memory = "64MiB"
cpu_time = "500ms"
"#,
        ),
        (
            ".wws.toml",
            "version = 1\n[server]\nport = 8081\nallow_private = [\"192.168.0.0/16\"]\n\
             max_body = \"1MiB\"\n[limits]\nmemory = 1048576\nhttp_calls = 3\n",
        ),
    ]);
    let load_options = LoadOptions {
        env: BTreeMap::from([
            ("TOKEN".into(), "secret".into()),
            ("WWS_LIMITS_OUTPUT".into(), "2KiB".into()),
        ]),
        ..options()
    };
    let project = load(dir.path(), &load_options).unwrap();
    let worker = &project.workers()[0];
    assert_eq!(
        (
            worker.name.as_str(),
            worker.route.as_str(),
            worker.execution()
        ),
        ("fetch", "/api/fetch", Execution::Module)
    );
    let vars: Vec<_> = worker
        .vars
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert_eq!(vars, ["MESSAGE=hello", "PRICE=$ 5", "TOKEN=secret"]);
    let kv = worker.kv.as_ref().unwrap();
    assert_eq!((&*kv.namespace, &kv.store), ("counter", &None));
    assert_eq!(
        (
            worker.directories[0].from.as_path(),
            worker.directories[0].to.as_str()
        ),
        (Path::new("libs"), "/mnt/libs")
    );
    assert_eq!(
        worker.http.allowed_hosts,
        ["api.example.com", "127.0.0.1:81"]
    );
    assert_eq!(worker.http.allowed_methods, ["GET", "POST"]);
    assert!(worker.http.allow_http);
    let networks = worker.http.allow_private.iter();
    let networks: Vec<_> = networks.map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "fd00::/8"]);
    assert_eq!(worker.limits.memory, 64 << 20);
    assert_eq!(worker.limits.cpu_time, Duration::from_millis(500));
    assert_eq!((worker.limits.http_calls, worker.limits.output), (3, 2048));
    assert_eq!(
        (project.settings().port, project.settings().max_body),
        (Some(8081), 1 << 20)
    );
    let networks = &project.settings().allow_private;
    assert_eq!(networks[0].to_string(), "192.168.0.0/16");
}

#[test]
fn reports_all_problems_at_once_with_positions() {
    let dir = directory(&[
        ("a.js", ""),
        (
            "a.toml",
            "name = \"a\"\nversion = 2\n[data.kv]\nnamspace = \"x\"\n",
        ),
        ("b.js", ""),
        (
            "b.toml",
            "[vars]\nCOUNT = 3\n[[folders]]\nfrom = \"../..\"\nto = \"mnt\"\n[[folders]]\n\
             from = \"./none\"\nto = \"/x\"\n",
        ),
        ("c.js", ""),
        (
            "c.toml",
            "version = \"1\"\n[features.http_requests]\nallowed_hosts = [\"https://x.org\"]\n\
             allowed_methods = [\"FETCH\"]\nallow_http = \"no\"\n",
        ),
        ("d.js", ""),
        ("d/index.js", ""),
        ("[...all]/x.js", ""),
        ("e.js", ""),
        ("e.toml", "version = \n"),
        ("[a]/[a].js", ""),
        (
            ".wws.toml",
            "[server]\nallow_private = [\"10.0.0.1/8\"]\nport = 99999\nhost = \"nowhere\"\n\
             queue = -1\n[limits]\ncpu_time = \"5 weeks\"\n[serve]\n",
        ),
    ]);
    assert_eq!(
        problems(&dir),
        [
            ".wws.toml:2:17: `server.allow_private` is `10.0.0.1/8`, expected networks such as \
             [\"10.0.0.0/8\", \"fd00::/8\"]",
            ".wws.toml:3:8: `server.port` is `99999`, expected a port number (0 to 65535)",
            ".wws.toml:4:8: `server.host` is `nowhere`, expected an IP address such as \"0.0.0.0\"",
            ".wws.toml:5:9: `server.queue` is `-1`, expected a whole number",
            ".wws.toml:7:12: `limits.cpu_time` is `5 weeks`, expected a duration such as \"10s\" \
             or \"500ms\"",
            ".wws.toml:8:2: unknown key `serve`\n    did you mean `server`?",
            "[...all]/x.js: `[...all]` takes all that follows: it can only be the last of a route",
            "[a]/[a].js: two parameters of its route are called `a`",
            "a.toml:2:11: `version` is `2`, the only one is \"1\"",
            "a.toml:3:1: `data.kv.namespace` is missing\n    write namespace = \"NAME\"",
            "b.toml:2:9: `vars.COUNT` is a number, expected a string\n    write the value in \
             quotes",
            "b.toml:4:8: the directory `../..` is outside the project\n    a worker sees only \
             directories of its project: put or mount it below the project's root",
            "b.toml:5:6: `mnt`: expected an absolute path of the guest, as \"/mnt/libs\"",
            "b.toml:7:8: cannot open the directory `none`: No such file or directory (os error \
             2)\n    `from` is relative to the worker's own directory; in a container, mount a \
             volume there or copy it into the image",
            "c.toml:3:18: `https://x.org` is a URL, not a host\n    write a host, as \
             \"api.example.com\", or a host and a port, as \"api.example.com:8443\"",
            "c.toml:4:20: `FETCH` is no method: expected GET, POST, PUT, PATCH, DELETE, OPTIONS or \
             HEAD",
            "c.toml:5:14: `features.http_requests.allow_http` is a string, expected true or false",
            "d.js: has the route /d, which d/index.js has too\n    rename one of them, or put it \
             into a directory that begins with `_`",
            "e.toml:1:11: no valid TOML: string values must be quoted, expected literal string",
        ]
    );
}

#[test]
fn follows_links_within_the_project_only() {
    let outside = directory(&[("w.js", ""), ("f/x", "")]);
    let dir = directory(&[
        ("real/in.js", ""),
        ("g.js", ""),
        ("g.toml", "[[folders]]\nfrom = \"out\"\nto = \"/f\"\n"),
        ("shared/x", ""),
    ]);
    symlink(outside.path().join("w.js"), dir.path().join("bad.js")).unwrap();
    symlink(outside.path().join("f"), dir.path().join("out")).unwrap();
    symlink("real", dir.path().join("alias")).unwrap();
    symlink("..", dir.path().join("real/circle")).unwrap();
    assert_eq!(
        problems(&dir),
        [
            "bad.js: a link that leads outside the project\n    replace it by the file or \
             directory itself, or let `server.ignore` leave it out",
            "g.toml:2:8: the directory `out` is outside the project: a link on its way leads \
             there\n    put or mount the directory itself below the project's root",
        ]
    );
    fs::remove_file(dir.path().join("bad.js")).unwrap();
    write(
        dir.path(),
        "g.toml",
        "[[folders]]\nfrom = \"shared\"\nto = \"/f\"\n",
    );
    let project = open(&dir).unwrap();
    assert_eq!(found(&project, "/alias/in"), "alias/in.js");
    assert_eq!(found(&project, "/real/in"), "real/in.js");
}

#[test]
fn a_missing_variable_is_a_warning_and_empty() {
    let dir = directory(&[
        ("a.js", ""),
        ("a.toml", "version = \"1\"\n[vars]\nTOKEN = \"$TOKEN\"\n"),
        ("b.py", ""),
    ]);
    let project = open(&dir).unwrap();
    assert_eq!(project.workers()[0].vars["TOKEN"], "");
    let warnings: Vec<_> = project.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "a.toml:3:9: the environment has no `TOKEN`: `TOKEN` is empty\n    set it: `docker run \
             -e TOKEN=...`, `TOKEN=... wws`, or `TOKEN=...` in `.env` for `wws`; a text that \
             begins with a dollar is written with two: `$$TOKEN`",
            "b.py: no worker: nothing here runs .py\n    `wws runtimes install python latest` \
             makes it one",
        ]
    );
}

#[test]
fn reports_missing_directory() {
    let Err(problems) = load(Path::new("/no/such/directory"), &options()) else {
        panic!("it loaded")
    };
    assert_eq!(
        problems.to_string(),
        "/no/such/directory: cannot open the project's directory: No such file or directory (os \
         error 2)\n    expected a directory with workers, or one worker"
    );
}

#[test]
fn warns_of_unknown_keys_in_the_toml_of_a_worker() {
    let toml = "version = \"1\"\ndescription = \"x\"\n[features.wasi_nn]\npreload_models = []\n";
    let limits = toml.to_owned() + "[limits]\nmemry = \"1MiB\"\n";
    let dir = directory(&[("a.js", ""), ("a.toml", &limits)]);
    // Limits are not of the old server.
    assert_eq!(
        problems(&dir),
        ["a.toml:6:1: unknown key `limits.memry`\n    did you mean `memory`?"]
    );
    write(dir.path(), "a.toml", toml);
    let project = open(&dir).unwrap();
    let warnings = project.warnings().iter();
    let warnings: Vec<_> = warnings.map(|w| w.message.as_str()).collect();
    assert_eq!(
        warnings,
        [
            "unknown key `features.wasi_nn.preload_models`",
            "unknown key `description`"
        ]
    );
}

#[test]
fn bad_file_costs_only_its_route_if_not_strict() {
    let dir = directory(&[
        (".wws.toml", "version = 1\n[server]\nstrict = false\n"),
        ("good.js", ""),
        ("toml.js", ""),
        ("toml.toml", "version = \n"),
        ("data.js", ""),
        ("data.toml", "[[folders]]\nfrom = \"./none\"\nto = \"/x\"\n"),
        ("two.js", ""),
        ("two/index.js", ""),
        ("a[b].js", ""),
    ]);
    let project = open(&dir).unwrap();
    let of = |path: &str| match project.find(path) {
        RouteMatch::Worker { worker, .. } => {
            worker.problems.iter().map(ToString::to_string).collect()
        }
        _ => vec!["no worker".to_owned()],
    };
    assert_eq!(of("/good"), [""; 0]);
    assert_eq!(of("/two"), [""; 0]);
    assert!(of("/toml")[0].starts_with("toml.toml:1:11: no valid TOML"));
    assert!(of("/data")[0].starts_with("data.toml:2:8: cannot open the directory `none`"));
    let warnings: Vec<_> = project.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings[0].starts_with("a[b].js: not served: `a[b]`: a parameter is a whole segment"));
    assert!(warnings[1].contains(": not served: has the route /two, which two"));
    let strict = LoadOptions {
        strict: Some(true),
        ..options()
    };
    assert_eq!(load(dir.path(), &strict).unwrap_err().all().len(), 4);
}

#[test]
fn a_file_is_a_project_of_one_worker() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("app.wasm", "");
    write("app.toml", "[vars]\nNAME = \"one\"");
    write("other.wasm", "");
    write(".wws.toml", "[server]\nport = 81");
    let project = load(&dir.path().join("app.wasm"), &LoadOptions::default()).unwrap();
    assert_eq!(project.workers().len(), 1);
    assert_eq!(project.workers()[0].vars["NAME"], "one");
    assert_eq!(project.settings().port, Some(81));
    for path in ["/", "/a", "/a/b.html"] {
        assert!(
            matches!(project.find(path), wws_project::RouteMatch::Worker { .. }),
            "{path}"
        );
    }
    write("notes.txt", "");
    let problems = load(&dir.path().join("notes.txt"), &LoadOptions::default()).unwrap_err();
    let text = problems.to_string();
    assert!(text.contains("notes.txt: is not a worker"), "{text}");
}

#[test]
fn an_instance_has_no_more_requests_at_once_than_in_all() {
    let dir = directory(&[
        ("w.wasm", ""),
        ("w.toml", "[instances]\nreuse = 3\nconcurrent = 4\n"),
    ]);
    let problems = load(dir.path(), &LoadOptions::default()).unwrap_err();
    let text = problems.to_string();
    assert!(
        text.contains("w.toml:1:1: `concurrent` is 4, but an instance answers `reuse = 3`"),
        "{text}"
    );
    std::fs::write(
        dir.path().join("w.toml"),
        "[instances]\nreuse = 4\nconcurrent = 4\n",
    )
    .unwrap();
    let project = load(dir.path(), &LoadOptions::default()).unwrap();
    assert_eq!(project.workers()[0].instances.concurrent, 4);
}

#[test]
fn variables_come_from_files_and_from_env_files() {
    let dir = directory(&[
        ("w.js", ""),
        ("secrets/token", "from a file\n"),
        (".env", "A=of .env\nB=of .env\nWWS_PORT=81\n"),
    ]);
    let token = dir.path().canonicalize().unwrap().join("secrets/token");
    let token = token.display();
    let toml = format!(
        "[vars]\nA = \"$A\"\nB = \"$B\"\nTOKEN = \"file:{token}\"\nDB = \"file:./dev.db\"\n"
    );
    std::fs::write(dir.path().join("w.toml"), toml).unwrap();
    let load_options = LoadOptions {
        dot_env: true,
        env: [("B".to_owned(), "of the environment".to_owned())].into(),
        ..options()
    };
    let project = load(dir.path(), &load_options).unwrap();
    let vars = &project.workers()[0].vars;
    assert_eq!(vars["A"], "of .env");
    assert_eq!(vars["B"], "of the environment");
    assert_eq!(vars["TOKEN"], "from a file");
    assert_eq!(vars["DB"], "file:./dev.db");
    // It has variables for workers, and no settings.
    assert_eq!(project.settings().port, None);
    // Without the option, as in a container, it is not read.
    let project = load(dir.path(), &options()).unwrap();
    assert_eq!(project.workers()[0].vars["A"], "");
}

#[test]
fn reports_unreadable_secrets_with_positions() {
    let dir = directory(&[
        ("w.js", ""),
        (
            "w.toml",
            "[vars]\nA = \"file:/run/secrets/wws-test-missing\"\nB = \"file:/etc/hostname\"\n",
        ),
        (".env", "A=1\noops\n"),
    ]);
    let load_options = LoadOptions {
        dot_env: true,
        ..options()
    };
    let problems = load(dir.path(), &load_options).unwrap_err().to_string();
    let lines: Vec<_> = problems.lines().collect();
    assert_eq!(
        lines,
        [
            ".env:2:1: expected NAME=VALUE",
            "w.toml:2:5: `A`: there is no file /run/secrets/wws-test-missing",
            "w.toml:3:5: `B`: the file /etc/hostname is neither in the project nor in /run/secrets \
             or /run/credentials",
        ]
    );
}
