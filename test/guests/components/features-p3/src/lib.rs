//! One route for each thing that a wasi:http 0.3 component can do:
//!
//! | route | does |
//! |---|---|
//! | `/request` | method, scheme, authority, path and headers of the request, a line for each |
//! | `/env` | all environment variables |
//! | `/read/PATH`, `/write/PATH` | a file of a preopened directory; the body into one |
//! | `/echo` | the body back as it comes |
//! | `/length` | reads the body and counts |
//! | `/outgoing?url=http://HOST/PATH` | a request with this method and body; its answer as it comes |
//! | `/outgoing-two?url=` | two requests at once, and their answers |
//! | `/trailers`, `/trailers-back` | an answer with the trailer `x-checksum`; the request's trailers back |
//! | `/chunks?count=100&bytes=0`, `/sse?count=10&ms=100` | lines; server-sent events with sleeps between them |
//! | `/watch` | an event at once, and another one when the body comes or ten minutes have passed |
//! | `/early` | answers before the body is read, and reads it then |
//! | `/trap`, `/trap-after-head`, `/trap-half-way`, `/error-code`, `/hang` | failures |
//! | `/forgotten-trailers`, `/half-a-body` | drops the future of the trailers; an error in place of the trailers |
//! | `/length-short`, `/forbidden-headers` | a body shorter than its length; which fields the host refuses |
//! | `/length-long`, `/trap-after?bytes=100000`, `/spin`, `/stack` | a body longer than its length; a trap after so many bytes; never ends |
//! | `/leak?what=fields&count=10000` | leaks resources: fields, requests, options, streams, futures |
//! | `/flood` | writes for ever |
//! | `/outgoing-many?url=&count=1000` | as many requests at once |
//! | `/count` | how many requests the instance has counted |
//! | `/together?count=4` | waits until the instance was given so many of these requests |
//! | `/after` | goes on after the answer has ended, and prints |
//! | `/status/418` | a status and no body |
//! | `/empty`, `/print`, `/sleep?ms=10`, `/random`, `/clocks` | |

use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;
use std::{env, fs, hint, mem, process};

use futures_util::future::{Either, join_all, select};
use wasip3::clocks::monotonic_clock;
use wasip3::exports::http::handler::Guest;
use wasip3::http::client;
use wasip3::http::types::{
    ErrorCode, Fields, Request, RequestOptions, Response, Scheme, Trailers,
};
use wasip3::wit_bindgen::{FutureReader, FutureWriter, StreamReader, StreamResult, StreamWriter};
use wasip3::{wit_bindgen, wit_future, wit_stream};

struct Features;

wasip3::http::service::export!(Features);

/// What an answer or a request ends with.
type End = Result<Option<Trailers>, ErrorCode>;

/// Bytes asked for at once when a body is read.
const READ_SIZE: usize = 64 * 1024;

