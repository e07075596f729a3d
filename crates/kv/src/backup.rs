//! The format of backups: a line of JSON for each entry, between a line that names the format and
//! a line that ends it.
//!
//! ```text
//! {"format":"wws-kv","version":1}
//! {"namespace":"visits","key":"count","value":"3"}
//! {"namespace":"sessions","key":"a","value_base64":"/w==","expires_ms":1767225600000}
//! {"entries":2}
//! ```
//!
//! The last line shows that nothing is missing. Input without the first line needs no last one: a
//! few entries that somebody wrote.

use std::borrow::Cow;
use std::io::{self, BufRead, Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::entry::StoredEntry;
use crate::error::Error;
use crate::limits::StoreLimits;

/// The name of the format.
const FORMAT: &str = "wws-kv";

/// The version of the format.
const VERSION: u64 = 1;

/// The most bytes of a namespace.
const MAX_NAMESPACE: usize = 4 << 10;

/// Bytes of a character that JSON escapes: `\u0000`.
const ESCAPED: usize = 6;

/// Bytes of a line besides its strings.
const NAMES: usize = 256;

/// What is wrong with a backup, and where.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct BackupError {
    /// The line, counted from 1.
    pub line: u64,
    /// What is wrong.
    pub problem: BackupProblem,
}

/// What is wrong with a backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupProblem {
    /// The input cannot be read.
    #[error("cannot read: {0}")]
    Io(#[source] io::Error),
    /// A line is longer than one with the largest key and value.
    #[error("longer than {limit} bytes, and so larger than `max_key` and `max_value` allow")]
    TooLong {
        /// The bound in bytes.
        limit: usize,
    },
    /// A line is not JSON, or not of the format.
    #[error("not a line of a backup: {0}")]
    Json(#[source] serde_json::Error),
    /// A line has wrong fields.
    #[error("not a line of a backup: {0}")]
    Fields(&'static str),
    /// A value is not in base64.
    #[error("the value is not in base64: {0}")]
    Base64(#[source] base64::DecodeError),
    /// The format is that of a newer version.
    #[error("version {0} of the format; this program reads version {VERSION}")]
    Version(u64),
    /// An entry exceeds a limit of the store.
    #[error("{0}")]
    Entry(#[source] Error),
    /// The end is missing.
    #[error(
        "the backup is incomplete: it ends after {entries} entries without the line that ends it"
    )]
    Incomplete {
        /// Entries that were read.
        entries: u64,
    },
    /// Lines in the middle are missing.
    #[error("the backup is incomplete: it has {found} of {expected} entries")]
    Count {
        /// Entries that were read.
        found: u64,
        /// Entries that were written.
        expected: u64,
    },
}

/// All fields of all lines.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BackupLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<u64>,
}

/// Writes a backup.
pub struct BackupWriter<W> {
    output: W,
    entries: u64,
}

impl<W: Write> BackupWriter<W> {
    /// Begins a backup.
    ///
    /// # Errors
    /// The output cannot be written, as for the other functions.
    pub fn begin(output: W) -> io::Result<Self> {
        let mut writer = Self { output, entries: 0 };
        writer.line(&BackupLine {
            format: Some(FORMAT.into()),
            version: Some(VERSION),
            ..BackupLine::default()
        })?;
        Ok(writer)
    }

    /// Writes lines of entries alone.
    pub fn of_entries(output: W) -> Self {
        Self { output, entries: 0 }
    }

    /// Writes an entry.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn entry(&mut self, entry: &StoredEntry) -> io::Result<()> {
        let (value, value_base64) = match std::str::from_utf8(&entry.value) {
            Ok(text) => (Some(text.into()), None),
            Err(_) => (None, Some(STANDARD.encode(&entry.value).into())),
        };
        self.entries += 1;
        self.line(&BackupLine {
            namespace: Some(entry.namespace.as_str().into()),
            key: Some(entry.key.as_str().into()),
            value,
            value_base64,
            expires_ms: entry.expires,
            ..BackupLine::default()
        })
    }

    /// Ends a backup. Returns its output and the number of its entries.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn end(mut self) -> io::Result<(W, u64)> {
        self.line(&BackupLine {
            entries: Some(self.entries),
            ..BackupLine::default()
        })?;
        self.output.flush()?;
        Ok((self.output, self.entries))
    }

    fn line(&mut self, line: &BackupLine<'_>) -> io::Result<()> {
        serde_json::to_writer(&mut self.output, line)?;
        self.output.write_all(b"\n")
    }
}

