//! Follows the framing of what a client sends, next to hyper. hyper accepts a request with both
//! `Content-Length` and `Transfer-Encoding`, uses the latter and hides the former; RFC 9112 (6.1)
//! asks servers to reject such requests because they may be request smuggling. The parser also
//! reports when a head has begun to arrive, which starts its time limit, and how long the head is.
//!
//! Lines may have any length: names are compared and lengths are computed as the bytes arrive.

const CONTENT_LENGTH: &[u8] = b"content-length";
const TRANSFER_ENCODING: &[u8] = b"transfer-encoding";

/// The names that are compared.
const NAMES: [&[u8]; 2] = [CONTENT_LENGTH, TRANSFER_ENCODING];

/// The length of the longest of them, in bytes.
const NAME: usize = TRANSFER_ENCODING.len();

/// Where in its requests a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FramingState {
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
enum LinePart {
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
    state: FramingState,
    part: LinePart,
    /// The last byte of the line was a carriage return.
    after_return: bool,
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

/// Whether a name that is compared begins with it.
fn begins_name(byte: u8) -> bool {
    let byte = byte.to_ascii_lowercase();
    NAMES.iter().any(|name| name.first() == Some(&byte))
}

impl Framing {
    pub(crate) fn new() -> Self {
        Self {
            state: FramingState::Between,
            part: LinePart::Start,
            after_return: false,
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
        self.state == FramingState::Head
    }

    /// Bytes so far of the incomplete head.
    pub(crate) fn head_len(&self) -> usize {
        if self.in_head() { self.head_len } else { 0 }
    }

    /// Bytes that are left of a body of a known length.
    pub(crate) fn body_left(&self) -> u64 {
        match self.state {
            FramingState::Body(left) => left,
            _ => 0,
        }
    }

    /// The number, from 0, of the first request with both headers or an invalid length.
    pub(crate) fn conflict(&self) -> Option<u64> {
        self.conflict
    }

    /// Parses bytes that the client sent.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(first) = bytes.first() {
            match &mut self.state {
                FramingState::Lost => return,
                FramingState::Body(left) | FramingState::Chunk(left) => {
                    let take = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len());
                    *left -= take as u64;
                    bytes = &bytes[take..];
                    if *left == 0 {
                        self.state = match self.state {
                            FramingState::Chunk(_) => FramingState::Size,
                            _ => FramingState::Between,
                        };
                    }
                }
                FramingState::Between => {
                    // Empty lines before a request are allowed.
                    if matches!(first, b'\r' | b'\n') {
                        bytes = &bytes[1..];
                    } else {
                        self.state = FramingState::Head;
                        self.head_len = 0;
                    }
                }
                FramingState::Head | FramingState::Size | FramingState::Trailers => {
                    let end = memchr::memchr(b'\n', bytes);
                    let line = &bytes[..end.unwrap_or(bytes.len())];
                    self.line(line);
                    if let Some(last) = line.last() {
                        self.after_return = *last == b'\r';
                    }
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
                LinePart::Rest => return,
                LinePart::Start if *byte == b'\r' => {}
                LinePart::Start => {
                    (self.name_len, self.number) = (0, Number::Empty);
                    if self.state == FramingState::Size {
                        self.part = LinePart::Number;
                        self.number.digit(*byte, 16);
                    } else if begins_name(*byte) {
                        self.part = LinePart::Name;
                        self.name_byte(*byte);
                    } else {
                        self.part = LinePart::Rest;
                    }
                }
                LinePart::Name => self.name_byte(*byte),
                // Chunk extensions follow.
                LinePart::Number if self.state == FramingState::Size && *byte == b';' => {
                    self.part = LinePart::Rest
                }
                LinePart::Number => {
                    let radix = if self.state == FramingState::Size {
                        16
                    } else {
                        10
                    };
                    self.number.digit(*byte, radix);
                }
            }
        }
    }

    fn name_byte(&mut self, byte: u8) {
        if byte == b':' {
            let name = self.name.get(..self.name_len).unwrap_or_default();
            let in_head = self.state == FramingState::Head;
            self.part = LinePart::Rest;
            if in_head && name == CONTENT_LENGTH {
                self.part = LinePart::Number;
            } else if in_head && name == TRANSFER_ENCODING {
                self.transfer_encoding = true;
            }
            return;
        }
        match self.name.get_mut(self.name_len) {
            Some(slot) => {
                *slot = byte.to_ascii_lowercase();
                self.name_len += 1;
            }
            None => self.part = LinePart::Rest,
        }
    }

