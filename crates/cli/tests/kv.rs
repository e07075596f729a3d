//! `wws kv` beside servers that use the store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use served::Served;
use tempfile::TempDir;

#[path = "../../kv/tests/common/redis.rs"]
mod redis;
#[allow(dead_code, reason = "not all tests use all of it")]
mod served;
#[allow(dead_code, unreachable_pub)]
#[path = "../../server/tests/server/common/wat.rs"]
mod wat_text;

/// A project whose worker counts in the namespace `counts` of the store `main`.
struct Project(TempDir);

impl Project {
    fn new(stores: &str) -> Self {
        let project = Self(tempfile::tempdir().unwrap());
        project.file(".wws.toml", stores);
        project.file("count.wasm", wat::parse_str(wat_text::counts()).unwrap());
        project.file(
            "count.toml",
            "[data.kv]\nnamespace = \"counts\"\nstore = \"main\"\nconsistency = \"serial\"\n",
        );
        project
    }

    fn in_file() -> Self {
        Self::new(
            "[stores.main]\nkind = \"file\"\npath = \"./data/kv\"\nmax_value = 1000\n\
             [stores.fast]\nkind = \"memory\"\n",
        )
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wws"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WWS_")) {
            command.env_remove(name);
        }
        command.args(args).current_dir(self.0.path());
        command.stdin(Stdio::null());
        command
    }

    /// Runs `wws kv`. Returns the exit code, what it printed, and its errors.
    fn kv(&self, args: &[&str]) -> (i32, String, String) {
        let args = [&["kv"], args].concat();
        ended(self.command(&args).output().unwrap())
    }

    /// [`Self::kv`] that succeeds.
    fn done(&self, args: &[&str]) -> String {
        let (code, printed, errors) = self.kv(args);
        assert_eq!((code, &*errors), (0, ""), "{args:?}");
        printed
    }

    /// [`Self::kv`] with a text on standard input.
    fn fed(&self, args: &[&str], input: &[u8]) -> (i32, String, String) {
        let args = [&["kv"], args].concat();
        let mut command = self.command(&args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may end before it has read all.
        let _ = child.stdin.take().unwrap().write_all(input);
        ended(child.wait_with_output().unwrap())
    }

    fn serve(&self) -> Served {
        Served::start(self.command(&["--port", "0", "."]))
    }
}

fn ended(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().expect("an exit code");
    (code, text(output.stdout), text(output.stderr))
}

