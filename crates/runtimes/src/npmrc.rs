//! The settings of npm in an `.npmrc`.
//!
//! Source: npm's documentation, "npmrc".

use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

use crate::error::{Error, FailureKind};

/// The maximum size of the file, in bytes.
const MAX: u64 = 1 << 20;

/// Keys and values; later lines take precedence.
#[derive(Debug, Default)]
pub(crate) struct Npmrc(BTreeMap<String, String>);

impl Npmrc {
    /// Reads a file, if it exists. `${NAME}` is replaced by a variable of `env`.
    pub(crate) fn read(file: &Path, env: &BTreeMap<String, String>) -> Result<Self, Error> {
        let mut text = String::new();
        match File::open(file).and_then(|file| file.take(MAX).read_to_string(&mut text)) {
            Ok(_) => Ok(Self::parse(&text, env)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => {
                Err(Error::new(FailureKind::File, file.display().to_string()).caused_by(error))
            }
        }
    }

    fn parse(text: &str, env: &BTreeMap<String, String>) -> Self {
        let lines = text.lines().map(str::trim);
        let settings = lines
            .filter(|line| !line.starts_with(['#', ';']))
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| {
                let value = value.trim().trim_matches('"');
                (key.trim().to_owned(), expanded(value, env))
            });
        Self(settings.collect())
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0
            .get(key)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }
}

/// A variable that is not set is not replaced.
fn expanded(value: &str, env: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    let mut rest = value;
    while let Some((before, (name, after))) = rest
        .split_once("${")
        .and_then(|(before, after)| Some((before, after.split_once('}')?)))
    {
        text.push_str(before);
        match env.get(name) {
            Some(value) => text.push_str(value),
            None => text.push_str(&format!("${{{name}}}")),
        }
        rest = after;
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_comments_and_variables() {
        let env = BTreeMap::from([("T".to_owned(), "secret".to_owned())]);
        let npmrc = Npmrc::parse(
            "# registry=no\n;x=1\n registry = \"https://a/\" \n@s:registry=https://b\n\
             //a/:_authToken=${T}${NO}\nempty=\n",
            &env,
        );
        assert_eq!(npmrc.get("registry"), Some("https://a/"));
        assert_eq!(npmrc.get("@s:registry"), Some("https://b"));
        assert_eq!(npmrc.get("//a/:_authToken"), Some("secret${NO}"));
        assert_eq!((npmrc.get("empty"), npmrc.get("x")), (None, None));
    }
}
