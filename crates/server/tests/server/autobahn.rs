//! The case groups 1 to 7, 12 and 13 of the Autobahn test suite, written anew, against an echo
//! worker in JavaScript: framing, pings, reserved bits, opcodes, fragmentation, UTF-8, closes,
//! compression.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use tokio::io::AsyncWriteExt;
use wws_project::LoadOptions;

use crate::common::socket::{BINARY, CLOSE, PING, PONG, Socket, TEXT, frame};
use crate::common::{Running, Site};
use crate::socket_workers::{ECHO, with_javascript};

/// A server with an echo worker at `/echo`.
async fn echo(toml: &str) -> Running {
    let site = Site::new();
    site.file(".wws.toml", format!("version = 1\n{toml}\n"));
    site.file("echo.js", ECHO);
    site.start_prepared(&LoadOptions::default(), &with_javascript())
        .await
}

/// What has to come back.
enum Expected {
    /// These frames, and the client closes.
    Frames(Vec<(u8, Vec<u8>)>),
    /// Some of these frames, and the server closes with this code.
    Failure(Vec<(u8, Vec<u8>)>, u16),
    /// The client has closed: these frames, and the answer with this code.
    Closed(Vec<(u8, Vec<u8>)>, u16),
}

struct Case {
    name: String,
    bytes: Vec<u8>,
    /// Bytes that are sent at a time.
    chop: usize,
    expected: Expected,
}

const WHOLE: usize = usize::MAX;

fn case(name: impl Into<String>, frames: &[Vec<u8>], expected: Expected) -> Case {
    Case {
        name: name.into(),
        bytes: frames.concat(),
        chop: WHOLE,
        expected,
    }
}

impl Case {
    fn chopped(mut self, chop: usize) -> Self {
        self.chop = chop;
        self
    }
}

fn text(content: impl AsRef<[u8]>) -> (u8, Vec<u8>) {
    (TEXT, content.as_ref().to_vec())
}

fn pong(content: impl AsRef<[u8]>) -> (u8, Vec<u8>) {
    (PONG, content.as_ref().to_vec())
}

fn echoes(frames: impl IntoIterator<Item = (u8, Vec<u8>)>) -> Expected {
    Expected::Frames(frames.into_iter().collect())
}

fn fails(code: u16) -> Expected {
    Expected::Failure(vec![], code)
}

/// 1: framing.
fn framing(cases: &mut Vec<Case>) {
    for (group, kind, byte) in [(1, TEXT, b'*'), (2, BINARY, 0xfe)] {
        for (n, len) in [0, 125, 126, 127, 128, 65_535, 65_536]
            .into_iter()
            .enumerate()
        {
            let content = vec![byte; len];
            let sent = [frame(kind, &content)];
            let name = format!("1.{group}.{}", n + 1);
            cases.push(case(name, &sent, echoes([(kind, content)])));
        }
        let content = vec![byte; 65_536];
        let sent = [frame(kind, &content)];
        let chopped = case(format!("1.{group}.8"), &sent, echoes([(kind, content)]));
        cases.push(chopped.chopped(997));
    }
}

/// 2: pings and pongs.
fn pings(cases: &mut Vec<Case>) {
    let all = [
        vec![],
        b"Hello, world!".to_vec(),
        vec![0, 0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0],
        vec![0xfe; 125],
    ];
    for (n, content) in all.into_iter().enumerate() {
        let sent = [frame(PING, &content)];
        cases.push(case(format!("2.{}", n + 1), &sent, echoes([pong(content)])));
    }
    // Lengths in more bytes than they need, which the suite does not try.
    let mask = [0; 4];
    let long = [&[0x80 | BINARY, 0xfe, 0, 1][..], &mask, b"x"].concat();
    cases.push(case("length in 2 bytes", &[long], fails(1002)));
    let longer = [
        &[0x80 | BINARY, 0xff, 0, 0, 0, 0, 0, 0, 0, 1][..],
        &mask,
        b"x",
    ]
    .concat();
    cases.push(case("length in 8 bytes", &[longer], fails(1002)));
    let negative = [&[0x80 | BINARY, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1][..], &mask].concat();
    cases.push(case("length of 64 bits", &[negative], fails(1002)));
    cases.push(case("2.5", &[frame(PING, &[0xfe; 126])], fails(1002)));
    cases.push(
        case(
            "2.6",
            &[frame(PING, &[0xfe; 125])],
            echoes([pong([0xfe; 125])]),
        )
        .chopped(1),
    );
    cases.push(case("2.7", &[frame(PONG, b"")], echoes([])));
    cases.push(case("2.8", &[frame(PONG, b"unsolicited")], echoes([])));
    let sent = [frame(PONG, b"unsolicited"), frame(PING, b"payload")];
    cases.push(case("2.9", &sent, echoes([pong("payload")])));
    for (name, chop) in [("2.10", WHOLE), ("2.11", 1)] {
        let sent: Vec<_> = (0..10)
            .map(|n| frame(PING, format!("payload-{n}").as_bytes()))
            .collect();
        let expected = (0..10).map(|n| pong(format!("payload-{n}")));
        cases.push(case(name, &sent, echoes(expected)).chopped(chop));
    }
}

