//! The user's credentials for a registry, as `docker login` left them.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use wws_image::Credentials;

use crate::command;

/// The most bytes of `config.json`.
const MAX: u64 = 1 << 20;

/// How long a helper may ask the user for the key of a store.
const LIMIT: Duration = Duration::from_secs(120);

/// Docker's own name of its registry in `config.json`.
const DOCKER: (&str, &str) = ("docker.io", "https://index.docker.io/v1/");

/// Why the credentials for a registry cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CredentialsError {
    #[error("{}: {problem}", .file.display())]
    Config { file: PathBuf, problem: String },
    #[error("Docker's credentials for {registry} are damaged: `docker login {registry}`")]
    Damaged { registry: String },
    #[error("`{0}` is no name of a credential helper")]
    HelperName(String),
    #[error("docker-credential-{helper} answers no {missing}")]
    Helper {
        helper: String,
        missing: &'static str,
    },
    #[error(
        "the credentials for {registry} are an identity token, which is not supported: \
         `docker login` with a user and an access token"
    )]
    IdentityToken { registry: String },
}

/// The credentials for a registry; `None` where there are none.
///
/// # Errors
/// Docker's configuration cannot be read, or its helper fails.
pub(crate) fn of(registry: &str) -> Result<Option<Credentials>, CredentialsError> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let directory = variable("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".docker")));
    let Some(path) = directory.map(|directory| directory.join("config.json")) else {
        return Ok(None);
    };
    let Ok(file) = File::open(&path) else {
        return Ok(None);
    };
    let mut text = String::new();
    let named = |error: &dyn std::error::Error| CredentialsError::Config {
        file: path.clone(),
        problem: error.to_string(),
    };
    file.take(MAX)
        .read_to_string(&mut text)
        .map_err(|error| named(&error))?;
    let config = serde_json::from_str(&text).map_err(|error| named(&error))?;
    find(&config, registry, &|helper, registry| {
        let program = format!("docker-credential-{helper}");
        command::output(program, &["get"], registry, LIMIT)
    })
}

fn find(
    config: &Value,
    registry: &str,
    ask: &dyn Fn(&str, &str) -> Option<String>,
) -> Result<Option<Credentials>, CredentialsError> {
    let name = if registry == DOCKER.0 {
        DOCKER.1
    } else {
        registry
    };
    let text = |value: &Value| {
        value
            .as_str()
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    let own = config
        .get("credHelpers")
        .and_then(|helpers| text(helpers.get(name)?));
    let helper = own.or_else(|| text(config.get("credsStore")?));
    let entry = config.get("auths").and_then(|auths| {
        let names = [name.to_owned(), format!("https://{name}")];
        names.iter().find_map(|name| auths.get(name))
    });
    if let Some(auth) = entry.and_then(|entry| text(entry.get("auth")?)) {
        let damaged = || CredentialsError::Damaged {
            registry: registry.to_owned(),
        };
        return Credentials::decode(&auth).map(Some).ok_or_else(damaged);
    }
    let Some(helper) = helper else {
        return Ok(None);
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !helper.bytes().all(is_name) {
        return Err(CredentialsError::HelperName(helper));
    }
    // A helper fails for a registry that it does not know.
    let Some(answer) = ask(&helper, name) else {
        return Ok(None);
    };
    let invalid = |missing| CredentialsError::Helper {
        helper: helper.clone(),
        missing,
    };
    let answer: Value = serde_json::from_str(&answer).map_err(|_| invalid("JSON"))?;
    let user = answer.get("Username").and_then(text);
    let secret = answer.get("Secret").and_then(text);
    match (user, secret) {
        (Some(user), Some(_)) if user == "<token>" => Err(CredentialsError::IdentityToken {
            registry: registry.to_owned(),
        }),
        (Some(user), Some(secret)) => Ok(Some(Credentials::new(&user, &secret))),
        _ => Err(invalid("user")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn nobody(_: &str, _: &str) -> Option<String> {
        None
    }

    #[test]
    fn reads_what_docker_login_wrote() {
        let config = json!({ "auths": {
            "r.example:5000": { "auth": "dXNlcjpwYXNz" },
            "https://index.docker.io/v1/": { "auth": "aHViOnBhc3M=" },
            "bad.example": { "auth": "!" },
        }});
        let found = |registry: &str| find(&config, registry, &nobody);
        assert_eq!(
            found("r.example:5000"),
            Ok(Some(Credentials::new("user", "pass")))
        );
        assert_eq!(
            found("docker.io"),
            Ok(Some(Credentials::new("hub", "pass")))
        );
        assert_eq!(found("other.example"), Ok(None));
        assert!(found("bad.example").is_err());
        assert_eq!(find(&json!({}), "r.example", &nobody), Ok(None));
    }

    #[test]
    fn asks_the_helper_of_a_registry_or_the_store() {
        let ask = |helper: &str, registry: &str| match (helper, registry) {
            ("one", "r.example") => Some(r#"{"Username":"u","Secret":"s"}"#.to_owned()),
            ("all", "token.example") => Some(r#"{"Username":"<token>","Secret":"s"}"#.to_owned()),
            ("all", "empty.example") => Some("{}".to_owned()),
            _ => None,
        };
        let config = json!({
            "auths": { "r.example": {} },
            "credHelpers": { "r.example": "one" },
            "credsStore": "all",
        });
        let found = |registry: &str| find(&config, registry, &ask);
        assert_eq!(found("r.example"), Ok(Some(Credentials::new("u", "s"))));
        assert_eq!(found("unknown.example"), Ok(None));
        assert!(found("token.example").is_err());
        assert!(found("empty.example").is_err());
        let bad = json!({ "credsStore": "../x" });
        assert!(find(&bad, "r.example", &ask).is_err());
    }
}
