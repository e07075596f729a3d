//! Runs the code blocks of the user documentation.
//!
//! The info string of a fence says what happens to a block:
//!
//! * `LANGUAGE FILE` (JavaScript, Python, Ruby, TOML, Wasm text): the file is written into the
//!   page's project.
//! * `LANGUAGE path/of/the/repository`: the block is an excerpt of that file, which other tests
//!   build and run.
//! * `console`: each `$ ` line runs in the page's project, and prints the lines below it. `...`
//!   stands for any text. `wws` without a command, `wws dev` and `wws run` start a server, which
//!   runs until the page starts the next one; `8080` stands for its port.
//! * `toml worker`, `toml project`, `toml index`: loaded as a worker's TOML, as `.wws.toml`, as the
//!   index of a repository.
//! * `json`: parsed. `text`: no code.
//! * `LANGUAGE no-run: REASON`: not run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Directories below `docs/` that users read.
const USER_DOCS: [&str; 5] = [
    "get-started",
    "workers",
    "configure",
    "operate",
    "reference",
];

/// The port that the pages name.
const PORT: &str = "8080";

/// Time for a server to start: the first one compiles interpreters.
const START_LIMIT: Duration = Duration::from_secs(600);

/// Commands of `wws` that start no server.
const COMMANDS: [&str; 10] = [
    "build",
    "check",
    "kv",
    "reload",
    "routes",
    "health",
    "precompile",
    "settings",
    "runtimes",
    "help",
];

/// The smallest worker, for the TOML of a worker.
const WORKER: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "{\22data\22:\22hi\22}")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 13))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

type Outcome = Result<(), String>;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What stays between runs: compiled code of interpreters.
fn kept(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

struct Block {
    /// Of its fence, counted from 1.
    line: usize,
    language: String,
    /// The rest of the info string.
    info: String,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, Block)> = None;
    for (index, line) in page.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, None) => {}
            (None, Some(info)) => {
                let (language, info) = info.split_once(' ').unwrap_or((info, ""));
                let block = Block {
                    line: index + 1,
                    language: language.to_owned(),
                    info: info.trim().to_owned(),
                    text: String::new(),
                };
                open = Some((indent, block));
            }
            (Some(_), Some("")) => blocks.extend(open.take().map(|(_, block)| block)),
            (Some((indent, block)), _) => {
                block.text += line.get(*indent..).unwrap_or_default();
                block.text.push('\n');
            }
        }
    }
    assert!(open.is_none(), "a fence is not closed");
    blocks
}

/// A server that a page started.
struct Server {
    child: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The project of a page.
struct Page {
    project: TempDir,
    /// What its commands write beside it.
    aside: TempDir,
    server: Option<Server>,
    /// Files were written that no command has read.
    unread: bool,
}

impl Page {
    fn new() -> Self {
        let aside = TempDir::new().unwrap();
        // Read by curl: errors alone.
        fs::write(aside.path().join(".curlrc"), "silent\nshow-error\n").unwrap();
        Self {
            project: TempDir::new().unwrap(),
            aside,
            server: None,
            unread: false,
        }
    }

    fn shell(&self, command: &str) -> Command {
        let program = Path::new(env!("CARGO_BIN_EXE_wws"));
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("bash");
        shell.arg("-c").arg(command);
        for (name, _) in std::env::vars().filter(|(name, _)| {
            name.starts_with("WWS_") || name.to_ascii_lowercase().ends_with("_proxy")
        }) {
            shell.env_remove(name);
        }
        shell
            .current_dir(self.project.path())
            .env(
                "PATH",
                format!("{}:{path}", program.parent().unwrap().display()),
            )
            .env("CURL_HOME", self.aside.path())
            .env("WWS_CODE_CACHE", kept("code"))
            .stdin(Stdio::null());
        shell
    }