impl Guest for Features {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let whole = request.get_path_with_query().unwrap_or_default();
        let (path, query) = whole.split_once('?').unwrap_or((&whole, ""));
        let path = path.trim_start_matches('/');
        let (route, rest) = path.split_once('/').unwrap_or((path, ""));
        match route {
            "request" => Ok(text(200, &show(&request))),
            "env" => {
                let all = env::vars().map(|(name, value)| format!("{name}={value}\n"));
                Ok(text(200, &all.collect::<String>()))
            }
            "read" => Ok(match fs::read(format!("/{rest}")) {
                Ok(bytes) => stream(200, &[], async |body| drop(body.write_all(bytes).await)),
                Err(error) => text(404, &format!("{error}\n")),
            }),
            "write" => {
                let (mut body, _) = body_of(request);
                let mut bytes = Vec::new();
                while let Some(part) = next(&mut body).await {
                    bytes.extend(part);
                }
                Ok(match fs::write(format!("/{rest}"), &bytes) {
                    Ok(()) => text(201, &format!("{} bytes\n", bytes.len())),
                    Err(error) => text(500, &format!("{error}\n")),
                })
            }
            "echo" => {
                let (body, end) = body_of(request);
                let (response, _sent) = Response::new(Fields::new(), Some(body), end);
                Ok(response)
            }
            "length" => {
                let (mut body, end) = body_of(request);
                let count = count(&mut body).await;
                Ok(match end.await {
                    Ok(_) => text(200, &format!("{count}\n")),
                    Err(code) => text(400, &format!("{code:?} after {count}\n")),
                })
            }
            "outgoing" => outgoing(request, query).await,
            "outgoing-two" => {
                let url = parameter(query, "url").unwrap_or_default();
                let (first, second) = (send(url), send(url));
                let (first, second) = futures_util::join!(first, second);
                Ok(text(200, &format!("{first}\n{second}\n")))
            }
            "trailers" => {
                let headers = [("trailer", "x-checksum")];
                Ok(answer(200, &headers, async |mut body, end| {
                    body.write_all(b"with a trailer\n".to_vec()).await;
                    drop(body);
                    let fields = Fields::new();
                    fields.append("x-checksum", b"f00d").expect("a field");
                    let _ = end.write(Ok(Some(fields))).await;
                }))
            }
            "trailers-back" => {
                let (mut body, end) = body_of(request);
                count(&mut body).await;
                drop(body);
                Ok(match end.await {
                    Ok(Some(fields)) => text(200, &lines(&fields)),
                    Ok(None) => text(200, "no trailers\n"),
                    Err(code) => text(400, &format!("{code:?}\n")),
                })
            }
            "chunks" => {
                let (count, bytes) = (number(query, "count", 100), number(query, "bytes", 0));
                Ok(stream(200, &[], async move |body| {
                    for chunk in 0..count {
                        let part = match bytes {
                            0 => format!("chunk {chunk}\n").into_bytes(),
                            bytes => vec![b'.'; bytes as usize],
                        };
                        if !body.write_all(part).await.is_empty() {
                            eprintln!("chunk {chunk} was not taken");
                            return;
                        }
                    }
                }))
            }
            "sse" => {
                let (count, pause) = (number(query, "count", 10), number(query, "ms", 100));
                let headers = [("content-type", "text/event-stream")];
                Ok(stream(200, &headers, async move |body| {
                    for tick in 0..count {
                        if tick > 0 {
                            sleep(pause).await;
                        }
                        let event = format!("id: {tick}\ndata: tick {tick}\n\n");
                        if !body.write_all(event.into_bytes()).await.is_empty() {
                            eprintln!("event {tick} was not taken");
                            return;
                        }
                    }
                }))
            }
            "watch" => {
                let headers = [("content-type", "text/event-stream")];
                Ok(stream(200, &headers, async move |body| {
                    body.write_all(b"data: open\n\n".to_vec()).await;
                    let (mut input, _) = body_of(request);
                    let (part, clock) = (pin!(next(&mut input)), pin!(sleep(600_000)));
                    let event = match select(part, clock).await {
                        Either::Left(_) => "data: changed\n\n",
                        Either::Right(_) => "data: late\n\n",
                    };
                    body.write_all(event.into()).await;
                }))
            }
            "early" => Ok(stream(200, &[], async move |body| {
                body.write_all(b"before the body\n".to_vec()).await;
                let (mut input, _) = body_of(request);
                let text = format!("and {} bytes of it\n", count(&mut input).await);
                body.write_all(text.into_bytes()).await;
            })),
            "trap" => process::abort(),
            "trap-after-head" => Ok(stream(200, &[], async |_| {
                sleep(20).await;
                process::abort()
            })),
            "trap-half-way" => Ok(stream(200, &[], async |body| {
                body.write_all(b"the first half\n".to_vec()).await;
                sleep(20).await;
                process::abort()
            })),
            "error-code" => Err(ErrorCode::InternalError(Some("said by the guest".into()))),
            "hang" => {
                sleep(u64::MAX / 1_000_000).await;
                Ok(text(200, "after all\n"))
            }
            "forgotten-trailers" => Ok(answer(200, &[], async |mut body, end| {
                body.write_all(b"hello".to_vec()).await;
                drop(end);
            })),
            "half-a-body" => Ok(answer(200, &[], async |mut body, end| {
                body.write_all(b"the first half\n".to_vec()).await;
                drop(body);
                let error = ErrorCode::InternalError(Some("half-way".into()));
                let _ = end.write(Err(error)).await;
            })),
            "length-short" => {
                let headers = [("content-length", "10")];
                Ok(stream(200, &headers, async |body| {
                    body.write_all(b"hello".to_vec()).await;
                }))
            }
            "length-long" => {
                let headers = [("content-length", "3")];
                Ok(stream(200, &headers, async |body| {
                    body.write_all(b"hello".to_vec()).await;
                }))
            }
            "trap-after" => {
                let bytes = number(query, "bytes", 100_000);
                Ok(stream(200, &[], async move |body| {
                    body.write_all(vec![b'.'; bytes as usize]).await;
                    process::abort();
                }))
            }
            "spin" => loop {
                hint::black_box(());
            },
            "stack" => Ok(text(200, &format!("{}\n", deeper(0)))),
            "leak" => {
                let count = number(query, "count", 10_000);
                leak(parameter(query, "what").unwrap_or("fields"), count);
                Ok(text(200, &format!("leaked {count}\n")))
            }
            "flood" => Ok(stream(200, &[], async |body| {
                while body.write_all(vec![b'f'; READ_SIZE]).await.is_empty() {}
            })),
            "outgoing-many" => {
                let url = parameter(query, "url").unwrap_or_default();
                let all = (0..number(query, "count", 1000)).map(|_| send(url));
                let all = join_all(all).await;
                let answered = all.iter().filter(|sent| sent.starts_with("200 ")).count();
                let failed = all.iter().find(|sent| !sent.starts_with("200 "));
                Ok(text(200, &format!("answered {answered}, failed {failed:?}\n")))
            }
            "count" => {
                static COUNT: AtomicU32 = AtomicU32::new(0);
                let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
                Ok(text(200, &format!("{count}\n")))
            }
            "together" => {
                static COUNT: AtomicU32 = AtomicU32::new(0);
                COUNT.fetch_add(1, Ordering::Relaxed);
                let wanted = number(query, "count", 4);
                while u64::from(COUNT.load(Ordering::Relaxed)) < wanted {
                    sleep(5).await;
                }
                Ok(text(200, &format!("{wanted} at once\n")))
            }
            "forbidden-headers" => {
                let tried = [
                    "connection",
                    "host",
                    "keep-alive",
                    "transfer-encoding",
                    "upgrade",
                ];
                let tried =
                    tried.map(|name| format!("{name}: {:?}\n", Fields::new().append(name, b"1")));
                Ok(text(200, &tried.concat()))
            }
            "after" => {
                wit_bindgen::spawn_local(async {
                    sleep(200).await;
                    println!("after the answer");
                });
                Ok(text(200, "answered\n"))
            }
            "empty" => {
                let (_, end) = wit_future::new(|| Ok(None));
                let (response, _sent) = Response::new(Fields::new(), None, end);
                response.set_status_code(204).expect("a status");
                Ok(response)
            }
            "status" => {
                let (_, end) = wit_future::new(|| Ok(None));
                let (response, _sent) = Response::new(Fields::new(), None, end);
                Ok(match response.set_status_code(rest.parse().unwrap_or(0)) {
                    Ok(()) => response,
                    Err(()) => text(400, "the host takes no such status\n"),
                })
            }
            "print" => {
                println!("a line on stdout");
                eprintln!("a line on stderr");
                Ok(text(200, "printed\n"))
            }
            "sleep" => {
                sleep(number(query, "ms", 10)).await;
                Ok(text(200, "slept\n"))
            }
            "random" => {
                let bytes = wasip3::random::random::get_random_bytes(32);
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                Ok(text(200, &hex))
            }
            "clocks" => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                Ok(text(
                    200,
                    &format!("seconds {}\n", now.map_or(0, |now| now.as_secs())),
                ))
            }
            _ => Ok(text(404, "no such route\n")),
        }
    }
}

