//! Signals, and loading a project again.

use super::compiling::{slow, until};
use super::*;

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
