//! `wws build` and `wws run` as people use them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// The same registry as of the client's own tests.
#[path = "../../image/tests/registry/mod.rs"]
mod registry;
#[allow(dead_code, reason = "not all tests use all of it")]
mod served;

use std::{
    fs,
    process::{Command, Output, Stdio},
};

use registry::{Registry, RegistryAuth};
use served::Served;
use tempfile::TempDir;
use wws_image::Image;

/// Answers `hello`.
const HELLO: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "{\22data\22:\22hello\22}")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 16))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

fn hello() -> Vec<u8> {
    wat::parse_str(HELLO).unwrap()
}

/// A project, and a private directory for temporary files.
struct TestProject {
    project: TempDir,
    temporary: TempDir,
}

impl TestProject {
    fn new() -> Self {
        let project = tempfile::tempdir().unwrap();
        fs::write(project.path().join("w.wasm"), hello()).unwrap();
        let temporary = tempfile::tempdir().unwrap();
        Self { project, temporary }
    }

    fn wws(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wws"));
        command
            .args(args)
            .current_dir(self.project.path())
            .stdin(Stdio::null());
        for (name, _) in std::env::vars() {
            if name.starts_with("WWS_") || name == "SOURCE_DATE_EPOCH" {
                command.env_remove(name);
            }
        }
        command
            .env("WWS_CODE_CACHE", "")
            .env("TMPDIR", self.temporary.path());
        command
    }

    fn run(&self, args: &[&str]) -> (Option<i32>, String) {
        let Output { status, stderr, .. } = self.wws(args).output().unwrap();
        (status.code(), String::from_utf8(stderr).unwrap())
    }

    /// What is left in the directory for temporary files.
    fn left(&self) -> usize {
        fs::read_dir(self.temporary.path()).unwrap().count()
    }
}

