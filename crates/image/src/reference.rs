//! Names of images, as Docker and containerd complete them.

use std::fmt;

/// The registry of names without one, and the directory of names of one word there.
const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_DIRECTORY: &str = "library/";

const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// The full name of an image: registry, repository and tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: String,
}

/// A name that no image can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is no name of an image: {why}")]
pub struct InvalidReference {
    name: String,
    why: &'static str,
}

impl Reference {
    /// Parses `[REGISTRY/]NAME[:TAG]`.
    ///
    /// # Errors
    /// The name has a character or a form that clients reject.
    pub fn parse(name: &str) -> Result<Self, InvalidReference> {
        let invalid = |why| InvalidReference {
            name: name.to_owned(),
            why,
        };
        if name.contains('@') {
            return Err(invalid("an image that is built has no digest in its name"));
        }
        let (path, tag) = match name.rsplit_once(':') {
            // The colon of `localhost:5000/hello` is that of a port.
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (name, "latest"),
        };
        if !is_tag(tag) {
            return Err(invalid(
                "a tag has up to 128 letters, digits, `_`, `.` and `-`",
            ));
        }
        let (registry, repository) = match path.split_once('/') {
            Some((first, rest)) if is_host(first) => (first, rest.to_owned()),
            Some(_) => (DEFAULT_REGISTRY, path.to_owned()),
            None => (DEFAULT_REGISTRY, path.to_owned()),
        };
        if !is_valid_host(registry) {
            return Err(invalid("the registry is HOST or HOST:PORT"));
        }
        let is_word = |word: &str| is_component(word);
        if !repository.split('/').all(is_word) {
            return Err(invalid(
                "a name has lower-case letters and digits, separated by `.`, `_`, `-` and `/`",
            ));
        }
        let repository = match registry {
            DEFAULT_REGISTRY if !repository.contains('/') => {
                DEFAULT_DIRECTORY.to_owned() + &repository
            }
            _ => repository,
        };
        if registry.len() + 1 + repository.len() > MAX_NAME {
            return Err(invalid("it has more than 255 characters"));
        }
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag: tag.to_owned(),
        })
    }

    /// Host and port of the registry.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The name in the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.registry, self.repository, self.tag)
    }
}

/// Whether the first part of a name is a registry, as Docker decides it.
fn is_host(word: &str) -> bool {
    word == "localhost" || word.contains(['.', ':']) || word.chars().any(char::is_uppercase)
}

fn is_valid_host(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (registry, None),
    };
    let is_name = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_ipv6 = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok());
    (is_ipv6 || host.split('.').all(is_name)) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// `[a-z0-9]+` words, separated by `.`, `_`, `__` or any number of `-`.
fn is_component(word: &str) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = word.as_bytes();
    let separators = bytes
        .split(is_word)
        .filter(|separator| !separator.is_empty());
    let all_separators = separators.clone().all(|separator| {
        matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-')
    });
    all_separators && bytes.first().is_some_and(is_word) && bytes.last().is_some_and(is_word)
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag
            .bytes()
            .all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn completes_names_as_docker_does() {
        for (name, full) in [
            ("hello", "docker.io/library/hello:latest"),
            ("hello:v1", "docker.io/library/hello:v1"),
            ("me/hello", "docker.io/me/hello:latest"),
            ("localhost/hello:1.0-rc_1", "localhost/hello:1.0-rc_1"),
            (
                "localhost:5000/a/b__c-d.e",
                "localhost:5000/a/b__c-d.e:latest",
            ),
            ("ghcr.io/me/hello:v1", "ghcr.io/me/hello:v1"),
            ("[::1]:5000/hello", "[::1]:5000/hello:latest"),
            ("docker.io/hello", "docker.io/library/hello:latest"),
        ] {
            assert_eq!(Reference::parse(name).unwrap().to_string(), full);
        }
        let parsed = Reference::parse("localhost:5000/a:b").unwrap();
        assert_eq!(
            (parsed.registry(), parsed.repository(), parsed.tag()),
            ("localhost:5000", "a", "b")
        );
    }

    #[test]
    fn rejects_names_that_clients_reject() {
        let long = "a".repeat(256);
        let long_tag = format!("a:{}", "b".repeat(129));
        for name in [
            "",
            ":v1",
            "a:",
            "A",
            "a/B",
            "a//b",
            "/a",
            "a/",
            "a b",
            "a:b c",
            "a.-b",
            "-a",
            "a_",
            "a___b",
            "a:.b",
            "a@sha256:00",
            "localhost:port/a",
            "-.x/a",
            "../a",
            &long,
            &long_tag,
        ] {
            let error = Reference::parse(name).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("`{name}` is no name")),
                "{error}"
            );
        }
    }
}