    fn end_line(&mut self) {
        let part = std::mem::replace(&mut self.part, LinePart::Start);
        let after_return = std::mem::take(&mut self.after_return);
        match self.state {
            FramingState::Head if part == LinePart::Start => self.end_head(),
            FramingState::Head if part == LinePart::Number => {
                // hyper rejects lengths that differ.
                self.content_length = Some(self.number);
            }
            FramingState::Size => match (part, self.number.value()) {
                (LinePart::Number | LinePart::Rest, Some(0)) => self.state = FramingState::Trailers,
                // A chunk ends with CR LF; hyper accepts nothing else.
                (LinePart::Number | LinePart::Rest, Some(size)) if size < u64::MAX - 2 => {
                    self.state = FramingState::Chunk(size + 2);
                }
                _ => self.lose(),
            },
            // To hyper a line feed alone is a part of the trailer: what follows is no request to
            // it.
            FramingState::Trailers if !after_return => self.lose(),
            FramingState::Trailers if part == LinePart::Start => self.state = FramingState::Between,
            _ => {}
        }
    }

    fn end_head(&mut self) {
        let length = self.content_length.take();
        let is_chunked = std::mem::take(&mut self.transfer_encoding);
        match length.map(Number::value) {
            None if is_chunked => self.state = FramingState::Size,
            None => self.state = FramingState::Between,
            Some(Some(0)) if !is_chunked => self.state = FramingState::Between,
            Some(Some(length)) if !is_chunked => self.state = FramingState::Body(length),
            Some(_) => self.lose(),
        }
        self.heads += 1;
    }

    /// Stops parsing: neither this request nor what follows is trusted.
    fn lose(&mut self) {
        self.state = FramingState::Lost;
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

/// Compares [`Framing`] with hyper: both get the same bytes one at a time, and must see the ends of
/// heads and bodies at the same byte of each request, for as long as hyper goes on and no conflict
/// was found.
#[cfg(any(test, fuzzing))]
pub(crate) mod differential {
    use std::{
        cell::{Cell, RefCell},
        io,
        pin::{Pin, pin},
        rc::Rc,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        task::{Context, Poll, Wake, Waker},
    };

    use bytes::Bytes;
    use http_body_util::{BodyExt, Empty};
    use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};

    use super::{Framing, FramingState};

    /// A request's place among the bytes: where its head ends, and where its body does, if it does.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Message {
        head: usize,
        end: Option<usize>,
    }

    /// Panics where hyper goes on with a request whose bounds differ from what [`Framing`] has
    /// found.
    pub(crate) fn compare(bytes: &[u8]) {
        let (framing, conflict) = by_framing(bytes);
        let hyper = by_hyper(bytes);
        let trusted = conflict.map_or(usize::MAX, |first| {
            usize::try_from(first).unwrap_or(usize::MAX)
        });
        for (index, message) in hyper.iter().enumerate().take(trusted) {
            let found = framing.get(index);
            assert_eq!(
                found.map(|found| found.head),
                Some(message.head),
                "head of request {index}: {framing:?}, hyper {hyper:?}, conflict {conflict:?}"
            );
            // What hyper has refused has no end there.
            if message.end.is_some() && trusted > index + 1 {
                assert_eq!(
                    found.and_then(|found| found.end),
                    message.end,
                    "end of request {index}: {framing:?}, hyper {hyper:?}, conflict {conflict:?}"
                );
            }
        }
    }

    fn by_framing(bytes: &[u8]) -> (Vec<Message>, Option<u64>) {
        let mut framing = Framing::new();
        let mut messages: Vec<Message> = Vec::new();
        for (index, byte) in bytes.iter().enumerate() {
            let before = framing.heads;
            framing.feed(std::slice::from_ref(byte));
            if framing.heads > before && framing.state != FramingState::Lost {
                messages.push(Message {
                    head: index + 1,
                    end: None,
                });
            }
            if framing.state == FramingState::Between
                && let Some(last) = messages.last_mut()
            {
                last.end.get_or_insert(index + 1);
            }
        }
        let mut whole = Framing::new();
        whole.feed(bytes);
        assert_eq!(
            (whole.state, whole.heads, whole.conflict),
            (framing.state, framing.heads, framing.conflict),
            "the parts in which bytes come must not matter"
        );
        (messages, framing.conflict)
    }

    fn by_hyper(bytes: &[u8]) -> Vec<Message> {
        let offset = Rc::new(Cell::new(0));
        let messages = Rc::new(RefCell::new(Vec::new()));
        let service = service_fn(|request: Request<Incoming>| {
            let (offset, messages) = (offset.clone(), messages.clone());
            let mut list = messages.borrow_mut();
            let index = list.len();
            list.push(Message {
                head: offset.get(),
                end: None,
            });
            drop(list);
            async move {
                let mut body = request.into_body();
                while let Some(frame) = body.frame().await {
                    frame?;
                }
                if let Some(message) = messages.borrow_mut().get_mut(index) {
                    message.end = Some(offset.get());
                }
                Ok::<_, hyper::Error>(Response::new(Empty::<Bytes>::new()))
            }
        });
        let input = Rc::new(RefCell::new(Input::default()));
        let mut connection = pin!(
            http1::Builder::new()
                .header_read_timeout(None)
                .serve_connection(Socket(input.clone()), service)
        );
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        let waker = Waker::from(woken.clone());
        let mut context = Context::from_waker(&waker);
        for at in 0..=bytes.len() {
            match bytes.get(at) {
                Some(byte) => {
                    offset.set(at + 1);
                    input.borrow_mut().byte = Some(*byte);
                }
                None => input.borrow_mut().ended = true,
            }
            loop {
                woken.0.store(false, Ordering::Relaxed);
                if connection.as_mut().poll(&mut context).is_ready() {
                    return messages.take();
                }
                if !woken.0.load(Ordering::Relaxed) && input.borrow().byte.is_none() {
                    break;
                }
                // hyper reads no more until this is refused or upgraded.
                if !woken.0.load(Ordering::Relaxed) {
                    return messages.take();
                }
            }
        }
        messages.take()
    }

    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// What a client has sent and hyper has not read: a byte at most.
    #[derive(Default)]
    struct Input {
        byte: Option<u8>,
        ended: bool,
    }

