//! Runtimes that a project installs.

use super::*;

const RUNTIME: &str = r#"
version = 1
[[repositories]]
name = "wasmlabs"
url = "https://example.com/index.toml"
[[repositories.runtimes]]
name = "python"
version = "3.11.1"
tags = ["latest"]
status = "active"
extensions = ["py"]
args = ["--", "/src/index.py"]
envs = { HOME = "/" }
[repositories.runtimes.binary]
url = "https://example.com/python.wasm"
filename = "python.wasm"
[repositories.runtimes.binary.checksum]
type = "sha256"
value = "9b0e6d4e2d9fbd0ff0b5b8b4f4f24bf5b8e0bba0cf9c9f4c6b0e6b7e6d7f8a90"
[repositories.runtimes.wrapper]
filename = "wrapper.txt"
"#;

#[test]
fn skips_hashing_a_runtime_that_was_hashed_before() {
    let runtime = ".wws/runtimes/wasmlabs/python/3.11.1";
    let (binary, wrapper) = (
        format!("{runtime}/python.wasm"),
        format!("{runtime}/wrapper.txt"),
    );
    let dir = directory(&[
        ("b.py", ""),
        (".wws.toml", RUNTIME),
        (&binary, "not what the checksum is of"),
        (&wrapper, "{source}"),
    ]);
    let known = |sha256: &str| LoadOptions {
        hashed: BTreeMap::from([(binary.clone().into(), sha256.into())]),
        ..options()
    };
    let wanted = "9b0e6d4e2d9fbd0ff0b5b8b4f4f24bf5b8e0bba0cf9c9f4c6b0e6b7e6d7f8a90";
    assert!(load(dir.path(), &known(wanted)).is_ok());
    let error = load(dir.path(), &known(&wanted.replace('9', "8"))).unwrap_err();
    assert!(
        error.to_string().contains("python.wasm is damaged"),
        "{error}"
    );
}

#[test]
fn rejects_a_missing_or_incomplete_runtime() {
    let dir = directory(&[("b.py", ""), (".wws.toml", RUNTIME)]);
    let all = problems(&dir);
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(
        all[0],
        "b.py: needs the runtime python 3.11.1, which is not installed: \
         .wws/runtimes/wasmlabs/python/3.11.1/python.wasm is missing\n    `wws runtimes install \
         python 3.11.1`"
    );
    write(
        dir.path(),
        ".wws/runtimes/wasmlabs/python/3.11.1/python.wasm",
        "damaged",
    );
    write(
        dir.path(),
        ".wws/runtimes/wasmlabs/python/3.11.1/wrapper.txt",
        "{source}",
    );
    assert!(
        problems(&dir)[0].contains("python.wasm is damaged: its sha256 is "),
        "{:?}",
        problems(&dir)
    );
    let whole = RUNTIME.replace(
        "9b0e6d4e2d9fbd0ff0b5b8b4f4f24bf5b8e0bba0cf9c9f4c6b0e6b7e6d7f8a90",
        // printf damaged | sha256sum
        "2b7c0ab94ae4e7c4a7aa4bd64fd2f0a0a6c0f1ff9fcdb6e1d5e30b17ad1ee0ad",
    );
    let sum = problems(&dir)[0].split("sha256 is ").nth(1).unwrap()[..64].to_owned();
    write(
        dir.path(),
        ".wws.toml",
        &whole.replace(
            "2b7c0ab94ae4e7c4a7aa4bd64fd2f0a0a6c0f1ff9fcdb6e1d5e30b17ad1ee0ad",
            &sum,
        ),
    );
    let project = open(&dir).unwrap();
    assert_eq!(
        project.workers()[0].execution(),
        Execution::Prestarted { runtime: 0 }
    );
    assert_eq!(project.runtimes()[0].args, ["--", "/src/index.py"]);
}

const KIT: &str = r#"
version = 1
[[repositories]]
name = "built-in"
[[repositories.runtimes]]
name = "ruby"
version = "3.4.1"
extensions = ["rb"]
kit = "ruby"
[repositories.runtimes.binary]
filename = "ruby.wasm"
checksum = { type = "sha256", value = "9b0e6d4e2d9fbd0ff0b5b8b4f4f24bf5b8e0bba0cf9c9f4c6b0e6b7e6d7f8a90" }
"#;

#[test]
fn a_runtime_may_be_driven_by_a_kit() {
    let dir = directory(&[("a.js", ""), (".wws.toml", KIT)]);
    let project = open(&dir).unwrap();
    assert_eq!(project.runtimes()[0].kit.as_deref(), Some("ruby"));
    for (from, to, says) in [
        (
            "kit = \"ruby\"",
            "kit = \"perl\"",
            ".wws.toml:9:7: `kit` is `perl`, expected one of python, ruby",
        ),
        ("extensions = [\"rb\"]", "", "needs the extensions"),
        ("checksum = ", "# ", "needs the checksum"),
        (
            "kit = \"ruby\"",
            "kit = \"ruby\"\nargs = [\"ruby\"]",
            "has no use for `args`",
        ),
    ] {
        let dir = directory(&[("a.js", ""), (".wws.toml", &KIT.replace(from, to))]);
        let all = problems(&dir);
        assert!(all.len() == 1 && all[0].contains(says), "{says}: {all:?}");
    }
}

#[test]
fn reports_sources_without_a_runtime_once() {
    let dir = directory(&[
        ("a.ts", ""),
        ("b/c.ts", ""),
        ("built.ts", ""),
        ("built.js", ""),
        ("types.d.ts", ""),
        ("m.mjs", ""),
        ("lib.py", ""),
    ]);
    let project = open(&dir).unwrap();
    assert_eq!(found(&project, "/m"), "m.mjs");
    let warnings: Vec<_> = project.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings[0].starts_with("lib.py: no worker: nothing here runs .py\n"));
    assert!(warnings[1].starts_with("a.ts: no worker: nothing here runs .ts (and 1 more)\n"));
    assert!(warnings[1].contains("esbuild"));
}
