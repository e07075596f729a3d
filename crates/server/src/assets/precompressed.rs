//! Assets that were compressed before the server started.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use http::{HeaderMap, HeaderValue, header};

use crate::assets::coding::{Coding, preferred};

/// Assets with precompressed variants: `style.css` and `style.css.br`.
#[derive(Default)]
pub(crate) struct Precompressed(HashMap<PathBuf, Vec<Coding>>);

impl Precompressed {
    /// Finds the variants among all assets of a project.
    pub(crate) fn new<'a>(assets: impl Iterator<Item = &'a Path> + Clone) -> Self {
        let mut found: HashMap<PathBuf, Vec<Coding>> = HashMap::new();
        let mut variants = HashMap::new();
        for path in assets.clone() {
            for coding in Coding::ALL {
                let plain = path
                    .to_str()
                    .and_then(|path| path.strip_suffix(coding.suffix()));
                if let Some(plain) = plain {
                    variants
                        .entry(PathBuf::from(plain))
                        .or_insert_with(Vec::new)
                        .push(coding);
                }
            }
        }
        for path in assets {
            if let Some(mut codings) = variants.remove(path) {
                codings.sort_unstable();
                found.insert(path.to_owned(), codings);
            }
        }
        Self(found)
    }

    /// Whether an asset has precompressed variants.
    pub(crate) fn has(&self, asset: &Path) -> bool {
        !self.0.is_empty() && self.0.contains_key(asset)
    }

    /// The variant of an asset that a client prefers, and its coding. Ranges always apply to the
    /// asset itself.
    pub(crate) fn find(&self, asset: &Path, headers: &HeaderMap) -> Option<(PathBuf, HeaderValue)> {
        let codings = self.0.get(asset)?;
        if headers.contains_key(header::RANGE) {
            return None;
        }
        let coding = preferred(headers, codings)?;
        let mut path = asset.as_os_str().to_owned();
        path.push(coding.suffix());
        Some((path.into(), coding.header_value()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers(accepted: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, accepted.parse().unwrap());
        headers
    }

    #[test]
    fn finds_precompressed_variants() {
        let assets = [
            "public/a.css",
            "public/a.css.br",
            "public/a.css.gz",
            "public/b.gz",
        ];
        let assets = Precompressed::new(assets.iter().map(Path::new));
        let find = |asset: &str, accepted: &str| {
            let found = assets.find(Path::new(asset), &headers(accepted));
            found.map(|(path, _)| path.to_str().unwrap().to_owned())
        };
        assert_eq!(
            find("public/a.css", "gzip, br, zstd").as_deref(),
            Some("public/a.css.br")
        );
        assert_eq!(
            find("public/a.css", "gzip").as_deref(),
            Some("public/a.css.gz")
        );
        assert_eq!(find("public/a.css", "zstd"), None);
        assert_eq!(find("public/b", "gzip"), None);
        let mut part = headers("br");
        part.insert(header::RANGE, "bytes=0-1".parse().unwrap());
        assert_eq!(assets.find(Path::new("public/a.css"), &part), None);
    }
}
