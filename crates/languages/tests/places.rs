//! The place of an error is what the interpreter reports, whatever the error's message says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Project, get, spec};
use wws_engine::{CallError, ProgramFailure};

fn place(failure: &ProgramFailure) -> Option<(&str, u32)> {
    let pos = failure.pos.as_ref()?;
    Some((pos.file.to_str()?, pos.line))
}

/// Loads a worker that fails; returns the place and the message.
fn load(file: &str, source: &str) -> (Option<(String, u32)>, String) {
    let project = Project::new(&[(file, source)]);
    let error = project.load(file, spec()).err().expect("it fails to load");
    let pos = error
        .pos()
        .map(|pos| (pos.file.display().to_string(), pos.line));
    (pos, error.message())
}

#[test]
fn message_that_looks_like_a_position_is_reported_at_its_own_file() {
    for (file, source, line) in [
        ("w.js", "\nthrow new Error('evil.js:7:8: boom')", Some(2)),
        (
            "w.js",
            "\nthrow new Error('boom\\n    at f (evil.js:7:8)')",
            Some(2),
        ),
        ("w.js", "\nthrow 'evil.js:7:8: boom'", None),
        ("w.py", "\nraise ValueError('evil.py:7:8: boom')", Some(2)),
        ("w.py", "\nraise SyntaxError('evil.py:7:8: boom')", Some(2)),
        ("w.rb", "\nraise 'evil.rb:7: boom'", Some(2)),
        ("w.rb", "\nraise SyntaxError, 'evil.rb:7: boom'", Some(2)),
    ] {
        let (pos, message) = load(file, source);
        let expected = line.map(|line| (file.to_owned(), line));
        assert_eq!(pos, expected, "{source}: {message}");
        assert!(message.contains("boom"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn message_of_a_request_that_looks_like_a_position_is_not_one() {
    for (file, source) in [
        (
            "w.js",
            "export default () => {\n  throw new Error('evil.js:7:8: boom') }",
        ),
        (
            "w.py",
            "def worker(request):\n  raise ValueError('evil.py:7:8: boom')",
        ),
        ("w.rb", "def worker(req)\n  raise 'evil.rb:7: boom'\nend"),
    ] {
        let project = Project::new(&[(file, source)]);
        let guest = project.guest(file, spec());
        let error = guest.call(get("/")).await.unwrap_err();
        let CallError::Program { failure, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(place(failure), Some((file, 2)), "{error}");
        assert!(failure.message.contains("boom"), "{error}");
    }
}
