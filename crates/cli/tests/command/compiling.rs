//! Compilers are processes without rights, within limits; the code cache is trusted by its owner.

use super::*;

/// What `/proc` says of a process; nothing of one that has ended.
fn status(pid: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    (!status.contains("State:\tZ")).then_some(status)
}

pub(super) fn until(what: &str, mut done: impl FnMut() -> bool) {
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
pub(super) fn slow(loops: usize) -> Vec<u8> {
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
fn compiles_only_the_file_that_is_served() {
    let directory = project(&[("app.wasm", &hello(0)), ("other.wasm", &hello(1))]);
    let cache = tempfile::tempdir().unwrap();
    let mut command = wws(&["-p", "0"], &directory.path().join("app.wasm"));
    command.env("WWS_CODE_CACHE", cache.path().join("code"));
    let served = Served::start(command);
    assert!(answer(served.send("/other")).ends_with("hello"));
    let (_, log) = served.stop();
    assert!(log.contains("compiled 1 modules"), "{log}");
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
