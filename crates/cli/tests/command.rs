//! The command as people and containers run it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, reason = "not all tests use all of it")]
mod served;

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
fn finishes_requests_in_flight_after_a_signal() {
    let directory = project(&[("w.wasm", &hello(700))]);
    // The last is what Docker sends as `RTMIN+3`.
    for signal in [15, 2, 3, 37] {
        let mut served = Served::start(wws(&["--port", "0"], directory.path()));
        let stream = served.send("/w");
        served.logs("it has begun");
        let pid = served.child.id().to_string();
        let mut kill = Command::new("/bin/kill");
        let sent = kill.args([&format!("-{signal}"), &pid]).status();
        assert!(sent.unwrap().success());
        assert!(answer(stream).ends_with("hello"), "{signal}");
        let (code, log) = served.end();
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("stopped"), "{log}");
    }
}

#[test]
fn other_signals_do_not_stop_a_server() {
    let directory = project(&[("w.wasm", &hello(0))]);
    let served = Served::start(wws(&["--port", "0"], directory.path()));
    for signal in [Signal::USR1, Signal::USR2] {
        served.signal(signal);
        std::thread::sleep(Duration::from_millis(50));
        assert!(answer(served.send("/w")).ends_with("hello"), "{signal:?}");
    }
    served.signal(Signal::TERM);
    let (code, log) = served.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("stopped"), "{log}");
}