#[test]
fn an_image_of_a_project_is_served() {
    let place = TestProject::new();
    fs::create_dir(place.project.path().join("public")).unwrap();
    fs::write(place.project.path().join("public/a.txt"), "asset").unwrap();
    // Inside of the project, too: an image is not packed into the next one.
    let (code, said) = place.run(&["build", "-t", "hello", "-o", "x.tar"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains(
            "docker.io/library/hello:latest: 1 file of workers, 1 file of assets, 2 files in all"
        ),
        "{said}"
    );
    assert!(said.contains("docker load -i x.tar"), "{said}");
    let (code, said) = place.run(&["build", ".", "--tag", "hello:latest", "--output", "image"]);
    assert_eq!(code, Some(0), "{said}");
    fs::rename(
        place.project.path().join("image"),
        place.temporary.path().join("image"),
    )
    .unwrap();
    let layout = place.temporary.path().join("image");
    for image in ["x.tar", layout.to_str().unwrap()] {
        let server = Served::start(place.wws(&["run", image, "--port", "0"]));
        assert!(
            server.address.starts_with("127.0.0.1:"),
            "{}",
            server.address
        );
        assert!(server.get("/w").ends_with("hello"));
        assert!(server.get("/a.txt").ends_with("asset"));
        let (code, log) = server.stop();
        assert_eq!(code, Some(0), "{log}");
        assert_eq!(place.left(), 1, "the layout alone");
    }
}

#[test]
fn images_are_reproducible() {
    let place = TestProject::new();
    let build = |output: &str, epoch: &str| {
        let mut command = place.wws(&["build", "-t", "hello", "-o", output]);
        command.env("SOURCE_DATE_EPOCH", epoch);
        let made = command.output().unwrap();
        assert!(made.status.success());
        match output {
            "-" => made.stdout,
            _ => fs::read(place.project.path().join(output)).unwrap(),
        }
    };
    let first = build("x.tar", "");
    assert_eq!(first, build("x.tar", ""));
    fs::remove_file(place.project.path().join("x.tar")).unwrap();
    assert_eq!(first, build("-", ""));
    assert_ne!(first, build("-", "1"));
    let hidden = fs::read_dir(place.project.path()).unwrap();
    assert_eq!(hidden.count(), 1, "nothing but the worker is left");
}

#[test]
fn a_project_that_does_not_load_makes_no_image() {
    let place = TestProject::new();
    let root = place.project.path();
    let refused = |args: &[&str], code: i32, texts: &[&str]| {
        let args = [&["build", "-o", "x.tar"], args].concat();
        let (ended, said) = place.run(&args);
        assert_eq!(ended, Some(code), "{said}");
        for text in texts {
            assert!(said.contains(text), "{text}: {said}");
        }
        assert!(!root.join("x.tar").exists());
    };
    fs::write(root.join("w.toml"), "nope = [").unwrap();
    fs::write(root.join("broken.wasm"), "").unwrap();
    fs::write(root.join("broken.toml"), "[limits]\nmemory = \"x\"\n").unwrap();
    refused(&["-t", "a"], 78, &["w.toml:1", "broken.toml:2"]);
    fs::remove_file(root.join("broken.toml")).unwrap();
    fs::remove_file(root.join("w.toml")).unwrap();
    refused(&["-t", "a"], 78, &["broken.wasm"]);
    fs::remove_file(root.join("broken.wasm")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", root.join("one")).unwrap();
    std::os::unix::fs::symlink("../x", root.join("other")).unwrap();
    refused(
        &["-t", "a"],
        78,
        &["one: a link that leads outside", "other: a link"],
    );
    refused(&["-t", "A"], 64, &["`A` is no name of an image"]);
    refused(&["-t", "a", "w.wasm"], 64, &["is no directory"]);
    let empty = place.temporary.path().to_str().unwrap();
    refused(&["-t", "a", empty], 78, &["nothing to serve"]);
    fs::remove_file(root.join("one")).unwrap();
    fs::remove_file(root.join("other")).unwrap();
    fs::write(root.join(".dockerignore"), "w.*\n").unwrap();
    let (code, said) = place.run(&["build", "-t", "a", "-o", "/dev/null/x.tar"]);
    assert_eq!(code, Some(73), "{said}");
    assert!(
        said.contains("warning: w.wasm: .dockerignore leaves it out"),
        "{said}"
    );
}

#[test]
fn settings_of_an_image_do_not_reach_the_machine() {
    let place = TestProject::new();
    let at = |name: &str| place.project.path().join(name);
    let cache = at("cache");
    let image = Image::new("localhost/x:1")
        .entrypoint(&["/app"])
        .command(&["--host", "0.0.0.0", "--port", "0"])
        .env("WWS_PREFIX", "/v1")
        .env("WWS_HOST", "0.0.0.0")
        .env("WWS_CODE_CACHE", cache.to_str().unwrap())
        .env("WWS_ADMIN", "0.0.0.0:0")
        // Would be a warning.
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "nowhere")
        .file("app/w.wasm", hello(), 0o644)
        .unwrap();
    image.write(fs::File::create(at("x.tar")).unwrap()).unwrap();
    let mut command = place.wws(&["run", "x.tar"]);
    command
        .env_remove("WWS_CODE_CACHE")
        .env("HOME", place.temporary.path());
    let server = Served::start(command);
    assert!(
        server.address.starts_with("127.0.0.1:"),
        "{}",
        server.address
    );
    assert!(server.get("/v1/w").ends_with("hello"));
    let (code, log) = server.stop();
    assert_eq!(code, Some(0));
    assert!(!log.contains("metrics") && !log.contains("OTEL"), "{log}");
    assert!(!cache.exists());
}

#[test]
fn explains_an_image_without_workers() {
    let place = TestProject::new();
    let at = |name: &str| place.project.path().join(name);
    let native = Image::new("localhost/x:1")
        .entrypoint(&["/bin/true"])
        .file("bin/true", "", 0o755)
        .unwrap();
    native
        .write(fs::File::create(at("native.tar")).unwrap())
        .unwrap();
    let options = Image::new("localhost/x:1").command(&["--nope"]);
    options
        .write(fs::File::create(at("options.tar")).unwrap())
        .unwrap();
    for (image, code, text) in [
        (
            "native.tar",
            1,
            "`/bin/true` is neither a directory of workers",
        ),
        ("options.tar", 2, "unexpected argument '--nope'"),
        ("w.wasm", 1, "is no image archive"),
        ("./missing", 1, "No such file"),
        ("missing.tar", 1, "No such file"),
        (
            "Missing",
            1,
            "there is no such file, and `Missing` is no name of an image",
        ),
        (".", 1, "neither an OCI archive nor an OCI layout"),
    ] {
        let (ended, said) = place.run(&["run", image, "--port", "0"]);
        assert_eq!(ended, Some(code), "{image}: {said}");
        assert!(said.contains(text), "{image}: {said}");
        assert_eq!(place.left(), 0, "{image}");
    }
}

#[test]
fn removes_the_image_of_a_killed_server() {
    let place = TestProject::new();
    let (code, said) = place.run(&["build", "-t", "a", "-o", "x.tar"]);
    assert_eq!(code, Some(0), "{said}");
    let start = || Served::start(place.wws(&["run", "x.tar", "--port", "0"]));
    let killed = start();
    let other = start();
    assert_eq!(place.left(), 2);
    drop(killed);
    assert_eq!(place.left(), 2);
    let (code, said) = start().stop();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(place.left(), 1);
    assert!(other.get("/w").ends_with("hello"));
    assert_eq!(other.stop().0, Some(0));
    assert_eq!(place.left(), 0);
}

#[test]
fn an_image_is_pushed_as_the_user_of_docker_login() {
    let place = TestProject::new();
    let registry = Registry::start(RegistryAuth::Token);
    let name = format!("{}/team/hello:v1", registry.address);
    let config = format!(
        r#"{{ "auths": {{ "{}": {{ "auth": "{}" }} }} }}"#,
        registry.address,
        registry::BASIC.trim_start_matches("Basic ")
    );
    fs::write(place.temporary.path().join("config.json"), config).unwrap();
    let push = |directory: &std::path::Path| {
        let mut command = place.wws(&["build", "-t", &name, "--push"]);
        let output = command.env("DOCKER_CONFIG", directory).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, said) = push(place.temporary.path());
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said.matches("pushed sha256:").count(), 8, "{said}");
    assert!(said.contains(&name), "{said}");
    assert!(registry.state.lock().unwrap().manifests.contains_key("v1"));
    // And pulled again, once.
    let home = tempfile::tempdir().unwrap();
    for is_first in [true, false] {
        let mut command = place.wws(&["run", &name, "--port", "0"]);
        command
            .env("DOCKER_CONFIG", place.temporary.path())
            .env("HOME", home.path())
            .env_remove("XDG_CACHE_HOME");
        let server = Served::start(command);
        assert!(server.get("/w").ends_with("hello"));
        let fetched = server.before.matches("fetching sha256:").count();
        assert_eq!(fetched, if is_first { 2 } else { 0 }, "{}", server.before);
        assert_eq!(server.stop().0, Some(0));
        assert!(home.path().join(".cache/wws/images/blobs/sha256").is_dir());
    }
    let (code, said) = push(place.project.path());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("401"), "{said}");
    // Without a place for the image, nothing is done.
    assert_eq!(place.run(&["build", "-t", "a"]).0, Some(2));
    assert_eq!(
        place.run(&["build", "-t", "a", "--push", "-o", "x.tar"]).0,
        Some(2)
    );
}

