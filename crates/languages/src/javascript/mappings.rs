//! Parses source maps (ECMA-426), which map places of a generated file to places of its sources.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

/// Segments of a map; one with more is not read. A bundle of ten megabytes has about a million.
const MAX_SEGMENTS: usize = 1 << 22;

/// A decoded source map.
pub(super) struct Mappings {
    /// By line and column of the generated file. Lines without segments take no memory.
    segments: Vec<Segment>,
    sources: Vec<String>,
}

/// What begins at a place of the generated file.
#[derive(Clone, Copy)]
struct Segment {
    line: u32,
    column: u32,
    source: u32,
    source_line: u32,
    source_column: u32,
}

/// A map in JSON. Maps with `sections` are not supported.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SourceMapJson {
    #[serde(default)]
    source_root: Option<String>,
    sources: Vec<Option<String>>,
    mappings: String,
}

impl Mappings {
    /// A map in a `data:` URL.
    pub(super) fn from_url(url: &str) -> Option<Self> {
        let (kind, data) = url.strip_prefix("data:")?.split_once(',')?;
        if kind.ends_with(";base64") {
            Self::read(&STANDARD.decode(data).ok()?)
        } else {
            let bytes: Vec<u8> = percent_encoding::percent_decode_str(data).collect();
            Self::read(&bytes)
        }
    }

    /// A map in JSON.
    pub(super) fn read(json: &[u8]) -> Option<Self> {
        let written: SourceMapJson = serde_json::from_slice(json).ok()?;
        let root = written.source_root.unwrap_or_default();
        let sources = written
            .sources
            .into_iter()
            .map(|source| format!("{root}{}", source.unwrap_or_default()))
            .collect();
        Some(Self {
            segments: segments(&written.mappings, MAX_SEGMENTS)?,
            sources,
        })
    }

    /// The source, line and column of a place in the generated file. All are counted from 0.
    pub(super) fn find(&self, line: u32, column: u32) -> Option<(&str, u32, u32)> {
        let first = self.segments.partition_point(|segment| segment.line < line);
        let segments = &self.segments[first..];
        let segments = &segments[..segments.partition_point(|segment| segment.line == line)];
        let after = segments.partition_point(|segment| segment.column <= column);
        // Places before the first segment belong to its statement.
        let segment = segments.get(after.saturating_sub(1))?;
        let source = self.sources.get(usize::try_from(segment.source).ok()?)?;
        Some((source, segment.source_line, segment.source_column))
    }
}

/// Lines are divided by `;`, segments by `,`; numbers are differences from the ones before.
fn segments(mappings: &str, max: usize) -> Option<Vec<Segment>> {
    let (mut source, mut source_line, mut source_column) = (0i64, 0i64, 0i64);
    let mut segments = Vec::new();
    for (line, written) in mappings.split(';').enumerate() {
        let line = u32::try_from(line).ok()?;
        let first = segments.len();
        let mut column = 0i64;
        for segment in written.split(',').filter(|segment| !segment.is_empty()) {
            let mut numbers = Numbers(segment.bytes());
            column = column.checked_add(numbers.next()??)?;
            // A segment of one number has no source.
            let Some(number) = numbers.next() else {
                continue;
            };
            source = source.checked_add(number?)?;
            source_line = source_line.checked_add(numbers.next()??)?;
            source_column = source_column.checked_add(numbers.next()??)?;
            if segments.len() == max {
                return None;
            }
            segments.push(Segment {
                line,
                column: u32::try_from(column).ok()?,
                source: u32::try_from(source).ok()?,
                source_line: u32::try_from(source_line).ok()?,
                source_column: u32::try_from(source_column).ok()?,
            });
        }
        segments[first..].sort_by_key(|segment| segment.column);
    }
    Some(segments)
}

/// Numbers in base-64 digits of five bits, lowest first; the sixth bit means "more follows", the
/// lowest bit of the number is the sign.
struct Numbers<'a>(std::str::Bytes<'a>);