#[test]
fn sighup_loads_the_project_again() {
    let directory = project(&[("w.wasm", &hello(0)), ("same.wasm", &hello(1))]);
    let mut served = Served::start(wws(&["--port", "0"], directory.path()));
    let write = |name: &str, content: &[u8]| {
        std::fs::write(directory.path().join(name), content).unwrap();
    };
    let changed = HELLO.replace("SLEEP", "").replace("hello", "again");
    write("w.wasm", &wat::parse_str(changed).unwrap());
    served.signal(Signal::HUP);
    let line = served.logs("reloaded");
    assert!(
        line.contains("reloaded: generation 2: 1 workers loaded, 1 unchanged, 0 removed"),
        "{line}"
    );
    assert!(answer(served.send("/w")).ends_with("again"));
    // The project before is served on, and all problems are logged.
    write("w.wasm", b"no");
    write("new.wasm", b"no");
    served.signal(Signal::HUP);
    served.logs("new.wasm: not WebAssembly");
    served.logs("w.wasm: not WebAssembly");
    served.logs("not reloaded: 2 problems");
    assert!(answer(served.send("/w")).ends_with("again"));
    std::fs::remove_file(directory.path().join("new.wasm")).unwrap();
    write("w.wasm", &hello(0));
    write(".wws.toml", b"[server]\nport = 81\nmax_body = 7\n");
    served.signal(Signal::HUP);
    // The port is the command line's.
    served.logs("changed, and needs a restart: `server.max_body`");
    served.logs("reloaded: generation 3");
    assert!(answer(served.send("/w")).ends_with("hello"));
    served.signal(Signal::TERM);
    let (code, log) = served.end();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn reload_prints_what_has_changed_or_all_problems() {
    let directory = project(&[("w.wasm", &hello(0)), ("same.wasm", &hello(1))]);
    let reload = || text(&wws(&["reload"], directory.path()).output().unwrap());
    let (code, _, err) = reload();
    assert_eq!(code, Some(1));
    assert!(err.contains("no server of this project runs here"), "{err}");
    let served = Served::start(wws(&["--port", "0"], directory.path()));
    std::fs::write(directory.path().join("w.wasm"), hello(2)).unwrap();
    let changed = "reloaded: generation 2: 1 workers loaded, 1 unchanged, 0 removed\n";
    assert_eq!(reload(), (Some(0), changed.into(), String::new()));
    for name in ["w.wasm", "new.wasm"] {
        std::fs::write(directory.path().join(name), "no").unwrap();
    }
    let (code, out, err) = reload();
    assert_eq!((code, out.as_str()), (Some(1), ""));
    for line in [
        "w.wasm: not WebAssembly",
        "new.wasm: not WebAssembly",
        "not reloaded",
    ] {
        assert!(err.contains(line), "{err}");
    }
    assert!(answer(served.send("/w")).ends_with("hello"));
    served.signal(Signal::TERM);
    assert_eq!(served.end().0, Some(0));
}

#[test]
fn reload_prints_json() {
    let directory = project(&[("w.wasm", &hello(0)), ("same.wasm", &hello(1))]);
    let reload = || -> (Option<i32>, serde_json::Value) {
        let output = wws(&["reload", "--json"], directory.path())
            .output()
            .unwrap();
        let (code, out, err) = text(&output);
        assert_eq!(err, "");
        (code, serde_json::from_str(&out).unwrap())
    };
    let (code, nobody) = reload();
    assert_eq!((code, &nobody["reloaded"]), (Some(1), &false.into()));
    let error = nobody["error"].as_str().unwrap();
    assert!(error.contains("no server of this project"), "{error}");
    let served = Served::start(wws(&["--port", "0"], directory.path()));
    std::fs::write(directory.path().join("w.wasm"), hello(2)).unwrap();
    let expected = serde_json::json!({
        "reloaded": true, "generation": 2, "loaded": ["w.wasm"], "unchanged": 1, "removed": 0,
        "needs_restart": [], "warnings": [], "problems": [],
    });
    assert_eq!(reload(), (Some(0), expected));
    std::fs::write(directory.path().join("w.wasm"), "no").unwrap();
    let (code, failed) = reload();
    assert_eq!((code, &failed["reloaded"]), (Some(1), &false.into()));
    assert_eq!(failed["problems"][0]["file"], "w.wasm");
    served.signal(Signal::TERM);
    assert_eq!(served.end().0, Some(0));
}

#[test]
fn a_watched_project_is_loaded_when_a_file_changes() {
    let directory = project(&[
        ("w.wasm", &hello(0)),
        ("w.toml", b"version = \"1\"\n[vars]\nA = \"$A\"\n"),
        (".env", b"A=s3cret\n"),
    ]);
    let mut served = Served::start(wws(&["--port", "0", "--watch"], directory.path()));
    let write = |name: &str, content: &[u8]| {
        std::fs::write(directory.path().join(name), content).unwrap();
    };
    write("w.wasm", b"no");
    served.logs("w.wasm: not WebAssembly");
    served.logs("not reloaded: 1 problem");
    assert!(answer(served.send("/w")).ends_with("hello"));
    write("w.wasm", &hello(1));
    served.logs("reloaded: generation 2");
    write(".env", b"A=changed-s3cret\n");
    served.logs("reloaded: generation 3: 1 workers loaded");
    assert!(answer(served.send("/w")).ends_with("hello"));
    served.signal(Signal::TERM);
    let (code, log) = served.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
}

#[test]
fn a_change_while_a_project_is_loaded_is_not_missed() {
    let directory = project(&[("slow.wasm", &slow(SLOW)), ("w.wasm", &hello(0))]);
    let mut served = Served::spawn(wws(&["--port", "0", "--watch"], directory.path()));
    let process = format!("/proc/{}/fdinfo", served.child.id());
    until("the project is watched", || {
        let descriptors = std::fs::read_dir(&process).into_iter().flatten().flatten();
        descriptors
            .filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
            .any(|info| info.contains("inotify wd:"))
    });
    std::fs::write(directory.path().join("w.wasm"), hello(1)).unwrap();
    served.listens();
    served.logs("reloaded: generation 2");
    assert!(answer(served.send("/w")).ends_with("hello"));
    assert_eq!(served.stop().0, Some(0));
}

#[test]
fn second_signal_stops_the_server_at_once() {
    let directory = project(&[("w.wasm", &hello(300_000))]);
    let mut command = wws(&["--port", "0"], directory.path());
    command.env("WWS_GRACE_PERIOD", "300s");
    let mut served = Served::start(command);
    let _stream = served.send("/w");
    served.logs("it has begun");
    let start = Instant::now();
    served.signal(Signal::TERM);
    served.logs("finishing what is in flight");
    served.signal(Signal::TERM);
    assert_eq!(served.end().0, Some(128 + 15));
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_container_takes_its_settings_from_the_environment() {
    let directory = project(&[("w.wasm", &hello(0))]);
    let mut command = wws(&["serve-container"], directory.path());
    command.envs([
        ("WWS_PORT", "0"),
        ("WWS_HOST", "127.0.0.1"),
        ("WWS_LOG_FORMAT", "json"),
    ]);
    let served = Served::start(command);
    assert!(answer(served.send("/w")).ends_with("hello"));
    served.signal(Signal::TERM);
    let (code, log) = served.end();
    assert_eq!(code, Some(0));
    let access = log
        .lines()
        .find(|line| line.contains("\"target\":\"access\""))
        .expect(&log);
    for part in ["\"status\":200", "\"path\":\"/w\"", "\"worker\":\"w.wasm\""] {
        assert!(access.contains(part), "{access}");
    }
}

/// A server of a container that is given `after` after its entry point, on a free port.
fn container(directory: &Path, after: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wws"));
    command
        .args(["serve-container", "--"])
        .arg(directory)
        .args(after);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WWS_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

#[test]
fn a_container_takes_arguments_and_its_entry_point_again() {
    let directory = project(&[("w.wasm", &hello(0)), ("bad.wasm", b"no")]);
    let again = directory.path().to_str().unwrap();
    let args = [
        again,
        "--port=0",
        "--host=127.0.0.1",
        "--prefix=/v1",
        "--ignore=bad.wasm",
    ];
    let served = Served::start(container(directory.path(), &args));
    assert!(answer(served.send("/w")).starts_with("HTTP/1.1 404"));
    let mut stream = TcpStream::connect(&served.address).unwrap();
    stream
        .write_all(b"GET /v1/w HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .unwrap();
    assert!(answer(stream).ends_with("hello"));
    served.signal(Signal::TERM);
    assert_eq!(served.end().0, Some(0));
    for (word, says) in [
        ("--code=/x", "unexpected argument '--code'"),
        ("/proc", "one container serves one directory"),
    ] {
        let (code, _, err) = text(&container(directory.path(), &[word]).output().unwrap());
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains(says), "{err}");
        assert!(err.contains("ENTRYPOINT [--host IP]"), "{err}");
        assert!(!err.contains("serve-container"), "{err}");
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
fn a_container_listens_on_both_families() {
    let directory = project(&[("w.wasm", &hello(0))]);
    let served = Served::start(container(directory.path(), &["--port=0"]));
    let port = served.address.rsplit(':').next().unwrap().to_owned();
    let ask = |address: &str| {
        let mut stream = TcpStream::connect(format!("{address}:{port}")).unwrap();
        // Without a name it is the address that was asked.
        stream.write_all(b"GET /w HTTP/1.0\r\n\r\n").unwrap();
        answer(stream)
    };
    assert!(ask("127.0.0.1").ends_with("hello"));
    let has_ipv6 = std::net::UdpSocket::bind("[::]:0").is_ok();
    assert_eq!(
        served.address.starts_with("[::]"),
        has_ipv6,
        "{}",
        served.address
    );
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        assert!(ask("[::1]").ends_with("hello"));
    }
    served.signal(Signal::TERM);
    assert_eq!(served.end().0, Some(0));
}

/// Asks a server that listens in a network namespace of its own.
fn ask_inside(served: &Served, address: &str, port: &str) -> String {
    let pid = served.child.id();
    let url = format!("http://{address}:{port}/w");
    let mut curl = Command::new("nsenter");
    curl.arg(format!("--net=/proc/{pid}/ns/net"));
    curl.args([
        "curl",
        "--silent",
        "--show-error",
        "--globoff",
        "--noproxy",
        "*",
    ]);
    let (_, out, err) = text(&curl.args(["--max-time", "10", &url]).output().unwrap());
    format!("{out}{err}")
}

#[test]
fn a_container_answers_in_networks_of_either_family_alone() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = project(&[("w.wasm", &hello(0))]);
    let cases = [
        ("ip address delete 127.0.0.1/8 dev lo", "[::1]", "127.0.0.1"),
        (
            "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6",
            "127.0.0.1",
            "[::1]",
        ),
    ];
    for (prepare, works, fails) in cases {
        let script = format!("ip link set lo up && {prepare} && exec \"$@\"");
        let mut command = Command::new("unshare");
        command
            .args(["--net", "/bin/sh", "-c", &script, "sh"])
            .args([env!("CARGO_BIN_EXE_wws"), "serve-container", "--"])
            .arg(directory.path())
            .stdin(Stdio::null());
        let served = Served::start(command);
        let port = served.address.rsplit(':').next().unwrap().to_owned();
        assert_eq!(port, "3000");
        let answer = ask_inside(&served, works, &port);
        assert_eq!(answer, "hello", "{prepare}");
        assert_ne!(ask_inside(&served, fails, &port), "hello", "{prepare}");
        served.signal(Signal::TERM);
        assert_eq!(served.end().0, Some(0));
    }
}

#[test]
fn reports_too_few_processes_by_one_line_and_exit_code() {
    // The limit is one of a user, and does not hold for root.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = project(&[("w.wasm", &hello(0))]);
    std::os::unix::fs::chown(directory.path(), Some(54_321), Some(54_321)).unwrap();
    let run = |limit: u32| {
        let mut command = Command::new("prlimit");
        command
            .arg(format!("--nproc={limit}"))
            .args([
                "setpriv",
                "--reuid=54321",
                "--regid=54321",
                "--clear-groups",
            ])
            .args([env!("CARGO_BIN_EXE_wws"), "serve-container", "--"])
            .arg(directory.path())
            .args(["--port=0", "--host=127.0.0.1"])
            .stdin(Stdio::null());
        command
    };
    if !run(1000)
        .arg("--help-me")
        .output()
        .is_ok_and(|output| output.status.code() == Some(2))
    {
        // The program lies where another user has no way to.
        return;
    }
    for limit in 1..8 {
        let (code, out, err) = text(&run(limit).output().unwrap());
        assert_eq!((code, out.as_str()), (Some(71), ""), "{limit}: {err}");
        assert_eq!(err.lines().count(), 1, "{limit}: {err}");
        assert!(err.contains("needs 8 processes"), "{limit}: {err}");
        assert!(
            err.contains(&format!(" {limit} can be started")),
            "{limit}: {err}"
        );
    }
    for limit in 8..24 {
        let served = Served::start(run(limit));
        for _ in 0..3 {
            assert!(answer(served.send("/w")).ends_with("hello"), "{limit}");
        }
        served.signal(Signal::TERM);
        let (code, log) = served.end();
        assert_eq!(code, Some(0), "{limit}: {log}");
        assert!(!log.contains("panicked"), "{limit}: {log}");
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

/// What `/proc` says of a process; nothing of one that has ended.
fn status(pid: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    (!status.contains("State:\tZ")).then_some(status)
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The end of the parent that a compiler waits for.
struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn compiler_drops_its_rights_and_exits_with_its_parent() {
    // Its module never comes.
    let script = r#"exec 3<&0; "$0" compile --parent $$ <&3 >/dev/null & echo $!; exec sleep 100"#;
    let mut parent = Command::new("/bin/sh");
    parent
        .args(["-c", script, env!("CARGO_BIN_EXE_wws")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut parent = KilledOnDrop(parent.spawn().unwrap());
    let _never = parent.0.stdin.take();
    let mut pid = String::new();
    let mut said = BufReader::new(parent.0.stdout.take().unwrap());
    said.read_line(&mut pid).unwrap();
    let pid = pid.trim();
    let has = |line: &str| status(pid).is_some_and(|status| status.contains(line));
    until("it gives up its rights", || has("Seccomp:\t2"));
    assert!(has("NoNewPrivs:\t1"));
    assert!(has("CapEff:\t0000000000000000") && has("CapPrm:\t0000000000000000"));
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
    if rustix::process::geteuid().is_root() {
        assert!(has("Uid:\t65534\t65534\t65534\t65534") && has("Gid:\t65534\t65534\t65534\t65534"));
        let limits = read("limits").unwrap();
        // The signal of the lower limit of CPU time says why it ended.
        for (limit, most) in [
            ("Max data size", ["2147483648", "2147483648"]),
            ("Max file size", ["0", "0"]),
            ("Max core file size", ["0", "0"]),
            ("Max cpu time", ["120", "125"]),
        ] {
            let line = limits.lines().find(|line| line.starts_with(limit)).unwrap();
            let words: Vec<_> = line[limit.len()..].split_whitespace().collect();
            assert_eq!(words[..2], most, "{limit}");
        }
    }
    assert_eq!(read("oom_score_adj").unwrap().trim(), "1000");
    parent.0.kill().unwrap();
    until("it ends with its parent", || status(pid).is_none());
}

#[test]
fn compiler_does_not_start_without_a_parent() {
    let mut orphan = Command::new(env!("CARGO_BIN_EXE_wws"));
    let mut orphan = KilledOnDrop(
        orphan
            .args(["compile", "--parent", "1"])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    // Its module never comes.
    let _never = orphan.0.stdin.take();
    let mut ended = None;
    until("it ends", || {
        ended = orphan.0.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.and_then(|ended| ended.code()), Some(1));
}

#[test]
fn precompile_runs_compilers_without_rights() {
    let project = project(&[("a.wasm", &hello(0)), ("bad.wasm", b"\0asm\x01\0\0\0\xff")]);
    let store = tempfile::tempdir().unwrap();
    let run = || {
        let mut command = wws(&["precompile", "--store"], store.path());
        text(&command.arg(project.path()).output().unwrap())
    };
    let (code, out, err) = run();
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(
        out,
        "1 compiled, 0 were in the store, 1 left to the server\n"
    );
    assert_eq!(
        err,
        "bad.wasm: not compiled ahead: it is not a module that can be compiled; correct the \
         module\n"
    );
    let (code, out, err) = run();
    assert_eq!(
        out,
        "0 compiled, 1 were in the store, 1 left to the server\n"
    );
    let again = "bad.wasm: not compiled ahead: that failed before; it is tried again in ";
    assert!(err.starts_with(again), "{err}");
    assert_eq!(code, Some(0), "{err}");
}

fn leb128(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(byte);
            return bytes;
        }
        bytes.push(byte | 0x80);
    }
}

/// A worker's module with more functions, each with this body.
fn with_functions(count: usize, body: &[u8]) -> Vec<u8> {
    let section = |id: u8, content: Vec<u8>| [vec![id], leb128(content.len()), content].concat();
    let size = leb128(body.len());
    let bodies = std::iter::repeat_n([&size, body].concat(), count);
    [
        b"\0asm\x01\0\0\0".to_vec(),
        // One type, without parameters and results.
        section(1, vec![1, 0x60, 0, 0]),
        section(3, [leb128(count), vec![0; count]].concat()),
        section(5, vec![1, 0, 1]),
        section(
            7,
            [&[2][..], b"\x06_start\x00\x00", b"\x06memory\x02\x00"].concat(),
        ),
        section(
            10,
            [leb128(count), bodies.collect::<Vec<_>>().concat()].concat(),
        ),
    ]
    .concat()
}

/// A module of a few hundred kilobytes that takes long to be compiled: loops, each of which may
/// begin again or end.
fn slow(loops: usize) -> Vec<u8> {
    // No locals; a loop around `local`-free branches out of and into it.
    let one = b"\x02\x40\x03\x40\x41\x01\x0d\x00\x41\x01\x0d\x01\x0b\x0b";
    let body = [&[0][..], &one.repeat(loops), &[0x0b]].concat();
    with_functions(1, &body)
}

#[test]
fn rejects_a_module_of_too_many_functions_early() {
    // The smallest that there are: 4 MB, which took 3 GB to be compiled.
    let many = with_functions(990_000, b"\0\x0b");
    let few = with_functions(1000, b"\0\x0b");
    let project = project(&[("few.wasm", &few), ("many.wasm", &many)]);
    let (code, _, err) = text(&wws(&["check"], project.path()).output().unwrap());
    assert_eq!(code, Some(1), "{err}");
    assert!(
        err.contains("many.wasm: it has 990000 functions, and can have 100000"),
        "{err}"
    );
    let store = tempfile::tempdir().unwrap();
    let mut command = wws(&["precompile", "--store"], store.path());
    let (_, out, _) = text(&command.arg(project.path()).output().unwrap());
    assert_eq!(
        out,
        "1 compiled, 0 were in the store, 1 left to the server\n"
    );
}

#[test]
fn limits_the_cpu_time_of_a_compiler() {
    use std::os::unix::process::ExitStatusExt;
    let mut command = Command::new(env!("CARGO_BIN_EXE_wws"));
    command.args(["compile", "--cpu-time", "1"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut compiler = command.spawn().unwrap();
    compiler
        .stdin
        .take()
        .unwrap()
        .write_all(&slow(SLOW))
        .unwrap();
    let status = compiler.wait().unwrap();
    assert_eq!(status.signal(), Some(Signal::XCPU.as_raw()), "{status}");
}

#[test]
fn reports_a_compilation_that_takes_too_long() {
    let project = project(&[("slow.wasm", &slow(SLOW))]);
    let mut command = wws(&["-p", "0"], project.path());
    command.env("WWS_COMPILE_TIMEOUT", "1s");
    let started = Instant::now();
    let (code, _, err) = text(&command.output().unwrap());
    assert_eq!(code, Some(78), "{err}");
    assert!(
        err.contains("not ready after 1 s (`server.compile_timeout`), at work on slow.wasm"),
        "{err}"
    );
    assert!(started.elapsed() < Duration::from_secs(60));
}

#[test]
fn ignores_cached_code_that_others_can_write() {
    use std::os::unix::fs::PermissionsExt;
    let directory = project(&[("w.wasm", &hello(0))]);
    let store = tempfile::tempdir().unwrap();
    let cache = store.path().join("code");
    let start = || {
        let mut command = wws(&["-p", "0"], directory.path());
        command.env("WWS_CODE_CACHE", &cache);
        let served = Served::start(command);
        assert!(answer(served.send("/w")).ends_with("hello"));
        served.signal(Signal::TERM);
        served.end().1
    };
    let compiled = "compiled 1 modules";
    assert!(start().contains(compiled));
    assert!(!start().contains(compiled));
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(start().contains(compiled));
    assert!(!start().contains(compiled));
}

#[test]
fn caches_no_code_where_a_worker_may_write() {
    let toml = b"name = \"w\"\nversion = \"1\"\n[[folders]]\nfrom = \"./data\"\nto = \"/data\"\n";
    let directory = project(&[("w.wasm", &hello(0)), ("w.toml", toml)]);
    std::fs::create_dir(directory.path().join("data")).unwrap();
    let mut command = wws(&["-p", "0"], directory.path());
    command.env("WWS_CODE_CACHE", directory.path().join("data/cache/code"));
    let served = Served::start(command);
    assert!(answer(served.send("/w")).ends_with("hello"));
    served.signal(Signal::TERM);
    let (_, log) = served.end();
    assert!(
        log.contains("compiled code is not kept: the worker w may write to"),
        "{log}"
    );
    assert!(!log.contains("compiled 1 modules"), "{log}");
}

#[test]
fn caches_code_that_a_reload_compiles() {
    let directory = project(&[("w.wasm", &hello(0))]);
    std::fs::create_dir(directory.path().join("data")).unwrap();
    let cache = directory.path().join("data/cache/code");
    let mut command = wws(&["-p", "0"], directory.path());
    command.env("WWS_CODE_CACHE", &cache);
    let mut served = Served::start(command);
    let entries = || std::fs::read_dir(&cache).unwrap().count();
    let before = entries();
    std::fs::write(directory.path().join("new.wasm"), hello(1)).unwrap();
    served.signal(Signal::HUP);
    served.logs("reloaded: generation 2: 1 workers loaded");
    assert_eq!(entries(), before + 1);
    // Its code is loaded from there: no worker may get the right to write to it.
    let toml = "[[folders]]\nfrom = \"./data\"\nto = \"/data\"\n";
    std::fs::write(directory.path().join("new.toml"), toml).unwrap();
    served.signal(Signal::HUP);
    served.logs("new.wasm: it may write to ");
    served.logs("not reloaded: 1 problem");
    assert!(answer(served.send("/w")).ends_with("hello"));
    served.signal(Signal::TERM);
    assert_eq!(served.end().0, Some(0));
}

#[test]
fn server_on_a_machine_drops_its_rights() {
    let directory = project(&[("w.wasm", &hello(0))]);
    let served = Served::start(wws(&["-p", "0"], directory.path()));
    assert!(answer(served.send("/w")).ends_with("hello"));
    let mut threads = 0;
    for thread in std::fs::read_dir(format!("/proc/{}/task", served.child.id())).unwrap() {
        let thread = thread.unwrap().path().join("status");
        let Ok(status) = std::fs::read_to_string(thread) else {
            // It has ended.
            continue;
        };
        threads += 1;
        for line in [
            "CapEff:\t0000000000000000",
            "CapPrm:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ] {
            assert!(status.contains(line), "{status}");
        }
    }
    assert!(threads > 1);
    // It is well all the same.
    assert!(answer(served.send("/w")).ends_with("hello"));
    served.signal(Signal::TERM);
    let (_, log) = served.end();
    assert!(!log.contains("rights that"), "{log}");
}
