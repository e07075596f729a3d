//! Projects of Wasm Workers Server 1.x are served unmodified: `test/projects/wws-1.x/README.md`
//! says how they and their requests are written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use wws_engine::CodeCache;
use wws_project::LoadOptions;
use wws_server::PrepareOptions;

use crate::common::{Site, client::Response};

fn projects() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../test/projects/wws-1.x")
}

/// A request, and what is expected of its answer.
#[derive(Default)]
struct Exchange {
    line: usize,
    method: String,
    path: String,
    headers: String,
    sent: String,
    status: u16,
    answer_headers: Vec<(String, String)>,
    absent: Vec<String>,
    body: Option<String>,
    parts: Vec<String>,
}

/// What `requests.txt` says.
#[derive(Default)]
struct Script {
    /// The directory that is served, below the project's.
    serve: String,
    /// An interpreter, and where it goes.
    interpreter: Option<(String, String)>,
    options: LoadOptions,
    exchanges: Vec<Exchange>,
}

impl Script {
    fn read(text: &str) -> Self {
        let mut script = Self::default();
        for (line, text) in text.lines().enumerate().map(|(at, text)| (at + 1, text)) {
            if text.trim().is_empty() {
                continue;
            }
            let (mark, rest) = text
                .split_once(' ')
                .unwrap_or_else(|| panic!("line {line}: {text}"));
            let is_answer = script.exchanges.last().is_some_and(|last| last.status != 0);
            match (mark, script.exchanges.last_mut()) {
                ("serve", _) => script.serve = rest.into(),
                ("prefix", _) => script.options.prefix = Some(rest.into()),
                ("ignore", _) => script.options.ignore.push(rest.into()),
                ("env", _) => {
                    let (name, value) = rest.split_once('=').unwrap();
                    script.options.env.insert(name.into(), value.into());
                }
                ("interpreter", _) => {
                    let (from, to) = rest.split_once(' ').unwrap();
                    script.interpreter = Some((from.into(), to.into()));
                }
                (">", last) => match last {
                    Some(last) if !is_answer => {
                        last.headers.push_str(rest);
                        last.headers.push_str("\r\n");
                    }
                    _ => {
                        let (method, path) = rest.split_once(' ').unwrap();
                        script.exchanges.push(Exchange {
                            line,
                            method: method.into(),
                            path: path.into(),
                            ..Exchange::default()
                        });
                    }
                },
                ("<", Some(last)) if !is_answer => last.status = rest.parse().unwrap(),
                ("<", Some(last)) => {
                    let (name, value) = rest.split_once(": ").unwrap();
                    last.answer_headers.push((name.into(), value.into()));
                }
                ("=", Some(last)) if !is_answer => last.sent = rest.into(),
                ("=", Some(last)) => last.body = Some(rest.into()),
                ("~", Some(last)) => last.parts.push(rest.into()),
                ("!", Some(last)) => last.absent.push(rest.into()),
                _ => panic!("line {line}: {text}"),
            }
        }
        script
    }
}

impl Exchange {
    fn check(&self, project: &str, response: &Response) {
        let text = response.text();
        let at = format!(
            "{project}, line {}: {} {}: {} {text}",
            self.line, self.method, self.path, response.status
        );
        assert_eq!(response.status, self.status, "{at}");
        for (name, value) in &self.answer_headers {
            assert_eq!(
                response.header(name),
                Some(value.as_str()),
                "{name} of {at}"
            );
        }
        for name in &self.absent {
            assert_eq!(response.header(name), None, "{name} of {at}");
        }
        if let Some(body) = &self.body {
            assert_eq!(&text, body, "{at}");
        }
        for part in &self.parts {
            assert!(text.contains(part), "{part} in {at}");
        }
    }
}

/// Copies a project; texts of modules become modules.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let from = entry.unwrap().path();
        let to = to.join(from.file_name().unwrap());
        if from.is_dir() {
            copy(&from, &to);
        } else if from.extension().is_some_and(|extension| extension == "wat") {
            let text = fs::read_to_string(&from).unwrap();
            fs::write(to.with_extension("wasm"), ::wat::parse_str(text).unwrap()).unwrap();
        } else if from.file_name().is_some_and(|name| name != "requests.txt") {
            fs::copy(&from, &to).unwrap();
        }
    }
}

async fn answers_as_before(name: &str) {
    let directory = projects().join(name);
    let script = Script::read(&fs::read_to_string(directory.join("requests.txt")).unwrap());
    assert!(!script.exchanges.is_empty(), "{name} has no requests");
    let site = Site::new();
    copy(&directory.join(&script.serve), site.root());
    if let Some((from, to)) = &script.interpreter {
        let interpreters = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/interpreters");
        let to = site.root().join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(interpreters.join(from), to)
            .unwrap_or_else(|error| panic!("{from}: {error}; scripts/interpreters.sh all"));
    }
    // Interpreters are compiled once, for the tests of all crates.
    let code = Path::new(env!("CARGO_TARGET_TMPDIR")).join("code");
    let options = PrepareOptions {
        code: Some(CodeCache::open(&code, 1 << 30).unwrap()),
        ..PrepareOptions::default()
    };
    let server = site.start_prepared(&script.options, &options).await;
    for exchange in &script.exchanges {
        let mut client = server.connect().await;
        let sent = exchange.sent.as_bytes();
        let response = client
            .request(&exchange.method, &exchange.path, &exchange.headers, sent)
            .await;
        exchange.check(name, &response);
    }
}

/// One test for each project, and one which sees to it that there is one for each.
macro_rules! projects {
    ($($test:ident: $name:literal,)+) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                answers_as_before($name).await;
            }
        )+

        #[test]
        fn every_project_is_run() {
            let there: BTreeSet<String> = fs::read_dir(projects())
                .unwrap()
                .map(|entry| entry.unwrap())
                .filter(|entry| entry.path().is_dir())
                .map(|entry| entry.file_name().into_string().unwrap())
                .collect();
            let run: BTreeSet<String> = [$($name),+].map(String::from).into();
            assert_eq!(there, run);
        }
    };
}

projects! {
    assets: "assets",
    foreign_files: "foreign-files",
    ignore: "ignore",
    js_async: "js-async",
    js_basic: "js-basic",
    js_catchall: "js-catchall",
    js_envs: "js-envs",
    js_export: "js-export",
    js_json: "js-json",
    js_kv: "js-kv",
    js_modules: "js-modules",
    js_objects: "js-objects",
    js_params: "js-params",
    js_redirect: "js-redirect",
    js_router: "js-router",
    prefix: "prefix",
    python: "python",
    ruby: "ruby",
    wasm: "wasm",
}

#[test]
fn reads_scripts_of_projects() {
    let script =
        Script::read("env A=b\n> PUT /x\n> a: b\n= sent\n< 201\n< c: d\n= got\n> GET /y\n< 404\n");
    assert_eq!(
        script.options.env,
        BTreeMap::from([("A".into(), "b".into())])
    );
    let [put, get] = &script.exchanges[..] else {
        panic!("{} exchanges", script.exchanges.len())
    };
    assert_eq!(
        (put.headers.as_str(), put.sent.as_str()),
        ("a: b\r\n", "sent")
    );
    assert_eq!((put.status, put.body.as_deref()), (201, Some("got")));
    assert_eq!(put.answer_headers, [("c".to_owned(), "d".to_owned())]);
    assert_eq!((get.path.as_str(), get.status), ("/y", 404));
}
