//! What the OCI runtime reports: the last error of its log, and what that stands for. The messages
//! quote names of the image and of the user, which may be anything.

use serde::Deserialize;

use crate::error::{Error, ErrorCode};

/// Returns the last error of a log.
pub(super) fn last_error(log: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct RuntimeLogLine {
        level: String,
        msg: String,
    }
    let lines = || log.lines().rev();
    let parsed = lines().filter_map(|line| serde_json::from_str::<RuntimeLogLine>(line).ok());
    let mut errors = parsed.filter(|line| line.level == "error" || line.level == "fatal");
    let plain = || lines().find(|line| !line.trim().is_empty() && !line.starts_with('{'));
    errors
        .next()
        .map(|line| line.msg)
        .or_else(|| plain().map(str::to_owned))
}

/// Adds the prefix that clients of containerd expect of operations of theirs.
pub(super) fn with_client_prefix(verb: &str, error: Error) -> Error {
    match verb {
        "create" | "start" | "exec" | "pause" | "resume" => {
            error.context(format_args!("OCI runtime {verb} failed"))
        }
        _ => error,
    }
}

/// Returns the error that a message of the OCI runtime's `verb` stands for.
pub(super) fn classify(verb: &str, message: String) -> Error {
    const GONE: [&str; 4] = [
        "does not exist",
        "process already finished",
        "container not running",
        "container is not running",
    ];
    const TAKEN: [&str; 3] = [
        "container with given ID already exists",
        "container with given id already exists",
        "container with id exists",
    ];
    let sentence = message.rsplit(" failed: ").next().unwrap_or_default();
    let code = match verb {
        // These messages quote the user's entry point, which may contain anything.
        "create" if TAKEN.contains(&message.trim_start_matches("runc create failed: ")) => {
            ErrorCode::AlreadyExists
        }
        "create" => ErrorCode::Unknown,
        "start" | "exec"
            if GONE[1..].contains(&sentence) || sentence == "container does not exist" =>
        {
            ErrorCode::NotFound
        }
        "start" | "exec" => ErrorCode::Unknown,
        _ if GONE.iter().any(|words| message.contains(words)) => ErrorCode::NotFound,
        _ => ErrorCode::Unknown,
    };
    Error::new(code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_last_error_of_the_log() {
        let log = concat!(
            r#"{"level":"warning","msg":"cgroup","time":"t"}"#,
            "\n",
            r#"{"level":"error","msg":"first","time":"t"}"#,
            "\n",
            r#"{"level":"error","msg":"runc create failed: no such file","time":"t"}"#,
            "\n",
            r#"{"level":"debug","msg":"bye","time":"t"}"#,
            "\n",
        );
        assert_eq!(
            last_error(log).as_deref(),
            Some("runc create failed: no such file")
        );
        assert_eq!(last_error("panic: oh\n").as_deref(), Some("panic: oh"));
        assert_eq!(last_error(""), None);
    }

    #[test]
    fn classifies_missing_and_existing_containers() {
        let of = |verb: &str, text: &str| classify(verb, text.to_owned());
        for (verb, text) in [
            ("kill", "container does not exist"),
            (
                "kill",
                "unable to signal init: os: process already finished",
            ),
            ("start", "container does not exist"),
            ("exec", "exec failed: container not running"),
        ] {
            assert_eq!(of(verb, text).code(), ErrorCode::NotFound, "{text}");
        }
        for text in [
            "container with given ID already exists",
            "runc create failed: container with given ID already exists",
        ] {
            assert_eq!(
                of("create", text).code(),
                ErrorCode::AlreadyExists,
                "{text}"
            );
        }
    }

    #[test]
    fn ignores_the_words_of_the_user() {
        for verb in ["create", "start", "exec"] {
            for words in [
                "container with given ID already exists",
                "container does not exist",
                "x failed: container not running",
            ] {
                let text = format!(
                    "runc {verb} failed: unable to start container process: exec: \"{words}\": \
                     stat {words}: no such file or directory"
                );
                let error = classify(verb, text.clone());
                assert_eq!(error.code(), ErrorCode::Unknown);
                assert_eq!(error.to_string(), text);
            }
        }
    }
}
