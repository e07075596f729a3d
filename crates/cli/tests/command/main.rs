//! The command as people and containers run it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, reason = "not all tests use all of it")]
#[path = "../served/mod.rs"]
mod served;

mod compiling;
mod containers;
mod signals;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use served::Served;

const HELLO: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 1024) "{\22data\22:\22hello\22}")
  (data (i32.const 2048) "it has begun\0a")
  (func (export "_start")
    SLEEP
    (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 16))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

/// Loops of a module that takes seconds to be compiled.
const SLOW: usize = 100_000;

/// A worker that logs that it has begun, and answers after a while, if that is not at once.
fn hello(milliseconds: u64) -> Vec<u8> {
    if milliseconds == 0 {
        return wat::parse_str(HELLO.replace("SLEEP", "")).unwrap();
    }
    let sleep = format!(
        "(i32.store (i32.const 0) (i32.const 2048)) (i32.store (i32.const 4) (i32.const 13))
         (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
         (i32.store (i32.const 112) (i32.const 1)) (i64.store (i32.const 120) (i64.const {}))
         (drop (call $poll (i32.const 96) (i32.const 200) (i32.const 1) (i32.const 300)))",
        milliseconds * 1_000_000
    );
    wat::parse_str(HELLO.replace("SLEEP", &sleep)).unwrap()
}

fn project(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(directory.path().join(name), content).unwrap();
    }
    directory
}

fn wws(args: &[&str], directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wws"));
    command.args(args).arg(directory).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WWS_")) {
        command.env_remove(name);
    }
    // The former name of WWS_CODE_CACHE, which some tests set.
    command.env("WWS_STORE", "");
    command
}

fn text(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn check_prints_the_routes() {
    let directory = project(&[("w.wasm", &hello(0)), ("[id].wasm", &hello(0))]);
    let (code, out, err) = text(&wws(&["check"], directory.path()).output().unwrap());
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let lines: Vec<Vec<&str>> = out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines[1..],
        [
            vec!["/[id]", "wasm", "[id].wasm", "new"],
            vec!["/w", "wasm", "w.wasm", "new"]
        ]
    );
}

#[test]
fn routes_and_problems_are_printed_as_json() {
    let directory = project(&[("[id].wasm", &hello(0)), ("public.txt", b"")]);
    std::fs::create_dir(directory.path().join("public")).unwrap();
    std::fs::write(directory.path().join("public/a.txt"), "a").unwrap();
    for command in ["check", "routes"] {
        let output = wws(&[command, "--json"], directory.path())
            .output()
            .unwrap();
        let (code, out, _) = text(&output);
        assert_eq!(code, Some(0));
        let printed: serde_json::Value = serde_json::from_str(&out).unwrap();
        let expected = serde_json::json!({
            "workers": [{
                "route": "/[id]", "kind": "wasm", "file": "[id].wasm", "begins": "new", "given": "",
            }],
            "assets": [{ "route": "/a.txt", "file": "public/a.txt" }],
            "problems": [],
        });
        assert_eq!(printed, expected, "{command}");
    }
    let toml = "version = \"1\"\n[limits]\nmemory = \"x\"\n";
    std::fs::write(directory.path().join("[id].toml"), toml).unwrap();
    let output = wws(&["check", "--json"], directory.path())
        .output()
        .unwrap();
    let (code, out, _) = text(&output);
    assert_eq!(code, Some(1));
    let printed: serde_json::Value = serde_json::from_str(&out).unwrap();
    let problem = &printed["problems"][0];
    assert_eq!(
        (problem["file"].as_str(), problem["line"].as_u64()),
        (Some("[id].toml"), Some(3))
    );
}

#[test]
fn check_prints_all_problems() {
    let directory = project(&[("a.wasm", b"no"), ("b.wasm", b"no"), ("c.wasm", &hello(0))]);
    let (code, out, err) = text(&wws(&["check"], directory.path()).output().unwrap());
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(
        err.contains("a.wasm: not WebAssembly") && err.contains("b.wasm: not WebAssembly"),
        "{err}"
    );
}

