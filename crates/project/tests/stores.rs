//! `[stores.NAME]` and `[data.kv]`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use wws_project::{Consistency, LoadOptions, StorePlace, load};

fn directory(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn options() -> LoadOptions {
    LoadOptions {
        languages: vec![wws_project::LanguageSpec {
            name: "javascript",
            extensions: &["js"],
            interpreter: wws_project::InterpreterOrigin::BuiltIn,
            convertible: &[],
        }],
        ..LoadOptions::default()
    }
}

fn problems(dir: &Path, options: &LoadOptions) -> Vec<String> {
    let problems = load(dir, options).unwrap_err();
    problems.all().iter().map(ToString::to_string).collect()
}

#[test]
fn stores_are_read_and_named_by_workers() {
    let dir = directory(&[
        (
            ".wws.toml",
            "[stores.main]\nkind = \"file\"\npath = \"./data/../data/kv\"\nmax_value = \"2MiB\"\n\
             [stores.fast]\nkind = \"memory\"\n",
        ),
        ("a.wasm", ""),
        (
            "a.toml",
            "[data.kv]\nnamespace = \"n\"\nstore = \"main\"\nconsistency = \"serial\"\n",
        ),
        ("b.js", ""),
        ("b.toml", "[data.kv]\nnamespace = \"n\"\n"),
    ]);
    let project = load(dir.path(), &options()).unwrap();
    let stores = project.stores();
    let names: Vec<_> = stores.iter().map(|store| &*store.name).collect();
    assert_eq!(names, ["fast", "main"]);
    let path = dir.path().canonicalize().unwrap().join("data/kv");
    assert_eq!(stores[1].place, StorePlace::File(path));
    assert_eq!(stores[1].limits.max_value, 2 << 20);
    assert_eq!(stores[0].place, StorePlace::Memory);
    let kv = |route: &str| {
        let mut workers = project.workers().iter();
        workers
            .find(|worker| worker.route == route)
            .unwrap()
            .kv
            .clone()
            .unwrap()
    };
    let (a, b) = (kv("/a"), kv("/b"));
    assert_eq!(
        (a.store.as_deref(), a.consistency),
        (Some("main"), Consistency::Serial)
    );
    assert_eq!((b.store, b.consistency), (None, Consistency::Merge));
}

#[test]
fn reports_all_problems_of_stores_with_positions() {
    let outside = directory(&[]);
    let dir = directory(&[
        (
            ".wws.toml",
            r#"[stores.a]
kind = "disk"
[stores.b]
path = "x"
[stores.c]
kind = "file"
[stores.d]
kind = "file"
path = "../kv"
[stores.e]
kind = "file"
path = "public/kv"
[stores.f]
kind = "file"
path = "data/kv.js"
[stores.g]
kind = "memory"
path = "kv"
max_key = "1MiB"
size = 3
[stores.h]
kind = "file"
path = "link/kv"
[stores.i]
kind = "file"
path = "/data/kv"
[stores."j k"]
kind = "memory"
[stores.k]
kind = "file"
path = "./same"
[stores.l]
kind = "file"
path = "same"
[stores.m]
kind = "file"
path = "given/deep/kv"
[stores.n]
kind = "file"
path = "."
"#,
        ),
        ("a.wasm", ""),
        (
            "a.toml",
            "[data.kv]\nnamespace = \"n\"\nstore = \"x\"\nconsistency = \"eventual\"\n[[folders]]\n\
             from = \"given\"\nto = \"/g\"\n",
        ),
        ("b.js", ""),
        (
            "b.toml",
            "[data.kv]\nnamespace = \"n\"\nconsistency = \"serial\"\n",
        ),
        ("given/x", ""),
    ]);
    symlink(outside.path(), dir.path().join("link")).unwrap();
    let inside = "write a path inside the project, as \"./data/kv\"; in a container, also the \
        absolute path of a volume";
    assert_eq!(
        problems(dir.path(), &options()),
        [
            ".wws.toml:2:8: `kind` is `disk`, expected one of memory, file, redis".to_owned(),
            ".wws.toml:3:1: `stores.b.kind` is missing\n    write kind = \"memory\", \"file\" or \
             \"redis\""
                .into(),
            ".wws.toml:5:1: `stores.c.path` is missing\n    write path = \"./data/kv\"".into(),
            format!(".wws.toml:9:8: the file `../kv` is outside the project\n    {inside}"),
            ".wws.toml:12:8: the file `public/kv` would be in a directory that holds files of the \
             project\n    put the store into a directory of its own, as \"./data/kv\""
                .into(),
            ".wws.toml:15:8: the file `data/kv.js` has an extension: it could be taken for a \
             worker\n    write a name without a dot, as \"./data/kv\""
                .into(),
            ".wws.toml:18:8: a store of the kind `memory` has no `path`".into(),
            ".wws.toml:19:11: `stores.NAME.max_key` is `1MiB`: the most is 64KiB".into(),
            ".wws.toml:20:1: unknown key `stores.g.size`\n    known here: kind, path, max_key, \
             max_value, max_size, url"
                .into(),
            ".wws.toml:23:8: the file `link/kv` is outside the project: a link on its way leads \
             there"
                .into(),
            format!(".wws.toml:26:8: the file `/data/kv` is outside the project\n    {inside}"),
            ".wws.toml:27:9: `j k` is no name of a store: letters, digits, `-` and `_`".into(),
            ".wws.toml:32:1: the stores `k` and `l` are in the same place\n    give each a place \
             of its own"
                .into(),
            ".wws.toml:35:1: the store `m`: its file is in the directory `given`, which \
             [[folders]] gives to a.wasm\n    put the store into a directory that no worker is \
             given"
                .into(),
            ".wws.toml:40:8: `.` is no path of a file".into(),
            "a.toml:3:9: no store is called `x`\n    .wws.toml defines a, b, c, d, e, f, g, h, i, \
             j k, k, l, m, n"
                .into(),
            "a.toml:4:15: `consistency` is `eventual`, expected one of merge, serial".into(),
            "b.toml:1:1: `data.kv.consistency` is \"serial\", which is for workers of the JSON \
             protocol\n    this language changes the store atomically: see `increment` and \
             `compareAndSet`"
                .into(),
        ]
    );
}

#[test]
fn volume_of_a_container_is_an_absolute_path() {
    let dir = directory(&[
        (
            ".wws.toml",
            "[stores.a]\nkind = \"file\"\npath = \"/data/./kv\"\n",
        ),
        ("a.wasm", ""),
    ]);
    let container = LoadOptions {
        container: true,
        ..options()
    };
    let project = load(dir.path(), &container).unwrap();
    assert_eq!(
        project.stores()[0].place,
        StorePlace::File(PathBuf::from("/data/kv"))
    );
    for path in ["/", "/../kv", "/data/.."] {
        let text = format!("[stores.a]\nkind = \"file\"\npath = \"{path}\"\n");
        std::fs::write(dir.path().join(".wws.toml"), text).unwrap();
        assert_eq!(
            problems(dir.path(), &container),
            [format!(".wws.toml:3:8: `{path}` is no path of a file")]
        );
    }
}

#[test]
fn urls_are_read_and_never_shown() {
    let toml = |url: &str| format!("[stores.a]\nkind = \"redis\"\nurl = \"{url}\"\n");
    let dir = directory(&[("a.wasm", ""), ("secret", "rediss://:s3cret@b/1\n")]);
    let file = dir.path().canonicalize().unwrap().join("secret");
    let mut options = options();
    options
        .env
        .insert("URL".into(), "redis://:s3cret@a:1".into());
    options
        .env
        .insert("WRONG".into(), "http://:s3cret@a".into());
    let config = dir.path().join(".wws.toml");
    for (url, expected) in [
        ("redis://:s3cret@h", "redis://:s3cret@h"),
        ("$URL", "redis://:s3cret@a:1"),
        ("${URL}", "redis://:s3cret@a:1"),
        (&format!("file:{}", file.display()), "rediss://:s3cret@b/1"),
    ] {
        std::fs::write(&config, toml(url)).unwrap();
        let project = load(dir.path(), &options).unwrap();
        let StorePlace::Redis(url) = &project.stores()[0].place else {
            panic!("{:?}", project.stores());
        };
        assert_eq!(url.as_str(), expected);
        assert!(!format!("{:?}", project.stores()).contains("s3cret"));
    }
    for (url, expected) in [
        ("$NONE", "the environment has no `NONE`"),
        (
            "$WRONG",
            "the URL begins with none of redis://, rediss://, redis+unix://",
        ),
        (
            "s3cret",
            "the URL begins with none of redis://, rediss://, redis+unix://",
        ),
        (
            "file:/run/secrets/none-of-this-name",
            "there is no file /run/secrets/none-of-this-name",
        ),
    ] {
        std::fs::write(&config, toml(url)).unwrap();
        let found = problems(dir.path(), &options);
        assert_eq!(found, [format!(".wws.toml:3:7: {expected}")]);
    }
    let rest = "[stores.a]\nkind = \"redis\"\nmax_size = \"1GiB\"\n[stores.b]\nkind = \"memory\"\n\
        url = \"redis://h\"\n";
    std::fs::write(&config, rest).unwrap();
    assert_eq!(
        problems(dir.path(), &options),
        [
            ".wws.toml:1:1: `stores.a.url` is missing\n    write url = \"redis://HOST:6379\" or \
             url = \"$REDIS_URL\"",
            ".wws.toml:1:1: a store of the kind `redis` has no `max_size`: Redis has a limit of \
             its own (`maxmemory`)",
            ".wws.toml:6:7: a store of the kind `memory` has no `url`",
        ]
    );
}

/// A project that its user did not write, and that runs without a container.
#[test]
fn a_strangers_project_reaches_public_hosts_alone() {
    let config = "version = 1\n[server]\nallow_private = \"10.0.0.0/8\"\n\
        [stores.own]\nkind = \"redis\"\nurl = \"redis://127.0.0.1\"\n\
        [stores.image]\nkind = \"redis\"\nurl = \"$OWN_URL\"\n\
        [stores.given]\nkind = \"redis\"\nurl = \"$GIVEN_URL\"\n";
    let worker = "version = \"1\"\n[features.http_requests]\n\
        allowed_hosts = [\"*\", \"api.example.com\", \"127.0.0.1:80\", \"localhost\"]\n\
        allow_private = [\"192.168.0.0/16\"]\n";
    let dir = directory(&[(".wws.toml", config), ("a.wasm", ""), ("a.toml", worker)]);
    let mut options = options();
    for name in ["OWN_URL", "GIVEN_URL"] {
        options.env.insert(name.into(), format!("redis://{name}"));
    }
    assert!(load(dir.path(), &options).is_ok());
    options.public_hosts = Some(wws_project::PublicHosts {
        given: ["GIVEN_URL".to_owned()].into(),
    });
    let found = problems(dir.path(), &options);
    let places: Vec<&str> = found
        .iter()
        .map(|problem| problem.split(": ").next().unwrap())
        .collect();
    assert_eq!(
        places,
        [
            ".wws.toml:3:17",
            ".wws.toml:6:7",
            ".wws.toml:9:7",
            "a.toml:3:42",
            "a.toml:3:58",
            "a.toml:4:18",
        ],
        "{found:#?}"
    );
    for problem in &found {
        assert!(problem.contains("--allow-private-hosts"), "{problem}");
    }
}
