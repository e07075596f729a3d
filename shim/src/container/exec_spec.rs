//! Descriptions of processes that exec adds: `docker exec`, `kubectl exec`.

use std::path::Path;

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::ProcessDetails;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::oci::server::{SERVER_NAME, ServedProject};
use crate::oci::shell;

/// The variable that tells commands of the server the project's directory, if none is named.
const DIRECTORY_VARIABLE: &str = "WWS_FOLDER";

/// The variable that tells commands of the server the arguments after the entry point, as a JSON
/// array.
const ARGUMENTS_VARIABLE: &str = "WWS_ARGUMENTS";

/// Rewrites the description of a process for the OCI runtime: a call of `wws` becomes a call of the
/// server, which no image contains.
///
/// # Errors
/// The description is not a JSON object.
pub(crate) fn rewrite(
    spec: &[u8],
    terminal: bool,
    project: Option<&ServedProject>,
) -> Result<Vec<u8>> {
    let context = "the description of the process";
    let mut spec: Value = serde_json::from_slice(spec)
        .map_err(|error| Error::invalid_argument(context).with_source(error))?;
    let process = spec
        .as_object_mut()
        .ok_or_else(|| Error::invalid_argument(format!("{context} is not a JSON object")))?;
    process.insert("terminal".to_owned(), json!(terminal));
    if let (Some(project), Some(Value::Array(arguments))) = (project, process.get_mut("args"))
        && call_server(arguments, project)
    {
        // Variables, and not arguments: only the server knows which arguments are directories. The
        // working directory stays the user's.
        let env = process.entry("env").or_insert_with(|| json!([]));
        let path = project.path.display().to_string();
        set_variable(env, DIRECTORY_VARIABLE, &path);
        set_variable(
            env,
            ARGUMENTS_VARIABLE,
            &json!(project.arguments).to_string(),
        );
    }
    Ok(spec.to_string().into_bytes())
}

/// Sets a variable of an environment.
fn set_variable(env: &mut Value, name: &str, value: &str) {
    let Value::Array(env) = env else { return };
    let has_name = |variable: &Value| {
        let rest = variable.as_str().and_then(|text| text.strip_prefix(name));
        rest.is_some_and(|rest| rest.starts_with('='))
    };
    env.retain(|variable| !has_name(variable));
    env.push(json!(format!("{name}={value}")));
}

/// Rewrites a call of the server, made directly or by a shell that the container lacks. Returns
/// whether it is one.
fn call_server(arguments: &mut Vec<Value>, project: &ServedProject) -> bool {
    let is_server = |program: &str| match program {
        SERVER_NAME => !project.has_own_server,
        program => Path::new(program) == Path::new(project.server),
    };
    let Some(mut words) = arguments
        .iter()
        .map(Value::as_str)
        .collect::<Option<Vec<_>>>()
    else {
        return false;
    };
    // Docker's string form of a health check.
    let line = shell::command_line(&words).filter(|_| !project.has_shell);
    let of_line = line.and_then(shell::split_words).unwrap_or_default();
    if !of_line.is_empty() {
        words = of_line.iter().map(String::as_str).collect();
    }
    match words.split_first() {
        Some((program, rest)) if is_server(program) => {
            let rest = rest.iter().map(|word| json!(word));
            *arguments = std::iter::once(json!(project.server)).chain(rest).collect();
            true
        }
        _ => false,
    }
}

/// Returns the message `containerd.runc.v1.ProcessDetails`, which names the exec of a process.
pub(crate) fn process_details(id: &str) -> Any {
    let details = ProcessDetails {
        exec_id: id.to_owned(),
        ..ProcessDetails::default()
    };
    Any {
        type_url: "containerd.runc.v1.ProcessDetails".to_owned(),
        // A message with one string can be encoded.
        value: details.write_to_bytes().unwrap_or_default(),
        ..Any::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::error::ErrorCode;

    fn project(has_own_server: bool) -> ServedProject {
        ServedProject {
            server: "/dev/wws",
            path: "/app".into(),
            arguments: vec!["--port".to_owned(), "81".to_owned()],
            has_own_server,
            has_shell: false,
        }
    }

    /// Returns the rewritten arguments and environment.
    fn rewritten(given: &[&str], project: Option<&ServedProject>) -> [Vec<String>; 2] {
        let spec = json!({"args": given, "cwd": "/", "user": {"uid": 7}, "env": ["A=b"]});
        let spec = rewrite(spec.to_string().as_bytes(), true, project).unwrap();
        let spec: Value = serde_json::from_slice(&spec).unwrap();
        assert_eq!(spec["user"]["uid"], 7);
        assert_eq!(spec["terminal"], true);
        ["args", "env"].map(|name| serde_json::from_value(spec[name].clone()).unwrap())
    }

    #[test]
    fn passes_directory_and_arguments_to_commands_of_the_server() {
        for (given, called) in [
            (vec!["wws", "--version"], vec!["/dev/wws", "--version"]),
            (vec!["/dev/wws", "check"], vec!["/dev/wws", "check"]),
            (
                vec!["wws", "health", "--request", "/a"],
                vec!["/dev/wws", "health", "--request", "/a"],
            ),
        ] {
            let [arguments, env] = rewritten(&given, Some(&project(false)));
            assert_eq!(arguments, called);
            assert_eq!(
                env,
                ["A=b", "WWS_FOLDER=/app", r#"WWS_ARGUMENTS=["--port","81"]"#]
            );
        }
    }

    #[test]
    fn understands_the_string_form_without_a_shell() {
        for line in ["wws health", "wws health || exit 1", "/dev/wws health"] {
            let [arguments, env] = rewritten(&["/bin/sh", "-c", line], Some(&project(false)));
            assert_eq!(arguments, ["/dev/wws", "health"], "{line}");
            assert_eq!(
                env,
                ["A=b", "WWS_FOLDER=/app", r#"WWS_ARGUMENTS=["--port","81"]"#]
            );
        }
    }

    #[test]
    fn keeps_all_other_programs() {
        let shell = ["/bin/sh", "-c", "wws health"];
        let with_shell = ServedProject {
            has_shell: true,
            ..project(false)
        };
        for (given, project) in [
            (&shell[..], Some(&with_shell)),
            (&shell, Some(&project(true))),
            (&shell, None),
            (
                &["/bin/sh", "-c", "wws health | cat"],
                Some(&project(false)),
            ),
            (&["/bin/sh", "-c", "date"], Some(&project(false))),
            (&["/bin/sh"], Some(&project(false))),
            (&["wws"], Some(&project(true))),
            (&["wws"], None),
        ] {
            let [arguments, env] = rewritten(given, project);
            assert_eq!(arguments, given);
            assert_eq!(env, ["A=b"]);
        }
    }

    #[test]
    fn rejects_a_broken_description() {
        for spec in ["", "[]", "{"] {
            let error = rewrite(spec.as_bytes(), false, None).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{spec}");
        }
    }
}