#[test]
fn an_image_reads_no_secrets_of_the_machine() {
    let place = TestProject::new();
    // What is there on every machine: a directory for secrets does not have to be.
    let toml = "version = \"1\"\n[vars]\nA = \"file:/run/secrets/token\"\n";
    fs::write(place.project.path().join("w.toml"), toml).unwrap();
    let image = Image::new("localhost/x:1")
        .file("w.wasm", hello(), 0o644)
        .unwrap()
        .file("w.toml", toml, 0o644)
        .unwrap();
    let path = place.project.path().join("x.tar");
    image.write(fs::File::create(path).unwrap()).unwrap();
    let (code, said) = place.run(&["run", "x.tar", "--port", "0"]);
    assert_eq!(code, Some(78), "{said}");
    assert!(
        said.contains("w.toml:3") && said.contains("--allow-secrets"),
        "{said}"
    );
    let (code, said) = place.run(&["run", "x.tar", "--port", "0", "--allow-secrets"]);
    if !std::path::Path::new("/run/secrets/token").exists() {
        assert_eq!(code, Some(78), "{said}");
        assert!(
            said.contains("there is no file /run/secrets/token"),
            "{said}"
        );
    }
}

#[test]
fn an_image_reaches_no_private_hosts_unless_it_is_allowed_to() {
    let place = TestProject::new();
    let toml = "version = \"1\"\n[features.http_requests]\nallowed_hosts = [\"127.0.0.1\"]\n";
    let config = "version = 1\n[stores.s]\nkind = \"redis\"\nurl = \"$STORE_URL\"\n";
    let image = Image::new("localhost/x:1")
        .file("w.wasm", hello(), 0o644)
        .unwrap()
        .file("w.toml", toml, 0o644)
        .unwrap()
        .file(".wws.toml", config, 0o644)
        .unwrap();
    let path = place.project.path().join("x.tar");
    image.write(fs::File::create(path).unwrap()).unwrap();
    let url = "STORE_URL=redis://127.0.0.1";
    let (code, said) = place.run(&["run", "x.tar", "--port", "0", "-e", url]);
    assert_eq!(code, Some(78), "{said}");
    let expected = "w.toml:3:18: `127.0.0.1` is no public host\n    `--allow-private-hosts` lets";
    assert!(said.contains(expected), "{said}");
    // What the user gives is the user's choice.
    assert!(!said.contains(".wws.toml"), "{said}");
    let (code, said) = place.run(&["run", "x.tar", "--port", "0"]);
    assert_eq!(code, Some(78), "{said}");
    let expected = ".wws.toml:4:7: the store `s` uses a Redis that the project chooses";
    assert!(said.contains(expected), "{said}");
    let allowed = [
        "run",
        "x.tar",
        "-p",
        "0",
        "--allow-private-hosts",
        "-e",
        url,
    ];
    let server = Served::start(place.wws(&allowed));
    assert!(server.get("/w").ends_with("hello"));
    assert_eq!(server.stop().0, Some(0));
    // A project of one's own needs no permission.
    for (name, text) in [("w.toml", toml), (".wws.toml", config)] {
        fs::write(place.project.path().join(name), text).unwrap();
    }
    let mut command = place.wws(&[".", "--port", "0"]);
    command.env("STORE_URL", "redis://127.0.0.1");
    let server = Served::start(command);
    assert_eq!(server.stop().0, Some(0));
}

