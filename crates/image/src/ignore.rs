//! `.dockerignore`, as Docker reads it: the last pattern that matches a path, or a directory above
//! it, decides.

use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};

use crate::error::ImageError;

/// What no image gets unless the file says so with `!`: histories, secrets of the author's machine,
/// and files that describe how an image is built.
pub(crate) const BUILT_IN: [&str; 9] = [
    "**/.git",
    "**/.hg",
    "**/.svn",
    "**/.env",
    "**/.env.*",
    "**/.npmrc",
    "**/.DS_Store",
    ".dockerignore",
    "Dockerfile",
];

/// The most patterns of a file.
const MAX_PATTERNS: usize = 1000;

#[derive(Debug)]
struct Pattern {
    glob: GlobMatcher,
    /// Whether it begins with `!`: what it matches is packed.
    packs: bool,
}

/// The patterns of `.dockerignore`.
#[derive(Debug)]
pub(crate) struct Ignore(Vec<Pattern>);

impl Ignore {
    /// The built-in patterns, followed by those of `text`.
    pub(crate) fn parse(text: &str) -> Result<Self, ImageError> {
        let mut patterns = Vec::new();
        for pattern in BUILT_IN {
            patterns.extend(Pattern::parse(pattern, 0)?);
        }
        for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            if line.starts_with('#') {
                continue;
            }
            patterns.extend(Pattern::parse(line, index + 1)?);
            if patterns.len() > MAX_PATTERNS + BUILT_IN.len() {
                let limit = format!("{MAX_PATTERNS} patterns");
                return Err(ImageError::too_large(".dockerignore", limit));
            }
        }
        Ok(Self(patterns))
    }

    /// Whether a file or directory is left out.
    pub(crate) fn leaves_out(&self, path: &Path) -> bool {
        let is_match = |pattern: &&Pattern| {
            let mut paths = path.ancestors().filter(|path| !path.as_os_str().is_empty());
            paths.any(|path| pattern.glob.is_match(path))
        };
        let last = self.0.iter().rev().find(is_match);
        last.is_some_and(|pattern| !pattern.packs)
    }

    /// Whether something in a directory that is left out may be packed.
    pub(crate) fn packs_again(&self) -> bool {
        self.0.iter().any(|pattern| pattern.packs)
    }
}

impl Pattern {
    /// Parses a line; `None` without a pattern.
    fn parse(line: &str, number: usize) -> Result<Option<Self>, ImageError> {
        let line = line.trim();
        let (packs, line) = match line.strip_prefix('!') {
            Some(line) => (true, line.trim()),
            None => (false, line),
        };
        let words = line.split('/').filter(|word| !matches!(*word, "" | "."));
        let words: Vec<&str> = words.collect();
        if words.is_empty() {
            return Ok(None);
        }
        // Braces are characters like others.
        let text = words.join("/").replace('{', "[{]").replace('}', "[}]");
        let glob = GlobBuilder::new(&text)
            .literal_separator(true)
            .backslash_escape(true)
            .build()
            .map_err(|error| ImageError::Pattern {
                line: number,
                message: error.kind().to_string(),
            })?;
        Ok(Some(Self {
            glob: glob.compile_matcher(),
            packs,
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_last_pattern_decides() {
        let text = "\u{feff}# comment\n\n *.tmp \n/build/\nnode_modules/*\n!node_modules/kept\n\
                    **/secret*\ndocs\n!docs/*.md\na?c\n{b}\n!.env.example\n";
        let ignore = Ignore::parse(text).unwrap();
        for (path, left_out) in [
            ("x.tmp", true),
            ("a/x.tmp", false),
            ("build", true),
            ("build/a/b", true),
            ("a/build", false),
            ("node_modules/x/y", true),
            ("node_modules/kept/y", false),
            ("secrets/a", true),
            ("a/b/secret.txt", true),
            ("docs/a.txt", true),
            ("docs/a.md", false),
            ("docs/a/b.md", true),
            ("abc", true),
            ("a/c", false),
            ("{b}", true),
            ("b", false),
            (".git/config", true),
            ("sub/.git", true),
            (".env", true),
            ("api/.env.local", true),
            (".env.example", false),
            ("Dockerfile", true),
            ("api/Dockerfile", false),
            ("index.js", false),
        ] {
            assert_eq!(ignore.leaves_out(Path::new(path)), left_out, "{path}");
        }
        assert!(ignore.packs_again());
    }

    #[test]
    fn reports_invalid_patterns_by_line() {
        let error = Ignore::parse("a\n[b\n").unwrap_err().to_string();
        assert!(
            error.starts_with(".dockerignore:2: no valid pattern"),
            "{error}"
        );
        assert!(Ignore::parse(&"a\n".repeat(1001)).is_err());
    }
}