/// The status and the body of a request that counts.
fn count(server: &Served) -> (u16, String) {
    let text = server.get("/count");
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

/// A backup without the times of removal: Redis tells how much time is left, by its own clock.
fn timeless(backup: &str) -> String {
    let lines = backup
        .lines()
        .map(|line| match line.split_once(",\"expires_ms\":") {
            Some((entry, _)) => entry.to_owned() + "}\n",
            None => line.to_owned() + "\n",
        });
    lines.collect()
}

/// What every store that lasts does, beside a server.
fn reads_and_changes(project: &Project) {
    let server = project.serve();
    assert_eq!(count(&server), (200, "1".into()));
    assert_eq!(project.done(&["get", "counts", "n"]), "1\n");
    assert_eq!(project.done(&["set", "counts", "n", "41"]), "");
    assert_eq!(count(&server), (200, "42".into()));
    let odd = "a\n\u{1b}é";
    project.done(&["set", "other", odd, "-1", "--ttl", "3600"]);
    let (code, ..) = project.fed(&["set", "other", "b", "-"], b"from\nstdin");
    assert_eq!(code, 0);
    assert_eq!(project.done(&["list"]), "counts\nother\n");
    assert_eq!(project.done(&["list", "other"]), "a\\n\\u{1b}é\nb\n");
    assert_eq!(project.done(&["list", "other", "--prefix", "b"]), "b\n");
    let list = project.done(&["list", "other", "--json"]);
    let first: serde_json::Value = serde_json::from_str(list.lines().next().unwrap()).unwrap();
    assert_eq!((&first["key"], &first["bytes"]), (&odd.into(), &2.into()));
    assert!(first["expires_ms"].as_u64().unwrap() > 1_700_000_000_000);
    assert_eq!(
        project.done(&["get", "other", "b", "--json"]),
        "{\"namespace\":\"other\",\"key\":\"b\",\"value\":\"from\\nstdin\"}\n"
    );
    for args in [["get", "other", "c"], ["delete", "other", "c"]] {
        let (code, printed, errors) = project.kv(&args);
        assert_eq!((code, &*printed), (1, ""));
        assert_eq!(
            errors,
            "wws: the store `main` has no key `c` in the namespace `other`\n"
        );
    }
    // A backup, and what it restores.
    let printed = project.done(&["export", "-o", "backup"]);
    assert_eq!(printed, "exported 3 entries to backup\n");
    let backup = fs::read_to_string(project.path("backup")).unwrap();
    let backup = timeless(&backup);
    assert_eq!(timeless(&project.done(&["export"])), backup);
    assert_eq!(backup.lines().count(), 5);
    project.done(&["delete", "other", odd]);
    project.done(&["set", "counts", "n", "0"]);
    let imported = project.done(&["import", "backup", "--json"]);
    assert_eq!(imported, "{\"expired\":0,\"imported\":3}\n");
    let exported = project.done(&["export"]);
    assert_eq!(exported.matches("\"expires_ms\"").count(), 1);
    assert_eq!(timeless(&exported), backup);
    assert_eq!(count(&server), (200, "43".into()));
    let part = project.done(&["export", "--namespace", "other", "--prefix", "b"]);
    assert_eq!(part.lines().count(), 3);
    // Entries whose time has passed stay away.
    let past = r#"{"namespace":"other","key":"past","value":"1","expires_ms":1}"#;
    let (code, printed, _) = project.fed(&["import", "-"], past.as_bytes());
    let expected = "imported 0 entries; left out 1 whose time has passed\n";
    assert_eq!((code, &*printed), (0, expected));
    // A crash of the server loses nothing of it.
    server.signal(Signal::KILL);
    server.end();
    assert_eq!(project.done(&["get", "counts", "n"]), "43\n");
    assert_eq!(count(&project.serve()), (200, "44".into()));
}

#[test]
fn reads_and_changes_a_file_beside_its_server() {
    reads_and_changes(&Project::in_file());
}

#[test]
fn reads_and_changes_redis_beside_its_servers() {
    let redis = redis::Redis::start();
    let url = redis.url();
    let project = Project::new(&format!(
        "[stores.main]\nkind = \"redis\"\nurl = \"{url}\"\n"
    ));
    reads_and_changes(&project);
    // What other programs store may be no text.
    let line = r#"{"namespace":"b","key":"k","value_base64":"/wA="}"#;
    let (code, _, errors) = project.fed(&["import", "-"], line.as_bytes());
    assert_eq!(code, 0, "{errors}");
    let exported = project.done(&["export", "--namespace", "b"]);
    assert!(exported.contains(line), "{exported}");
    drop(redis);
    let (code, _, errors) = project.kv(&["list"]);
    assert!(
        code == 1 && errors.starts_with("wws: not available: Redis: "),
        "{errors}"
    );
}

#[test]
fn backups_of_redis_are_read_in_pages() {
    let redis = redis::Redis::start();
    let url = redis.url();
    let project = Project::new(&format!(
        "[stores.main]\nkind = \"redis\"\nurl = \"{url}\"\n"
    ));
    let large = "x".repeat(300_000);
    let mut lines = String::new();
    for n in 0..1_300 {
        lines += &format!("{{\"namespace\":\"a\",\"key\":\"k{n:04}\",\"value\":\"{n}\"}}\n");
    }
    for n in 0..12 {
        lines += &format!("{{\"namespace\":\"b\",\"key\":\"k{n:02}\",\"value\":\"{large}\"}}\n");
    }
    let (code, printed, errors) = project.fed(&["import", "-"], lines.as_bytes());
    assert_eq!(
        (code, &*printed),
        (0, "imported 1312 entries\n"),
        "{errors}"
    );
    let exported = project.done(&["export"]);
    let (_, exported) = exported.split_once('\n').unwrap();
    assert!(
        exported
            .strip_prefix(&*lines)
            .is_some_and(|end| end == "{\"entries\":1312}\n")
    );
}

#[test]
fn backup_and_import_run_while_clients_write() {
    let project = Project::in_file();
    let server = project.serve();
    let (clients, each) = (4, 60);
    let mut lines = String::new();
    for n in 0..2_000 {
        lines += &format!("{{\"namespace\":\"imported\",\"key\":\"{n}\",\"value\":\"x\"}}\n");
    }
    project.file("entries", &lines);
    let exported = std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                for _ in 0..each {
                    let (status, body) = count(&server);
                    assert_eq!(status, 200, "{body}");
                }
            });
        }
        let printed = project.done(&["import", "entries"]);
        assert_eq!(printed, "imported 2000 entries\n");
        project.done(&["export"])
    });
    // One line more for the count, and those around.
    let lines = exported.lines().count();
    assert!((2_002..=2_003).contains(&lines), "{lines}");
    let sum = (clients * each).to_string();
    assert_eq!(project.done(&["get", "counts", "n"]), sum + "\n");
    // It is the content of another project.
    let other = Project::in_file();
    other.file("backup", &exported);
    other.done(&["import", "backup"]);
    assert_eq!(other.done(&["export"]), exported);
    assert_eq!(count(&other.serve()).0, 200);
}