#[test]
fn an_image_does_not_see_the_users_variables() {
    let place = TestProject::new();
    let toml = "name = \"w\"\nversion = \"1\"\n[vars]\nA = \"$SECRET_A\"\nB = \"$GIVEN_B\"\n";
    fs::write(place.project.path().join("w.toml"), toml).unwrap();
    let (code, said) = place.run(&["build", "-t", "a", "-o", "x.tar"]);
    assert_eq!(code, Some(0), "{said}");
    let mut command = place.wws(&["run", "x.tar", "-p", "0", "-e", "GIVEN_B"]);
    command.env("SECRET_A", "secret").env("GIVEN_B", "given");
    let server = Served::start(command);
    assert!(
        server.before.contains("the environment has no `SECRET_A`"),
        "{}",
        server.before
    );
    assert!(!server.before.contains("GIVEN_B"), "{}", server.before);
    assert_eq!(server.stop().0, Some(0));
}

#[test]
fn an_image_is_described_by_json() {
    let place = TestProject::new();
    let build = |output: &str| {
        let args = ["build", "-t", "hello", "--json", "-o", output];
        let Output { status, stdout, .. } = place.wws(&args).output().unwrap();
        let value: serde_json::Value = serde_json::from_slice(&stdout).unwrap();
        (status.code(), value)
    };
    let (code, built) = build("x.tar");
    assert_eq!(code, Some(0), "{built}");
    let archive = fs::read(place.project.path().join("x.tar")).unwrap();
    let digest = built["digest"].as_str().unwrap();
    assert!(
        digest.starts_with("sha256:")
            && archive
                .windows(digest.len())
                .any(|part| part == digest.as_bytes()),
        "index.json of the archive names it: {digest}"
    );
    let expected = serde_json::json!({
        "name": "docker.io/library/hello:latest", "digest": digest, "output": "x.tar",
        "pushed": false, "workers": 1, "assets": 0, "files": 1, "bytes": hello().len(),
        "left_out": [], "problems": [],
    });
    assert_eq!(built, expected);
    let (code, both) = build("-");
    assert_eq!(code, Some(64));
    assert!(
        both["error"].as_str().unwrap().contains("name a file"),
        "{both}"
    );
    fs::write(place.project.path().join("w.wasm"), "no").unwrap();
    let (code, failed) = build("x.tar");
    assert_eq!(
        (code, &failed["problems"][0]["file"]),
        (Some(78), &"w.wasm".into())
    );
}