/// 3: reserved bits.
fn reserved_bits(cases: &mut Vec<Case>) {
    let hello = || frame(TEXT, b"Hello, world!");
    for bits in 1..8u8 {
        let bad = TEXT | bits << 4;
        let sent = [hello(), frame(bad, b"Hello, world!"), frame(PING, b"")];
        let first = vec![text("Hello, world!")];
        cases.push(case(
            format!("3.{bits}"),
            &sent,
            Expected::Failure(first, 1002),
        ));
    }
    cases.push(case("3.binary", &[frame(BINARY | 0x70, b"x")], fails(1002)));
    cases.push(case("3.ping", &[frame(PING | 0x50, b"x")], fails(1002)));
    cases.push(case(
        "3.close",
        &[frame(CLOSE | 0x70, b"\x03\xe8")],
        fails(1002),
    ));
}

/// 4: opcodes.
fn opcodes(cases: &mut Vec<Case>) {
    for (group, opcodes) in [(1, 3..=7u8), (2, 11..=15)] {
        for (n, opcode) in opcodes.enumerate() {
            let name = format!("4.{group}.{}", n + 1);
            cases.push(case(&name, &[frame(0x80 | opcode, b"")], fails(1002)));
            let sent = [
                frame(TEXT, b"a"),
                frame(0x80 | opcode, b"reserved"),
                frame(PING, b""),
            ];
            let first = vec![text("a")];
            cases.push(case(
                name + " after a text",
                &sent,
                Expected::Failure(first, 1002),
            ));
        }
    }
}

/// 5: fragmentation.
fn fragmentation(cases: &mut Vec<Case>) {
    let part = |first: u8, content: &str| frame(first, content.as_bytes());
    let both = || echoes([text("fragment1fragment2")]);
    cases.push(case(
        "5.1",
        &[part(0x09, "fragment1"), part(0x80, "fragment2")],
        fails(1002),
    ));
    cases.push(case(
        "5.2",
        &[part(0x0a, "fragment1"), part(0x80, "fragment2")],
        fails(1002),
    ));
    for (name, chop) in [("5.3", WHOLE), ("5.4", 9), ("5.5", 1)] {
        let sent = [part(0x01, "fragment1"), part(0x80, "fragment2")];
        cases.push(case(name, &sent, both()).chopped(chop));
    }
    for (name, chop) in [("5.6", WHOLE), ("5.7", 7), ("5.8", 1)] {
        let sent = [
            part(0x01, "fragment1"),
            part(PING, "ping"),
            part(0x80, "fragment2"),
        ];
        let expected = echoes([pong("ping"), text("fragment1fragment2")]);
        cases.push(case(name, &sent, expected).chopped(chop));
    }
    for (name, first) in [("5.9", 0x80), ("5.12", 0x00)] {
        for (more, chop) in [("", WHOLE), (" in parts", 5), (" in octets", 1)] {
            let sent = [
                part(first, "non-continuation payload"),
                part(TEXT, "Hello, world!"),
            ];
            cases.push(case(format!("{name}{more}"), &sent, fails(1002)).chopped(chop));
        }
    }
    let sent = [
        part(0x01, "fragment1"),
        part(0x80, "fragment2"),
        part(0x00, "fragment3"),
        part(0x01, "fragment4"),
        part(0x80, "fragment5"),
    ];
    let first = vec![text("fragment1fragment2")];
    cases.push(case("5.15", &sent, Expected::Failure(first, 1002)));
    for (name, first) in [("5.16", 0x00), ("5.17", 0x80)] {
        let once = [
            part(first, "fragment1"),
            part(0x01, "fragment2"),
            part(0x80, "fragment3"),
        ];
        cases.push(case(name, &[once.concat(), once.concat()], fails(1002)));
    }
    cases.push(case(
        "5.18",
        &[part(0x01, "fragment1"), part(0x81, "fragment2")],
        fails(1002),
    ));
    let sent = [
        part(0x01, "fragment1"),
        part(0x00, "fragment2"),
        part(PING, "pongme 1!"),
        part(0x00, "fragment3"),
        part(0x00, "fragment4"),
        part(PING, "pongme 2!"),
        part(0x80, "fragment5"),
    ];
    let expected = || {
        let whole = text("fragment1fragment2fragment3fragment4fragment5");
        echoes([pong("pongme 1!"), pong("pongme 2!"), whole])
    };
    cases.push(case("5.19", &sent, expected()));
    cases.push(case("5.20", &sent, expected()).chopped(13));
}

