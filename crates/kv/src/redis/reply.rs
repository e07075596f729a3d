//! Replies of Redis (RESP 2): where one ends in the bytes that have arrived, and what it says.

use super::failure::Failure;

/// Maximum size of a reply: the largest namespace that is read as a whole, with its lengths.
pub(super) const MAX_REPLY: usize = 80 << 20;

/// Maximum number of elements of an array.
const MAX_ELEMENTS: usize = 1 << 20;

/// Maximum length of a line: a length, a number, a status, an error.
const MAX_LINE: usize = 64 << 10;

/// Finds the end of replies in bytes that arrive in pieces. No byte is looked at twice, but those
/// of a line that has not ended.
#[derive(Debug, Default)]
pub(super) struct ReplyScanner {
    /// Bytes of the reply that were looked at.
    at: usize,
    /// Values that the reply still lacks.
    lacking: usize,
}

/// What a scanner found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scanned {
    /// The reply has this length.
    Whole(usize),
    /// The reply has at least this length, which is more than the bytes that are there.
    AtLeast(usize),
}

impl ReplyScanner {
    /// Looks for the end of `values` values at the start of `bytes`, which begin as at the last
    /// call unless that found the end.
    pub(super) fn scan(&mut self, bytes: &[u8], values: usize) -> Result<Scanned, Failure> {
        if self.at == 0 {
            self.lacking = values;
        }
        while self.lacking > 0 {
            let Some((kind, line, next)) = line_at(bytes, self.at)? else {
                return Ok(Scanned::AtLeast(bytes.len() + 1));
            };
            match kind {
                b'+' | b'-' | b':' => self.lacking -= 1,
                b'$' => {
                    if let Some(length) = length(line, MAX_REPLY)? {
                        let end = next + length + 2;
                        if bytes.len() < end {
                            return Ok(Scanned::AtLeast(end));
                        }
                        if &bytes[end - 2..end] != b"\r\n" {
                            return Err(Failure::malformed());
                        }
                        self.lacking -= 1;
                        self.at = end;
                        continue;
                    }
                    self.lacking -= 1;
                }
                b'*' => {
                    let elements = length(line, MAX_ELEMENTS)?.unwrap_or(0);
                    self.lacking += elements;
                    self.lacking -= 1;
                }
                _ => return Err(Failure::malformed()),
            }
            self.at = next;
        }
        Ok(Scanned::Whole(std::mem::take(&mut self.at)))
    }
}

/// The kind and the text of a line, and where the next one begins.
type Line<'r> = (u8, &'r [u8], usize);

/// The line at a position; `None` if it has not ended.
fn line_at(bytes: &[u8], at: usize) -> Result<Option<Line<'_>>, Failure> {
    let rest = &bytes[at..];
    let end = match rest.iter().take(MAX_LINE).position(|byte| *byte == b'\r') {
        Some(end) if end + 1 < rest.len() => end,
        None if rest.len() >= MAX_LINE => return Err(Failure::malformed()),
        _ => return Ok(None),
    };
    if end == 0 || rest[end + 1] != b'\n' {
        return Err(Failure::malformed());
    }
    Ok(Some((rest[0], &rest[1..end], at + end + 2)))
}

/// A length; `None` for -1, which means that there is no value.
fn length(line: &[u8], limit: usize) -> Result<Option<usize>, Failure> {
    match number(line)? {
        -1 => Ok(None),
        length => match usize::try_from(length) {
            Ok(length) if length <= limit => Ok(Some(length)),
            _ => Err(Failure::malformed()),
        },
    }
}

fn number(line: &[u8]) -> Result<i64, Failure> {
    let text = std::str::from_utf8(line).ok();
    text.and_then(|text| text.parse().ok())
        .ok_or_else(Failure::malformed)
}

/// A value, or the head of an array whose elements follow.
#[derive(Debug, PartialEq, Eq)]
enum Value<'r> {
    Nil,
    Number(i64),
    Text(&'r [u8]),
    Array(usize),
}

/// Reads the values of a whole reply.
#[derive(Debug)]
pub(super) struct ReplyReader<'r> {
    bytes: &'r [u8],
    at: usize,
}

