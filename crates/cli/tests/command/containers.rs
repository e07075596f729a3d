//! `wws serve-container`, as the shim starts it.

use super::*;

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