#[test]
fn exits_with_code_and_problems_of_a_project_that_does_not_load() {
    let bad_toml = project(&[
        ("w.wasm", &hello(0)),
        ("w.toml", b"version = \"1\"\n[limits]\nnope = 1\n"),
    ]);
    let bad_wasm = project(&[("w.wasm", b"no")]);
    for (directory, last) in [
        (&bad_toml, "w.toml:3:1"),
        (&bad_wasm, "w.wasm: not WebAssembly"),
    ] {
        for args in [&["serve-container"][..], &["-p", "0"]] {
            let (code, _, err) = text(&wws(args, directory.path()).output().unwrap());
            assert_eq!(code, Some(78), "{err}");
            let lines: Vec<&str> = err.lines().collect();
            assert!(
                lines
                    .iter()
                    .rev()
                    .take(2)
                    .any(|line| line.starts_with(last)),
                "{err}"
            );
        }
    }
}

#[test]
fn prefix_and_ignored_files_are_settings() {
    let toml =
        b"version = 1\n[server]\nprefix = \"/v1\"\nignore = [\"bad.wasm\", \"x/*.{js,py}\"]\n";
    let directory = project(&[
        ("w.wasm", &hello(0)),
        ("bad.wasm", b"no"),
        (".wws.toml", toml),
    ]);
    let routes = |command: &mut Command| text(&command.output().unwrap()).1;
    let of_file = routes(&mut wws(&["routes"], directory.path()));
    assert!(
        of_file.contains("/v1/w") && !of_file.contains("bad"),
        "{of_file}"
    );
    let of_environment = routes(
        wws(&["routes"], directory.path()).envs([("WWS_PREFIX", "/v2"), ("WWS_IGNORE", "w.*,y")]),
    );
    assert!(of_environment.contains("/v2/bad"), "{of_environment}");
    assert!(!of_environment.contains("/v2/w"), "{of_environment}");
    let of_flags = routes(
        wws(
            &["routes", "--prefix=/v3", "--ignore=bad.wasm"],
            directory.path(),
        )
        .env("WWS_PREFIX", "/v2"),
    );
    assert!(
        of_flags.contains("/v3/w") && !of_flags.contains("bad"),
        "{of_flags}"
    );
}

#[test]
fn a_file_is_served_without_its_neighbours() {
    let files: [(&str, &[u8]); 5] = [
        ("app.wasm", &hello(0)),
        ("app.toml", b"name = \"app\"\nversion = \"1\"\n"),
        ("bad.wasm", b"no"),
        ("bad.toml", b"no"),
        ("other.wasm", &hello(0)),
    ];
    let directory = project(&files);
    std::fs::create_dir(directory.path().join("public")).unwrap();
    std::fs::write(directory.path().join("public/asset.txt"), "an asset").unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let wws = |args: &[&str], at: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wws"));
        command.args(args).current_dir(at).stdin(Stdio::null());
        command.env("WWS_STORE", "");
        command
    };
    let file = directory.path().join("app.wasm");
    for (path, at) in [
        ("app.wasm", directory.path()),
        (file.to_str().unwrap(), elsewhere.path()),
    ] {
        for command in ["check", "routes"] {
            let output = wws(&[command, path], at).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{command}: {output:?}");
            assert!(
                text.contains("/[...path]") && text.contains("app.wasm"),
                "{text}"
            );
            assert!(
                !text.contains("other.wasm") && !text.contains("bad"),
                "{text}"
            );
        }
        let mut served = Served::start(wws(&[path, "--port", "0", "--watch"], at));
        for path in ["/", "/other", "/asset.txt", "/a/b"] {
            assert!(answer(served.send(path)).ends_with("hello"), "{path}");
        }
        // A neighbour that changes is nothing to it.
        let changed = HELLO.replace("SLEEP", "").replace("hello", "again");
        std::fs::write(directory.path().join("other.wasm"), "no").unwrap();
        std::fs::write(&file, wat::parse_str(changed).unwrap()).unwrap();
        served.logs("reloaded: generation");
        assert!(answer(served.send("/other")).ends_with("again"));
        served.signal(Signal::TERM);
        let (code, log) = served.end();
        assert_eq!(code, Some(0), "{log}");
        assert!(
            !log.contains("other.wasm") && !log.contains("bad.wasm"),
            "{log}"
        );
        std::fs::write(&file, hello(0)).unwrap();
    }
}