    struct Socket(Rc<RefCell<Input>>);

    impl hyper::rt::Read for Socket {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            mut buffer: hyper::rt::ReadBufCursor<'_>,
        ) -> Poll<io::Result<()>> {
            let mut input = self.0.borrow_mut();
            match input.byte.take() {
                Some(byte) => buffer.put_slice(&[byte]),
                None if input.ended => {}
                None => return Poll::Pending,
            }
            Poll::Ready(Ok(()))
        }
    }

    impl hyper::rt::Write for Socket {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
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
        let body_like_a_head = "POST / HTTP/1.1\r\nContent-Length: 40\r\n\r\nContent-Length: 1\r\n\
            Transfer-Encoding: \r\n";
        assert_eq!(feed(body_like_a_head).state, FramingState::Between);
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
        let chunked = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n\
            2 \r\n\n\n\r\n0\r\nx: y\r\n\r\n";
        assert_eq!(feed(chunked).state, FramingState::Between);
        let next = format!(
            "{chunked}POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        assert_eq!(feed(&next).conflict, Some(1));
    }

    /// hyper takes a line feed alone for a part of a trailer, and so the whole second head: what
    /// comes third is its second request.
    #[test]
    fn trailers_that_do_not_end_in_cr_lf_are_not_trusted() {
        for trailers in ["\n", "x: y\n\n", "x: y\r\n\n"] {
            let bytes = format!(
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\
                 {trailers}GET / HTTP/1.1\r\n\r\n\
                 POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\
                 \r\n"
            );
            assert_eq!(feed(&bytes).conflict, Some(1), "{trailers:?}");
            differential::compare(bytes.as_bytes());
        }
    }

    const STARTS: [&str; 5] = [
        "GET / HTTP/1.1\r\n",
        "POST /a HTTP/1.1\r\nhost: a\r\n",
        "POST / HTTP/1.1\n",
        "GET / HTTP/1.0\r\n",
        "CONNECT a:1 HTTP/1.1\r\n",
    ];
    const HEADERS: [&str; 14] = [
        "Transfer-Encoding: chunked\r\n",
        "transfer-encoding:chunked\n",
        "Content-Length: 3\r\n",
        "content-length:0\n",
        "Content-Length: 03 \r\n",
        "Content-Length: +3\r\n",
        "Content-Length : 3\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: gzip\r\n",
        "Connection: close\r\n",
        "Expect: 100-continue\r\n",
        "Upgrade: x\r\nConnection: upgrade\r\n",
        "x: y\r\n",
        "\rx: y\r\n",
    ];
    const BODIES: [&str; 17] = [
        "abc",
        "0\r\n\r\n",
        "0\r\n",
        "0\n",
        "00 ;x\r\n",
        "3\r\nabc\r\n",
        "3\r\nabc\n",
        "3\nabc\r\n",
        "5;e=\"x\"\r\nhello\r\n",
        "g\r\n",
        "x: y\r\n",
        "x: y\n",
        "\r\n",
        "\n",
        "\r",
        "\u{0}",
        " ",
    ];

    fn requests() -> impl proptest::strategy::Strategy<Value = String> {
        use proptest::{collection::vec, sample::select, strategy::Strategy};
        let request = (
            select(&STARTS[..]),
            vec(select(&HEADERS[..]), 0..3),
            select(&["\r\n", "\r\n", "\n", ""][..]),
            vec(select(&BODIES[..]), 0..4),
        );
        let request = request.prop_map(|(start, headers, end, body)| {
            format!("{start}{}{end}{}", headers.concat(), body.concat())
        });
        vec(request, 1..5).prop_map(|requests| requests.concat())
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config {
            failure_persistence: None,
            ..proptest::test_runner::Config::with_cases(if cfg!(miri) { 4 } else { 5_000 })
        })]
        #[test]
        fn hyper_sees_the_same_requests(bytes in requests()) {
            differential::compare(bytes.as_bytes());
        }
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
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5;{extension}\r\nhello\r\n\
                 {zeros}\r\n\r\n"
            ),
        ] {
            assert_eq!(feed(&first).state, FramingState::Between, "{first}");
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
