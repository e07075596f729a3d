//! The article's walk, on this machine: a private containerd runs the example image through our
//! shim, curl asks it, and all of it is cleared up. `make run` builds what this needs, and calls
//! it.
//!
//! * `walk`: the whole of it, two requests of each worker.
//! * `walk keep FILE`: the container goes on until this process, whose number is in FILE, gets
//!   SIGTERM or SIGINT.
//! * `walk sweep`: clears up after a walk or test that was killed.

use std::process::{self, Command};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use wws_test::container::{Container, LIMIT};
use wws_test::containerd::{Containerd, Version};
use wws_test::mark::Mark;
use wws_test::user_generation::{self, UserGeneration};
use wws_test::{bridge, command, http, wait};

/// The container's name.
const NAME: &str = "user-generation";

/// The longest wait for a container whose interpreters may have to be compiled.
const FIRST_START: Duration = Duration::from_secs(300);

fn main() -> Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => walk(None),
        ["keep", file] => {
            // Before anything is started, so that no signal comes too early.
            let signals = Signals::new([SIGTERM, SIGINT])?;
            fs::write(file, process::id().to_string())?;
            walk(Some(signals))
        }
        ["sweep"] => {
            Mark::abandoned()?.iter().try_for_each(Mark::clear)?;
            bridge::sweep()
        }
        _ => bail!("usage: walk [keep FILE | sweep]"),
    }
}

/// Walks, and waits for one of `signals`, if there are any, before it stops.
fn walk(signals: Option<Signals>) -> Result<()> {
    let containerd = Containerd::start_sharing_code(Version::MAIN)?;
    let directory = containerd.directory();
    println!(
        "containerd {} runs in {}",
        containerd.server_version()?,
        directory.display()
    );
    let example = UserGeneration::new(&containerd)?;
    let content = fs::read_to_string(example.directory().join("file.txt"))?;
    println!(
        "{}/file.txt holds {content:?}",
        example.directory().display()
    );
    println!(
        "random-data-api.com is a stand-in on {}",
        example.stand_in().address()
    );

    let run = example.run(NAME)?;
    println!("\n$ {}", run.command_line());
    let mut container = run.start()?;
    println!("(a first start compiles the interpreters of Python and Ruby: about a minute)");
    wait::with_progress("the container starts", || {
        container.wait_until_up_within(FIRST_START)
    })?;
    for language in user_generation::LANGUAGES {
        for count in 1..=2 {
            asked(&container, language, count)
                .with_context(|| format!("the log:\n{}", container.log().unwrap_or_default()))?;
        }
    }
    if let Some(mut signals) = signals {
        println!();
        println!(
            "It goes on. Ask it:  curl -i 127.0.0.1:{}/user-generation-rust",
            container.port()
        );
        println!("Its log:             {}", container.log_file().display());
        println!("Its containerd:      {}", containerd.command_line());
        println!("Stop it:             make stop");
        signals.forever().next();
    }
    stop(&mut container)?;
    containerd.expect_nothing_left()?;
    println!("nothing is left: no process, mount, cgroup, file or network device");
    Ok(())
}

/// Asks a worker, whose answer must count the requests.
fn asked(container: &Container<'_>, language: &str, count: u32) -> Result<()> {
    let answer = ask(container.port(), language)?;
    if !answer.contains(&format!("\"generated_users\":{count}")) {
        bail!("the worker did not count to {count}");
    }
    Ok(())
}

/// Asks by curl, as a user would, and prints question and answer.
fn ask(port: u16, language: &str) -> Result<String> {
    let url = format!("127.0.0.1:{port}/user-generation-{language}");
    println!("\n$ curl -i {url}");
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--include",
        "--noproxy",
        "*",
        "--max-time",
    ]);
    curl.args([&wait::patience(http::TIMEOUT).as_secs().to_string(), &url]);
    let answer = command::run(&mut curl, http::TIMEOUT * 2)?.success()?;
    println!("{}", answer.replace('\r', "").trim_end());
    if !answer.starts_with("HTTP/1.1 200 ") {
        bail!("the worker did not answer 200");
    }
    Ok(answer)
}

fn stop(container: &mut Container<'_>) -> Result<()> {
    println!("\n$ ctr task kill --signal SIGTERM {NAME}");
    container.signal("SIGTERM")?;
    let code = container
        .wait()
        .with_context(|| format!("not ended within {LIMIT:?}"))?;
    println!("ended with exit code {code}; the end of its log:");
    let log = container.log()?;
    let lines: Vec<_> = log.lines().collect();
    for line in &lines[lines.len().saturating_sub(3)..] {
        println!("  {line}");
    }
    if code != 0 {
        bail!("exit code {code} instead of 0");
    }
    container.remove()
}
