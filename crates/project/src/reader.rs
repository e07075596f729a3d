//! Reads TOML tables key by key: values of the wrong type and unknown keys become problems.

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{problem::Problem, setting::TomlType};

/// Collects the problems of a project.
#[derive(Default)]
pub(crate) struct Report(RefCell<Vec<Problem>>);

impl Report {
    pub(crate) fn add(&self, problem: Problem) {
        self.0.borrow_mut().push(problem);
    }

    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.0.into_inner()
    }
}

/// A TOML file: its text, and where its problems are reported.
pub(crate) struct Document<'r> {
    file: PathBuf,
    text: String,
    report: &'r Report,
    /// Lines that do not parse. Further problems of these lines are not reported.
    broken: RefCell<Vec<u32>>,
    unknown_keys: UnknownKeys<'r>,
}

/// How unknown keys are reported.
#[derive(Clone, Copy)]
pub(crate) enum UnknownKeys<'r> {
    /// As problems.
    Refuse,
    /// As warnings, in this report.
    Warn(&'r Report),
}

impl<'r> Document<'r> {
    pub(crate) fn new(file: &Path, text: String, report: &'r Report) -> Self {
        Self {
            file: file.to_owned(),
            text,
            report,
            broken: RefCell::default(),
            unknown_keys: UnknownKeys::Refuse,
        }
    }

    /// Sets how unknown keys are reported.
    pub(crate) fn unknown_keys(mut self, unknown_keys: UnknownKeys<'r>) -> Self {
        self.unknown_keys = unknown_keys;
        self
    }

    /// Parses the file and passes its root table to `read`, even if a part is invalid.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Reader<'_>) -> T) -> T {
        let (root, errors) = DeTable::parse_recoverable(&self.text);
        let whole = errors.is_empty();
        for error in errors {
            let problem = Problem::new(
                &self.file,
                format!("no valid TOML: {}", error.message().trim()),
            );
            let problem = match error.span() {
                Some(span) => problem.at(&self.text, span.start),
                None => problem,
            };
            self.broken.borrow_mut().extend(problem.line);
            self.report.add(problem);
        }
        let reader = Reader {
            document: self,
            table: root.get_ref(),
            at: root.span(),
            name: String::new(),
            known: RefCell::default(),
            unknown_keys: whole,
            refuse_unknown_keys: Cell::new(false),
        };
        let value = read(&reader);
        reader.finish();
        value
    }

    fn problem(&self, at: &Range<usize>, message: String) -> Problem {
        Problem::new(&self.file, message).at(&self.text, at.start)
    }

    fn add(&self, problem: Problem) {
        if problem
            .line
            .is_none_or(|line| !self.broken.borrow().contains(&line))
        {
            self.report.add(problem);
        }
    }
}

/// A text of the file, with its place.
pub(crate) struct LocatedText {
    pub(crate) value: String,
    pub(crate) at: Range<usize>,
}

/// A table of the file.
pub(crate) struct Reader<'d> {
    document: &'d Document<'d>,
    table: &'d DeTable<'d>,
    at: Range<usize>,
    /// The dotted name; empty for the root.
    name: String,
    known: RefCell<Vec<&'static str>>,
    unknown_keys: bool,
    refuse_unknown_keys: Cell<bool>,
}

impl<'d> Reader<'d> {
    /// Reports a problem at a place of this file.
    pub(crate) fn problem(&self, at: &Range<usize>, message: impl Into<String>) {
        self.document.add(self.document.problem(at, message.into()));
    }

    /// Reports a problem with a suggestion.
    pub(crate) fn problem_with_help(
        &self,
        at: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.document
            .add(self.document.problem(at, message.into()).help(help));
    }

    /// A problem that the caller reports elsewhere.
    pub(crate) fn located(&self, at: &Range<usize>, message: impl Into<String>) -> Problem {
        self.document.problem(at, message.into())
    }

    /// The place of this table.
    pub(crate) fn at(&self) -> &Range<usize> {
        &self.at
    }

    fn full_name(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }

