//! Who pushes: credentials, and what a registry asks for.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A user of a registry, and the password or token.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: String,
    secret: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = &self.user;
        f.debug_struct("Credentials")
            .field("user", user)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// A user and the password or token.
    #[must_use]
    pub fn new(user: &str, secret: &str) -> Self {
        Self {
            user: user.to_owned(),
            secret: secret.to_owned(),
        }
    }

    /// Those of `USER:SECRET` in base64, as Docker's `config.json` has them.
    #[must_use]
    pub fn decode(text: &str) -> Option<Self> {
        let text = String::from_utf8(STANDARD.decode(text.trim()).ok()?).ok()?;
        let (user, secret) = text.split_once(':')?;
        Some(Self::new(user, secret.trim_end_matches('\0')))
    }

    /// The value of the header `authorization`.
    pub(super) fn basic(&self) -> String {
        let text = format!("{}:{}", self.user, self.secret);
        format!("Basic {}", STANDARD.encode(text))
    }
}

/// What a registry asks for in `www-authenticate`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

impl Challenge {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, None);
        let mut rest = rest.trim_start();
        while let Some((name, after)) = rest.split_once('=') {
            let (value, after) = match after.strip_prefix('"') {
                // A comma in quotes is part of the value, as in a scope.
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').unwrap_or((after, "")),
            };
            match name.trim().to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value.to_owned()),
                "service" => service = Some(value.to_owned()),
                _ => {}
            }
            rest = after.trim_start_matches([',', ' ']);
        }
        Some(Self::Bearer {
            realm: realm?,
            service,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_challenges() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.into(),
                service: service.map(str::to_owned),
            })
        };
        for (text, expected) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:a:pull,push\"",
                bearer("https://a/t", Some("s")),
            ),
            ("bearer scope=\"a,b\", realm=\"r\"", bearer("r", None)),
            ("Bearer realm=r,service=s", bearer("r", Some("s"))),
            ("Bearer service=\"s\"", None),
            ("Bearer realm=\"open", None),
            ("Negotiate x", None),
            ("", None),
        ] {
            assert_eq!(Challenge::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn credentials_are_pairs_and_are_not_printed() {
        let read = Credentials::decode("dXNlcjpwYTpzcw==").unwrap();
        assert_eq!(read, Credentials::new("user", "pa:ss"));
        assert_eq!(read.basic(), "Basic dXNlcjpwYTpzcw==");
        assert!(!format!("{read:?}").contains("pa:ss"));
        for text in ["", "!", "dXNlcg=="] {
            assert_eq!(Credentials::decode(text), None, "{text}");
        }
    }
}