    fn run(&mut self, block: &Block) -> Outcome {
        match (block.language.as_str(), block.info.as_str()) {
            ("text", "") => Ok(()),
            ("json", "") => serde_json::from_str::<serde_json::Value>(&block.text)
                .map(drop)
                .map_err(|error| format!("no JSON: {error}")),
            ("toml", "worker") => check_alone("w.toml", &block.text),
            ("toml", "project") => check_alone(".wws.toml", &block.text),
            ("toml", "index") => list_repository(&block.text),
            ("console", "") => {
                self.unread = false;
                commands(&block.text)
                    .into_iter()
                    .try_for_each(|(command, expected)| {
                        self.type_in(&command, &expected)
                            .map_err(|error| format!("`{command}`: {error}"))
                    })
            }
            ("js" | "python" | "ruby" | "toml" | "wat", file) if !file.is_empty() => {
                self.unread = true;
                let path = self.project.path().join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                let content = if block.language == "wat" {
                    wat::parse_str(&block.text).map_err(|error| error.to_string())?
                } else {
                    block.text.clone().into_bytes()
                };
                fs::write(path, content).map_err(|error| error.to_string())
            }
            ("rust" | "go" | "c" | "cpp" | "zig", file) if !file.is_empty() => {
                excerpt(&block.text, file)
            }
            (language, info) => Err(format!(
                "what is ```{language} {info}? See the top of crates/cli/tests/docs.rs"
            )),
        }
    }

    /// Runs one command of a page.
    fn type_in(&mut self, command: &str, expected: &[&str]) -> Outcome {
        let words: Vec<&str> = command
            .split(' ')
            .skip_while(|word| word.contains('=') && !word.starts_with('-'))
            .collect();
        let is_server = words.first() == Some(&"wws")
            && !words.get(1).is_some_and(|word| COMMANDS.contains(word));
        if is_server {
            return self.serve(command, expected);
        }
        let mut command = command.to_owned();
        let port = self
            .server
            .as_ref()
            .and_then(|server| server.address.rsplit(':').next());
        if let Some(port) = port {
            command = command.replace(PORT, port);
        }
        if command.contains("wws runtimes install ") {
            let _ = write!(
                command,
                " --repo-url '{}' --repo-name wws",
                interpreters()?.display()
            );
        }
        let output = self
            .shell(&format!("{{ {command}\n}} 2>&1"))
            .output()
            .map_err(|error| error.to_string())?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        if let Some(port) = port {
            text = text.replace(port, PORT);
        }
        if expected.is_empty() && !output.status.success() {
            return Err(format!("{}:\n{text}", output.status));
        }
        same(expected, &text)
    }

    /// Starts a server and waits until it listens.
    fn serve(&mut self, command: &str, expected: &[&str]) -> Outcome {
        self.server = None;
        let at = command.find("wws").unwrap_or_default();
        let command = format!("{} exec {}", &command[..at], &command[at..])
            .replace(&format!("--port {PORT}"), "");
        let log = self.aside.path().join("log");
        let out = self.aside.path().join("out");
        let mut child = self
            .shell(&command)
            .env("WWS_PORT", "0")
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .map_err(|error| error.to_string())?;
        let started = Instant::now();
        let address = loop {
            let text = fs::read_to_string(&log).unwrap_or_default();
            // A line of the log in JSON has a quote behind the address.
            let found = text
                .split_once("listening on http://")
                .and_then(|(_, rest)| rest.split_once([' ', '"']));
            if let Some((address, _)) = found {
                break address.to_owned();
            }
            let ended = child.try_wait().map_err(|error| error.to_string())?;
            if ended.is_some() || started.elapsed() > START_LIMIT {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it does not listen: {ended:?}\n{text}"));
            }
            thread::sleep(Duration::from_millis(20));
        };
        let mut printed = fs::read_to_string(out).unwrap_or_default();
        if let Some((_, port)) = address.rsplit_once(':') {
            printed = printed.replace(port, PORT);
        }
        self.server = Some(Server { child, address });
        same(expected, &printed)
    }

    /// Loads what no command of the page has read.
    fn finish(&mut self) -> Outcome {
        if self.unread {
            self.type_in("wws check", &[])?;
        }
        Ok(())
    }
}

/// The commands of a block, each with the lines that it prints.
fn commands(text: &str) -> Vec<(String, Vec<&str>)> {
    let mut commands: Vec<(String, Vec<&str>)> = Vec::new();
    let mut goes_on = false;
    for line in text.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command.to_owned(), Vec::new())),
            (None, Some((command, _))) if goes_on => {
                command.truncate(command.trim_end_matches(['\\', ' ']).len());
                *command += " ";
                *command += line.trim();
            }
            (None, Some((_, expected))) => expected.push(line),
            (None, None) => panic!("a console block begins with no command: {line}"),
        }
        goes_on = line.ends_with('\\');
    }
    commands
}