    fn get(&self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.known.borrow_mut().push(key);
        self.table.get(key)
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
        let found = type_of(value.get_ref());
        self.problem(
            &value.span(),
            format!("`{}` is {found}, expected {expected}", self.full_name(key)),
        );
    }

    /// Reports a missing key that has no default.
    pub(crate) fn missing(&self, key: &str, example: &str) {
        let name = self.full_name(key);
        self.problem_with_help(
            &self.at,
            format!("`{name}` is missing"),
            format!("write {example}"),
        );
    }

    pub(crate) fn text(&self, key: &'static str) -> Option<LocatedText> {
        let value = self.get(key)?;
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(key, value, "a string");
            return None;
        };
        Some(LocatedText {
            value: text.to_owned(),
            at: value.span(),
        })
    }

    pub(crate) fn boolean(&self, key: &'static str) -> Option<bool> {
        let value = self.get(key)?;
        let found = value.get_ref().as_bool();
        if found.is_none() {
            self.wrong_type(key, value, "true or false");
        }
        found
    }

    pub(crate) fn texts(&self, key: &'static str) -> Option<Vec<LocatedText>> {
        let value = self.get(key)?;
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of strings");
            return None;
        };
        let mut texts = Vec::with_capacity(array.len());
        for item in array.iter() {
            match item.get_ref().as_str() {
                Some(text) => texts.push(LocatedText {
                    value: text.to_owned(),
                    at: item.span(),
                }),
                None => self.wrong_type(key, item, "a list of strings"),
            }
        }
        Some(texts)
    }

    /// A table of strings with keys of the user.
    pub(crate) fn map(&self, key: &'static str) -> Vec<(LocatedText, LocatedText)> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(key, value, "a table");
            return Vec::new();
        };
        let mut entries = Vec::with_capacity(table.len());
        for (name, value) in table.iter() {
            match value.get_ref().as_str() {
                Some(text) => entries.push((
                    LocatedText {
                        value: name.get_ref().to_string(),
                        at: name.span(),
                    },
                    LocatedText {
                        value: text.to_owned(),
                        at: value.span(),
                    },
                )),
                None => {
                    let found = type_of(value.get_ref());
                    let name = self.full_name(key) + "." + name.get_ref();
                    self.problem_with_help(
                        &value.span(),
                        format!("`{name}` is {found}, expected a string"),
                        "write the value in quotes",
                    );
                }
            }
        }
        entries
    }

    fn reader(&self, key: &str, value: &'d Spanned<DeValue<'d>>) -> Option<Reader<'d>> {
        Some(Reader {
            document: self.document,
            table: value.get_ref().as_table()?,
            at: value.span(),
            name: self.full_name(key),
            known: RefCell::default(),
            unknown_keys: self.unknown_keys,
            refuse_unknown_keys: Cell::new(false),
        })
    }

    /// Reads a table, if it exists.
    pub(crate) fn table<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Reader<'d>) -> T,
    ) -> Option<T> {
        let value = self.get(key)?;
        let Some(reader) = self.reader(key, value) else {
            self.wrong_type(key, value, &format!("a table `[{}]`", self.full_name(key)));
            return None;
        };
        let result = read(&reader);
        reader.finish();
        Some(result)
    }

    /// Reads each table of a table of tables, whose names are the user's.
    pub(crate) fn tables_by_name<T>(
        &self,
        key: &'static str,
        mut read: impl FnMut(&LocatedText, &Reader<'d>) -> T,
    ) -> Vec<T> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(
                key,
                value,
                &format!("tables `[{}.NAME]`", self.full_name(key)),
            );
            return Vec::new();
        };
        let mut results = Vec::with_capacity(table.len());
        for (name, value) in table.iter() {
            let name = LocatedText {
                value: name.get_ref().to_string(),
                at: name.span(),
            };
            let key = format!("{key}.{}", name.value);
            match self.reader(&key, value) {
                Some(reader) => {
                    results.push(read(&name, &reader));
                    reader.finish();
                }
                None => self.wrong_type(&key, value, &format!("a table `[{key}]`")),
            }
        }
        results
    }

    /// Whether the table has a key.
    pub(crate) fn has(&self, key: &'static str) -> bool {
        self.get(key).is_some()
    }

    /// Reads each table of a list of tables.
    pub(crate) fn tables<T>(
        &self,
        key: &'static str,
        mut read: impl FnMut(&Reader<'d>) -> T,
    ) -> Vec<T> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let expected = || format!("a list of tables `[[{}]]`", self.full_name(key));
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, &expected());
            return Vec::new();
        };
        let mut results = Vec::with_capacity(array.len());
        for item in array.iter() {
            match self.reader(key, item) {
                Some(reader) => {
                    results.push(read(&reader));
                    reader.finish();
                }
                None => self.wrong_type(key, item, &expected()),
            }
        }
        results
    }

    /// The text of a value that has one of several types.
    pub(crate) fn scalar(
        &self,
        key: &'static str,
        types: &[TomlType],
        expected: &str,
    ) -> Option<LocatedText> {
        let value = self.get(key)?;
        let text = match value.get_ref() {
            DeValue::String(text) if types.contains(&TomlType::Text) => text.to_string(),
            DeValue::Boolean(value) if types.contains(&TomlType::Boolean) => value.to_string(),
            DeValue::Integer(number) if types.contains(&TomlType::Integer) => {
                match u64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => number.to_string(),
                    // Negative or too large: the setting reports what it expects.
                    Err(_) => number.to_string(),
                }
            }
            DeValue::Array(items) if types.contains(&TomlType::Texts) => {
                let texts: Option<Vec<&str>> =
                    items.iter().map(|item| item.get_ref().as_str()).collect();
                let Some(texts) = texts else {
                    self.wrong_type(key, value, expected);
                    return None;
                };
                texts.join(",")
            }
            _ => {
                self.wrong_type(key, value, expected);
                return None;
            }
        };
        Some(LocatedText {
            value: text,
            at: value.span(),
        })
    }

    /// Makes unknown keys of this table problems, however the file treats them.
    pub(crate) fn refuse_unknown_keys(&self) {
        self.refuse_unknown_keys.set(true);
    }

    /// Reports unknown keys.
    fn finish(&self) {
        if !self.unknown_keys {
            return;
        }
        let known = self.known.borrow();
        for name in self.table.keys() {
            let text: &str = name.get_ref();
            if known.contains(&text) {
                continue;
            }
            let problem = self.document.problem(
                &name.span(),
                format!("unknown key `{}`", self.full_name(text)),
            );
            let help = match nearest(text, &known) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("known here: {}", known.join(", ")),
            };
            match self.document.unknown_keys {
                UnknownKeys::Warn(warnings) if !self.refuse_unknown_keys.get() => {
                    warnings.add(problem.help(help));
                }
                _ => self.document.add(problem.help(help)),
            }
        }
    }
}