/// Reads a backup.
pub struct BackupReader<R> {
    input: R,
    limits: StoreLimits,
    line: u64,
    entries: u64,
    /// Whether the first line names the format, so that the last one must end it.
    is_framed: bool,
    /// Whether the line that ends it was read.
    is_ended: bool,
    text: Vec<u8>,
}

impl<R: BufRead> BackupReader<R> {
    /// Reads a backup for a store with these limits.
    pub fn new(input: R, limits: StoreLimits) -> Self {
        Self {
            input,
            limits,
            line: 0,
            entries: 0,
            is_framed: false,
            is_ended: false,
            text: Vec::new(),
        }
    }

    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// The input cannot be read, is no backup, is incomplete, or has an entry that exceeds a limit.
    pub fn next_entry(&mut self) -> Result<Option<StoredEntry>, BackupError> {
        let read = self.read();
        read.map_err(|problem| BackupError {
            line: self.line,
            problem,
        })
    }

    fn read(&mut self) -> Result<Option<StoredEntry>, BackupProblem> {
        loop {
            if !self.read_line()? {
                return match self.is_framed && !self.is_ended {
                    true => Err(BackupProblem::Incomplete {
                        entries: self.entries,
                    }),
                    false => Ok(None),
                };
            }
            if self.text.trim_ascii().is_empty() {
                continue;
            }
            if self.is_ended {
                return Err(BackupProblem::Fields("it follows the line that ends it"));
            }
            let line = serde_json::from_slice(&self.text).map_err(BackupProblem::Json)?;
            match line {
                BackupLine {
                    format: Some(format),
                    version: Some(version),
                    namespace: None,
                    key: None,
                    value: None,
                    value_base64: None,
                    expires_ms: None,
                    entries: None,
                } if format == FORMAT => {
                    if self.is_framed || self.entries > 0 {
                        return Err(BackupProblem::Fields(
                            "only the first line names the format",
                        ));
                    }
                    if version != VERSION {
                        return Err(BackupProblem::Version(version));
                    }
                    self.is_framed = true;
                }
                BackupLine {
                    format: None,
                    version: None,
                    namespace: None,
                    key: None,
                    value: None,
                    value_base64: None,
                    expires_ms: None,
                    entries: Some(expected),
                } => {
                    if !self.is_framed {
                        return Err(BackupProblem::Fields(
                            "the line that names the format lacks",
                        ));
                    }
                    if expected != self.entries {
                        return Err(BackupProblem::Count {
                            found: self.entries,
                            expected,
                        });
                    }
                    self.is_ended = true;
                }
                line => {
                    let entry = entry(line)?;
                    entry.check(&self.limits).map_err(BackupProblem::Entry)?;
                    self.entries += 1;
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// Reads a line, within its bound. Returns `false` at the end.
    fn read_line(&mut self) -> Result<bool, BackupProblem> {
        let strings = self.limits.key + self.limits.value + MAX_NAMESPACE;
        let limit = strings.saturating_mul(ESCAPED).saturating_add(NAMES);
        self.text.clear();
        self.line += 1;
        let mut input = (&mut self.input).take(limit as u64 + 1);
        let read = input.read_until(b'\n', &mut self.text);
        match read.map_err(BackupProblem::Io)? {
            read if read > limit => Err(BackupProblem::TooLong { limit }),
            read => Ok(read > 0),
        }
    }
}

/// The entry of a line.
fn entry(line: BackupLine<'_>) -> Result<StoredEntry, BackupProblem> {
    let BackupLine {
        format: None,
        version: None,
        namespace: Some(namespace),
        key: Some(key),
        value,
        value_base64,
        expires_ms: expires,
        entries: None,
    } = line
    else {
        return Err(BackupProblem::Fields(
            "expected `namespace`, `key`, and `value` or `value_base64`",
        ));
    };
    if namespace.is_empty() || namespace.len() > MAX_NAMESPACE {
        return Err(BackupProblem::Fields("the namespace is empty, or too long"));
    }
    let value = match (value, value_base64) {
        (Some(text), None) => text.into_owned().into_bytes(),
        (None, Some(base64)) => STANDARD
            .decode(base64.as_bytes())
            .map_err(BackupProblem::Base64)?,
        _ => return Err(BackupProblem::Fields("expected `value` or `value_base64`")),
    };
    Ok(StoredEntry {
        namespace: namespace.into_owned(),
        key: key.into_owned(),
        value,
        expires,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> Result<Vec<StoredEntry>, String> {
        let limits = StoreLimits {
            key: 10,
            value: 20,
            ..StoreLimits::default()
        };
        let mut reader = BackupReader::new(text.as_bytes(), limits);
        let mut entries = Vec::new();
        loop {
            match reader.next_entry() {
                Ok(Some(entry)) => entries.push(entry),
                Ok(None) => return Ok(entries),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    fn sample() -> (Vec<StoredEntry>, String) {
        let plain = StoredEntry::new("n", "a", b"1\n\"\0".to_vec(), None);
        let bytes = StoredEntry {
            expires: Some(crate::entry::now() + 60_000),
            ..StoredEntry::new("é", "", vec![0xff, 0], None)
        };
        let mut writer = BackupWriter::begin(Vec::new()).unwrap();
        writer.entry(&plain).unwrap();
        writer.entry(&bytes).unwrap();
        let (text, entries) = writer.end().unwrap();
        assert_eq!(entries, 2);
        (vec![plain, bytes], String::from_utf8(text).unwrap())
    }

    #[test]
    fn reads_what_was_written() {
        let (entries, text) = sample();
        assert_eq!(read(&text).unwrap(), entries);
        assert!(
            text.contains(r#""value_base64":"/wA=","expires_ms":"#),
            "{text}"
        );
    }

    #[test]
    fn notices_what_is_missing() {
        let (entries, text) = sample();
        let lines: Vec<_> = text.lines().collect();
        for kept in 0..lines.len() {
            let cut = lines[..kept].join("\n");
            assert_eq!(read(&cut).is_err(), kept > 0, "{cut}");
        }
        let error = read(&[lines[0], lines[2], lines[3]].join("\n")).unwrap_err();
        assert_eq!(
            error,
            "line 3: the backup is incomplete: it has 1 of 2 entries"
        );
        // Without the first line, any number of entries is complete.
        assert_eq!(read(lines[1]).unwrap(), entries[..1]);
        assert_eq!(read("\n\n").unwrap(), []);
    }

    #[test]
    fn rejects_other_lines() {
        for (line, expected) in [
            ("{", "line 1: not a line of a backup: EOF"),
            ("[]", "line 1: not a line"),
            (
                r#"{"format":"wws-kv","version":2}"#,
                "line 1: version 2 of the format",
            ),
            (r#"{"format":"other","version":1}"#, "line 1: not a line"),
            (r#"{"entries":0}"#, "line 1: not a line"),
            (
                r#"{"namespace":"","key":"a","value":""}"#,
                "line 1: not a line",
            ),
            (r#"{"namespace":"n","key":"a"}"#, "line 1: not a line"),
            (
                r#"{"namespace":"n","key":"a","value":"","value_base64":""}"#,
                "line 1: not",
            ),
            (
                r#"{"namespace":"n","key":"a","value_base64":"?"}"#,
                "line 1: the value is not",
            ),
            (
                r#"{"namespace":"n","key":"a","value":"","ttl":1}"#,
                "line 1: not a line",
            ),
            (
                r#"{"namespace":"n","key":"a","key":"b","value":""}"#,
                "line 1: not a line",
            ),
            (
                r#"{"namespace":"n","key":"12345678901","value":""}"#,
                "line 1: a key of 11 bytes",
            ),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.starts_with(expected), "{line}: {error}");
        }
        let long = " ".repeat(40_000);
        assert!(read(&long).unwrap_err().starts_with("line 1: longer than "));
    }
}
