//! One route for each thing that a wasi:http 0.2 component can do:
//!
//! | route | does |
//! |---|---|
//! | `/request` | method, scheme, authority, path and headers of the request, a line for each |
//! | `/env`, `/env/NAME` | all environment variables; one (404 without it) |
//! | `/read/PATH`, `/list/PATH` | a file of a preopened directory; the names in a directory |
//! | `/write/PATH` | the body into a file, as it comes |
//! | `/outgoing?url=http://HOST/PATH` | a request with this method and body; its answer as it comes |
//! | `/trailers`, `/trailers-back` | an answer with the trailer `x-checksum`; the request's trailers back |
//! | `/chunks?count=100&bytes=0` | as many lines (or parts of so many bytes), each flushed |
//! | `/sse?count=10&ms=100` | server-sent events with sleeps between them |
//! | `/watch` | an event at once, and another one when the body comes or ten minutes have passed |
//! | `/trap`, `/trap-after-head`, `/trap-half-way`, `/no-answer`, `/error-code` | failures |
//! | `/exit?code=3`, `/exit-after-head?code=3` | `wasi:cli/exit` |
//! | `/print` | lines on stdout and stderr |
//! | `/clocks`, `/random`, `/sleep?ms=10`, `/spin`, `/memory?mib=1` | |
//! | `/length`, `/early` | reads the body and counts; answers before the body was read |
//! | `/status/N`, `/empty` | a status; a status 204 without a body |

use std::io::{self, Write};
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs, hint, iter, process, thread};

use support::{Answer, Target};
use wasip2::clocks::monotonic_clock;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingRequest, IncomingResponse, Method, OutgoingBody,
    OutgoingRequest, OutgoingResponse, ResponseOutparam, Scheme,
};
use wasip2::io::poll;
use wasip2::io::streams::StreamError;

struct Features;

wasip2::http::proxy::export!(Features);

impl Guest for Features {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        let (route, rest) = target.split();
        match route {
            "request" => show_request(&request, out),
            "env" => environment(rest, out),
            "read" => read_file(rest, out),
            "list" => list(rest, out),
            "write" => write_file(&request, rest, out),
            "outgoing" => outgoing(&request, &target, out),
            "trailers" => trailers(out),
            "trailers-back" => trailers_back(&request, out),
            "chunks" => chunks(&target, out),
            "sse" => events(&target, out),
            "watch" => watch(&request, out),
            "trap" => process::abort(),
            "trap-after-head" => {
                let _answer = Answer::start(out, 200, &[("content-type", "text/plain")]);
                process::abort();
            }
            "trap-half-way" => {
                let answer = Answer::start(out, 200, &[("content-type", "text/plain")]);
                let _ = answer.write(b"the first half\n");
                process::abort();
            }
            "no-answer" => {}
            "error-code" => ResponseOutparam::set(
                out,
                Err(ErrorCode::InternalError(Some("said by the guest".into()))),
            ),
            "exit" => process::exit(target.number("code", 3) as i32),
            "exit-after-head" => {
                let answer = Answer::start(out, 200, &[("content-type", "text/plain")]);
                let _ = answer.write(b"the first half\n");
                process::exit(target.number("code", 3) as i32);
            }
            "print" => {
                println!("a line on stdout");
                eprintln!("a line on stderr");
                print!("no end of line on stdout");
                // Rust writes lines to stdout.
                let _ = io::stdout().flush();
                eprint!("no end of line on stderr");
                support::text(out, 200, "printed\n");
            }
            "clocks" => clocks(out),
            "random" => random(out),
            "sleep" => {
                thread::sleep(Duration::from_millis(target.number("ms", 10)));
                support::text(out, 200, "slept\n");
            }
            "spin" => loop {
                hint::black_box(());
            },
            "memory" => {
                let bytes = vec![1_u8; (target.number("mib", 1) << 20) as usize];
                let bytes = hint::black_box(bytes);
                support::text(out, 200, &format!("{} bytes\n", bytes.len()));
            }
            "length" => length(&request, out),
            "early" => early(&request, out),
            "status" => support::text(out, rest.parse().unwrap_or(200), "a status\n"),
            "empty" => Answer::start(out, 204, &[]).finish(),
            _ => support::text(out, 404, "no such route\n"),
        }
    }
}

fn show_request(request: &IncomingRequest, out: ResponseOutparam) {
    let text = format!(
        "method {:?}\nscheme {:?}\nauthority {:?}\npath {:?}\n{}",
        request.method(),
        request.scheme(),
        request.authority(),
        request.path_with_query(),
        support::lines(&request.headers()),
    );
    support::text(out, 200, &text);
}

fn environment(name: &str, out: ResponseOutparam) {
    if name.is_empty() {
        let all: String = env::vars()
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect();
        return support::text(out, 200, &all);
    }
    match env::var(name) {
        Ok(value) => support::text(out, 200, &value),
        Err(error) => support::text(out, 404, &error.to_string()),
    }
}