#[test]
fn reports_a_port_in_use() {
    let directory = project(&[("w.wasm", &hello(0))]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, _, err) = text(&wws(&["--port", &port], directory.path()).output().unwrap());
    assert_eq!(code, Some(1));
    assert!(
        err.contains(&format!("cannot listen on 127.0.0.1:{port}")),
        "{err}"
    );
    let admin = format!("127.0.0.1:{port}");
    let command = wws(&["--port", "0", "--admin", &admin], directory.path()).output();
    let (code, _, err) = text(&command.unwrap());
    assert_eq!(code, Some(1));
    assert!(
        err.contains(&format!("cannot listen on {admin} (`server.admin`): "))
            && err.contains("choose another address: --admin"),
        "{err}"
    );
}

#[test]
fn health_reports_by_exit_code() {
    let directory = project(&[("w.wasm", &hello(0))]);
    let served = Served::start(wws(&["--port", "0"], directory.path()));
    let port = served.address.rsplit(':').next().unwrap().to_owned();
    let ask = |args: &[&str], port: &str| {
        let args = [&["health"], args].concat();
        text(
            &wws(&args, directory.path())
                .env("WWS_PORT", port)
                .output()
                .unwrap(),
        )
    };
    // Nothing is there: an answer all the same.
    let (code, said, _) = ask(&[], &port);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.ends_with("/: 404\n"), "{said}");
    assert_eq!(ask(&["--request=/w"], &port).0, Some(0));
    assert_eq!(ask(&["--wait"], &port).0, Some(0));
    let json = |args: &[&str]| -> (Option<i32>, serde_json::Value) {
        let (code, said, _) = ask(&[&["--json"], args].concat(), &port);
        (code, serde_json::from_str(&said).unwrap())
    };
    let expected = serde_json::json!({
        "healthy": true, "address": served.address, "path": "/w", "status": 200, "error": null,
    });
    assert_eq!(json(&["--request=/w"]), (Some(0), expected));
    let (code, _, said) = ask(&["--request=no path"], &port);
    assert!(code == Some(1) && said.contains("must begin"), "{said}");
    served.signal(Signal::STOP);
    let (code, _, said) = ask(&["--timeout=1"], &port);
    assert!(code == Some(1) && said.contains("within 1 s"), "{said}");
    served.signal(Signal::CONT);
    served.signal(Signal::TERM);
    assert_eq!(served.end().0, Some(0));
    let (code, _, said) = ask(&[], &port);
    assert!(code == Some(1) && said.contains("refused"), "{said}");
    let (code, value) = json(&[]);
    assert_eq!((code, &value["healthy"]), (Some(1), &false.into()));
    assert_eq!(value["status"], serde_json::Value::Null);
    let error = value["error"].as_str().unwrap();
    assert!(error.contains("refused"), "{error}");
}

#[test]
fn health_waits_for_a_server_that_starts() {
    let directory = project(&[("w.wasm", &hello(0))]);
    // An address at which no other test listens when the port is free again.
    const HOST: &str = "127.83.21.7";
    let port = std::net::TcpListener::bind((HOST, 0))
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port()
        .to_string();
    let mut ask = wws(&["health", "--wait=60"], directory.path());
    let asking = ask
        .env("WWS_HOST", HOST)
        .env("WWS_PORT", &port)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let served = Served::start(wws(&["--host", HOST, "--port", &port], directory.path()));
    let (code, said, problem) = text(&asking.wait_with_output().unwrap());
    assert_eq!(code, Some(0), "{problem}");
    assert!(said.ends_with("/: 404\n"), "{said}");
    served.signal(Signal::TERM);
    assert_eq!(served.end().0, Some(0));
    let started = Instant::now();
    let late = wws(&["health", "--wait=1"], directory.path())
        .env("WWS_HOST", HOST)
        .env("WWS_PORT", &port)
        .output()
        .unwrap();
    let (code, _, problem) = text(&late);
    assert_eq!(code, Some(1));
    assert!(
        problem.contains("refused") && problem.contains("within 1 s"),
        "{problem}"
    );
    assert!(started.elapsed() >= Duration::from_millis(800));
}