/// Texts that are UTF-8 (6.2, 6.5 to 6.23).
const VALID: [&[u8]; 27] = [
    "Hello-µ@ßöäüàá-UTF-8!!".as_bytes(),
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5",
    b"\x00",
    b"\xc2\x80",
    b"\xe0\xa0\x80",
    b"\xf0\x90\x80\x80",
    b"\x7f",
    b"\xdf\xbf",
    b"\xef\xbf\xbf",
    b"\xf4\x8f\xbf\xbf",
    b"\xed\x9f\xbf",
    b"\xee\x80\x80",
    b"\xef\xbf\xbd",
    b"\xef\xbf\xbe",
    b"\xf0\x9f\xbf\xbe",
    b"\xf0\x9f\xbf\xbf",
    b"\xf0\xaf\xbf\xbe",
    b"\xf0\xbf\xbf\xbe",
    b"\xf1\x8f\xbf\xbe",
    b"\xf1\x9f\xbf\xbf",
    b"\xf2\x8f\xbf\xbe",
    b"\xf2\xaf\xbf\xbf",
    b"\xf3\x8f\xbf\xbe",
    b"\xf3\xbf\xbf\xbf",
    b"\xf4\x8f\xbf\xbe",
    b"\xe2\x82\xac",
    b"\xf0\x9d\x84\x9e",
];

/// Bytes that are not (6.3, 6.4, 6.6 to 6.21).
const INVALID: [&[u8]; 40] = [
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80\x65\x64\x69\x74\x65\x64",
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80\x65\x64\x69\x74\x65\x64",
    b"\xce",
    b"\xce\xba\xe1",
    b"\xce\xba\xe1\xbd",
    b"\xf8\x88\x80\x80\x80",
    b"\xfc\x84\x80\x80\x80\x80",
    b"\xf7\xbf\xbf\xbf",
    b"\xfb\xbf\xbf\xbf\xbf",
    b"\xfd\xbf\xbf\xbf\xbf\xbf",
    b"\xf4\x90\x80\x80",
    b"\x80",
    b"\xbf",
    b"\x80\xbf",
    b"\x80\xbf\x80",
    b"\x80\xbf\x80\xbf\x80\xbf\x80",
    b"\xc0 \xc1 \xc2 \xc3 ",
    b"\xe0 \xe1 \xe2 ",
    b"\xf0 \xf1 \xf2 ",
    b"\xf8 \xf9 ",
    b"\xfc ",
    b"\xc0",
    b"\xe0\x80",
    b"\xf0\x80\x80",
    b"\xf8\x80\x80\x80",
    b"\xfe",
    b"\xff",
    b"\xfe\xfe\xff\xff",
    b"\xc0\xaf",
    b"\xe0\x80\xaf",
    b"\xf0\x80\x80\xaf",
    b"\xf8\x80\x80\x80\xaf",
    b"\xc1\xbf",
    b"\xe0\x9f\xbf",
    b"\xf0\x8f\xbf\xbf",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xed\xa0\x80\xed\xb0\x80",
    b"\xed\xaf\xbf\xed\xbf\xbf",
    b"\xc0\x80",
];

/// A text in frames of so many bytes.
fn fragments(content: &[u8], size: usize) -> Vec<Vec<u8>> {
    let pieces: Vec<&[u8]> = content.chunks(size).collect();
    let last = pieces.len() - 1;
    let first_byte = |n| match n {
        0 => 0x01,
        _ => 0x00,
    };
    let is_last = |n| if n == last { 0x80 } else { 0 };
    let frames = pieces.iter().enumerate();
    frames
        .map(|(n, piece)| frame(first_byte(n) | is_last(n), piece))
        .collect()
}