/// Compares what was printed with the page. Runs of spaces are one: columns may be wider.
fn same(expected: &[&str], printed: &str) -> Outcome {
    fn words(line: &str) -> String {
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }
    fn line_matches(expected: &str, line: &str) -> bool {
        let mut parts = expected.split("...");
        let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else {
            return false;
        };
        let mut last = expected.ends_with("...");
        for part in parts {
            last = part.is_empty();
            let Some(at) = rest.find(part) else {
                return false;
            };
            rest = &rest[at + part.len()..];
        }
        last || rest.is_empty()
    }
    fn matches(expected: &[String], lines: &[String]) -> bool {
        match (expected.split_first(), lines.split_first()) {
            (None, None) => true,
            (Some((any, rest)), _) if any == "..." => {
                (0..=lines.len()).any(|skipped| matches(rest, &lines[skipped..]))
            }
            (Some((first, rest)), Some((line, lines))) => {
                line_matches(first, line) && matches(rest, lines)
            }
            _ => false,
        }
    }
    if expected.is_empty() {
        return Ok(());
    }
    let expected: Vec<String> = expected.iter().map(|line| words(line)).collect();
    // A machine without the code in its cache says what takes seconds.
    let lines: Vec<String> = printed
        .trim_end()
        .lines()
        .filter(|line| !line.starts_with("compiling ") && !line.starts_with("fetching "))
        .map(words)
        .collect();
    if matches(&expected, &lines) {
        Ok(())
    } else {
        Err(format!("the page has another output:\n{printed}"))
    }
}

/// Loads a worker or project with this TOML.
fn check_alone(file: &str, toml: &str) -> Outcome {
    let mut page = Page::new();
    let project = page.project.path().to_owned();
    fs::write(project.join("w.wasm"), wat::parse_str(WORKER).unwrap()).unwrap();
    fs::write(project.join(file), toml).unwrap();
    for from in toml
        .lines()
        .filter_map(|line| line.strip_prefix("from = \""))
    {
        fs::create_dir_all(project.join(from.split('"').next().unwrap())).unwrap();
    }
    page.type_in("wws check", &[])
}

/// Reads the index of a repository of runtimes.
fn list_repository(index: &str) -> Outcome {
    let mut page = Page::new();
    let repository = TempDir::new().unwrap();
    fs::write(repository.path().join("index.toml"), index).unwrap();
    let command = format!(
        "wws runtimes list --repo-name ours --repo-url {}",
        repository.path().display()
    );
    page.type_in(&command, &[])
}

/// A repository with the interpreters that `scripts/interpreters.sh all` fetched, under the
/// versions of the built-in one.
fn interpreters() -> Result<PathBuf, String> {
    let directory = kept("docs-interpreters");
    fs::create_dir_all(&directory).unwrap();
    let example = repository().join("images/user-generation/root/.wws.toml");
    let mut index = fs::read_to_string(example)
        .unwrap()
        .replace("[[repositories]]\nname = \"wws\"\n", "")
        .replace("repositories.runtimes", "runtimes");
    for (name, from) in [
        ("python", "python/python.wasm"),
        ("ruby", "ruby/ruby+stdlib.wasm"),
    ] {
        let from = repository().join("target/interpreters").join(from);
        let to = directory.join(format!("{name}.wasm"));
        if !to.exists() {
            fs::copy(&from, &to).map_err(|error| {
                format!("{}: {error}; scripts/interpreters.sh all", from.display())
            })?;
        }
        let file = format!("filename = \"{name}.wasm\"");
        let at = index.find(&file).unwrap();
        let line = index[..at].rfind("url = ").unwrap();
        index.replace_range(line..at, &format!("url = \"{name}.wasm\"\n"));
    }
    fs::write(directory.join("index.toml"), index).unwrap();
    Ok(directory)
}

/// The block is in the file, whatever the indentation.
fn excerpt(text: &str, file: &str) -> Outcome {
    let lines = |text: &str| -> Vec<String> {
        text.trim_end()
            .lines()
            .map(|line| line.trim().to_owned())
            .collect()
    };
    let content =
        fs::read_to_string(repository().join(file)).map_err(|error| format!("{file}: {error}"))?;
    let (wanted, content) = (lines(text), lines(&content));
    if content.windows(wanted.len()).any(|part| part == wanted) {
        Ok(())
    } else {
        Err(format!("{file} has no such lines"))
    }
}

fn pages() -> Vec<PathBuf> {
    let docs = repository().join("docs");
    let mut pages = vec![repository().join("README.md")];
    for directory in USER_DOCS {
        let entries = fs::read_dir(docs.join(directory)).unwrap();
        pages.extend(entries.map(|entry| entry.unwrap().path()));
    }
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.sort();
    pages
}

