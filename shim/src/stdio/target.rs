//! Where the output of a process goes, as its client names it.

use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};

/// Where output goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Nowhere.
    Null,
    /// To a FIFO or a file that is there.
    Path(String),
    /// To a file that may have to be made.
    File(String),
    /// To the input of a program, with these arguments.
    Program(String, Vec<String>),
}

impl Target {
    /// Reads a path or URI.
    ///
    /// # Errors
    /// A scheme that we do not serve.
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
                    // Here alone a plus sign is a space.
                    [name, value].map(|text| decode(&text.replace('+', "%20")))
                });
                Ok(Self::Program(path, arguments.collect()))
            }
            _ => Err(Error::InvalidArgument(format!(
                "{scheme}:// is no stream of a container that is known: expected a FIFO's path, file:// or binary://"
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

    #[test]
    fn paths_and_uris_are_told_apart() {
        let parse = |text| Target::parse(text).unwrap();
        assert_eq!(parse(""), Target::Null);
        assert_eq!(parse("/run/f"), Target::Path("/run/f".to_owned()));
        assert_eq!(parse("fifo:///run/f"), Target::Path("/run/f".to_owned()));
        assert_eq!(parse("file:///a%20b"), Target::File("/a b".to_owned()));
        assert_eq!(parse("file:///c++/l"), Target::File("/c++/l".to_owned()));
        assert_eq!(
            parse("binary:///usr/bin/n++?_LOGGING=%2Fvar+lib&x"),
            Target::Program(
                "/usr/bin/n++".to_owned(),
                ["_LOGGING", "/var lib", "x", ""]
                    .map(str::to_owned)
                    .to_vec()
            )
        );
        let error = Target::parse("npipe://x").unwrap_err().to_string();
        assert!(error.starts_with("npipe://"), "{error}");
    }
}
