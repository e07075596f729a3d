//! Projects of `wws new`, as their READMEs say to use them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use wws_test::container::Run;
use wws_test::containerd::{Containerd, Version};
use wws_test::server::Server;
use wws_test::wait::patience;
use wws_test::{command, http, workspace};

/// The longest that a command may take: compilers fetch their libraries first.
const LIMIT: Duration = Duration::from_secs(600);

/// The name of the projects' images.
const IMAGE: &str = "docker.io/library/walk:v1";

/// The file that names the Rust compiler.
const TOOLCHAIN: &str = "rust-toolchain.toml";

/// Runs a program of the project in `directory` to its end.
fn run(program: &Path, arguments: &[&str], directory: &Path) -> Result<String> {
    let mut command = Command::new(program);
    // The project is no part of this workspace, and uses the machine's own settings.
    command
        .args(arguments)
        .current_dir(directory)
        .env_remove("CARGO_TARGET_DIR")
        // That of the server which follows.
        .env("WWS_CODE_CACHE", workspace::code_cache());
    command::run(&mut command, patience(LIMIT))?
        .success()
        .with_context(|| format!("{} {}", program.display(), arguments.join(" ")))
}

/// Walks as a new user does: creates a project, prepares it by `steps`, which get the project's
/// directory, develops it, packs it, and runs its image without and in a container. Prints how long
/// each of it took.
fn answers(language: &str, answer: &str, steps: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mut watch = StopWatch::start(language);
    let directory = tempfile::tempdir()?;
    let wws = workspace::programs()?.join("wws");
    let said = run(&wws, &["new", language, "my-project"], directory.path())?;
    assert!(said.contains("wws dev project"), "{said}");
    let project = directory.path().join("my-project");
    watch.lap("new");
    steps(&project)?;
    watch.lap("prepare");
    run(&wws, &["check", "project"], &project)?;
    watch.lap("check");
    let log = directory.path().join("log");
    let asked = |server: &Server| -> Result<()> {
        let got = http::get(server.port(), "/hello")?;
        assert_eq!((got.status, got.text()), (200, answer.into()), "{language}");
        Ok(())
    };
    asked(&Server::start_with(
        &["dev", "project"],
        &project,
        log.clone(),
    )?)?;
    watch.lap("dev");
    run(
        &wws,
        &["build", "project", "-t", IMAGE, "-o", "image.tar"],
        &project,
    )?;
    watch.lap("build");
    asked(&Server::start_with(&["run", "image.tar"], &project, log)?)?;
    watch.lap("run");
    in_container(&project.join("image.tar"), answer)?;
    watch.lap("ctr run");
    Ok(())
}

/// Runs an image in a container of a private containerd.
fn in_container(image: &Path, answer: &str) -> Result<()> {
    let containerd = Containerd::start_sharing_code(Version::V1_7)?;
    containerd.import(image)?;
    let mut container = Run::workers(&containerd, IMAGE, "walk")?.start()?;
    container.wait_until_listening()?;
    let got = container.get("/hello")?;
    assert_eq!((got.status, got.text()), (200, answer.into()));
    container.signal("SIGTERM")?;
    container.wait()?;
    container.remove()?;
    containerd.expect_nothing_left()
}

/// Prints how long each step takes.
struct StopWatch {
    language: String,
    last: Instant,
}

impl StopWatch {
    fn start(language: &str) -> Self {
        Self {
            language: language.to_owned(),
            last: Instant::now(),
        }
    }

    fn lap(&mut self, step: &str) {
        let seconds = self.last.elapsed().as_secs_f64();
        println!("{:12} {step:8} {seconds:6.1} s", self.language);
        self.last = Instant::now();
    }
}

/// Compiles the project with `make`, where the variables `tools` name compilers that a script of
/// this repository unpacks.
fn make(script: &str, tools: &[(&str, &str)], project: &Path) -> Result<()> {
    let root = workspace::root();
    run(&root.join("scripts").join(script), &[], &root)?;
    // The compiler that the script found the targets of.
    fs::copy(root.join(TOOLCHAIN), project.join(TOOLCHAIN))?;
    let bin = root.join("target/tools/bin");
    let variables: Vec<_> = tools
        .iter()
        .map(|(name, tool)| format!("{name}={}", bin.join(tool).display()))
        .collect();
    let arguments: Vec<_> = variables.iter().map(String::as_str).collect();
    run(Path::new("make"), &arguments, project).map(drop)
}

fn install(runtime: &str, project: &Path) -> Result<()> {
    let wws = workspace::programs()?.join("wws");
    let arguments = ["runtimes", "install", runtime, "--path", "project"];
    run(&wws, &arguments, project).map(drop)
}

#[test]
fn new_projects_of_interpreted_languages_answer() -> Result<()> {
    answers("javascript", "Hello you\n", |_| Ok(()))?;
    answers("python", "Hello you\n", |project| {
        install("python", project)
    })?;
    answers("ruby", "Hello you\n", |project| install("ruby", project))
}

#[test]
fn new_projects_of_compiled_languages_answer() -> Result<()> {
    let clang = [("CC", "wasm-clang"), ("CXX", "wasm-clang++")];
    answers("c", "Hello from C\n", |project| {
        make("guest-c.sh", &clang, project)
    })?;
    answers("cpp", "Hello from C++\n", |project| {
        make("guest-c.sh", &clang, project)
    })?;
    answers("zig", "Hello from Zig\n", |project| {
        make("guest-zig.sh", &[("ZIG", "wasm-zig")], project)
    })?;
    answers("go", "Hello from Go at /hello\n", |project| {
        make("guest-go.sh", &[("GO", "wasm-go")], project)
    })?;
    answers("rust", "Hello from a worker\n", |project| {
        make("guest-rust.sh", &[("CARGO", "cargo-wasip1")], project)
    })
}

#[test]
fn a_new_component_answers() -> Result<()> {
    answers("component", "Hello from a component\n", |project| {
        make("guest-rust.sh", &[("CARGO", "cargo-wasip2")], project)
    })
}