#[test]
fn blocks_of_user_documentation_run() {
    let (mut run, mut shown, mut problems) = (0, 0, String::new());
    let mut skipped: BTreeMap<String, usize> = BTreeMap::new();
    for path in pages() {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(repository()).unwrap().display();
        let mut page = Page::new();
        for block in blocks(&text) {
            if let Some((_, reason)) = block.info.split_once("no-run:") {
                *skipped.entry(reason.trim().to_owned()).or_default() += 1;
                continue;
            }
            match page.run(&block) {
                Ok(()) if block.language == "text" => shown += 1,
                Ok(()) => run += 1,
                Err(error) => writeln!(problems, "{name}:{}: {error}", block.line).unwrap(),
            }
        }
        if let Err(error) = page.finish() {
            writeln!(problems, "{name}: {error}").unwrap();
        }
    }
    let mut report = format!("documentation: {run} blocks run, {shown} are no code");
    for (reason, count) in &skipped {
        write!(report, "\n  {count} not run: {reason}").unwrap();
    }
    // Also where the test passes: not by `print!`, which the test harness captures.
    let _ = writeln!(std::io::stderr(), "{report}");
    assert!(problems.is_empty(), "{problems}");
    assert!(run > 0);
}

#[test]
fn settings_page_is_current() {
    let page = repository().join("docs/reference/settings.md");
    let printed = Command::new(env!("CARGO_BIN_EXE_wws"))
        .arg("settings")
        .output()
        .unwrap();
    let page = fs::read_to_string(page).unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    let how = "run `target/release/wws settings > docs/reference/settings.md`";
    for (in_page, current) in page.lines().zip(printed.lines()) {
        assert_eq!(in_page, current, "{how}");
    }
    assert_eq!(page.len(), printed.len(), "{how}");
}

#[test]
fn command_line_page_has_every_command() {
    let page = fs::read_to_string(repository().join("docs/reference/cli.md")).unwrap();
    let help = Command::new(env!("CARGO_BIN_EXE_wws"))
        .arg("help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let names: Vec<&str> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.contains(&"check"), "{help}");
    for name in names {
        assert!(page.contains(&format!("`wws {name}")), "{name}");
    }
}

#[test]
fn comparison_finds_differences() {
    assert!(same(&["a  b", "...", "c ... d"], "a b\nx\ny\nc z d\n").is_ok());
    assert!(same(&["..."], "").is_ok());
    for (expected, printed) in [
        (&["a"][..], "b"),
        (&["a"][..], "a\nb"),
        (&["a", "b"][..], "a"),
        (&["a ... c"][..], "a b"),
        (&["a ... c"][..], "a c d"),
    ] {
        assert!(same(expected, printed).is_err(), "{expected:?} {printed:?}");
    }
}

/// All Markdown of the repository except for what tests write and the glossary itself.
fn markdown(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if !name.starts_with('.') && !["target", "node_modules", "fuzz"].contains(&&*name) {
                markdown(&path, found);
            }
        } else if name.ends_with(".md") && !["compatibility.md", "glossary.md"].contains(&&*name) {
            found.push(path);
        }
    }
}

#[test]
fn pages_use_the_terms_of_the_glossary() {
    const REPLACED: [&str; 9] = [
        "control group",
        "name space",
        "processor",
        "started ahead",
        "check of health",
        "parts of others",
        "store of compiled code",
        "first process",
        "folder",
    ];
    let (mut pages, mut problems) = (Vec::new(), String::new());
    markdown(&repository(), &mut pages);
    assert!(pages.len() > 40, "{}", pages.len());
    for page in pages {
        let (mut is_code, name) = (false, page.strip_prefix(repository()).unwrap().display());
        for (index, line) in fs::read_to_string(&page).unwrap().lines().enumerate() {
            if line.trim_start().starts_with("```") {
                is_code = !is_code;
            }
            // Settings and the table of features are written by programs.
            if is_code || line.starts_with('|') {
                continue;
            }
            let text: String = line.split('`').step_by(2).collect();
            let text = text.to_lowercase();
            for term in REPLACED.iter().filter(|term| text.contains(**term)) {
                writeln!(problems, "{name}:{}: {term}", index + 1).unwrap();
            }
        }
    }
    assert!(problems.is_empty(), "see docs/glossary.md:\n{problems}");
}