fn read_file(path: &str, out: ResponseOutparam) {
    match fs::read(format!("/{path}")) {
        Ok(bytes) => {
            let answer = Answer::start(out, 200, &[]);
            if answer.write_permitted(&bytes).is_ok() {
                answer.finish();
            }
        }
        Err(error) => support::text(out, 404, &format!("{error}\n")),
    }
}

fn list(path: &str, out: ResponseOutparam) {
    let names = fs::read_dir(format!("/{path}")).and_then(|entries| {
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<Vec<_>, _>>()
    });
    match names {
        Ok(mut names) => {
            names.sort();
            support::text(out, 200, &names.join("\n"));
        }
        Err(error) => support::text(out, 404, &format!("{error}\n")),
    }
}

fn write_file(request: &IncomingRequest, path: &str, out: ResponseOutparam) {
    let body = request.consume().expect("the body for the first time");
    let stream = body.stream().expect("the stream for the first time");
    let mut count = 0;
    let written = fs::File::create(format!("/{path}")).and_then(|mut file| {
        let mut failed = None;
        let read = support::for_each_part(&stream, |part| {
            count += part.len();
            file.write_all(part).map_err(|error| {
                failed = Some(error);
                StreamError::Closed
            })
        });
        match (failed, read) {
            (Some(error), _) => Err(error),
            (None, Err(error)) => Err(io::Error::other(error)),
            (None, Ok(())) => Ok(()),
        }
    });
    match written {
        Ok(()) => support::text(out, 201, &format!("{count} bytes\n")),
        Err(error) => support::text(out, 500, &format!("{error}\n")),
    }
}

/// The method, scheme, authority and path of a URL, as an outgoing request.
fn request_to(url: &str, method: &Method, headers: Fields) -> Result<OutgoingRequest, String> {
    let (scheme, rest) = url.split_once("://").ok_or("the URL has no scheme")?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let request = OutgoingRequest::new(headers);
    request
        .set_method(method)
        .and_then(|()| request.set_scheme(Some(&scheme)))
        .and_then(|()| request.set_authority(Some(authority)))
        .and_then(|()| request.set_path_with_query(Some(path)))
        .map_err(|()| "the host takes no part of the URL")?;
    Ok(request)
}

/// Waits for the head of the answer.
fn head_of(
    future: &wasip2::http::types::FutureIncomingResponse,
) -> Result<IncomingResponse, ErrorCode> {
    loop {
        match future.get() {
            Some(response) => return response.expect("the answer for the first time"),
            None => future.subscribe().block(),
        }
    }
}

fn outgoing(request: &IncomingRequest, target: &Target, out: ResponseOutparam) {
    let Some(url) = target.parameter("url") else {
        return support::text(out, 400, "no url\n");
    };
    let headers = Fields::new();
    for (name, value) in request.headers().entries() {
        if name.starts_with("x-") || name == "content-length" {
            headers
                .append(&name, &value)
                .expect("a header of the request");
        }
    }
    let sent = match request_to(url, &request.method(), headers) {
        Ok(sent) => sent,
        Err(error) => return support::text(out, 400, &format!("{error}\n")),
    };
    let sent_body = sent.body().expect("the body for the first time");
    let future = match outgoing_handler::handle(sent, None) {
        Ok(future) => future,
        Err(code) => return support::text(out, 502, &format!("{code:?}\n")),
    };
    let body = request.consume().expect("the body for the first time");
    {
        let input = body.stream().expect("the stream for the first time");
        let output = sent_body.write().expect("the stream for the first time");
        if let Err(error) = support::for_each_part(&input, |part| support::write_all(&output, part))
        {
            eprintln!("the body was not sent: {error}");
        }
    }
    if let Err(code) = OutgoingBody::finish(sent_body, None) {
        eprintln!("the body was not ended: {code:?}");
    }
    let response = match head_of(&future) {
        Ok(response) => response,
        Err(code) => return support::text(out, 502, &format!("{code:?}\n")),
    };
    let fields = Fields::new();
    for (name, value) in response.headers().entries() {
        if name == "content-type" || name.starts_with("x-") {
            fields
                .append(&name, &value)
                .expect("a header of the answer");
        }
    }
    let back = OutgoingResponse::new(fields);
    back.set_status_code(response.status())
        .expect("the status of an answer");
    let back_body = back.body().expect("the body for the first time");
    ResponseOutparam::set(out, Ok(back));
    let incoming = response.consume().expect("the body for the first time");
    let copied = {
        let input = incoming.stream().expect("the stream for the first time");
        let output = back_body.write().expect("the stream for the first time");
        support::for_each_part(&input, |part| support::write_all(&output, part))
    };
    match copied {
        Ok(()) => OutgoingBody::finish(back_body, None).expect("a complete body"),
        Err(error) => eprintln!("the answer ended early: {error}"),
    }
}

