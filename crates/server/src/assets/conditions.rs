//! Conditional and range requests for assets: RFC 9110, 13 and 14.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};

/// What identifies the version of a file.
#[derive(Clone, Debug)]
pub(crate) struct FileVersion {
    /// Quotes included.
    pub(crate) etag: String,
    /// In whole seconds.
    pub(crate) modified: SystemTime,
}

/// What of a file is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    All,
    /// The first byte and the number of bytes.
    Part(u64, u64),
    /// Nothing: the client has it.
    NotModified,
    /// Nothing: the client wants another version.
    Changed,
    /// The range is beyond the end.
    Unsatisfiable,
}

/// What a `GET` or `HEAD` of a file of `size` bytes asks for.
pub(crate) fn select(headers: &HeaderMap, version: &FileVersion, size: u64) -> Selection {
    if is_changed(headers, version) {
        return Selection::Changed;
    }
    if is_known(headers, version) {
        return Selection::NotModified;
    }
    let Some(range) = text(headers, &header::RANGE) else {
        return Selection::All;
    };
    if let Some(condition) = text(headers, &header::IF_RANGE) {
        let same = condition == version.etag
            || httpdate::parse_http_date(condition).is_ok_and(|date| date == version.modified);
        if !same {
            return Selection::All;
        }
    }
    part(range, size)
}

fn text<'h>(headers: &'h HeaderMap, name: &header::HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Whether the client asks for another version only (RFC 9110, 13.1.1 and 13.1.4).
fn is_changed(headers: &HeaderMap, version: &FileVersion) -> bool {
    if headers.contains_key(header::IF_MATCH) {
        // Weak tags never match here.
        return !tags(headers, &header::IF_MATCH).any(|tag| tag == "*" || tag == version.etag);
    }
    text(headers, &header::IF_UNMODIFIED_SINCE)
        .and_then(|date| httpdate::parse_http_date(date).ok())
        .is_some_and(|date| version.modified > date)
}

fn tags<'h>(
    headers: &'h HeaderMap,
    name: &header::HeaderName,
) -> impl Iterator<Item = &'h str> + use<'h> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

fn is_known(headers: &HeaderMap, version: &FileVersion) -> bool {
    if headers.contains_key(header::IF_NONE_MATCH) {
        return tags(headers, &header::IF_NONE_MATCH)
            .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == version.etag);
    }
    text(headers, &header::IF_MODIFIED_SINCE)
        .and_then(|date| httpdate::parse_http_date(date).ok())
        .is_some_and(|date| version.modified <= date)
}

/// Parses one range of bytes. Several ranges and invalid ranges are ignored.
fn part(range: &str, size: u64) -> Selection {
    let Some((first, last)) = range
        .trim()
        .strip_prefix("bytes=")
        .and_then(|set| set.split_once('-'))
    else {
        return Selection::All;
    };
    let number = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| text.parse::<u64>().ok())
            .flatten()
    };
    let (first, last) = (first.trim(), last.trim());
    match (first.is_empty(), last.is_empty()) {
        (true, true) => Selection::All,
        // A suffix of the file.
        (true, false) => match number(last) {
            None => Selection::All,
            Some(_) if size == 0 => Selection::Unsatisfiable,
            Some(0) => Selection::Unsatisfiable,
            Some(count) => Selection::Part(size - count.min(size), count.min(size)),
        },
        (false, open) => match (
            number(first),
            if open { Some(u64::MAX) } else { number(last) },
        ) {
            (Some(first), Some(last)) if first > last => Selection::All,
            (Some(first), Some(_)) if first >= size => Selection::Unsatisfiable,
            (Some(first), Some(last)) => Selection::Part(first, last.min(size - 1) - first + 1),
            _ => Selection::All,
        },
    }
}

