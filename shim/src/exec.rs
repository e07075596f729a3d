//! Processes that are added to a container: `docker exec`, `kubectl exec`.

use std::path::Path;

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::ProcessDetails;
use serde_json::{Value, json};

use crate::container::Workers;
use crate::error::{Error, Result};

/// Our server's name, by which its commands are called in a container of workers.
pub(crate) const NAME: &str = "wws";

/// Its commands that take the project's folder, where none is named.
const OF_A_PROJECT: [&str; 3] = ["routes", "check", "health"];

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
    if let (Some(workers), Some(Value::Array(arguments))) = (workers, process.get_mut("args")) {
        call_server(arguments, workers);
    }
    Ok(spec.to_string().into_bytes())
}

fn call_server(arguments: &mut Vec<Value>, workers: &Workers) {
    let named = match arguments.first().and_then(Value::as_str) {
        Some(NAME) => !workers.has_own,
        Some(program) => Path::new(program) == Path::new(workers.server),
        None => false,
    };
    if !named {
        return;
    }
    arguments[0] = json!(workers.server);
    let is_of_project = |word: &Value| OF_A_PROJECT.iter().any(|command| word == command);
    let plain = |word: &Value| word.as_str().is_some_and(|word| word.starts_with('-'));
    if arguments.get(1).is_some_and(is_of_project) && arguments[2..].iter().all(plain) {
        // Not the working directory: the folder that is served.
        arguments.push(json!(workers.folder.to_string_lossy()));
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
            has_own,
        }
    }

    fn arguments(given: &[&str], workers: Option<&Workers>) -> Vec<String> {
        let spec = json!({"args": given, "cwd": "/", "user": {"uid": 7}}).to_string();
        let spec = rewrite(spec.as_bytes(), true, workers).unwrap();
        let spec: Value = serde_json::from_slice(&spec).unwrap();
        assert_eq!(spec["user"]["uid"], 7);
        assert_eq!(spec["terminal"], true);
        serde_json::from_value(spec["args"].clone()).unwrap()
    }

    #[test]
    fn our_commands_are_found_in_a_container_of_workers() {
        let call = |given: &[&str]| arguments(given, Some(&workers(false)));
        assert_eq!(call(&["wws", "--version"]), ["/dev/wws", "--version"]);
        assert_eq!(call(&["wws", "routes"]), ["/dev/wws", "routes", "/app"]);
        assert_eq!(call(&["/dev/wws", "check"]), ["/dev/wws", "check", "/app"]);
        assert_eq!(call(&["wws", "check", "/b"]), ["/dev/wws", "check", "/b"]);
        assert_eq!(
            call(&["wws", "health", "--request=/a"]),
            ["/dev/wws", "health", "--request=/a", "/app"]
        );
    }

    #[test]
    fn all_other_programs_stay() {
        let call = |given: &[&str]| arguments(given, Some(&workers(false)));
        assert_eq!(call(&["/bin/sh", "-c", "wws"]), ["/bin/sh", "-c", "wws"]);
        assert_eq!(arguments(&["wws"], Some(&workers(true))), ["wws"]);
        assert_eq!(arguments(&["wws"], None), ["wws"]);
    }

    #[test]
    fn a_broken_description_is_refused() {
        for spec in ["", "[]", "{"] {
            let error = rewrite(spec.as_bytes(), false, None).unwrap_err();
            assert!(matches!(error, Error::InvalidArgument(_)), "{spec}");
        }
    }
}