fn leak(what: &str, count: u64) {
    for _ in 0..count {
        match what {
            "requests" => {
                let (_, end) = wit_future::new(|| Ok(None));
                mem::forget(Request::new(Fields::new(), None, end, None));
            }
            "options" => mem::forget(RequestOptions::new()),
            "streams" => mem::forget(wit_stream::new::<u8>()),
            "futures" => mem::forget(wit_future::new::<End>(|| Ok(None))),
            _ => mem::forget(Fields::new()),
        }
    }
}

#[allow(unconditional_recursion)]
fn deeper(depth: u64) -> u64 {
    hint::black_box(deeper(hint::black_box(depth + 1))) + 1
}

async fn sleep(milliseconds: u64) {
    monotonic_clock::wait_for(milliseconds * 1_000_000).await;
}

/// A parameter of the query, as it was sent.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

fn number(query: &str, name: &str, default: u64) -> u64 {
    parameter(query, name)
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

/// One `name: value` in a line for each field.
fn lines(fields: &Fields) -> String {
    fields
        .copy_all()
        .iter()
        .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value)))
        .collect()
}

fn show(request: &Request) -> String {
    format!(
        "method {:?}\nscheme {:?}\nauthority {:?}\npath {:?}\n{}",
        request.get_method(),
        request.get_scheme(),
        request.get_authority(),
        request.get_path_with_query(),
        lines(&request.get_headers()),
    )
}

