//! The source of a runtime's file: the `url` of its entry.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use url::Url;

use crate::{
    error::{Error, FailureKind},
    package::Package,
};

/// The meaning of a `url`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file of an npm package: `npm:NAME@VERSION/FILE#sha512-...`.
    Npm(Package),
    /// `https:` or `http:`
    Http(Url),
    /// `file:`, or a path without a scheme.
    File(PathBuf),
}

impl Source {
    /// `base` is the directory that paths are relative to.
    pub(crate) fn parse(text: &str, base: &Path) -> Result<Self, Error> {
        if let Some(package) = text.strip_prefix("npm:") {
            return Package::parse(package).map(Self::Npm);
        }
        match scheme(text) {
            Some("http" | "https") => Url::parse(text).map(Self::Http).map_err(|error| {
                Error::new(FailureKind::Input, format!("`{text}` is no URL")).caused_by(error)
            }),
            Some("file") => Ok(Self::File(base.join(file_path(text)?))),
            Some(other) => Err(Error::new(
                FailureKind::Input,
                format!(
                    "`{text}`: nothing is fetched by `{other}:`, expected npm:, https:, http: or a \
                     path"
                ),
            )),
            None => Ok(Self::File(base.join(text))),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Npm(package) => write!(f, "{package}"),
            Self::Http(url) => f.write_str(&shown(url)),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A URL without its secrets.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    if !url.username().is_empty() || url.password().is_some() {
        // A URL with a user has a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
    }
    url.into()
}

fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once(':')?;
    // A scheme has more than one letter, and a path may have a colon.
    (scheme.len() > 1
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)))
    .then_some(scheme)
}

/// The path of a `file:` URL, which may be relative.
fn file_path(text: &str) -> Result<PathBuf, Error> {
    let path = text.trim_start_matches("file:");
    if !path.starts_with("//") {
        return Ok(path.into());
    }
    Url::parse(text)
        .ok()
        .and_then(|url| url.to_file_path().ok())
        .ok_or_else(|| {
            Error::new(
                FailureKind::Input,
                format!("`{text}` is no path, expected file:///directory/file"),
            )
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tells_the_kind_of_a_url() {
        let parse = |text| Source::parse(text, Path::new("/p"));
        assert_eq!(
            parse("a/b.wasm").unwrap(),
            Source::File("/p/a/b.wasm".into())
        );
        assert_eq!(parse("/a.wasm").unwrap(), Source::File("/a.wasm".into()));
        assert_eq!(
            parse("file:a.wasm").unwrap(),
            Source::File("/p/a.wasm".into())
        );
        assert_eq!(parse("file:///a%20b").unwrap(), Source::File("/a b".into()));
        assert!(matches!(parse("https://h/a").unwrap(), Source::Http(_)));
        assert!(
            parse("ftp://h/a")
                .unwrap_err()
                .to_string()
                .contains("`ftp:`")
        );
        assert!(parse("npm:x").is_err());
    }

    #[test]
    fn secrets_are_not_shown() {
        let source = Source::parse("https://me:word@h/a?token=1", Path::new("/")).unwrap();
        assert_eq!(source.to_string(), "https://h/a");
    }
}