#[test]
fn rejects_bad_input_with_an_exit_code() {
    let project = Project::in_file();
    let check = |args: &[&str], input: &[u8], code: i32, text: &str| {
        let ended = project.fed(args, input);
        assert_eq!((ended.0, &*ended.1), (code, ""), "{}", ended.2);
        assert!(ended.2.contains(text), "{}", ended.2);
    };
    check(&["list"], b"", 1, "data/kv: No such file");
    check(
        &["list", "--store", "fast"],
        b"",
        1,
        "is in the memory of its server: no other",
    );
    check(
        &["list", "--store", "x"],
        b"",
        78,
        "no store is called `x`: .wws.toml defines",
    );
    check(&["get", "n"], b"", 2, "Usage: wws kv get");
    project.done(&["set", "n", "a", "1"]);
    let mut cut = project.done(&["export"]);
    cut.truncate(cut.trim_end().rfind('\n').unwrap() + 1);
    cut = cut.replace("\"a\"", "\"b\"");
    project.file("cut", &cut);
    let text = "cut, line 3: the backup is incomplete: it ends after 1 entries without the line \
                that ends it; 0 entries were imported";
    check(&["import", "cut"], b"", 65, text);
    check(&["get", "n", "b"], b"", 1, "no key `b`");
    check(
        &["import", "-"],
        b"{\"n\":1}\n",
        65,
        "standard input, line 1: not a line of a backup",
    );
    let large = format!(
        r#"{{"namespace":"n","key":"b","value":"{}"}}"#,
        "x".repeat(1001)
    );
    check(
        &["import", "-"],
        large.as_bytes(),
        65,
        "a value of 1001 bytes; the limit is 1000",
    );
    check(
        &["set", "n", "b", "-"],
        &[b'x'; 2000],
        1,
        "a value of 1001 bytes; the limit is 1000",
    );
    let bytes = br#"{"namespace":"n","key":"b","value_base64":"/w=="}"#;
    check(
        &["import", "-"],
        bytes,
        1,
        "the value of \"b\" is not text (UTF-8)",
    );
    check(
        &["export", "-o", "none/backup"],
        b"",
        73,
        "cannot write none/backup: ",
    );
    check(&["import", "none"], b"", 1, "none: No such file");
    let long = format!("{}\n", " ".repeat(100_000));
    check(
        &["import", "-"],
        long.as_bytes(),
        65,
        "line 1: longer than ",
    );
    project.file(".wws.toml", "[stores.main]\nkind = \"fil\"\n");
    check(&["list"], b"", 78, ".wws.toml:2:8");
    project.file(".wws.toml", "");
    check(&["list"], b"", 78, "the project defines no store");
    assert!(Path::new(&project.path("cut")).exists());
}