/// An answer whose body and end are written while the answer is under way.
fn answer<F>(status: u16, headers: &[(&str, &str)], produce: F) -> Response
where
    F: AsyncFnOnce(StreamWriter<u8>, FutureWriter<End>) + 'static,
{
    let fields = Fields::new();
    for (name, value) in headers {
        fields
            .append(name, value.as_bytes())
            .expect("a header that the host takes");
    }
    let (writer, body) = wit_stream::new();
    let (end_writer, end) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(fields, Some(body), end);
    response
        .set_status_code(status)
        .expect("a status that the host takes");
    wit_bindgen::spawn_local(async move { produce(writer, end_writer).await });
    response
}

/// An answer without trailers, complete when `produce` is done.
fn stream<F>(status: u16, headers: &[(&str, &str)], produce: F) -> Response
where
    F: AsyncFnOnce(&mut StreamWriter<u8>) + 'static,
{
    answer(status, headers, async |mut body, end| {
        produce(&mut body).await;
        drop(body);
        let _ = end.write(Ok(None)).await;
    })
}

fn text(status: u16, text: &str) -> Response {
    let bytes = text.as_bytes().to_vec();
    stream(status, &[("content-type", "text/plain")], async |body| {
        body.write_all(bytes).await;
    })
}

/// The body of a request, which is said to be read without a failure.
fn body_of(request: Request) -> (StreamReader<u8>, FutureReader<End>) {
    let (_, read) = wit_future::new(|| Ok(()));
    Request::consume_body(request, read)
}

/// The next part of a body.
async fn next(body: &mut StreamReader<u8>) -> Option<Vec<u8>> {
    match body.read(Vec::with_capacity(READ_SIZE)).await {
        (StreamResult::Complete(_), part) => Some(part),
        _ => None,
    }
}

async fn count(body: &mut StreamReader<u8>) -> usize {
    let mut count = 0;
    while let Some(part) = next(body).await {
        count += part.len();
    }
    count
}

/// A request to a URL, with a body or without one.
fn request_to(
    url: &str,
    headers: Fields,
    body: Option<StreamReader<u8>>,
    end: FutureReader<End>,
) -> Option<Request> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let (request, _sent) = Request::new(headers, body, end, None);
    request.set_scheme(Some(&scheme)).ok()?;
    request.set_authority(Some(authority)).ok()?;
    request.set_path_with_query(Some(path)).ok()?;
    Some(request)
}

async fn outgoing(request: Request, query: &str) -> Result<Response, ErrorCode> {
    let url = parameter(query, "url").unwrap_or_default();
    let method = request.get_method();
    let headers = Fields::new();
    for (name, value) in request.get_headers().copy_all() {
        if name.starts_with("x-") || name == "content-length" {
            headers
                .append(&name, &value)
                .expect("a header of the request");
        }
    }
    let (body, end) = body_of(request);
    let Some(sent) = request_to(url, headers, Some(body), end) else {
        return Ok(text(400, "no url\n"));
    };
    sent.set_method(&method).expect("the method of the request");
    match client::send(sent).await {
        Ok(response) => {
            let status = response.get_status_code();
            let (_, read) = wit_future::new(|| Ok(()));
            let (body, end) = Response::consume_body(response, read);
            let (back, _sent) = Response::new(Fields::new(), Some(body), end);
            back.set_status_code(status)
                .expect("the status of an answer");
            Ok(back)
        }
        Err(code) => Ok(text(502, &format!("{code:?}\n"))),
    }
}

/// The status and the length of an answer, or its error.
async fn send(url: &str) -> String {
    let (_, end) = wit_future::new(|| Ok(None));
    let Some(request) = request_to(url, Fields::new(), None, end) else {
        return "no url".into();
    };
    match client::send(request).await {
        Ok(response) => {
            let status = response.get_status_code();
            let (_, read) = wit_future::new(|| Ok(()));
            let (mut body, _) = Response::consume_body(response, read);
            format!("{status} {}", count(&mut body).await)
        }
        Err(code) => format!("{code:?}"),
    }
}