/// 6: UTF-8.
fn utf8(cases: &mut Vec<Case>) {
    cases.push(case("6.1.1", &[frame(TEXT, b"")], echoes([text("")])));
    let empty = [frame(0x01, b""), frame(0x00, b""), frame(0x80, b"")];
    cases.push(case("6.1.2", &empty, echoes([text("")])));
    let middle = [frame(0x01, b""), frame(0x00, b"middle"), frame(0x80, b"")];
    cases.push(case("6.1.3", &middle, echoes([text("middle")])));
    for content in VALID {
        let name = format!("6.valid {content:x?}");
        cases.push(case(
            &name,
            &[frame(TEXT, content)],
            echoes([text(content)]),
        ));
        let name = format!("{name} in octets");
        cases.push(case(name, &fragments(content, 1), echoes([text(content)])));
    }
    for content in INVALID {
        let name = format!("6.invalid {content:x?}");
        cases.push(case(&name, &[frame(TEXT, content)], fails(1007)));
        let name = format!("{name} in octets");
        cases.push(case(name, &fragments(content, 1), fails(1007)));
    }
}

/// 7: closes.
fn closes(cases: &mut Vec<Case>) {
    let normal = || frame(CLOSE, &1000u16.to_be_bytes());
    let hello = || frame(TEXT, b"Hello World!");
    let closed = |frames, code| Expected::Closed(frames, code);
    cases.push(case(
        "7.1.1",
        &[hello(), normal()],
        closed(vec![text("Hello World!")], 1000),
    ));
    cases.push(case("7.1.2", &[normal(), normal()], closed(vec![], 1000)));
    cases.push(case(
        "7.1.3",
        &[normal(), frame(PING, b"")],
        closed(vec![], 1000),
    ));
    cases.push(case("7.1.4", &[normal(), hello()], closed(vec![], 1000)));
    let sent = [
        frame(0x01, b"fragment1"),
        normal(),
        frame(0x80, b"fragment2"),
    ];
    cases.push(case("7.1.5", &sent, closed(vec![], 1000)));
    let large = vec![b'B'; 256 << 10];
    let sent = [frame(TEXT, &large), normal(), frame(PING, b"")];
    cases.push(case("7.1.6", &sent, closed(vec![text(large)], 1000)));
    cases.push(case("7.3.1", &[frame(CLOSE, b"")], closed(vec![], 1005)));
    cases.push(case("7.3.2", &[frame(CLOSE, b"a")], fails(1002)));
    for (name, reason) in [("7.3.3", 0), ("7.3.4", 12), ("7.3.5", 123)] {
        let content = [&1000u16.to_be_bytes()[..], &vec![b'*'; reason]].concat();
        cases.push(case(name, &[frame(CLOSE, &content)], closed(vec![], 1000)));
    }
    let long = [&1000u16.to_be_bytes()[..], &[b'*'; 124]].concat();
    cases.push(case("7.3.6", &[frame(CLOSE, &long)], fails(1002)));
    let invalid = [&1000u16.to_be_bytes()[..], INVALID[0]].concat();
    cases.push(case("7.5.1", &[frame(CLOSE, &invalid)], fails(1007)));
    for code in [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999u16,
    ] {
        let sent = [frame(CLOSE, &code.to_be_bytes())];
        cases.push(case(format!("7.7 {code}"), &sent, closed(vec![], code)));
    }
    for code in [
        0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535u16,
    ] {
        for reason in ["", "reason"] {
            let content = [&code.to_be_bytes()[..], reason.as_bytes()].concat();
            let name = format!("7.9 {code} {reason}");
            cases.push(case(name, &[frame(CLOSE, &content)], closed(vec![], 1002)));
        }
    }
}

