//! Destinations of the output of a process, as a client names them.

use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};

/// Where output goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum OutputTarget {
    /// Nowhere.
    Null,
    /// To a FIFO or an existing file.
    Path(String),
    /// To a file, which is created if it is missing.
    File(String),
    /// To the standard input of a log program with these arguments.
    Program(String, Vec<String>),
}

impl OutputTarget {
    /// Parses a path or URI.
    ///
    /// # Errors
    /// The scheme is not supported.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::Null);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self::Path(text.to_owned()));
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = decode(path);
        match scheme {
            "fifo" => Ok(Self::Path(path)),
            "file" => Ok(Self::File(path)),
            "binary" => {
                let pairs = query.split('&').filter(|pair| !pair.is_empty());
                let arguments = pairs.flat_map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    // Only here is a plus sign a space.
                    [name, value].map(|text| decode(&text.replace('+', "%20")))
                });
                Ok(Self::Program(path, arguments.collect()))
            }
            _ => Err(Error::invalid_argument(format!(
                "{scheme}:// is not a supported stream: expected the path of a FIFO, file:// or \
                 binary://"
            ))),
        }
    }
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tells_paths_and_uris_apart() {
        let parse = |text| OutputTarget::parse(text).unwrap();
        assert_eq!(parse(""), OutputTarget::Null);
        assert_eq!(parse("/run/f"), OutputTarget::Path("/run/f".to_owned()));
        assert_eq!(
            parse("fifo:///run/f"),
            OutputTarget::Path("/run/f".to_owned())
        );
        assert_eq!(
            parse("file:///a%20b"),
            OutputTarget::File("/a b".to_owned())
        );
        assert_eq!(
            parse("file:///c++/l"),
            OutputTarget::File("/c++/l".to_owned())
        );
        assert_eq!(
            parse("binary:///usr/bin/n++?_LOGGING=%2Fvar+lib&x"),
            OutputTarget::Program(
                "/usr/bin/n++".to_owned(),
                ["_LOGGING", "/var lib", "x", ""]
                    .map(str::to_owned)
                    .to_vec()
            )
        );
        let error = OutputTarget::parse("npipe://x").unwrap_err().to_string();
        assert!(error.starts_with("npipe://"), "{error}");
    }

    proptest! {
        #[test]
        fn parses_any_text(
            text in any::<String>(),
            likely in "(fifo|file|binary|x)://[a-z%/?&=+]{0,20}",
        ) {
            let _ = OutputTarget::parse(&text);
            let _ = OutputTarget::parse(&likely);
        }
    }
}