fn trailers(out: ResponseOutparam) {
    let headers = [("content-type", "text/plain"), ("trailer", "x-checksum")];
    let answer = Answer::start(out, 200, &headers);
    answer
        .write(b"with a trailer\n")
        .expect("a client that reads");
    let fields = Fields::new();
    fields
        .append("x-checksum", b"f00d")
        .expect("a header that the host takes");
    answer.finish_with(Some(fields));
}

fn trailers_back(request: &IncomingRequest, out: ResponseOutparam) {
    let body = request.consume().expect("the body for the first time");
    if let Err(error) = support::collect(&body) {
        return support::text(out, 400, &format!("{error}\n"));
    }
    let future = IncomingBody::finish(body);
    let trailers = loop {
        match future.get() {
            Some(trailers) => break trailers.expect("the trailers for the first time"),
            None => future.subscribe().block(),
        }
    };
    match trailers {
        Ok(Some(fields)) => support::text(out, 200, &support::lines(&fields)),
        Ok(None) => support::text(out, 200, "no trailers\n"),
        Err(code) => support::text(out, 400, &format!("{code:?}\n")),
    }
}

fn chunks(target: &Target, out: ResponseOutparam) {
    let bytes = target.number("bytes", 0) as usize;
    let answer = Answer::start(out, 200, &[("content-type", "text/plain")]);
    for number in 0..target.number("count", 100) {
        let part: Vec<u8> = if bytes == 0 {
            format!("chunk {number}\n").into_bytes()
        } else {
            iter::repeat_n(b'.', bytes).collect()
        };
        let written = if bytes == 0 {
            answer.write(&part)
        } else {
            answer.write_permitted(&part)
        };
        if let Err(error) = written {
            eprintln!("chunk {number} was not taken: {error}");
            return;
        }
    }
    answer.finish();
}

fn events(target: &Target, out: ResponseOutparam) {
    let pause = Duration::from_millis(target.number("ms", 100));
    let headers = [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-store"),
    ];
    let answer = Answer::start(out, 200, &headers);
    for number in 0..target.number("count", 10) {
        if number > 0 {
            thread::sleep(pause);
        }
        if let Err(error) =
            answer.write(format!("id: {number}\ndata: tick {number}\n\n").as_bytes())
        {
            eprintln!("event {number} was not taken: {error}");
            return;
        }
    }
    answer.finish();
}

/// Waits for two things at once, as a stream does that an event or a time ends.
fn watch(request: &IncomingRequest, out: ResponseOutparam) {
    const TEN_MINUTES: u64 = 600_000_000_000;
    let body = request.consume().expect("the body for the first time");
    let input = body.stream().expect("the stream for the first time");
    let answer = Answer::start(out, 200, &[("content-type", "text/event-stream")]);
    if answer.write(b"data: open\n\n").is_err() {
        return;
    }
    let (client, clock) = (
        input.subscribe(),
        monotonic_clock::subscribe_duration(TEN_MINUTES),
    );
    let event = match poll::poll(&[&client, &clock])[..] {
        [0, ..] => "data: changed\n\n",
        _ => "data: late\n\n",
    };
    drop(client);
    if answer.write(event.as_bytes()).is_ok() {
        answer.finish();
    }
}

fn clocks(out: ResponseOutparam) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seconds = now.map_or(0, |now| now.as_secs());
    let before = Instant::now();
    thread::sleep(Duration::from_millis(1));
    let passed = before.elapsed().as_nanos();
    support::text(
        out,
        200,
        &format!("seconds {seconds}\nnanoseconds {passed}\n"),
    );
}

fn random(out: ResponseOutparam) {
    let bytes = wasip2::random::random::get_random_bytes(32);
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    support::text(out, 200, &text);
}

fn length(request: &IncomingRequest, out: ResponseOutparam) {
    let body = request.consume().expect("the body for the first time");
    let stream = body.stream().expect("the stream for the first time");
    let mut count = 0;
    let read = support::for_each_part(&stream, |part| {
        count += part.len();
        Ok(())
    });
    match read {
        Ok(()) => support::text(out, 200, &format!("{count}\n")),
        Err(error) => support::text(out, 400, &format!("{error} after {count}\n")),
    }
}

fn early(request: &IncomingRequest, out: ResponseOutparam) {
    let body = request.consume().expect("the body for the first time");
    let answer = Answer::start(out, 200, &[("content-type", "text/plain")]);
    answer
        .write(b"before the body\n")
        .expect("a client that reads");
    match support::collect(&body) {
        Ok(bytes) => {
            let text = format!("and {} bytes of it\n", bytes.len());
            if answer.write(text.as_bytes()).is_ok() {
                answer.finish();
            }
        }
        Err(error) => eprintln!("the body did not come: {error}"),
    }
}
