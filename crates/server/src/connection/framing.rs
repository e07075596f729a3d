//! Follows the framing of what a client sends, next to hyper. hyper accepts a request with both
//! `Content-Length` and `Transfer-Encoding`, uses the latter and hides the former; RFC 9112 (6.1)
//! asks servers to reject such requests because they may be request smuggling. The parser also
//! reports when a head has begun to arrive, which starts its time limit, and how long the head is.
//!
//! Lines may have any length: names are compared and lengths are computed as the bytes arrive.

/// The longest name that is compared: `transfer-encoding`.
const NAME: usize = 17;

/// Where in its requests a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between requests.
    Between,
    /// In a head.
    Head,
    /// In a body, with this many bytes left.
    Body(u64),
    /// In the line with a chunk's size.
    Size,
    /// In a chunk, its line break included.
    Chunk(u64),
    /// In trailers.
    Trailers,
    /// hyper will reject this: nothing more is parsed.
    Lost,
}

/// The part of a line that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Nothing yet, or only a carriage return: the line may be empty.
    Start,
    /// A header's name.
    Name,
    /// The value of `Content-Length`, or the size of a chunk.
    Number,
    /// Bytes that do not matter.
    Rest,
}

/// The framing parser of one connection.
#[derive(Debug)]
pub(crate) struct Framing {
    state: State,
    part: Part,
    name: [u8; NAME],
    /// Length of the name so far; a name longer than `NAME` is another header.
    name_len: usize,
    number: Number,
    content_length: Option<Number>,
    transfer_encoding: bool,
    heads: u64,
    /// Bytes of the current head.
    head_len: usize,
    /// The first request, counted from 0, whose framing is not trusted.
    conflict: Option<u64>,
}

impl Framing {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Between,
            part: Part::Start,
            name: [0; NAME],
            name_len: 0,
            number: Number::Empty,
            content_length: None,
            transfer_encoding: false,
            heads: 0,
            head_len: 0,
            conflict: None,
        }
    }

    /// Whether a head is incomplete.
    pub(crate) fn in_head(&self) -> bool {
        self.state == State::Head
    }

    /// Bytes so far of the incomplete head.
    pub(crate) fn head_len(&self) -> usize {
        if self.in_head() { self.head_len } else { 0 }
    }

    /// The number, from 0, of the first request with both headers or an invalid length.
    pub(crate) fn conflict(&self) -> Option<u64> {
        self.conflict
    }

    /// Parses bytes that the client sent.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(first) = bytes.first() {
            match &mut self.state {
                State::Lost => return,
                State::Body(left) | State::Chunk(left) => {
                    let take = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len());
                    *left -= take as u64;
                    bytes = &bytes[take..];
                    if *left == 0 {
                        self.state = match self.state {
                            State::Chunk(_) => State::Size,
                            _ => State::Between,
                        };
                    }
                }
                State::Between => {
                    // Empty lines before a request are allowed.
                    if matches!(first, b'\r' | b'\n') {
                        bytes = &bytes[1..];
                    } else {
                        self.state = State::Head;
                        self.head_len = 0;
                    }
                }
                State::Head | State::Size | State::Trailers => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    self.line(&bytes[..end.unwrap_or(bytes.len())]);
                    let taken = end.map_or(bytes.len(), |end| end + 1);
                    self.head_len = self.head_len.saturating_add(taken);
                    bytes = &bytes[taken..];
                    if end.is_some() {
                        self.end_line();
                    }
                }
            }
        }
    }

    /// Parses a part of a line.
    fn line(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match self.part {
                Part::Rest => return,
                Part::Start if *byte == b'\r' => {}
                Part::Start => {
                    (self.name_len, self.number) = (0, Number::Empty);
                    if self.state == State::Size {
                        self.part = Part::Number;
                        self.number.digit(*byte, 16);
                    } else {
                        self.part = Part::Name;
                        self.name_byte(*byte);
                    }
                }
                Part::Name => self.name_byte(*byte),
                // Chunk extensions follow.
                Part::Number if self.state == State::Size && *byte == b';' => {
                    self.part = Part::Rest
                }
                Part::Number => {
                    let radix = if self.state == State::Size { 16 } else { 10 };
                    self.number.digit(*byte, radix);
                }
            }
        }
    }

    fn name_byte(&mut self, byte: u8) {
        if byte == b':' {
            let name = self.name.get(..self.name_len).unwrap_or_default();
            let in_head = self.state == State::Head;
            self.part = Part::Rest;
            if in_head && name == b"content-length" {
                self.part = Part::Number;
            } else if in_head && name == b"transfer-encoding" {
                self.transfer_encoding = true;
            }
            return;
        }
        match self.name.get_mut(self.name_len) {
            Some(slot) => {
                *slot = byte.to_ascii_lowercase();
                self.name_len += 1;
            }
            None => self.part = Part::Rest,
        }
    }

    fn end_line(&mut self) {
        let part = std::mem::replace(&mut self.part, Part::Start);
        match self.state {
            State::Head if part == Part::Start => self.end_head(),
            State::Head if part == Part::Number => {
                // hyper rejects lengths that differ.
                self.content_length = Some(self.number);
            }
            State::Size => match (part, self.number.value()) {
                (Part::Number | Part::Rest, Some(0)) => self.state = State::Trailers,
                // A chunk ends with CR LF; hyper accepts nothing else.
                (Part::Number | Part::Rest, Some(size)) if size < u64::MAX - 2 => {
                    self.state = State::Chunk(size + 2);
                }
                _ => self.lose(),
            },
            State::Trailers if part == Part::Start => self.state = State::Between,
            _ => {}
        }
    }

    fn end_head(&mut self) {
        let length = self.content_length.take();
        let is_chunked = std::mem::take(&mut self.transfer_encoding);
        match length.map(Number::value) {
            None if is_chunked => self.state = State::Size,
            None => self.state = State::Between,
            Some(Some(0)) if !is_chunked => self.state = State::Between,
            Some(Some(length)) if !is_chunked => self.state = State::Body(length),
            Some(_) => self.lose(),
        }
        self.heads += 1;
    }

    /// Stops parsing: neither this request nor what follows is trusted.
    fn lose(&mut self) {
        self.state = State::Lost;
        self.conflict.get_or_insert(self.heads);
    }
}

