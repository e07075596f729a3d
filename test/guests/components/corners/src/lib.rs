//! The corner cases of wasi:http 0.2, and what a component does wrong:
//!
//! | route | does |
//! |---|---|
//! | `/forbidden-headers` | sets each forbidden field on an answer and on a request, and says what came of it |
//! | `/bad-headers` | names and values that are no fields |
//! | `/immutable-headers` | changes the fields of the request and of a sent answer |
//! | `/repeated-headers` | two `set-cookie`, a field with bytes that are not UTF-8 |
//! | `/many-headers?count=1000&bytes=100` | as many fields |
//! | `/statuses` | which statuses the host takes |
//! | `/status-only?status=304` | a head without a body ever being made |
//! | `/no-body`, `/unfinished-body`, `/half-a-body` | never asks for the body; drops it without an end, empty and with bytes |
//! | `/body-of-head` | a body of 5 bytes with its length, for `HEAD` |
//! | `/length-short`, `/length-long`, `/length-bad` | a body that is shorter, longer than its length; a length that is no number |
//! | `/early`, `/ignore` | answers at once and finishes before it reads; never touches the request's body |
//! | `/late?ms=100` | reads all, waits, and answers |
//! | `/drop-request-body`, `/drop-stream` | drops the request's body, its stream, half-way |
//! | `/trailers?name=x-a`, `/bad-trailers`, `/trailers-only` | trailers; forbidden ones; trailers of an empty body |
//! | `/drop-outparam`, `/forget-outparam` | drops the outparam; keeps it for ever and returns |
//! | `/hang`, `/hang-after-head`, `/spin-after-head` | never ends |
//! | `/trap-after?bytes=100000` | traps after so many bytes |
//! | `/finish-early` | ends the body while its stream lives: a trap by the specification |
//! | `/write-too-much`, `/write-unasked`, `/empty-poll` | traps by the specification of `wasi:io` |
//! | `/no-resource` | uses a handle that does not exist |
//! | `/leak?what=fields&count=10000` | leaks resources: fields, pollables, requests, options, streams |
//! | `/flood?mib=0` | writes for ever, or so much |
//! | `/read-for-ever` | reads the request's body until its end, however long that takes, and counts |
//! | `/outgoing?url=`, `/outgoing-two?url=`, `/outgoing-many?url=&count=1000` | requests; two at once with both bodies interleaved; many at once |
//! | `/outgoing-unsent?url=`, `/outgoing-unread?url=`, `/outgoing-dropped?url=` | a body without an end; an answer that is not read; a future that is dropped |
//! | `/outgoing-length?url=` | a body that is shorter than its length |
//! | `/outgoing-bad` | requests that are none |
//! | `/outgoing-time?url=&ms=100` | with time-outs, and which of them are taken |
//! | `/outgoing-trailers?url=` | a request with trailers; the answer's trailers back |
//! | `/outgoing-after?url=` | an answer, and a request after its end |
//! | `/sockets?port=80` | TCP, UDP and names by `wasi:sockets`, and what came of it |
//! | `/stdin` | what stdin holds |
//! | `/open-files?path=&count=1000` | holds as many descriptors of one file |
//! | `/stack` | recursion without an end |

mod outgoing;

use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::time::Duration;
use std::{hint, process, thread};

use support::{Answer, Target};
use wasip2::clocks::monotonic_clock;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingRequest, OutgoingBody, OutgoingRequest, OutgoingResponse,
    RequestOptions, ResponseOutparam,
};
use wasip2::io::poll;
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::network::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
use wasip2::sockets::{ip_name_lookup, tcp_create_socket, udp_create_socket};

use outgoing::{
    outgoing, outgoing_after, outgoing_bad, outgoing_dropped, outgoing_length, outgoing_many,
    outgoing_time, outgoing_trailers, outgoing_two, outgoing_unread, outgoing_unsent,
};

struct Corners;

wasip2::http::proxy::export!(Corners);

