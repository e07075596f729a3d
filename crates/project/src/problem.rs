//! Problems of a project, with their place.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file, relative to the project's root.
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: Option<u32>,
    /// The column, counted from 1, in characters.
    pub column: Option<u32>,
    /// What is wrong, and what was expected.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Problem {
    pub(crate) fn new(file: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: None,
            column: None,
            message: message.into(),
            help: None,
        }
    }

    pub(crate) fn no_directory(path: &Path, error: &io::Error) -> Self {
        Self::new(
            path,
            format!("cannot open the project's directory: {error}"),
        )
        .help("expected a directory with workers, or one worker")
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Sets the position of byte `at` of `text`.
    pub(crate) fn at(mut self, text: &str, at: usize) -> Self {
        let before = text.get(..at).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.line = Some(count(before.matches('\n').count() + 1));
        self.column = Some(count(before[line_start..].chars().count() + 1));
        self
    }
}

/// Names of files are anybody's: none may look like a line of its own, or be read by a terminal.
fn escape(text: &str, is_unusual: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if is_unusual(character) {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display().to_string();
        write!(f, "{}", escape(&file, char::is_control))?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(column) = self.column {
            write!(f, ":{column}")?;
        }
        let unusual = |character: char| character.is_control() && !matches!(character, '\n' | '\t');
        let message = escape(&self.message, unusual);
        write!(f, ": {}", message.replace('\n', "\n    "))?;
        if let Some(help) = &self.help {
            write!(f, "\n    {help}")?;
        }
        Ok(())
    }
}

/// All problems of a project; never empty. `Display` writes each problem on its own lines.
#[derive(Debug)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Sorts problems. `None` if there are none.
    #[must_use]
    pub fn of(mut problems: Vec<Problem>) -> Option<Self> {
        problems.sort();
        problems.dedup();
        (!problems.is_empty()).then_some(Self(problems))
    }

    /// A single problem.
    #[must_use]
    pub fn one(problem: Problem) -> Self {
        Self(vec![problem])
    }

    /// The problems, sorted by file and line.
    #[must_use]
    pub fn all(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_of_a_file_looks_like_another_line() {
        let problem = Problem {
            file: "a\n2026-01-01 INFO forged\u{1b}[2J.js".into(),
            line: Some(1),
            column: None,
            message: "`a\n2026-01-01 INFO forged\u{1b}[2J` is no name".into(),
            help: None,
        };
        assert_eq!(
            problem.to_string(),
            "a\\n2026-01-01 INFO forged\\u{1b}[2J.js:1: `a\n    2026-01-01 INFO forged\\u{1b}[2J` \
             is no name"
        );
    }
}
