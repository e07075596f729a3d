//! Processes that are added to a container: `docker exec`, `kubectl exec`.

use std::path::Path;

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::ProcessDetails;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::oci::server::{SERVER_NAME, Workers};
use crate::oci::shell;

/// The variable by which our server's commands know the project's folder, where none is named.
const FOLDER: &str = "WWS_FOLDER";

/// The variable by which our server's commands know what was given after the entry point, as a JSON array.
const ARGUMENTS: &str = "WWS_ARGUMENTS";

/// The process as the OCI runtime is to start it: a call of `wws` becomes one of our server's program, which no image holds.
///
/// # Errors
/// The description is no JSON object.
pub(crate) fn rewrite(spec: &[u8], terminal: bool, workers: Option<&Workers>) -> Result<Vec<u8>> {
    let broken =
        |problem: String| Error::InvalidArgument(format!("the process's description: {problem}"));
    let mut spec: Value =
        serde_json::from_slice(spec).map_err(|error| broken(error.to_string()))?;
    let process = spec
        .as_object_mut()
        .ok_or_else(|| broken("not a JSON object".to_owned()))?;
    process.insert("terminal".to_owned(), json!(terminal));
    if let (Some(workers), Some(Value::Array(arguments))) = (workers, process.get_mut("args"))
        && call_server(arguments, workers)
    {
        // Not the working directory: the directory that is served. Variables, as only the server knows which words are directories.
        let env = process.entry("env").or_insert_with(|| json!([]));
        set(env, FOLDER, &workers.folder.display().to_string());
        set(env, ARGUMENTS, &json!(workers.arguments).to_string());
    }
    Ok(spec.to_string().into_bytes())
}

/// Sets a variable of an environment.
fn set(env: &mut Value, name: &str, value: &str) {
    let Value::Array(env) = env else { return };
    let is_it = |one: &Value| {
        let rest = one.as_str().and_then(|one| one.strip_prefix(name));
        rest.is_some_and(|rest| rest.starts_with('='))
    };
    env.retain(|one| !is_it(one));
    env.push(json!(format!("{name}={value}")));
}

/// Whether it is a call of our server, which it then is made: a direct one, or one by a shell that the container does not have.
fn call_server(arguments: &mut Vec<Value>, workers: &Workers) -> bool {
    let is_named = |program: &str| match program {
        SERVER_NAME => !workers.has_own,
        program => Path::new(program) == Path::new(workers.server),
    };
    let Some(mut words) = arguments
        .iter()
        .map(Value::as_str)
        .collect::<Option<Vec<_>>>()
    else {
        return false;
    };
    // Docker's string form of a health check.
    let line = shell::line(&words).filter(|_| !workers.has_shell);
    let of_line = line.and_then(shell::words).unwrap_or_default();
    if !of_line.is_empty() {
        words = of_line.iter().map(String::as_str).collect();
    }
    match words.split_first() {
        Some((program, rest)) if is_named(program) => {
            let rest = rest.iter().map(|word| json!(word));
            *arguments = std::iter::once(json!(workers.server)).chain(rest).collect();
            true
        }
        _ => false,
    }
}

/// How `containerd.runc.v1.ProcessDetails` names the process of an exec among others.
pub(crate) fn details(id: &str) -> Any {
    let details = ProcessDetails {
        exec_id: id.to_owned(),
        ..ProcessDetails::default()
    };
    Any {
        type_url: "containerd.runc.v1.ProcessDetails".to_owned(),
        // One string: it can be written.
        value: details.write_to_bytes().unwrap_or_default(),
        ..Any::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn workers(has_own: bool) -> Workers {
        Workers {
            server: "/dev/wws",
            folder: "/app".into(),
            arguments: vec!["--port".to_owned(), "81".to_owned()],
            has_own,
            has_shell: false,
        }
    }

    /// The words of the process, and its environment.
    fn rewritten(given: &[&str], workers: Option<&Workers>) -> [Vec<String>; 2] {
        let spec = json!({"args": given, "cwd": "/", "user": {"uid": 7}, "env": ["A=b"]});
        let spec = rewrite(spec.to_string().as_bytes(), true, workers).unwrap();
        let spec: Value = serde_json::from_slice(&spec).unwrap();
        assert_eq!(spec["user"]["uid"], 7);
        assert_eq!(spec["terminal"], true);
        ["args", "env"].map(|name| serde_json::from_value(spec[name].clone()).unwrap())
    }

    #[test]
    fn our_commands_are_found_in_a_container_of_workers_and_know_its_directory_and_arguments() {
        for (given, called) in [
            (vec!["wws", "--version"], vec!["/dev/wws", "--version"]),
            (vec!["/dev/wws", "check"], vec!["/dev/wws", "check"]),
            (
                vec!["wws", "health", "--request", "/a"],
                vec!["/dev/wws", "health", "--request", "/a"],
            ),
        ] {
            let [arguments, env] = rewritten(&given, Some(&workers(false)));
            assert_eq!(arguments, called);
            assert_eq!(
                env,
                ["A=b", "WWS_FOLDER=/app", r#"WWS_ARGUMENTS=["--port","81"]"#]
            );
        }
    }

    #[test]
    fn a_health_check_in_its_string_form_needs_no_shell() {
        for line in ["wws health", "wws health || exit 1", "/dev/wws health"] {
            let [arguments, env] = rewritten(&["/bin/sh", "-c", line], Some(&workers(false)));
            assert_eq!(arguments, ["/dev/wws", "health"], "{line}");
            assert_eq!(
                env,
                ["A=b", "WWS_FOLDER=/app", r#"WWS_ARGUMENTS=["--port","81"]"#]
            );
        }
    }

    #[test]
    fn all_other_programs_stay() {
        let shell = ["/bin/sh", "-c", "wws health"];
        let with_shell = Workers {
            has_shell: true,
            ..workers(false)
        };
        for (given, workers) in [
            (&shell[..], Some(&with_shell)),
            (&shell, Some(&workers(true))),
            (&shell, None),
            (
                &["/bin/sh", "-c", "wws health | cat"],
                Some(&workers(false)),
            ),
            (&["/bin/sh", "-c", "date"], Some(&workers(false))),
            (&["/bin/sh"], Some(&workers(false))),
            (&["wws"], Some(&workers(true))),
            (&["wws"], None),
        ] {
            let [arguments, env] = rewritten(given, workers);
            assert_eq!(arguments, given);
            assert_eq!(env, ["A=b"]);
        }
    }

    #[test]
    fn a_broken_description_is_refused() {
        for spec in ["", "[]", "{"] {
            let error = rewrite(spec.as_bytes(), false, None).unwrap_err();
            assert!(matches!(error, Error::InvalidArgument(_)), "{spec}");
        }
    }
}