/// What the specification lets a host forbid, and what no guest may decide on a connection.
const FORBIDDEN: [&str; 11] = [
    "connection",
    "custom-forbidden-header",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

impl Guest for Corners {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        match target.split().0 {
            "forbidden-headers" => forbidden_headers(out),
            "bad-headers" => bad_headers(out),
            "immutable-headers" => immutable_headers(&request, out),
            "repeated-headers" => repeated_headers(out),
            "many-headers" => many_headers(&target, out),
            "statuses" => statuses(out),
            "status-only" => {
                let response = OutgoingResponse::new(Fields::new());
                let taken = response.set_status_code(target.number("status", 304) as u16);
                taken.expect("a status that the host takes");
                ResponseOutparam::set(out, Ok(response));
            }
            "no-body" => {
                ResponseOutparam::set(out, Ok(OutgoingResponse::new(Fields::new())));
            }
            "unfinished-body" => drop(Answer::start(out, 200, &[])),
            "half-a-body" => {
                let answer = Answer::start(out, 200, &[]);
                let _ = answer.write(b"the first half\n");
                drop(answer);
            }
            "body-of-head" => {
                let answer = Answer::start(out, 200, &[("content-length", "5")]);
                if answer.write(b"hello").is_ok() {
                    answer.finish();
                }
            }
            "length-short" => wrong_length(out, "10", b"hello"),
            "length-long" => wrong_length(out, "3", b"hello"),
            "length-bad" => wrong_length(out, "three", b"hello"),
            "early" => early(&request, out),
            "ignore" => support::text(out, 200, "not read\n"),
            "late" => late(&request, &target, out),
            "drop-request-body" => {
                drop(request.consume());
                support::text(out, 200, "dropped\n");
            }
            "drop-stream" => drop_stream(&request, out),
            "trailers" => trailers(&target, out),
            "bad-trailers" => bad_trailers(out),
            "trailers-only" => {
                let answer = Answer::start(out, 200, &[("trailer", "x-only")]);
                let fields = Fields::new();
                fields.append("x-only", b"1").expect("a field");
                answer.finish_with(Some(fields));
            }
            "drop-outparam" => drop(out),
            "forget-outparam" => mem::forget(out),
            "hang" => monotonic_clock::subscribe_duration(u64::MAX).block(),
            "hang-after-head" => {
                let answer = Answer::start(out, 200, &[]);
                let _ = answer.write(b"the first half\n");
                monotonic_clock::subscribe_duration(u64::MAX).block();
                drop(answer);
            }
            "spin-after-head" => {
                let answer = Answer::start(out, 200, &[]);
                let _ = answer.write(b"the first half\n");
                loop {
                    hint::black_box(&answer);
                }
            }
            "trap-after" => {
                let answer = Answer::start(out, 200, &[]);
                let _ = answer.write(&vec![b'.'; target.number("bytes", 100_000) as usize]);
                process::abort();
            }
            "finish-early" => finish_early(out),
            "write-too-much" => write_too_much(out),
            "write-unasked" => write_unasked(out),
            "empty-poll" => {
                poll::poll(&[]);
            }
            "no-resource" => no_resource(out),
            "leak" => leak(&request, &target, out),
            "flood" => flood(&target, out),
            "read-for-ever" => read_for_ever(&request, out),
            "outgoing" => outgoing(&target, out),
            "outgoing-two" => outgoing_two(&target, out),
            "outgoing-many" => outgoing_many(&target, out),
            "outgoing-unsent" => outgoing_unsent(&target, out),
            "outgoing-unread" => outgoing_unread(&target, out),
            "outgoing-dropped" => outgoing_dropped(&target, out),
            "outgoing-length" => outgoing_length(&target, out),
            "outgoing-bad" => outgoing_bad(out),
            "outgoing-time" => outgoing_time(&target, out),
            "outgoing-trailers" => outgoing_trailers(&target, out),
            "outgoing-after" => outgoing_after(&target, out),
            "sockets" => sockets(&target, out),
            "stdin" => {
                let mut text = Vec::new();
                let read = io::stdin().read_to_end(&mut text);
                support::text(out, 200, &format!("{read:?}\n"));
            }
            "open-files" => open_files(&target, out),
            "stack" => support::text(out, 200, &format!("{}\n", deeper(0))),
            _ => support::text(out, 404, "no such route\n"),
        }
    }
}

