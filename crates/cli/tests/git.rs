//! Projects of git repositories, from git's own server on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../image/tests/registry/request.rs"]
mod request;
#[allow(dead_code, reason = "not all tests use all of it")]
mod served;

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use request::ReceivedRequest;
use served::Served;
use tempfile::TempDir;

/// A directory of repositories, which `git http-backend` serves.
struct Repositories {
    directory: TempDir,
    address: SocketAddr,
}

impl Repositories {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let root = directory.path().to_owned();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, root) = (stream.unwrap(), root.clone());
                thread::spawn(move || answer(&stream, &root));
            }
        });
        Self { directory, address }
    }

    /// Creates a repository with a worker that answers `text`; returns its URL.
    fn create(&self, name: &str) -> String {
        let repository = self.at(name);
        fs::create_dir(&repository).unwrap();
        self.git(name, &["init", "--quiet", "--initial-branch=main"]);
        format!("http://{}/{name}/.git", self.address)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn git(&self, name: &str, words: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=a", "-c", "user.email=a@a.example"])
            .args(words)
            .current_dir(self.at(name))
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Commits all files; returns the hash.
    fn commit(&self, name: &str) -> String {
        self.git(name, &["add", "--all"]);
        self.git(name, &["commit", "--quiet", "--message", "a"]);
        self.git(name, &["rev-parse", "HEAD"])
    }

    /// Commits a worker that answers a text; returns the hash.
    fn commit_worker(&self, name: &str, path: &str, text: &str) -> String {
        let path = self.at(name).join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, worker(text)).unwrap();
        self.commit(name)
    }
}

/// A worker that answers a text of four letters.
fn worker(text: &str) -> Vec<u8> {
    assert_eq!(text.len(), 4);
    let text = format!(
        r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "{{\22data\22:\22{text}\22}}")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 15))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
    );
    wat::parse_str(text).unwrap()
}

/// Answers one request by git's CGI program.
fn answer(mut stream: &TcpStream, root: &Path) {
    let Some(request) = ReceivedRequest::read(stream) else {
        return;
    };
    let (method, target) = request.method_and_target();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if let Some(other) = path.strip_prefix("/redirect/") {
        let head =
            format!("HTTP/1.1 302 Found\r\nlocation: {other}?{query}\r\ncontent-length: 0\r\n\r\n");
        let _ = stream.write_all(head.as_bytes());
        return;
    }
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", method)
        .env(
            "CONTENT_TYPE",
            request.header("content-type").unwrap_or_default(),
        )
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env(
            "HTTP_CONTENT_ENCODING",
            request.header("content-encoding").unwrap_or_default(),
        )
        .env(
            "GIT_PROTOCOL",
            request.header("git-protocol").unwrap_or_default(),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(&request.body)
        .unwrap();
    let output = child.wait_with_output().unwrap().stdout;
    let status = match output.strip_prefix(b"Status: ") {
        Some(rest) => String::from_utf8_lossy(&rest[..3]).into_owned(),
        None => "200".to_owned(),
    };
    let _ = stream.write_all(format!("HTTP/1.1 {status} x\r\nconnection: close\r\n").as_bytes());
    let _ = stream.write_all(&output);
}

/// A user with a directory for temporary files, and a home without settings of git.
struct User {
    home: TempDir,
}

impl User {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("tmp")).unwrap();
        Self { home }
    }

    fn wws(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wws"));
        command
            .args(args)
            .args(["--port", "0"])
            .current_dir(self.home.path());
        for (name, _) in std::env::vars() {
            if name.starts_with("WWS_") || name.starts_with("GIT_") {
                command.env_remove(name);
            }
        }
        for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command
            .stdin(Stdio::null())
            .env("WWS_CODE_CACHE", "")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("HOME", self.home.path())
            .env("TMPDIR", self.home.path().join("tmp"));
        command
    }

    /// Runs a server that does not start.
    fn fails(&self, args: &[&str], code: i32) -> String {
        let output = self.wws(args).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert_eq!(self.left(), 0, "{args:?}");
        said
    }

    /// What `/w` of a served repository answers.
    fn answer(&self, args: &[&str]) -> String {
        let server = Served::start(self.wws(args));
        let text = server.get("/w");
        assert_eq!(server.stop().0, Some(0));
        assert_eq!(self.left(), 0, "{args:?}");
        text.rsplit('\n').next().unwrap().to_owned()
    }

    fn left(&self) -> usize {
        fs::read_dir(self.home.path().join("tmp")).unwrap().count()
    }
}

