//! Completions and manual pages, read by the programs that they are for, and `wws doctor`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

fn wws(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wws"))
        .args(args)
        .output()
        .unwrap()
}

fn printed(args: &[&str]) -> String {
    let output = wws(args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that `wws help` lists.
fn commands() -> Vec<String> {
    let help = printed(&["help"]);
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let lines = commands.lines().take_while(|line| !line.is_empty());
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .collect()
}

/// What bash offers for the last of these words.
fn offered(words: &[&str]) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("wws");
    fs::write(&file, printed(&["completions", "bash"])).unwrap();
    let script = r#"
        source "$1"; shift
        declare -F _wws > /dev/null || exit 3
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
        _wws "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let output = Command::new("bash")
        .args(["--norc", "--noprofile", "-c", script, "bash"])
        .arg(&file)
        .args(words)
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(str::to_owned)
        .filter(|line| !line.is_empty())
        .collect()
}

#[test]
fn bash_completes_commands_options_and_values() {
    let all = offered(&["wws", ""]);
    for name in commands() {
        assert!(all.contains(&name), "{name}: {all:?}");
    }
    for hidden in ["serve-container", "compile"] {
        assert!(!all.iter().any(|one| one == hidden), "{hidden}");
    }
    assert_eq!(offered(&["wws", "hea"]), ["health"]);
    assert_eq!(offered(&["wws", "build", "--ta"]), ["--tag"]);
    assert_eq!(offered(&["wws", "runtimes", "inst"]), ["install"]);
    let languages = offered(&["wws", "new", "r"]);
    assert_eq!(languages, ["ruby", "rust"]);
    let options = offered(&["wws", "--"]);
    assert!(options.contains(&"--port".to_owned()), "{options:?}");
    assert!(!options.contains(&"--memory".to_owned()), "{options:?}");
}

#[test]
fn other_shells_have_completions_that_parse() {
    for (shell, marker) in [("zsh", "#compdef wws"), ("fish", "complete -c wws")] {
        let text = printed(&["completions", shell]);
        assert!(text.contains(marker), "{shell}");
        assert!(!text.contains("serve-container"), "{shell}");
        for name in commands() {
            assert!(text.contains(&name), "{shell}: {name}");
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("completions");
        fs::write(&file, &text).unwrap();
        // Where the shell is installed, it reads them.
        if let Ok(output) = Command::new(shell).arg("-n").arg(&file).output() {
            assert!(output.status.success(), "{shell}: {output:?}");
        }
    }
    assert_eq!(wws(&["completions", "tcsh"]).status.code(), Some(2));
}

/// Whether a page is roff without a mistake that a formatter reports, where there is one.
fn assert_formats(page: &Path) {
    let text = fs::read_to_string(page).unwrap();
    assert!(
        text.contains(".TH ") && text.contains(".SH NAME"),
        "{}",
        page.display()
    );
    let mandoc = Command::new("mandoc")
        .args(["-T", "lint", "-W", "error"])
        .arg(page)
        .output();
    if let Ok(output) = mandoc {
        assert!(output.status.success(), "{output:?}");
    }
    let mut man = Command::new("man");
    man.args(["--local-file", "--warnings", "-E", "UTF-8"])
        .arg(page);
    let man = man
        .env("MANWIDTH", "80")
        .env("MANPAGER", "cat")
        .env("LC_ALL", "C.UTF-8")
        .output();
    if let Ok(output) = man
        && output.status.success()
    {
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(shown.contains("wws"), "{shown}");
        let warnings = String::from_utf8(output.stderr).unwrap();
        assert!(
            !warnings.contains("warning"),
            "{}: {warnings}",
            page.display()
        );
    }
}

#[test]
fn each_command_has_a_manual_page() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man1");
    let output = wws(&["man", "--directory", pages.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let mut names: Vec<String> = fs::read_dir(&pages)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    for name in commands().iter().filter(|name| *name != "help") {
        assert!(
            names.contains(&format!("wws-{name}.1")),
            "{name}: {names:?}"
        );
        assert!(printed(&["man", name]).contains(".TH wws"), "{name}");
    }
    assert!(names.contains(&"wws.1".to_owned()), "{names:?}");
    assert!(
        !names.iter().any(|name| name.contains("serve-container")),
        "{names:?}"
    );
    for name in ["wws.1", "wws-build.1", "wws-runtimes-install.1"] {
        assert_formats(&pages.join(name));
    }
    assert_eq!(wws(&["man", "nope"]).status.code(), Some(2));
    // Nothing in them depends on when and where they are made.
    assert_eq!(printed(&["man"]), printed(&["man"]));
    assert_eq!(
        printed(&["man"]),
        fs::read_to_string(pages.join("wws.1")).unwrap()
    );
}

#[test]
fn the_doctors_exit_code_says_whether_there_is_a_problem() {
    let output = wws(&["doctor", "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = value["checks"].as_array().unwrap();
    assert!(checks.len() > 5, "{value}");
    let problems = checks
        .iter()
        .filter(|check| check["result"] == "problem")
        .count();
    assert_eq!(
        output.status.code(),
        Some(i32::from(problems > 0)),
        "{value}"
    );
    // This machine runs the tests, whatever else it can do.
    let kernel = checks
        .iter()
        .find(|check| check["check"] == "kernel")
        .unwrap();
    assert_ne!(kernel["result"], "problem", "{value}");
    let text = String::from_utf8(wws(&["doctor"]).stdout).unwrap();
    assert_eq!(
        text.lines().take_while(|line| !line.is_empty()).count(),
        checks.len()
    );
    assert!(!text.contains('\x1b'), "{text}");
}
