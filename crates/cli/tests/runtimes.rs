//! `wws runtimes` as people run it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// `sha256sum` of an empty module.
const SHA256: &str = "93a44bbb96c751218e4c00d479e4c14358122a389acca16205b1e4d0dc5f9476";

/// A repository with the runtime `cobol 85`, whose interpreter is an empty module.
fn repository() -> TempDir {
    let directory = TempDir::new().unwrap();
    let index = format!(
        "version = 1\n[[runtimes]]\nname = \"cobol\"\nversion = \"85\"\ntags = [\"latest\"]\n\
         extensions = [\"cob\"]\n\
         binary = {{ url = \"c.wasm\", filename = \"c.wasm\", checksum = {{ type = \"sha256\", \
         value = \"{SHA256}\" }} }}\n"
    );
    fs::write(directory.path().join("index.toml"), index).unwrap();
    fs::write(directory.path().join("c.wasm"), b"\0asm\x01\0\0\0").unwrap();
    directory
}

struct CommandOutput {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs in a directory, without anything of this machine's configuration.
fn wws(directory: &Path, args: &[&str]) -> CommandOutput {
    let output = Command::new(env!("CARGO_BIN_EXE_wws"))
        .args(args)
        .current_dir(directory)
        .env_clear()
        // There is no npm either, that could be asked.
        .env("PATH", "/nowhere")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    CommandOutput {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn the_built_in_repository_is_listed() {
    let project = TempDir::new().unwrap();
    let list = wws(project.path(), &["runtimes", "list"]);
    assert_eq!(list.code, Some(0), "{}", list.err);
    let lines: Vec<&str> = list.out.lines().collect();
    assert_eq!(
        words(lines[1]),
        ["python", "3.12.0", "latest,", "3.12", ".py", "wws"]
    );
    assert!(lines.iter().any(|line| line.starts_with("ruby")));
}

#[test]
fn installs_and_uninstalls_a_runtime() {
    let (repository, project) = (repository(), TempDir::new().unwrap());
    let path = project.path();
    let from = repository.path().to_str().unwrap();
    let from = ["--repo-url", from, "--repo-name", "mine"];
    let missing = wws(path, &["runtimes", "check"]);
    assert_eq!(
        (missing.code, missing.out.as_str()),
        (Some(0), "no runtime is listed in .wws.toml\n")
    );

    let install = wws(
        path,
        &[&["runtimes", "install", "cobol"], &from[..]].concat(),
    );
    assert_eq!(
        (install.code, install.out.as_str(), install.err.as_str()),
        (
            Some(0),
            "cobol 85: installed in .wws/runtimes/mine/cobol/85\n",
            ""
        )
    );
    let list = wws(path, &[&["runtimes", "list"], &from[..]].concat());
    assert_eq!(
        words(list.out.lines().nth(1).unwrap()),
        ["cobol", "85", "latest", ".cob", "mine", "installed"]
    );
    // Listed here, whatever the repository has.
    let list = wws(path, &["runtimes", "list"]);
    assert!(
        list.out.lines().last().unwrap().ends_with("installed"),
        "{}",
        list.out
    );
    assert_eq!(wws(path, &["runtimes", "check"]).code, Some(0));

    fs::write(path.join(".wws/runtimes/mine/cobol/85/c.wasm"), "x").unwrap();
    let check = wws(path, &["runtimes", "check"]);
    assert_eq!(check.code, Some(1));
    assert!(
        check.out.contains("c.wasm is damaged")
            && check.out.contains("`wws runtimes install cobol 85`"),
        "{}",
        check.out
    );
    // The command that was named mends it, without the repository.
    assert_eq!(
        wws(path, &["runtimes", "install", "cobol", "85"]).code,
        Some(0)
    );
    assert_eq!(wws(path, &["runtimes", "check"]).code, Some(0));

    let gone = wws(path, &["runtimes", "uninstall", "cobol", "latest"]);
    assert_eq!(
        (gone.code, gone.out.as_str()),
        (Some(0), "cobol 85: removed\n")
    );
    assert!(!path.join(".wws").exists());
    let again = wws(path, &["runtimes", "uninstall", "cobol", "85"]);
    assert_eq!(again.code, Some(1));
    assert!(
        again.err.contains("is not listed in .wws.toml"),
        "{}",
        again.err
    );
}

#[test]
fn serve_installs_missing_runtimes() {
    let (repository, project) = (repository(), TempDir::new().unwrap());
    let path = project.path();
    let url = repository.path().to_str().unwrap();
    let from = ["--repo-url", url, "--repo-name", "mine"];
    let install = wws(
        path,
        &[&["runtimes", "install", "cobol"], &from[..]].concat(),
    );
    assert_eq!(install.code, Some(0), "{}", install.err);
    fs::remove_dir_all(path.join(".wws")).unwrap();
    fs::write(path.join("index.cob"), "").unwrap();
    let serve = wws(path, &["--port", "0"]);
    assert_eq!(serve.code, Some(78));
    assert!(
        serve
            .err
            .contains("index.cob: needs the runtime cobol 85, which is not installed")
            && serve.err.contains("`wws runtimes install cobol 85`"),
        "{}",
        serve.err
    );
    // An empty module is none that can be started, but it is there.
    let serve = wws(path, &["-i", "--port", "0"]);
    assert_eq!(serve.code, Some(78));
    assert!(serve.err.contains("_start"), "{}", serve.err);
    assert_eq!(wws(path, &["runtimes", "check"]).code, Some(0));

    fs::remove_dir_all(path.join(".wws")).unwrap();
    fs::remove_file(repository.path().join("c.wasm")).unwrap();
    let serve = wws(path, &["-i", "--port", "0"]);
    assert_eq!(serve.code, Some(1));
    assert!(serve.err.starts_with("wws: cobol 85: "), "{}", serve.err);
}

#[test]
fn reports_a_file_without_a_runtime() {
    let project = TempDir::new().unwrap();
    fs::write(project.path().join("index.py"), "").unwrap();
    let check = wws(project.path(), &["check"]);
    assert_eq!(check.code, Some(0));
    assert!(
        check.err.contains("index.py: no worker")
            && check.err.contains("`wws runtimes install python latest`"),
        "{}",
        check.err
    );
}

#[test]
fn fetches_nothing_without_a_registry() {
    let project = TempDir::new().unwrap();
    let install = wws(project.path(), &["runtimes", "install", "ruby", "3.4"]);
    assert_eq!(install.code, Some(1));
    assert!(
        install.err.contains("set NPM_CONFIG_REGISTRY="),
        "{}",
        install.err
    );
    let unknown = wws(project.path(), &["runtimes", "install", "ruby", "1.8"]);
    assert!(
        unknown.err.contains("has no ruby 1.8; it has ruby 3.4.1"),
        "{}",
        unknown.err
    );
    assert!(!project.path().join(".wws.toml").exists());
}

#[test]
fn runtimes_are_printed_as_json() {
    let (repository, project) = (repository(), TempDir::new().unwrap());
    let path = project.path();
    let from = repository.path().to_str().unwrap();
    let from = ["--repo-url", from, "--repo-name", "mine"];
    let json = |args: &[&str]| -> (Option<i32>, serde_json::Value) {
        let ran = wws(path, &[&["runtimes"], args].concat());
        assert_eq!(ran.err, "");
        (ran.code, serde_json::from_str(&ran.out).unwrap())
    };
    let cobol = |is_here: bool| {
        serde_json::json!({
            "name": "cobol", "version": "85", "tags": ["latest"], "extensions": ["cob"],
            "repository": "mine", "status": "unknown", "listed": is_here, "installed": is_here,
        })
    };
    let list = [&["list", "--json"], &from[..]].concat();
    let expected = |is_here| serde_json::json!({ "runtimes": [cobol(is_here)] });
    assert_eq!(json(&list), (Some(0), expected(false)));
    // As Wasm Workers Server 1.x has its arguments.
    let elsewhere = TempDir::new().unwrap();
    let words = [
        &[path.to_str().unwrap(), "runtimes"],
        &from[..],
        &["install", "cobol", "85"],
    ];
    let install = wws(elsewhere.path(), &words.concat());
    assert_eq!(install.code, Some(0), "{}", install.err);
    assert_eq!(json(&list), (Some(0), expected(true)));

    let check = json(&["check", "--json"]);
    assert_eq!(
        (check.0, &check.1["runtimes"][0]["problem"]),
        (Some(0), &serde_json::Value::Null)
    );
    fs::remove_file(path.join(".wws/runtimes/mine/cobol/85/c.wasm")).unwrap();
    let (code, check) = json(&["check", "--json"]);
    assert_eq!(
        (code, &check["runtimes"][0]["installed"]),
        (Some(1), &false.into())
    );
    assert!(check["runtimes"][0]["problem"].is_string(), "{check}");
    let url = wws(path, &["https://git.example/x.git", "runtimes", "check"]);
    assert_eq!(url.code, Some(64), "{}", url.err);
}
