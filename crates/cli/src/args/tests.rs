#![allow(clippy::unwrap_used)]
use super::*;
use std::path::Path;

fn parse(args: &[&str]) -> Args {
    Args::try_parse_from(std::iter::once("wws").chain(args.iter().copied())).unwrap()
}

#[test]
fn serves_directory_without_a_command() {
    let args = parse(&[
        "-p",
        "81",
        "--host",
        "localhost",
        "--ignore",
        "a,b",
        "--ignore",
        "c",
        "site",
    ]);
    assert!(args.command.is_none());
    assert_eq!(args.serve.project.path, Path::new("site"));
    assert_eq!(args.serve.project.ignore, ["a", "b", "c"]);
    assert_eq!(
        (args.serve.port, args.serve.host),
        (Some(81), Some([127, 0, 0, 1].into()))
    );
    assert_eq!(parse(&[]).serve.project.path, Path::new("."));
}

#[test]
fn commands_take_a_directory() {
    let Some(Command::Check(named)) = parse(&["check", "site", "--prefix", "/x"]).command else {
        unreachable!()
    };
    let (project, ..) = named.project.resolve_with("");
    assert_eq!(
        (project.path.as_path(), project.prefix.as_deref()),
        (Path::new("site"), Some("/x"))
    );
    assert_eq!(container(&[]).unwrap().project.path, Path::new("/"));
}

fn container(args: &[&str]) -> Result<Serve, clap::Error> {
    let Some(Command::ServeContainer(container)) =
        parse(&[&["serve-container"], args].concat()).command
    else {
        unreachable!()
    };
    container.into_serve()
}

#[test]
fn takes_arguments_after_the_entry_point() {
    let args = [
        "--memory",
        "5",
        "--",
        "/",
        "--port",
        "81",
        "--host=::1",
        "--prefix",
        "/v1",
        "--ignore",
        "a,b",
    ];
    let serve = container(&args).unwrap();
    assert_eq!(serve.project.path, Path::new("/"));
    assert_eq!(serve.project.prefix.as_deref(), Some("/v1"));
    assert_eq!(serve.project.ignore, ["a", "b"]);
    assert_eq!((serve.port, serve.memory), (Some(81), Some(5)));
    assert_eq!(serve.host, Some(std::net::Ipv6Addr::LOCALHOST.into()));
}

#[test]
fn takes_the_entry_point_twice() {
    for args in [
        ["--", "/", "/"],
        ["--", "/", "//"],
        ["--", "/proc", "/proc/."],
    ] {
        let serve = container(&args).unwrap();
        assert_eq!(serve.project.path, Path::new(args[1]));
    }
    let error = container(&["--", "/", "/proc"]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("'/proc'"), "{error}");
}

#[test]
fn rejects_other_arguments_without_naming_hidden_ones() {
    for word in [
        "--code=/x",
        "--memory=1",
        "--nope",
        "-x",
        "--install-runtimes",
    ] {
        let text = container(&["--", "/", word]).unwrap_err().to_string();
        assert!(text.contains("unexpected argument"), "{text}");
        assert!(text.contains("ENTRYPOINT [--host"), "{text}");
        for hidden in ["serve-container", "<CODE>", "[WORDS]"] {
            assert!(!text.contains(hidden), "{word}: {text}");
        }
    }
}

#[test]
fn commands_in_a_container_know_its_arguments() {
    let named = |args: &[&str]| match parse(args).command {
        Some(Command::Routes(named)) => named,
        _ => unreachable!(),
    };
    let given = r#"["/", "--port", "81", "--prefix", "/a", "--ignore", "x"]"#;
    let (project, host, port) = named(&["routes"]).project.resolve_with(given);
    assert_eq!((host, port), (None, Some(81)));
    assert_eq!(
        (project.prefix.as_deref(), &project.ignore[..]),
        (Some("/a"), &["x".to_owned()][..])
    );
    let (project, ..) = named(&["routes", "--prefix", "/b"])
        .project
        .resolve_with(given);
    assert_eq!(project.prefix.as_deref(), Some("/b"));
    let (project, ..) = named(&["routes"]).project.resolve_with("no JSON");
    assert_eq!(project.prefix, None);
}

