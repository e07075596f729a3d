//! Follows the framing of what a client sends, beside hyper: hyper answers a request that has both `Content-Length` and
//! `Transfer-Encoding` by the latter and hides the former, where RFC 9112 (6.1) has servers refuse what smells of request smuggling.
//! It also tells when a head has begun to arrive, which is when its time runs.

/// So much of a line is looked at: a name, white space, and a length.
const LINE: usize = 64;

/// What was found out about a connection's requests so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between requests.
    Between,
    /// In a head; `line` has the start of its current line.
    Head,
    /// In a body: so many bytes are left.
    Body(u64),
    /// In the line of a chunk's size.
    Size,
    /// In a chunk, its line break included.
    Chunk(u64),
    /// In trailers.
    Trailers,
    /// hyper will refuse this, or has its own view: nothing more is looked at.
    Lost,
}

/// A reader of framing.
#[derive(Debug)]
pub(crate) struct Framing {
    state: State,
    line: [u8; LINE],
    /// Length of the line so far, what is beyond `LINE` included.
    length: usize,
    content_length: Option<u64>,
    transfer_encoding: bool,
    heads: u64,
    /// The first head, counted from 0, that had both.
    conflict: Option<u64>,
}

impl Framing {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Between,
            line: [0; LINE],
            length: 0,
            content_length: None,
            transfer_encoding: false,
            heads: 0,
            conflict: None,
        }
    }

    /// A head has begun, and has not ended.
    pub(crate) fn in_head(&self) -> bool {
        self.state == State::Head
    }

    /// The first head, counted from 0, that had both headers.
    pub(crate) fn conflict(&self) -> Option<u64> {
        self.conflict
    }

    /// Takes what the client sent.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
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
                State::Between | State::Head | State::Size | State::Trailers => {
                    if self.state == State::Between {
                        // Empty lines before a request are allowed.
                        if matches!(bytes[0], b'\r' | b'\n') {
                            bytes = &bytes[1..];
                            continue;
                        }
                        self.state = State::Head;
                    }
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    let part = &bytes[..end.unwrap_or(bytes.len())];
                    if self.length < LINE {
                        let take = part.len().min(LINE - self.length);
                        self.line[self.length..self.length + take].copy_from_slice(&part[..take]);
                    }
                    self.length = self.length.saturating_add(part.len());
                    let Some(end) = end else { return };
                    bytes = &bytes[end + 1..];
                    self.end_line();
                }
            }
        }
    }

    fn end_line(&mut self) {
        let length = self.length.min(LINE);
        let whole = self.length <= LINE;
        let line = self.line;
        let mut line = &line[..length];
        if whole && let Some(rest) = line.strip_suffix(b"\r") {
            line = rest;
        }
        self.length = 0;
        match self.state {
            State::Head if line.is_empty() => self.end_head(),
            State::Head => self.header(line, whole),
            State::Size => match (whole, chunk_size(line)) {
                (true, Some(0)) => self.state = State::Trailers,
                // The chunk's line break is CR LF; hyper takes nothing else.
                (true, Some(size)) if size < u64::MAX - 2 => self.state = State::Chunk(size + 2),
                _ => self.state = State::Lost,
            },
            State::Trailers if line.is_empty() => self.state = State::Between,
            _ => {}
        }
    }

    fn header(&mut self, line: &[u8], whole: bool) {
        if starts(line, b"content-length:") {
            let value = line[15..].trim_ascii();
            match std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse().ok())
            {
                Some(length) if whole => self.content_length = Some(length),
                _ => self.content_length = Some(u64::MAX),
            }
        } else if starts(line, b"transfer-encoding:") {
            self.transfer_encoding = true;
        }
    }

    fn end_head(&mut self) {
        let length = self.content_length.take();
        self.state = match (std::mem::take(&mut self.transfer_encoding), length) {
            (true, Some(_)) => {
                self.conflict.get_or_insert(self.heads);
                State::Lost
            }
            (true, None) => State::Size,
            (false, Some(u64::MAX)) => State::Lost,
            (false, None | Some(0)) => State::Between,
            (false, Some(length)) => State::Body(length),
        };
        self.heads += 1;
    }
}

fn starts(line: &[u8], name: &[u8]) -> bool {
    line.get(..name.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(name))
}

/// The size in the first line of a chunk; extensions follow a semicolon.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?.trim_ascii();
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
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
    fn heads_and_bodies_are_told_apart() {
        let body_like_a_head = "POST / HTTP/1.1\r\nContent-Length: 40\r\n\r\nContent-Length: 1\r\nTransfer-Encoding: \r\n";
        assert_eq!(feed(body_like_a_head).state, State::Between);
        assert_eq!(
            feed(&format!("{body_like_a_head}GET / HTTP/1.1\r\n\r\n\r\n")).heads,
            2
        );
    }

    #[test]
    fn both_headers_are_a_conflict_in_either_order() {
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
    fn chunks_with_extensions_and_trailers_are_followed() {
        let chunked = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n2 \r\n\n\n\r\n0\r\nx: y\r\n\r\n";
        assert_eq!(feed(chunked).state, State::Between);
        let next = format!(
            "{chunked}POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        assert_eq!(feed(&next).conflict, Some(1));
    }

    #[test]
    fn a_head_is_known_to_have_begun() {
        assert!(!feed("").in_head());
        assert!(!feed("\r\n").in_head());
        assert!(feed("G").in_head());
        assert!(feed("GET / HTTP/1.1\r\n\r").in_head());
        assert!(!feed("GET / HTTP/1.1\r\n\r\n").in_head());
    }
}
