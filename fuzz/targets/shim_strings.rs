//! Short texts that the shim takes apart: options of mounts, destinations of streams, command lines
//! for a shell, and what the OCI runtime reports.
#![no_main]

use libfuzzer_sys::fuzz_target;

use oci::shell;
use stdio::target::OutputTarget;

#[allow(dead_code)]
#[path = "../../shim/src/error.rs"]
mod error;
#[allow(dead_code)]
#[path = "../../shim/src/oci"]
mod oci {
    pub(crate) mod mount {
        pub(crate) mod idmap;
        mod options;
        mod overlay;

        use std::path::Path;

        use options::MountOptions;
        use overlay::{lower_directories, shorten};

        /// Options in one text are those in several texts.
        pub(crate) fn check_options(text: &str) {
            let (kind, text) = text.split_once(' ').unwrap_or(("", text));
            let whole = MountOptions::parse(kind, &[text.to_owned()]);
            let pieces: Vec<String> = text.split(',').map(str::to_owned).collect();
            let parsed = MountOptions::parse(kind, &pieces);
            if !text.starts_with("uidmap=") && !text.starts_with("gidmap=") {
                assert_eq!(whole.as_ref().ok(), parsed.as_ref().ok());
            }
            if let Ok(options) = whole {
                assert!(
                    options
                        .data
                        .iter()
                        .all(|option| text.contains(option.as_str()))
                );
                let _ = lower_directories(kind, &options.data);
            }
        }

        /// Lower directories that are too long for the kernel name the same directories afterwards.
        pub(crate) fn check_lower(list: &str) {
            let list = list.replace(',', ":");
            let long = vec![list.as_str(); 4096 / (list.len() + 1) + 1].join(":");
            let given = ["index=off".to_owned(), format!("lowerdir={long}")];
            let (common, data) = shorten(&given);
            let Some(common) = common else {
                return assert_eq!(data, given);
            };
            assert!(common.is_absolute() && data[0] == given[0]);
            let short = data[1].strip_prefix("lowerdir=").expect("the option");
            assert!(short.len() <= long.len());
            let before = long.split(':').map(Path::new);
            let after = short.split(':').map(|directory| common.join(directory));
            assert!(before.eq(after), "{list:?}");
        }
    }
    pub(crate) mod rootfs;
    pub(crate) mod shell;
}
#[allow(dead_code)]
#[path = "../../shim/src/runc"]
mod runc {
    mod failure;

    use crate::error::ErrorCode;

    /// What the image or the user names decides nothing.
    pub(crate) fn check_log(log: &str) {
        let Some(message) = failure::last_error(log) else {
            return;
        };
        for verb in ["create", "start", "exec", "kill", "delete"] {
            let error = failure::classify(verb, message.clone());
            assert_eq!(error.to_string(), message);
            let code = error.code();
            assert!(verb != "create" || code != ErrorCode::NotFound);
            assert_eq!(failure::with_client_prefix(verb, error).code(), code);
        }
        for verb in ["create", "start", "exec"] {
            let quoted = format!("runc {verb} failed: exec: {log:?}: no such file or directory");
            assert_eq!(failure::classify(verb, quoted).code(), ErrorCode::Unknown);
        }
    }
}
#[allow(dead_code)]
#[path = "../../shim/src/stdio"]
mod stdio {
    pub(crate) mod target;
}
#[allow(dead_code)]
#[path = "../../shim/src/sys"]
mod sys {
    pub(crate) mod thread;
}

fuzz_target!(|text: &str| {
    oci::mount::check_options(text);
    oci::mount::check_lower(text);
    runc::check_log(text);
    check_target(text);
    check_line(text);
});

fn check_target(text: &str) {
    match OutputTarget::parse(text) {
        Ok(OutputTarget::Null) => assert!(text.is_empty()),
        Ok(OutputTarget::Path(path)) if !text.contains("://") => assert_eq!(path, text),
        Ok(OutputTarget::Program(_, arguments)) => assert!(arguments.len().is_multiple_of(2)),
        _ => assert!(text.contains("://")),
    }
}

/// The words of a line are the same when they are quoted.
fn check_line(line: &str) {
    let Some(words) = shell::split_words(line) else {
        return;
    };
    assert!(!words[0].is_empty() || line.contains(['"', '\'']));
    if words[0] == "exec" || words.iter().any(|word| word.contains('\'')) {
        return;
    }
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    assert_eq!(shell::split_words(&quoted.join(" ")), Some(words));
}