/// Reads a text that names one of several values.
pub(crate) fn one_of<T: Copy>(
    table: &Reader<'_>,
    key: &'static str,
    values: &[T],
    name: impl Fn(T) -> &'static str,
) -> Option<T> {
    let text = table.text(key)?;
    let found = values.iter().find(|value| name(**value) == text.value);
    if found.is_none() {
        let names: Vec<&str> = values.iter().map(|value| name(*value)).collect();
        table.problem(
            &text.at,
            format!(
                "`{key}` is `{}`, expected one of {}",
                text.value,
                names.join(", ")
            ),
        );
    }
    found.copied()
}

fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The most similar name, if there is a similar one.
pub(crate) fn nearest<'n>(text: &str, names: &[&'n str]) -> Option<&'n str> {
    let reach = text.len() / 3 + 1;
    names
        .iter()
        .map(|name| (distance(text, name), *name))
        .filter(|(distance, _)| *distance <= reach)
        .min()
        .map(|(_, name)| name)
}

/// The edit distance of two names (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested() {
        assert_eq!(
            nearest("namspace", &["namespace", "name"]),
            Some("namespace")
        );
        assert_eq!(
            nearest("allowed_host", &["allow_http", "allowed_hosts"]),
            Some("allowed_hosts")
        );
        assert_eq!(nearest("colour", &["namespace"]), None);
    }
}