impl<'r> ReplyReader<'r> {
    pub(super) fn new(bytes: &'r [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next value. An error of Redis is an error.
    fn value(&mut self) -> Result<Value<'r>, Failure> {
        let line = line_at(self.bytes, self.at)?;
        let (kind, line, next) = line.ok_or_else(Failure::malformed)?;
        self.at = next;
        match kind {
            b'+' => Ok(Value::Text(line)),
            b'-' => Err(Failure::of_server(line)),
            b':' => Ok(Value::Number(number(line)?)),
            b'$' => match length(line, MAX_REPLY)? {
                None => Ok(Value::Nil),
                Some(length) => {
                    let text = self.bytes.get(next..next + length);
                    self.at = next + length + 2;
                    Ok(Value::Text(text.ok_or_else(Failure::malformed)?))
                }
            },
            b'*' => match length(line, MAX_ELEMENTS)? {
                None => Ok(Value::Nil),
                Some(elements) => Ok(Value::Array(elements)),
            },
            _ => Err(Failure::malformed()),
        }
    }

    /// The number of elements of an array, which follow.
    pub(super) fn array(&mut self) -> Result<usize, Failure> {
        match self.value()? {
            Value::Array(elements) => Ok(elements),
            _ => Err(Failure::unexpected("no array")),
        }
    }

    /// A text.
    pub(super) fn text(&mut self) -> Result<&'r [u8], Failure> {
        self.optional_text()?
            .ok_or_else(|| Failure::unexpected("no text"))
    }

    /// A text, or nothing.
    pub(super) fn optional_text(&mut self) -> Result<Option<&'r [u8]>, Failure> {
        match self.value()? {
            Value::Text(text) => Ok(Some(text)),
            Value::Nil => Ok(None),
            _ => Err(Failure::unexpected("no text")),
        }
    }

    /// Reads a value and forgets it.
    pub(super) fn skip(&mut self) -> Result<(), Failure> {
        let mut left = 1;
        while left > 0 {
            left -= 1;
            if let Value::Array(elements) = self.value()? {
                left += elements;
            }
        }
        Ok(())
    }
}