/// Checks a case. Returns what is wrong.
async fn check(server: &Running, case: &Case) -> Result<(), String> {
    let mut socket = Socket::open(server.address, "/echo", "").await;
    for piece in case.bytes.chunks(case.chop.min(case.bytes.len().max(1))) {
        // The server may have closed the connection.
        let _ = socket.stream.write_all(piece).await;
    }
    let (expected, optional, code) = match &case.expected {
        Expected::Frames(frames) => (frames, false, None),
        // What came before a close is echoed, unless the worker learns of the close first.
        Expected::Closed(frames, code) => (frames, true, Some(*code)),
        Expected::Failure(frames, code) => (frames, true, Some(*code)),
    };
    let mut left = expected.iter().peekable();
    loop {
        if code.is_none() && left.peek().is_none() {
            socket.send(CLOSE, &1000u16.to_be_bytes()).await;
        }
        match socket.message().await {
            Some((CLOSE, content)) => {
                let came = match content[..] {
                    [a, b, ..] => u16::from_be_bytes([a, b]),
                    _ => 1005,
                };
                if came != code.unwrap_or(1000) {
                    return Err(format!("closed with {came}"));
                }
                if !optional && left.peek().is_some() {
                    return Err("closed too early".into());
                }
                return match socket.message().await {
                    None => Ok(()),
                    Some(more) => Err(format!("{more:x?} after the close")),
                };
            }
            Some(came) => match left.next() {
                Some(next) if *next == came => {}
                next => return Err(format!("{came:x?} instead of {next:x?}")),
            },
            None => return Err("the connection ended".into()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_autobahn_cases_pass() {
    let mut cases = Vec::new();
    for group in [
        framing,
        pings,
        reserved_bits,
        opcodes,
        fragmentation,
        utf8,
        closes,
    ] {
        group(&mut cases);
    }
    assert!(cases.len() > 240, "{}", cases.len());
    let server = echo("").await;
    let mut failures = Vec::new();
    for case in &cases {
        if let Err(why) = check(&server, case).await {
            failures.push(format!("{}: {why}", case.name));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// The content of a compressed message. A client that keeps its window has one `state` for all.
fn deflated(state: &mut Compress, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 1000);
    state
        .compress_vec(content, &mut out, FlushCompress::Sync)
        .unwrap();
    assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
    out.truncate(out.len() - 4);
    out
}

fn inflated(content: &[u8], len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 1);
    let whole = [content, &[0, 0, 0xff, 0xff]].concat();
    Decompress::new(false)
        .decompress_vec(&whole, &mut out, FlushDecompress::Sync)
        .unwrap();
    out
}

/// 12 and 13: messages of many sizes, whole and in frames, under each offer of the suite.
#[tokio::test(flavor = "multi_thread")]
async fn the_autobahn_cases_of_compression_pass() {
    const NAME: &str = "sec-websocket-extensions: permessage-deflate";
    let server = echo("[server]\ncompression = true").await;
    for offer in [
        "",
        "; client_no_context_takeover; client_max_window_bits",
        "; client_max_window_bits=9; server_max_window_bits=15",
        "; server_no_context_takeover; server_max_window_bits=14",
        "; server_max_window_bits=9, permessage-deflate",
    ] {
        let headers = format!("{}{NAME}{offer}\r\n", crate::common::socket::UPGRADE);
        let mut socket = Socket::ask(server.address, "/echo", &headers).await;
        let accepted = format!("{NAME}; server_no_context_takeover; client_no_context_takeover");
        assert!(socket.head.contains(&accepted), "{offer}: {}", socket.head);
        for len in [
            0, 16, 64, 128, 256, 1024, 4096, 8192, 16_384, 32_768, 65_536, 131_072,
        ] {
            for (kind, step) in [(TEXT, WHOLE), (BINARY, WHOLE), (TEXT, 100), (BINARY, 4096)] {
                let words = b"{\"id\": 1, \"name\": \"Ada\", \"at\": 2025}, ";
                let content: Vec<u8> = words.iter().copied().cycle().take(len).collect();
                let compressed = deflated(&mut Compress::new(Compression::best(), false), &content);
                let pieces: Vec<&[u8]> = compressed.chunks(step.min(compressed.len())).collect();
                for (n, piece) in pieces.iter().enumerate() {
                    let first = if n == 0 { kind & 0x0f | 0x40 } else { 0 };
                    let last = if n + 1 == pieces.len() { 0x80 } else { 0 };
                    socket.send(first | last, piece).await;
                }
                let (first, back) = socket.message().await.expect("an echo");
                assert_eq!(first & 0x8f, kind, "{offer}: {len}");
                let back = match first & 0x40 {
                    0 => back,
                    _ => inflated(&back, len),
                };
                assert_eq!(first & 0x40 != 0, len >= 128, "{offer}: {len}");
                assert!(
                    back == content,
                    "{offer}: {len} bytes in {} frames",
                    pieces.len()
                );
            }
        }
        socket.send(CLOSE, &1000u16.to_be_bytes()).await;
        assert_eq!(socket.closed().await, 1000);
    }
    // An offer that cannot be accepted, and a server that compresses nothing.
    let narrow = format!(
        "{}{NAME}; server_max_window_bits=9\r\n",
        crate::common::socket::UPGRADE
    );
    let socket = Socket::ask(server.address, "/echo", &narrow).await;
    assert!(!socket.head.contains("permessage"), "{}", socket.head);
    let plain = echo("").await;
    let offer = format!("{}{NAME}\r\n", crate::common::socket::UPGRADE);
    let socket = Socket::ask(plain.address, "/echo", &offer).await;
    assert!(socket.head.starts_with("HTTP/1.1 101 "), "{}", socket.head);
    assert!(!socket.head.contains("permessage"), "{}", socket.head);
}