impl Iterator for Numbers<'_> {
    /// `None` for an invalid number.
    type Item = Option<i64>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut value, mut shift) = (0i64, 0);
        let mut byte = self.0.next()?;
        loop {
            let digit = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return Some(None),
            };
            value |= i64::from(digit & 31) << shift;
            if digit & 32 == 0 {
                let magnitude = value >> 1;
                return Some(Some(if value & 1 == 0 {
                    magnitude
                } else {
                    -magnitude
                }));
            }
            shift += 5;
            if shift > 30 {
                return Some(None);
            }
            match self.0.next() {
                Some(next) => byte = next,
                None => return Some(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn places_are_found() {
        // Line 1: column 0 is a.ts 0:0, column 4 is a.ts 9:4. Line 3: column 2 is b.ts 8:0, of a
        // long line -1 is written as D.
        let map = Mappings::read(
            br#"{"version":3,"sourceRoot":"src/","sources":["a.ts","b.ts"],"mappings":"AAAA,IASI;;ECDJ"}"#,
        )
        .unwrap();
        assert_eq!(map.find(0, 0), Some(("src/a.ts", 0, 0)));
        assert_eq!(map.find(0, 3), Some(("src/a.ts", 0, 0)));
        assert_eq!(map.find(0, 99), Some(("src/a.ts", 9, 4)));
        assert_eq!(map.find(1, 0), None);
        assert_eq!(map.find(2, 2), Some(("src/b.ts", 8, 0)));
        assert_eq!(map.find(9, 0), None);
    }

    /// A number as a map has it.
    fn encode(number: i64, out: &mut String) {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut left = number.unsigned_abs() << 1 | u64::from(number < 0);
        loop {
            let digit = left & 31;
            left >>= 5;
            let digit = if left > 0 { digit | 32 } else { digit };
            out.push(char::from(DIGITS[usize::try_from(digit).unwrap()]));
            if left == 0 {
                return;
            }
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config {
            failure_persistence: None,
            ..proptest::test_runner::Config::with_cases(if cfg!(miri) { 4 } else { 500 })
        })]
        #[test]
        fn what_is_written_is_found(
            lines in proptest::collection::vec(
                proptest::collection::vec(
                    (0i64..1 << 28, 0i64..3, 0i64..1 << 28, 0i64..1 << 28, proptest::bool::ANY),
                    0..5,
                ),
                0..5,
            ),
        ) {
            let (mut text, mut before) = (String::new(), (0, 0, 0));
            for (index, line) in lines.iter().enumerate() {
                let mut column_before = 0;
                text.push_str(if index == 0 { "" } else { ";" });
                for (place, (column, source, row, at, named)) in line.iter().enumerate() {
                    text.push_str(if place == 0 { "" } else { "," });
                    let numbers =
                        [column - column_before, source - before.0, row - before.1, at - before.2];
                    for number in numbers {
                        encode(number, &mut text);
                    }
                    text.push_str(if *named { "C" } else { "" });
                    column_before = *column;
                    before = (*source, *row, *at);
                }
            }
            let json = format!(r#"{{"sources":["a","b",null],"mappings":"{text}"}}"#);
            let map = Mappings::read(json.as_bytes()).unwrap();
            for (index, line) in lines.iter().enumerate() {
                for (column, ..) in line {
                    let last = line.iter().rfind(|other| other.0 == *column);
                    let (_, source, row, at, _) = *last.unwrap();
                    let source = ["a", "b", ""][usize::try_from(source).unwrap()];
                    let number = |number| u32::try_from(number).unwrap();
                    let found = map.find(number(index as i64), number(*column));
                    assert_eq!(found, Some((source, number(row), number(at))), "{json}");
                }
            }
        }

        #[test]
        fn reads_or_rejects_any_mappings(
            text in "[A-Da-f+/9;,!g]{0,40}",
            line in 0u32..4,
            column in 0u32..50,
        ) {
            let json = format!(r#"{{"sources":["a"],"mappings":"{text}"}}"#);
            if let Some(map) = Mappings::read(json.as_bytes()) {
                let _ = map.find(line, column);
            }
        }
    }

    #[test]
    fn memory_of_a_map_is_bounded() {
        // Lines without segments take no memory.
        let found = segments(&(";".repeat(100) + "AAAA"), 2).unwrap();
        assert_eq!((found.len(), found.capacity()), (1, 4));
        assert_eq!(found[0].line, 100);
        assert!(segments("AAAA;AAAA", 2).is_some());
        assert!(segments("AAAA;AAAA,AAAA", 2).is_none());
    }

    #[test]
    fn what_is_no_map_is_none() {
        for json in [
            "",
            "{}",
            r#"{"sources":[],"mappings":"!"}"#,
            r#"{"sources":[],"mappings":"AA"}"#,
            r#"{"sources":[],"mappings":"gggggggggA"}"#,
            r#"{"sources":["a"],"mappings":"AADA"}"#,
        ] {
            assert!(Mappings::read(json.as_bytes()).is_none(), "{json}");
        }
        assert!(Mappings::from_url("data:application/json,%7B%7D").is_none());
        assert!(
            Mappings::from_url("data:application/json,{\"sources\":[],\"mappings\":\"\"}")
                .is_some()
        );
    }
}