fn forbidden_headers(out: ResponseOutparam) {
    let mut text = String::new();
    for name in FORBIDDEN {
        let fields = Fields::new();
        let value = [b"1".to_vec()];
        text += &format!(
            "{name}: set {:?}, append {:?}, from-list {:?}, has {}\n",
            fields.set(name, &value),
            fields.append(name, b"1"),
            Fields::from_list(&[(name.to_owned(), b"1".to_vec())]).map(drop),
            fields.has(name),
        );
    }
    support::text(out, 200, &text);
}

fn bad_headers(out: ResponseOutparam) {
    let fields = Fields::new();
    let mut text = String::new();
    let names = ["", "a b", "a:b", "a\n", "ä"];
    for (number, name) in names.into_iter().enumerate() {
        text += &format!("name {number}: {:?}\n", fields.append(name, b"1"));
    }
    let values: [&[u8]; 5] = [b"", b"a\r\nb: c", b"a\0b", b"\xff", b" spaces "];
    for (number, value) in values.into_iter().enumerate() {
        text += &format!("value {number}: {:?}\n", fields.append("x-value", value));
    }
    text += &format!("kept: {:?}\n", fields.get("x-value"));
    support::text(out, 200, &text);
}

fn immutable_headers(request: &IncomingRequest, out: ResponseOutparam) {
    let headers = request.headers();
    let mut text = format!(
        "request: append {:?}, set {:?}, delete {:?}\n",
        headers.append("x-new", b"1"),
        headers.set("x-new", &[b"1".to_vec()]),
        headers.delete("host"),
    );
    let copy = headers.clone();
    text += &format!("copy: append {:?}\n", copy.append("x-new", b"1"));
    let response = OutgoingResponse::new(Fields::new());
    text += &format!(
        "answer: append {:?}\n",
        response.headers().append("x-new", b"1")
    );
    support::text(out, 200, &text);
}

fn repeated_headers(out: ResponseOutparam) {
    let fields = Fields::new();
    for value in [&b"a=1"[..], b"b=2"] {
        fields.append("set-cookie", value).expect("a field");
    }
    fields.append("x-bytes", b"\xe9t\xe9").expect("a field");
    fields.append("X-Case", b"kept").expect("a field");
    ResponseOutparam::set(out, Ok(OutgoingResponse::new(fields)));
}

fn many_headers(target: &Target, out: ResponseOutparam) {
    let fields = Fields::new();
    let value = vec![b'v'; target.number("bytes", 100) as usize];
    for number in 0..target.number("count", 1000) {
        if let Err(error) = fields.append(&format!("x-{number}"), &value) {
            return support::text(out, 500, &format!("{error:?} at {number}\n"));
        }
    }
    ResponseOutparam::set(out, Ok(OutgoingResponse::new(fields)));
}

fn statuses(out: ResponseOutparam) {
    let response = OutgoingResponse::new(Fields::new());
    let text: String = [
        0,
        99,
        100,
        101,
        103,
        199,
        200,
        299,
        599,
        600,
        999,
        1000,
        u16::MAX,
    ]
    .iter()
    .map(|status| format!("{status} {}\n", response.set_status_code(*status).is_ok()))
    .collect();
    support::text(out, 200, &text);
}

