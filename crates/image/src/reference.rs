//! Names of images, as Docker and containerd complete them.

use std::fmt;

/// The registry of names without one, and the directory of names of one word there.
const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_DIRECTORY: &str = "library/";

const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// The full name of an image: registry, repository and tag, or digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: String,
    digest: Option<String>,
}

/// A name that no image can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is no name of an image: {why}")]
pub struct InvalidReference {
    name: String,
    why: &'static str,
}

impl Reference {
    /// Parses the name of an image that exists: `[REGISTRY/]NAME[:TAG][@DIGEST]`.
    ///
    /// # Errors
    /// The name has a character or a form that clients reject.
    pub fn parse_existing(name: &str) -> Result<Self, InvalidReference> {
        let Some((tagged, digest)) = name.split_once('@') else {
            return Self::parse(name);
        };
        let invalid = |why| InvalidReference {
            name: name.to_owned(),
            why,
        };
        if !is_sha256(digest) {
            return Err(invalid("a digest is sha256: and 64 digits of 0-9 and a-f"));
        }
        let parsed = Self::parse(tagged).map_err(|error| invalid(error.why))?;
        Ok(Self {
            digest: Some(digest.to_owned()),
            ..parsed
        })
    }

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
            digest: None,
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

    /// The digest, which identifies the image instead of the tag.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => write!(f, ":{}", self.tag),
        }
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

/// Whether a text is `sha256:` and 64 digits in lower case.
pub(crate) fn is_sha256(digest: &str) -> bool {
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    hex.len() == 64 && hex.bytes().all(is_hex)
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
    fn digest_replaces_tag() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for name in ["hello", "hello:v1"] {
            let parsed = Reference::parse_existing(&format!("{name}@{digest}")).unwrap();
            assert_eq!(parsed.digest(), Some(digest.as_str()));
            let full = format!("docker.io/library/hello@{digest}");
            assert_eq!(parsed.to_string(), full);
        }
        let tagged = Reference::parse_existing("hello:v1").unwrap();
        assert_eq!((tagged.tag(), tagged.digest()), ("v1", None));
        for name in ["hello@", "hello@sha256:0A", "hello@sha512:00", "@x", "A@x"] {
            let error = Reference::parse_existing(name).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("`{name}` is no name")),
                "{error}"
            );
        }
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
