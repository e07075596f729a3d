//! Which pages of other origins may read responses (CORS).

use std::time::Duration;

use http::{HeaderName, Method, Uri};

use crate::setting::{TomlType, Value, settings};

const DAY: u64 = 24 * 3600 * 1000;

/// Origins of pages, as browsers name them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// None.
    #[default]
    None,
    /// All: `*`.
    Any,
    /// These, as `https://app.example`.
    Only(Vec<String>),
}

impl Value for Origins {
    const TYPE: &'static str =
        "origins such as [\"https://app.example\", \"http://localhost:5173\"], or \"*\" for all";
    const TOML: &'static [TomlType] = &[TomlType::Text, TomlType::Texts];
    fn parse(text: &str) -> Option<Self> {
        let all: Vec<&str> = listed(text).collect();
        match all.as_slice() {
            [] => Some(Self::None),
            ["*"] => Some(Self::Any),
            // `*` beside others is a mistake.
            all => all
                .iter()
                .map(|origin| parse(origin))
                .collect::<Option<_>>()
                .map(Self::Only),
        }
    }
    fn show(&self) -> String {
        match self {
            Self::None => String::new(),
            Self::Any => "*".into(),
            Self::Only(origins) => origins.join(","),
        }
    }
}

impl Origins {
    /// The origins that a text names, separated by commas.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        Self::parse(text)
    }

    /// The texts that [`Self::new`] accepts, in words.
    #[must_use]
    pub fn expected() -> &'static str {
        Self::TYPE
    }
}

/// What a text lists, separated by commas.
fn listed(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|listed| !listed.is_empty())
}

/// An origin in the form in which browsers send it: a scheme, a host in lower case, and a port
/// unless it is the scheme's own.
fn parse(text: &str) -> Option<String> {
    let uri: Uri = text.trim_end_matches('/').parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    if !matches!(uri.path(), "" | "/")
        || uri.query().is_some()
        || authority.as_str().contains(['@', '*'])
    {
        return None;
    }
    let host = authority.host().to_ascii_lowercase();
    let own = match scheme {
        "https" => Some(443),
        "http" => Some(80),
        _ => None,
    };
    let port = match authority.port() {
        Some(port) => Some(port.as_str().parse::<u16>().ok()?),
        None if authority.as_str().ends_with(':') => return None,
        None => None,
    };
    Some(match port.filter(|port| Some(*port) != own) {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    })
}

/// Names of methods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Methods(pub Vec<Method>);

impl Value for Methods {
    const TYPE: &'static str = "methods such as [\"GET\", \"POST\"]";
    const TOML: &'static [TomlType] = &[TomlType::Text, TomlType::Texts];
    fn parse(text: &str) -> Option<Self> {
        let parse = |name: &str| Method::from_bytes(name.to_ascii_uppercase().as_bytes()).ok();
        listed(text).map(parse).collect::<Option<_>>().map(Self)
    }
    fn show(&self) -> String {
        let all: Vec<&str> = self.0.iter().map(Method::as_str).collect();
        all.join(",")
    }
}

/// Names of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderNames(pub Vec<HeaderName>);

impl Value for HeaderNames {
    const TYPE: &'static str = "names of headers such as [\"x-token\"]";
    const TOML: &'static [TomlType] = &[TomlType::Text, TomlType::Texts];
    fn parse(text: &str) -> Option<Self> {
        listed(text)
            .map(|name| name.parse().ok())
            .collect::<Option<_>>()
            .map(Self)
    }
    fn show(&self) -> String {
        let all: Vec<&str> = self.0.iter().map(HeaderName::as_str).collect();
        all.join(",")
    }
}

settings! {
    /// Which pages of other origins may read a worker's responses.
    pub struct Cors in "cors" {
        /// Origins of pages that may read responses; those of `server.cors` by default, `[]` for
        /// none. Without any, the server leaves CORS to the worker.
        origins: Option<Origins> = None, 0 => 0;
        /// Whether requests may carry cookies and other credentials. Not with the origin `*`.
        credentials: bool = false, 0 => 0;
        /// Methods that pages may use; GET, HEAD, POST, PUT, PATCH and DELETE by default.
        methods: Methods = Methods::default(), 0 => 0;
        /// Headers that pages may send; all that a page asks for by default.
        headers: HeaderNames = HeaderNames::default(), 0 => 0;
        /// Headers of responses that pages may read, beyond the usual ones.
        expose: HeaderNames = HeaderNames::default(), 0 => 0;
        /// Time for which a browser keeps the answer to a preflight request.
        max_age: Duration = Duration::from_secs(600), 0 => DAY;
    }
}

impl Cors {
    /// Why these settings cannot be used. Origins are those of the server's unless set.
    pub(crate) fn problem(&self, server: &Origins) -> Option<&'static str> {
        let origins = self.origins.as_ref().unwrap_or(server);
        (self.credentials && *origins == Origins::Any).then_some(
            "`cors.credentials` is true for all origins: any page could act for its visitor; name \
             the origins",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_origins_as_browsers_send_them() {
        let only = |all: &[&str]| {
            Some(Origins::Only(
                all.iter().map(|origin| (*origin).to_owned()).collect(),
            ))
        };
        for (text, expected) in [
            ("", Some(Origins::None)),
            ("*", Some(Origins::Any)),
            ("https://App.example/", only(&["https://app.example"])),
            (
                "https://a.example:443, http://b:80",
                only(&["https://a.example", "http://b"]),
            ),
            ("http://localhost:5173", only(&["http://localhost:5173"])),
            ("http://[::1]:8080", only(&["http://[::1]:8080"])),
            ("tauri://localhost", only(&["tauri://localhost"])),
            ("*, https://a.example", None),
            ("https://*.example", None),
            ("app.example", None),
            ("https://a.example/path", None),
            ("https://u@a.example", None),
            ("null", None),
        ] {
            assert_eq!(Origins::new(text), expected, "{text}");
        }
    }

    #[test]
    fn credentials_need_named_origins() {
        let mut cors = Cors {
            origins: Some(Origins::Any),
            credentials: true,
            ..Cors::default()
        };
        assert!(cors.problem(&Origins::None).is_some());
        cors.origins = Some(Origins::Only(vec!["https://a.example".into()]));
        assert!(cors.problem(&Origins::Any).is_none());
        cors.origins = None;
        assert!(cors.problem(&Origins::Any).is_some());
    }
}