/// The log says what the host answered.
fn wrong_length(out: ResponseOutparam, length: &str, bytes: &[u8]) {
    let fields = Fields::new();
    if let Err(error) = fields.append("content-length", length.as_bytes()) {
        return support::text(out, 500, &format!("{error:?}\n"));
    }
    let response = OutgoingResponse::new(fields);
    let Ok(body) = response.body() else {
        return ResponseOutparam::set(
            out,
            Err(ErrorCode::InternalError(Some("no body for it".into()))),
        );
    };
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("the stream for the first time");
    let written = support::write_all(&stream, bytes);
    drop(stream);
    eprintln!(
        "written {written:?}, finished {:?}",
        OutgoingBody::finish(body, None)
    );
}

fn early(request: &IncomingRequest, out: ResponseOutparam) {
    let body = request.consume().expect("the body for the first time");
    support::text(out, 200, "answered first\n");
    match support::collect(&body) {
        Ok(bytes) => println!("read {} bytes after the answer", bytes.len()),
        Err(error) => println!("read no body after the answer: {error}"),
    }
}

fn late(request: &IncomingRequest, target: &Target, out: ResponseOutparam) {
    let body = request.consume().expect("the body for the first time");
    let length = support::collect(&body).map(|bytes| bytes.len());
    thread::sleep(Duration::from_millis(target.number("ms", 100)));
    support::text(out, 200, &format!("{length:?}\n"));
}

fn drop_stream(request: &IncomingRequest, out: ResponseOutparam) {
    let body = request.consume().expect("the body for the first time");
    let stream = body.stream().expect("the stream for the first time");
    let read = stream.blocking_read(1).map(|bytes| bytes.len());
    drop(stream);
    let again = body.stream().is_ok();
    support::text(
        out,
        200,
        &format!("read {read:?}, a second stream {again}\n"),
    );
}

fn trailers(target: &Target, out: ResponseOutparam) {
    let name = target.parameter("name").unwrap_or("x-a");
    let answer = Answer::start(out, 200, &[("trailer", name)]);
    let _ = answer.write(b"with trailers\n");
    let fields = Fields::new();
    if let Err(error) = fields.append(name, b"1") {
        eprintln!("the trailer was refused: {error:?}");
    }
    answer.finish_with(Some(fields));
}

fn bad_trailers(out: ResponseOutparam) {
    let fields = Fields::new();
    let mut text = String::new();
    for name in ["content-length", "host", "transfer-encoding", "trailer"] {
        text += &format!("{name}: {:?}\n", fields.append(name, b"1"));
    }
    let answer = Answer::start(out, 200, &[]);
    let _ = answer.write(text.as_bytes());
    eprintln!(
        "finished {:?}",
        OutgoingBody::finish(answer.into_body(), Some(fields))
    );
}

fn finish_early(out: ResponseOutparam) {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().expect("the body for the first time");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("the stream for the first time");
    let finished = OutgoingBody::finish(body, None);
    eprintln!("finished {finished:?} while its stream lives");
    drop(stream);
}

fn write_too_much(out: ResponseOutparam) {
    let answer = Answer::start(out, 200, &[]);
    let permitted = answer.stream().check_write().expect("an open stream");
    let written = answer.stream().write(&vec![b'.'; permitted as usize + 1]);
    eprintln!("written {written:?}, more than permitted");
}

fn write_unasked(out: ResponseOutparam) {
    let answer = Answer::start(out, 200, &[]);
    let written = answer.stream().write(b"nobody asked");
    eprintln!("written {written:?} unasked");
}

fn no_resource(out: ResponseOutparam) {
    // SAFETY: the handle is none of this component's; the host must trap.
    let fields = unsafe { Fields::from_handle(0x7fff_fff0) };
    let has = fields.has("host");
    mem::forget(fields);
    support::text(out, 200, &format!("{has}\n"));
}

