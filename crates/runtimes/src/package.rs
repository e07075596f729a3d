//! A file of an npm package, pinned by a checksum.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha512};

use crate::error::{Error, FailureKind};

/// `NAME@VERSION/FILE#sha512-...`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    /// The name with its scope, as `@ruby/3.4-wasm-wasi`.
    pub(crate) name: String,
    pub(crate) version: String,
    /// The path inside the package.
    pub(crate) file: String,
    /// The SHA-512 of the package's archive.
    sha512: Vec<u8>,
}

impl Package {
    /// Parses what follows `npm:`.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        parse(text).ok_or_else(|| {
            Error::new(
                FailureKind::Input,
                format!(
                    "`npm:{text}` names no file of a package: expected \
                 npm:NAME@VERSION/FILE#sha512-..., the last part being the package's \
                 `dist.integrity`"
                ),
            )
        })
    }

    /// The `@scope` of a name, if it has one.
    pub(crate) fn scope(&self) -> Option<&str> {
        self.name
            .starts_with('@')
            .then(|| self.name.split('/').next())
            .flatten()
    }

    /// The path of the archive in a registry.
    pub(crate) fn archive(&self) -> String {
        let base = self.name.rsplit('/').next().unwrap_or_default();
        format!("{}/-/{base}-{}.tgz", self.name, self.version)
    }

    /// The path of the version's metadata in a registry.
    pub(crate) fn metadata(&self) -> String {
        format!("{}/{}", self.name.replace('/', "%2f"), self.version)
    }

    /// Whether an archive is the pinned one.
    pub(crate) fn check(&self, archive: &[u8]) -> Result<(), Error> {
        let found = Sha512::digest(archive);
        if found.as_slice() == self.sha512 {
            return Ok(());
        }
        Err(Error::new(
            FailureKind::Damaged,
            format!(
                "the package is damaged, or not the one that was meant: its checksum is sha512-{}, \
                 expected sha512-{}",
                STANDARD.encode(found),
                STANDARD.encode(&self.sha512)
            ),
        ))
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "npm:{}@{}/{}", self.name, self.version, self.file)
    }
}

fn parse(text: &str) -> Option<Package> {
    let (place, integrity) = text.split_once('#')?;
    let sha512 = STANDARD.decode(integrity.strip_prefix("sha512-")?).ok()?;
    // The first `@` may belong to a scope.
    let (name_length, _) = place.char_indices().skip(1).find(|(_, c)| *c == '@')?;
    let (name, rest) = place.split_at(name_length);
    let (version, file) = rest.strip_prefix('@')?.split_once('/')?;
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-._+~".contains(c))
    };
    let name_is_good = match name.strip_prefix('@') {
        Some(scoped) => scoped
            .split_once('/')
            .is_some_and(|(scope, name)| plain(scope) && plain(name)),
        None => plain(name),
    };
    (name_is_good && plain(version) && file.split('/').all(plain) && sha512.len() == 64).then(
        || Package {
            name: name.to_owned(),
            version: version.to_owned(),
            file: file.to_owned(),
            sha512,
        },
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sum() -> String {
        format!("sha512-{}", STANDARD.encode([7; 64]))
    }

    #[test]
    fn a_package_is_name_version_file_and_checksum() {
        let package =
            Package::parse(&format!("@ruby/3.4-wasm@2.10.1/dist/ruby+x.wasm#{}", sum())).unwrap();
        assert_eq!(package.scope(), Some("@ruby"));
        assert_eq!(package.file, "dist/ruby+x.wasm");
        assert_eq!(package.archive(), "@ruby/3.4-wasm/-/3.4-wasm-2.10.1.tgz");
        assert_eq!(package.metadata(), "@ruby%2f3.4-wasm/2.10.1");
        let package = Package::parse(&format!("left@1.0.0/a#{}", sum())).unwrap();
        assert_eq!(package.scope(), None);
        assert_eq!(package.archive(), "left/-/left-1.0.0.tgz");
    }

    #[test]
    fn rejects_other_forms() {
        for bad in [
            "",
            "a@1",
            "a@1/f",
            "a@1/f#",
            "a@1/f#sha1-AAAA",
            "a@1/f#sha512-AAAA",
            "@s@1/f#S",
            "a/b@1/f#S",
            "@s/../x@1/f#S",
            "a@1/../f#S",
            "a@../f#S",
            "a@1?x/f#S",
        ] {
            let text = bad.replace("#S", &format!("#{}", sum()));
            assert!(Package::parse(&text).is_err(), "{text}");
        }
    }
}