/// A length, parsed digit by digit; surrounding white space is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Empty,
    Digits(u64),
    /// The digits were followed by white space.
    Ended(u64),
    Bad,
}

impl Number {
    fn digit(&mut self, byte: u8, radix: u32) {
        let digit = (byte as char).to_digit(radix);
        *self = match (*self, digit) {
            (Self::Empty, Some(digit)) => Self::Digits(u64::from(digit)),
            (Self::Digits(number), Some(digit)) => number
                .checked_mul(u64::from(radix))
                .and_then(|number| number.checked_add(u64::from(digit)))
                .map_or(Self::Bad, Self::Digits),
            (Self::Digits(number) | Self::Ended(number), None) if is_space(byte) => {
                Self::Ended(number)
            }
            (Self::Empty, None) if is_space(byte) => Self::Empty,
            _ => Self::Bad,
        };
    }

    fn value(self) -> Option<u64> {
        match self {
            Self::Digits(number) | Self::Ended(number) => Some(number),
            Self::Empty | Self::Bad => None,
        }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the bytes whole, and one at a time: the result must be the same.
    fn feed(bytes: &str) -> Framing {
        let mut whole = Framing::new();
        whole.feed(bytes.as_bytes());
        let mut single = Framing::new();
        for byte in bytes.as_bytes() {
            single.feed(std::slice::from_ref(byte));
        }
        assert_eq!(
            (whole.state, whole.heads, whole.conflict),
            (single.state, single.heads, single.conflict)
        );
        whole
    }

    #[test]
    fn separates_heads_from_bodies() {
        let body_like_a_head = "POST / HTTP/1.1\r\nContent-Length: 40\r\n\r\nContent-Length: 1\r\nTransfer-Encoding: \r\n";
        assert_eq!(feed(body_like_a_head).state, State::Between);
        assert_eq!(
            feed(&format!("{body_like_a_head}GET / HTTP/1.1\r\n\r\n\r\n")).heads,
            2
        );
    }

    #[test]
    fn reports_both_headers_in_either_order() {
        for head in [
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTRANSFER-ENCODING: chunked\r\ncontent-length:3\r\n\r\n",
            "POST / HTTP/1.1\nContent-Length: 0\nTransfer-Encoding: chunked\n\n",
            "POST / HTTP/1.1\r\nContent-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert_eq!(feed(head).conflict, Some(0), "{head}");
            let second = format!("GET / HTTP/1.1\r\nhost: a\r\n\r\n{head}");
            assert_eq!(feed(&second).conflict, Some(1), "{head}");
        }
    }

    #[test]
    fn follows_chunks_with_extensions_and_trailers() {
        let chunked = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n2 \r\n\n\n\r\n0\r\nx: y\r\n\r\n";
        assert_eq!(feed(chunked).state, State::Between);
        let next = format!(
            "{chunked}POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        assert_eq!(feed(&next).conflict, Some(1));
    }

    #[test]
    fn follows_long_lines() {
        let spaces = " ".repeat(80);
        let zeros = "0".repeat(100);
        let extension = "e".repeat(1000);
        for first in [
            format!("POST / HTTP/1.1\r\nContent-Length:{spaces}5{spaces}\r\n\r\nhello"),
            format!("POST / HTTP/1.1\r\nContent-Length: {zeros}5\r\n\r\nhello"),
            format!(
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5;{extension}\r\nhello\r\n{zeros}\r\n\r\n"
            ),
        ] {
            assert_eq!(feed(&first).state, State::Between, "{first}");
            assert!(feed(&format!("{first}GET / HT")).in_head(), "{first}");
            let next = format!(
                "{first}POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"
            );
            assert_eq!(feed(&next).conflict, Some(1), "{first}");
        }
    }

    #[test]
    fn reports_invalid_lengths() {
        for length in ["", "5 5", "+5", "5,5", "99999999999999999999", "0x5"] {
            let head = format!("POST / HTTP/1.1\r\ncontent-length: {length}\r\n\r\n");
            assert_eq!(feed(&head).conflict, Some(0), "{head}");
        }
        let size = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5 5\r\n";
        assert_eq!(feed(size).conflict, Some(1));
    }

    #[test]
    fn counts_the_bytes_of_an_incomplete_head() {
        assert_eq!(feed("\r\nGET / HTTP/1.1\r\nhost").head_len(), 20);
        assert_eq!(feed("GET / HTTP/1.1\r\n\r\n").head_len(), 0);
        assert_eq!(feed("GET / HTTP/1.1\r\n\r\nG").head_len(), 1);
    }

    #[test]
    fn reports_that_a_head_has_begun() {
        assert!(!feed("").in_head());
        assert!(!feed("\r\n").in_head());
        assert!(feed("G").in_head());
        assert!(feed("GET / HTTP/1.1\r\n\r").in_head());
        assert!(!feed("GET / HTTP/1.1\r\n\r\n").in_head());
    }
}