fn leak(request: &IncomingRequest, target: &Target, out: ResponseOutparam) {
    let count = target.number("count", 10_000);
    for _ in 0..count {
        match target.parameter("what").unwrap_or("fields") {
            "pollables" => mem::forget(monotonic_clock::subscribe_duration(u64::MAX)),
            "requests" => mem::forget(OutgoingRequest::new(Fields::new())),
            "options" => mem::forget(RequestOptions::new()),
            "headers" => mem::forget(request.headers()),
            "streams" => mem::forget(wasip2::cli::stdout::get_stdout()),
            _ => mem::forget(Fields::new()),
        }
    }
    support::text(out, 200, &format!("leaked {count}\n"));
}

fn flood(target: &Target, out: ResponseOutparam) {
    let mut left = match target.number("mib", 0) {
        0 => u64::MAX,
        mib => mib << 20,
    };
    let part = vec![b'f'; 64 * 1024];
    let answer = Answer::start(out, 200, &[]);
    let mut sent = 0_u64;
    while left > 0 {
        let length = left.min(part.len() as u64) as usize;
        if let Err(error) = answer.write_permitted(&part[..length]) {
            eprintln!("the flood ended after {sent} bytes: {error}");
            return;
        }
        sent += length as u64;
        left -= length as u64;
    }
    answer.finish();
}

fn read_for_ever(request: &IncomingRequest, out: ResponseOutparam) {
    let body = request.consume().expect("the body for the first time");
    let stream = body.stream().expect("the stream for the first time");
    let mut count = 0_u64;
    let read = support::for_each_part(&stream, |part| {
        count += part.len() as u64;
        Ok(())
    });
    match read {
        Ok(()) => support::text(out, 200, &format!("{count}\n")),
        Err(error) => {
            eprintln!("the body ended after {count} bytes: {error}");
            support::text(out, 400, &format!("{error} after {count}\n"));
        }
    }
}

fn sockets(target: &Target, out: ResponseOutparam) {
    let network = instance_network();
    let address = |port| {
        IpSocketAddress::Ipv4(Ipv4SocketAddress {
            port,
            address: (127, 0, 0, 1),
        })
    };
    let port = target.number("port", 80) as u16;
    let mut text = String::new();
    match tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv4) {
        Ok(socket) => {
            let connected = socket
                .start_connect(&network, address(port))
                .and_then(|()| {
                    socket.subscribe().block();
                    socket.finish_connect().map(drop)
                });
            text += &format!("tcp connect {connected:?}\n");
        }
        Err(error) => text += &format!("tcp socket {error:?}\n"),
    }
    match tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv4) {
        Ok(socket) => {
            let bound = socket
                .start_bind(&network, address(0))
                .and_then(|()| socket.finish_bind());
            let listening = bound.and_then(|()| socket.start_listen());
            text += &format!("tcp listen {listening:?}\n");
        }
        Err(error) => text += &format!("tcp socket {error:?}\n"),
    }
    match udp_create_socket::create_udp_socket(IpAddressFamily::Ipv4) {
        Ok(socket) => {
            let bound = socket
                .start_bind(&network, address(0))
                .and_then(|()| socket.finish_bind());
            text += &format!("udp bind {bound:?}\n");
        }
        Err(error) => text += &format!("udp socket {error:?}\n"),
    }
    let resolved = ip_name_lookup::resolve_addresses(&network, "localhost").and_then(|addresses| {
        addresses.subscribe().block();
        addresses.resolve_next_address()
    });
    text += &format!("name {resolved:?}\n");
    support::text(out, 200, &text);
}

fn open_files(target: &Target, out: ResponseOutparam) {
    let path = target.parameter("path").unwrap_or("/");
    let mut files = Vec::new();
    let mut failed = None;
    for _ in 0..target.number("count", 1000) {
        match File::open(path) {
            Ok(file) => files.push(file),
            Err(error) => {
                failed = Some(error.to_string());
                break;
            }
        }
    }
    support::text(
        out,
        200,
        &format!("opened {}, failed {failed:?}\n", files.len()),
    );
}

#[allow(unconditional_recursion)]
fn deeper(depth: u64) -> u64 {
    hint::black_box(deeper(hint::black_box(depth + 1))) + 1
}