#[test]
fn serves_repository_at_branch_tag_commit_and_directory() {
    let repositories = Repositories::start();
    let url = repositories.create("hello");
    let first = repositories.commit_worker("hello", "w.wasm", "one.");
    repositories.git("hello", &["tag", "v1"]);
    repositories.git("hello", &["tag", "--annotate", "v1a", "--message", "a"]);
    repositories.commit_worker("hello", "examples/a/w.wasm", "deep");
    repositories.commit_worker("hello", "w.wasm", "two.");
    repositories.git("hello", &["checkout", "--quiet", "-b", "team/next"]);
    repositories.commit_worker("hello", "w.wasm", "next");
    repositories.git("hello", &["checkout", "--quiet", "main"]);
    let user = User::new();
    for (args, expected) in [
        (vec![], "two."),
        (vec!["--git-branch", "main"], "two."),
        (vec!["--git-branch", "team/next"], "next"),
        (vec!["--git-tag", "v1"], "one."),
        (vec!["--git-tag", "v1a"], "one."),
        (vec!["--git-commit", &first], "one."),
        (vec!["--git-commit", &first[..10]], "one."),
        (vec!["--git-folder", "examples/a"], "deep"),
        (
            vec!["--git-folder", "./examples/a/", "--git-branch", "main"],
            "deep",
        ),
    ] {
        let after = [vec![url.as_str()], args.clone()].concat();
        assert_eq!(user.answer(&after), expected, "{args:?}");
    }
    // As 1.x takes it, too.
    assert_eq!(user.answer(&["--git-tag", "v1", &url]), "one.");
    let redirected = url.replace("/hello", "/redirect//hello");
    assert_eq!(user.answer(&[&redirected]), "two.");
}

#[test]
fn explains_a_missing_branch_or_directory() {
    let repositories = Repositories::start();
    let url = repositories.create("hello");
    repositories.commit_worker("hello", "w.wasm", "one.");
    let user = User::new();
    for (args, code, text) in [
        (vec!["--git-branch", "nope"], 1, "git fetch failed"),
        (vec!["--git-commit", "0123456789"], 1, "git checkout failed"),
        (vec!["--git-folder", "nope"], 1, "has no directory nope"),
        (vec!["--git-folder", "../.."], 1, "has no directory ../.."),
        (vec!["--git-tag", "a b"], 64, "no name of a branch or tag"),
    ] {
        let said = user.fails(&[vec![url.as_str()], args].concat(), code);
        assert!(said.contains(text), "{text}: {said}");
    }
    let said = user.fails(&[&url.replace("/hello", "/nothing")], 1);
    assert!(said.contains("git fetch failed"), "{said}");
    let said = user.fails(&["http://git.example/x"], 64);
    assert!(said.contains("use https://"), "{said}");
    let said = user.fails(&[".", "--git-branch", "main"], 64);
    assert!(said.contains("URL of a repository"), "{said}");
    let mut command = user.wws(&[&url]);
    let output = command.env("PATH", "/nowhere").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("needs the program git"), "{said}");
}

#[test]
fn fetching_a_repository_runs_no_hooks_and_reads_no_user_files() {
    let repositories = Repositories::start();
    let url = repositories.create("hello");
    let at = |name: &str| repositories.at("hello").join(name);
    // A submodule of a local path, and a directory outside of the repository.
    repositories.create("inner");
    repositories.commit_worker("inner", "w.wasm", "inne");
    let inner = repositories.at("inner");
    let inner = inner.to_str().unwrap();
    let add = [
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "add",
        "--quiet",
        inner,
        "inner",
    ];
    repositories.git("hello", &add);
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("w.wasm"), worker("outs")).unwrap();
    symlink(outside.path(), at("out")).unwrap();
    let toml = "version = \"1\"\n[vars]\nA = \"$SECRET_A\"\nB = \"$GIVEN_B\"\n";
    fs::write(at("w.toml"), toml).unwrap();
    repositories.commit_worker("hello", "w.wasm", "one.");
    let user = User::new();
    // Hooks of a template that the user has set up.
    let ran = user.home.path().join("ran");
    let hooks = user.home.path().join("template/hooks");
    fs::create_dir_all(&hooks).unwrap();
    let hook = hooks.join("post-checkout");
    fs::write(&hook, format!("#!/bin/sh\ntouch {}\n", ran.display())).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let template = hooks.parent().unwrap().display().to_string();
    let settings = format!(
        "[init]\ntemplateDir = {template}\n[core]\nhooksPath = {}\n[submodule]\nrecurse = true\n",
        hooks.display()
    );
    fs::write(user.home.path().join(".gitconfig"), settings).unwrap();
    let mut command = user.wws(&[&url, "--env", "GIVEN_B"]);
    command.env("SECRET_A", "secret").env("GIVEN_B", "given");
    let server = Served::start(command);
    let log = &server.before;
    assert!(log.contains("the environment has no `SECRET_A`"), "{log}");
    assert!(!log.contains("GIVEN_B"), "{log}");
    assert!(server.get("/w").ends_with("one."));
    assert!(server.get("/inner/w").starts_with("HTTP/1.1 404"));
    assert!(server.get("/out/w").starts_with("HTTP/1.1 404"));
    assert!(server.get("/.git/config").starts_with("HTTP/1.1 404"));
    assert_eq!(server.stop().0, Some(0));
    assert!(!ran.exists());
    let said = user.fails(&[&url, "--git-folder", "out"], 1);
    assert!(said.contains("has no directory out"), "{said}");
    fs::write(
        at("w.toml"),
        "version = \"1\"\n[vars]\nA = \"file:/run/secrets/a\"\n",
    )
    .unwrap();
    repositories.commit("hello");
    let said = user.fails(&[&url], 78);
    assert!(
        said.contains("/run/secrets/a is not one of the project"),
        "{said}"
    );
}