/// Removes what `Last-Modified` cannot express: fractions of seconds, and years before 1970 or
/// after 9999.
pub(crate) fn whole_seconds(time: SystemTime) -> SystemTime {
    const YEAR_9999: u64 = 253_402_300_799;
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs().min(YEAR_9999))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(pairs: &[(header::HeaderName, &str)]) -> Selection {
        let headers: HeaderMap = pairs
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect();
        let modified = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        select(
            &headers,
            &FileVersion {
                etag: "\"v1\"".into(),
                modified,
            },
            10,
        )
    }

    #[test]
    fn ranges() {
        for (range, want) in [
            ("bytes=0-3", Selection::Part(0, 4)),
            ("bytes=2-", Selection::Part(2, 8)),
            ("bytes=-3", Selection::Part(7, 3)),
            ("bytes=-30", Selection::Part(0, 10)),
            ("bytes=9-99", Selection::Part(9, 1)),
            ("bytes=10-", Selection::Unsatisfiable),
            ("bytes=-0", Selection::Unsatisfiable),
            ("bytes=3-2", Selection::All),
            ("bytes=0-1,4-5", Selection::All),
            ("bytes=+1-2", Selection::All),
            ("bytes=99999999999999999999-", Selection::All),
            ("bytes=-", Selection::All),
            ("lines=0-1", Selection::All),
        ] {
            assert_eq!(of(&[(header::RANGE, range)]), want, "{range}");
        }
    }

    #[test]
    fn answers_304_for_the_version_that_the_client_has() {
        for tags in ["\"v1\"", "W/\"v1\"", "\"v0\", \"v1\"", "*"] {
            assert_eq!(
                of(&[(header::IF_NONE_MATCH, tags)]),
                Selection::NotModified,
                "{tags}"
            );
        }
        assert_eq!(of(&[(header::IF_NONE_MATCH, "\"v2\"")]), Selection::All);
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(
            of(&[(header::IF_MODIFIED_SINCE, date)]),
            Selection::NotModified
        );
        assert_eq!(
            of(&[(header::IF_MODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:36 GMT")]),
            Selection::All
        );
        // The tag is the better condition.
        assert_eq!(
            of(&[
                (header::IF_NONE_MATCH, "\"v2\""),
                (header::IF_MODIFIED_SINCE, date)
            ]),
            Selection::All
        );
    }

    #[test]
    fn answers_412_for_another_version() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        for tags in ["\"v1\"", "\"v0\", \"v1\"", "*"] {
            assert_eq!(of(&[(header::IF_MATCH, tags)]), Selection::All, "{tags}");
        }
        for tags in ["\"v2\"", "W/\"v1\"", "v1"] {
            assert_eq!(
                of(&[(header::IF_MATCH, tags)]),
                Selection::Changed,
                "{tags}"
            );
        }
        let since = |date| of(&[(header::IF_UNMODIFIED_SINCE, date)]);
        assert_eq!(since(date), Selection::All);
        assert_eq!(since("Sun, 06 Nov 1994 08:49:36 GMT"), Selection::Changed);
        assert_eq!(since("yesterday"), Selection::All);
        // The tag is the better condition; and both come before what the client has, and before a
        // range.
        let early = "Sun, 06 Nov 1994 08:49:36 GMT";
        for (other, value) in [
            (header::IF_UNMODIFIED_SINCE, early),
            (header::IF_NONE_MATCH, "\"v2\""),
        ] {
            assert_eq!(
                of(&[(header::IF_MATCH, "\"v1\""), (other, value)]),
                Selection::All
            );
        }
        for (other, value) in [
            (header::IF_NONE_MATCH, "\"v1\""),
            (header::RANGE, "bytes=0-1"),
        ] {
            assert_eq!(
                of(&[(header::IF_MATCH, "\"v2\""), (other, value)]),
                Selection::Changed
            );
        }
    }

    #[test]
    fn sends_the_whole_file_for_a_range_of_another_version() {
        let range = (header::RANGE, "bytes=0-3");
        assert_eq!(
            of(&[range.clone(), (header::IF_RANGE, "\"v1\"")]),
            Selection::Part(0, 4)
        );
        assert_eq!(
            of(&[
                range.clone(),
                (header::IF_RANGE, "Sun, 06 Nov 1994 08:49:37 GMT")
            ]),
            Selection::Part(0, 4)
        );
        assert_eq!(
            of(&[range.clone(), (header::IF_RANGE, "W/\"v1\"")]),
            Selection::All
        );
        assert_eq!(of(&[range, (header::IF_RANGE, "\"v2\"")]), Selection::All);
    }
}