/// What a reply is read as.
pub(super) trait FromReply: Sized {
    fn read(reply: &mut ReplyReader<'_>) -> Result<Self, Failure>;
}

impl FromReply for i64 {
    fn read(reply: &mut ReplyReader<'_>) -> Result<Self, Failure> {
        match reply.value()? {
            Value::Number(number) => Ok(number),
            _ => Err(Failure::unexpected("no number")),
        }
    }
}

impl FromReply for bool {
    fn read(reply: &mut ReplyReader<'_>) -> Result<Self, Failure> {
        Ok(i64::read(reply)? != 0)
    }
}

/// Whatever it is.
impl FromReply for () {
    fn read(reply: &mut ReplyReader<'_>) -> Result<Self, Failure> {
        reply.skip()
    }
}

impl FromReply for Vec<u8> {
    fn read(reply: &mut ReplyReader<'_>) -> Result<Self, Failure> {
        Ok(reply.text()?.to_vec())
    }
}

impl FromReply for String {
    fn read(reply: &mut ReplyReader<'_>) -> Result<Self, Failure> {
        Ok(text(reply.text()?)?.to_owned())
    }
}

impl FromReply for Option<String> {
    fn read(reply: &mut ReplyReader<'_>) -> Result<Self, Failure> {
        let found = reply.optional_text()?;
        Ok(found.map(text).transpose()?.map(str::to_owned))
    }
}

/// The elements of an array.
pub(super) struct Elements<T>(pub(super) Vec<T>);

impl<T: FromReply> FromReply for Elements<T> {
    fn read(reply: &mut ReplyReader<'_>) -> Result<Self, Failure> {
        let elements = reply.array()?;
        let read = (0..elements).map(|_| T::read(reply));
        Ok(Self(read.collect::<Result<_, _>>()?))
    }
}

impl<A: FromReply, B: FromReply> FromReply for (A, B) {
    fn read(reply: &mut ReplyReader<'_>) -> Result<Self, Failure> {
        match reply.array()? {
            2 => Ok((A::read(reply)?, B::read(reply)?)),
            _ => Err(Failure::unexpected("no pair")),
        }
    }
}

impl<A: FromReply, B: FromReply, C: FromReply> FromReply for (A, B, C) {
    fn read(reply: &mut ReplyReader<'_>) -> Result<Self, Failure> {
        match reply.array()? {
            3 => Ok((A::read(reply)?, B::read(reply)?, C::read(reply)?)),
            _ => Err(Failure::unexpected("not three values")),
        }
    }
}

/// A text of a worker.
pub(super) fn text(bytes: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(bytes)
        .map_err(|_| Failure::unexpected("a key or a value that is not UTF-8"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const REPLIES: &[u8] = b"+OK\r\n:-7\r\n$5\r\na\r\nbc\r\n$-1\r\n*-1\r\n*0\r\n\
        *3\r\n:1\r\n$0\r\n\r\n*2\r\n+x\r\n$1\r\ny\r\n-ERR no\r\n";

    /// The length of each reply.
    const LENGTHS: [usize; 8] = [5, 5, 11, 5, 5, 4, 29, 9];

    #[test]
    fn finds_the_ends_of_replies_however_they_arrive() {
        assert_eq!(LENGTHS.iter().sum::<usize>(), REPLIES.len());
        for piece in 1..=REPLIES.len() {
            let (mut scanner, mut found) = (ReplyScanner::default(), Vec::new());
            let (mut from, mut to) = (0, 0);
            while to < REPLIES.len() {
                to = (to + piece).min(REPLIES.len());
                while from < to {
                    match scanner.scan(&REPLIES[from..to], 1).unwrap() {
                        Scanned::Whole(length) => {
                            found.push(length);
                            from += length;
                        }
                        Scanned::AtLeast(length) => {
                            assert!(length > to - from);
                            break;
                        }
                    }
                }
            }
            assert_eq!(found, LENGTHS, "in pieces of {piece}");
        }
    }

    #[test]
    fn several_values_are_one_reply() {
        let mut scanner = ReplyScanner::default();
        let bytes = b"+OK\r\n*1\r\n:1\r\n+next\r\n";
        assert_eq!(scanner.scan(bytes, 2).unwrap(), Scanned::Whole(13));
        assert_eq!(scanner.scan(&bytes[13..], 1).unwrap(), Scanned::Whole(7));
    }

    #[test]
    fn rejects_what_is_no_reply() {
        for bytes in [
            &b"?\r\n"[..],
            b"\r\n",
            b"$x\r\n",
            b"$-2\r\n",
            b"$1\r\nabc",
            b"+a\rb",
            b"*99999999\r\n",
            b"$999999999999\r\n",
        ] {
            let scanned = ReplyScanner::default().scan(bytes, 1);
            assert!(scanned.is_err(), "{bytes:?}");
        }
        // A number is looked at when it is read.
        assert!(ReplyReader::new(b":\r\n").skip().is_err());
        let endless = vec![b'+'; MAX_LINE];
        assert!(ReplyScanner::default().scan(&endless, 1).is_err());
        assert!(ReplyScanner::default().scan(&endless[1..], 1).is_ok());
    }

    #[test]
    fn reads_values() {
        fn read<T: FromReply>(bytes: &[u8]) -> Result<T, Failure> {
            T::read(&mut ReplyReader::new(bytes))
        }
        assert_eq!(read::<i64>(b":-7\r\n").unwrap(), -7);
        assert_eq!(read::<Option<String>>(b"$-1\r\n").unwrap(), None);
        assert_eq!(read::<Option<String>>(b"+OK\r\n").unwrap().unwrap(), "OK");
        let page = b"*3\r\n:1\r\n$1\r\nk\r\n*2\r\n$1\r\nk\r\n$1\r\nl\r\n";
        let (more, last, keys): (bool, String, Elements<String>) = read(page).unwrap();
        assert_eq!((more, &*last, keys.0.len()), (true, "k", 2));
        assert!(read::<String>(b"$1\r\n\xff\r\n").is_err());
        assert!(read::<(i64, i64)>(b"*1\r\n:1\r\n").is_err());
        let error = read::<i64>(b"-LOADING the data\r\n").unwrap_err();
        assert_eq!(error.code(), Some("LOADING"));
        assert_eq!(error.to_string(), "LOADING the data");
    }
}