#[test]
fn wait_of_health_takes_optional_seconds() {
    let wait = |args: &[&str]| match parse(args).command {
        Some(Command::Health(health)) => (health.wait, health.project.path),
        _ => unreachable!(),
    };
    assert_eq!(wait(&["health"]).0, None);
    assert_eq!(wait(&["health", "--wait=5"]).0, Some(5));
    let (seconds, path) = wait(&["health", "--wait", "site"]);
    assert_eq!((seconds, path.as_path()), (Some(60), Path::new("site")));
}

#[test]
fn option_value_is_not_taken_as_directory() {
    let Some(Command::Health(health)) = parse(&["health", "--request", "/x"]).command else {
        unreachable!()
    };
    assert_eq!(health.request, "/x");
    assert_eq!(health.project.path, Path::new("."));
}

#[test]
fn parses_path_and_repository_of_runtimes() {
    let runtimes = |args: &[&str]| match parse(args).command {
        Some(Command::Runtimes(runtimes)) => runtimes,
        _ => unreachable!(),
    };
    let args = runtimes(&["runtimes", "install", "python", "--path", "site"]);
    assert_eq!(args.path, Path::new("site"));
    let RuntimesCommand::Install { name, version, .. } = args.command else {
        unreachable!()
    };
    assert_eq!(
        (name.as_deref(), version.as_str()),
        (Some("python"), "latest")
    );
    let args = runtimes(&["runtimes", "list", "--repo-url", "../r", "--repo-name", "r"]);
    let from = args.from;
    assert_eq!((from.location(), from.name()), (Some("../r"), Some("r")));
    assert!(parse(&["-i", "site"]).serve.install_runtimes);
}

#[test]
fn cors_and_the_panel_are_set_as_in_1_7() {
    let serve = parse(&["--cors", "*", "--enable-panel", "site"]).serve;
    assert_eq!(serve.cors, [Origins::Any]);
    assert_eq!(serve.enable_panel, Some(PanelAccess::Loopback));
    assert_eq!(serve.project.path, Path::new("site"));
    let origins = "https://a.example,https://b.example";
    let serve = parse(&["--cors", origins, "--enable-panel=any"]).serve;
    assert_eq!(serve.cors, [Origins::new(origins).unwrap()]);
    assert_eq!(serve.enable_panel, Some(PanelAccess::Any));
    assert!(Args::try_parse_from(["wws", "--cors", "a.example"]).is_err());
}

#[test]
fn containers_have_an_admin_address() {
    let words = ["--", "/", "/", "--admin", "0.0.0.0:9090"].map(OsString::from);
    let args = Args::try_parse_from(
        [OsString::from("wws"), "serve-container".into()]
            .into_iter()
            .chain(words),
    )
    .unwrap();
    let Some(Command::ServeContainer(container)) = args.command else {
        unreachable!()
    };
    let serve = container.into_serve().unwrap();
    assert_eq!(serve.admin, AdminAddress::new("0.0.0.0:9090"));
    assert!(Args::try_parse_from(["wws", "--admin", "9090"]).is_err());
}

#[test]
fn takes_the_project_before_the_command_as_1_x_does() {
    let parse = |words: &[&str]| {
        let words = words.iter().map(OsString::from);
        match Args::try_parse_from(command_first(words)).unwrap().command {
            Some(Command::Runtimes(runtimes)) => runtimes,
            _ => unreachable!(),
        }
    };
    let path = |words: &[&str]| parse(words).path;
    assert_eq!(
        path(&["wws", "site", "runtimes", "check"]),
        Path::new("site")
    );
    assert_eq!(path(&["wws", "runtimes", "check"]), Path::new("."));
    assert_eq!(
        path(&["wws", "runtimes", "--path", "site", "check"]),
        Path::new("site")
    );
    // The options of a repository, too, came before the command.
    let before = [
        "wws",
        "site",
        "runtimes",
        "--repo-url",
        "u",
        "install",
        "cobol",
        "85",
    ];
    let after = [
        "wws",
        "site",
        "runtimes",
        "install",
        "cobol",
        "85",
        "--repo-url",
        "u",
    ];
    for words in [before, after] {
        let runtimes = parse(&words);
        assert_eq!(runtimes.from.location(), Some("u"));
        assert_eq!(runtimes.path, Path::new("site"));
    }
    // A command whose argument is of that name.
    let words = ["wws", "check", "runtimes"].map(OsString::from);
    assert_eq!(command_first(words.clone()), words);
}
