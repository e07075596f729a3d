//! Responses that are sent while a worker makes them, and bodies that it reads as they come.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{Project, get, outgoing, slow_server, spec, upload};
use http_body_util::BodyExt;
use wws_engine::{Call, CallError, Guest, GuestSpec, RequestBody, ResponseBody, StreamedBody};

const PYTHON: &str = r#"
import asyncio, os
async def numbers():
    for n in range(3):
        await asyncio.sleep(0.01)
        yield f"{n};"
def endless():
    while True:
        yield b"x" * 1000
def failing():
    yield "a piece"
    yield "another"
    raise ValueError("boom")
def storing():
    yield "begun"
    Cache.set("stored", "yes")
async def upper(request):
    async for chunk in request.stream():
        yield chunk.upper()
def count(chunks):
    return sum(len(chunk) for chunk in chunks)
def read_twice(first, second):
    try:
        first()
        return second()
    except (RuntimeError, OSError) as error:
        return f"{type(error).__name__}: {error}"
def get():
    return fetch(os.environ["TARGET"])
def fetched_in_part():
    answer = get()
    first = next(iter(answer.iter_bytes()))
    answer.close()
    return read_twice(lambda: first, lambda: answer.text())
def worker(request):
    path = request.path
    if path == "/echo":
        return Response(request.stream())
    if path == "/upper":
        return Response(upper(request))
    if path == "/count":
        return str(count(request.stream()))
    if path == "/whole":
        return f"{len(request.bytes)} {count(request.stream())} {len(request.text())}"
    if path == "/again":
        return read_twice(lambda: count(request.stream()), lambda: request.text())
    if path == "/broken":
        try:
            return read_twice(lambda: count(request.stream()), lambda: None)
        finally:
            log(read_twice(lambda: None, lambda: request.bytes))
    if path == "/fetch":
        return Response(get().iter_bytes())
    if path == "/fetch-text":
        return str(len(get().text()))
    if path == "/fetch-too-large":
        try:
            return str(len(get().bytes))
        except FetchError as error:
            return error.kind
    if path == "/fetch-part":
        return fetched_in_part()
    if path == "/pieces":
        return Response((f"{n};" for n in range(3)), 201, {"x-a": "b"})
    if path == "/async":
        return Response(numbers())
    if path == "/endless":
        return Response(endless())
    if path == "/failing":
        return Response(failing())
    if path == "/storing":
        return Response(storing())
    if path == "/wrong":
        return Response(iter([1]))
    if path == "/bad-head":
        return Response(iter(["a"]), 999)
    return Response(["a", b"list"])
"#;

const RUBY: &str = r##"
class Closing
  def each
    yield "a piece"
    Cache.set("stored", "yes")
  end
  def close = Cache.set("closed", "yes")
end
def count(chunks) = chunks.sum(&:bytesize)
def read_twice
  yield
rescue IOError => error
  "#{error.class}: #{error.message}"
end
def answer = fetch(ENV["TARGET"])
def worker(request)
  case request.path
  when "/echo" then Response.new(request.each_chunk)
  when "/upper" then Response.new(request.each_chunk.lazy.map(&:upcase))
  when "/count" then count(request.each_chunk).to_s
  when "/whole" then "#{request.body.bytesize} #{count(request.each_chunk)} #{request.body.length}"
  when "/again" then read_twice { count(request.each_chunk); request.body }
  when "/broken" then read_twice { count(request.each_chunk) }
  when "/fetch" then Response.new(answer.each_chunk)
  when "/fetch-text" then answer.body.length.to_s
  when "/fetch-too-large"
    begin
      answer.body
    rescue Wws::FetchError => error
      error.kind
    end
  when "/fetch-part"
    got = answer
    got.each_chunk { break }
    got.close
    read_twice { got.body }
  when "/pieces" then Response.new(3.times.lazy.map { |n| "#{n};" }, 201, { "x-a" => "b" })
  when "/endless" then Response.new(Enumerator.new { |y| loop { y << "x" * 1000 } })
  when "/failing"
    Response.new(Enumerator.new { |y| y << "a piece"; y << "another"; raise "boom" })
  when "/storing" then Response.new(Closing.new)
  when "/wrong" then Response.new([1].each)
  when "/bad-head" then Response.new(["a"].each, 999)
  else Response.new(["a", "list"])
  end
end
"##;

/// The workers by their languages.
fn workers() -> Vec<(Project, Guest)> {
    workers_with(|_| {})
}

fn workers_with(change: impl Fn(&mut GuestSpec)) -> Vec<(Project, Guest)> {
    let store: Arc<dyn wws_kv::Store> = Arc::new(wws_kv::MemoryStore::default());
    [("w.py", PYTHON), ("w.rb", RUBY)]
        .map(|(file, source)| {
            let project = Project::new(&[(file, source)]);
            let mut spec = spec();
            // Bodies are moved here, on machines that do other things as well.
            spec.limits.wall_time = Duration::from_secs(300);
            spec.limits.cpu_time = Duration::from_secs(100);
            spec.kv = Some(wws_engine::KvGrant::new(store.clone(), file));
            change(&mut spec);
            let guest = project.guest(file, spec);
            (project, guest)
        })
        .into()
}

async fn stream(guest: &Guest, path: &str) -> (http::response::Parts, Box<StreamedBody>) {
    let (head, body) = guest.serve(get(path).into()).await.unwrap().into_parts();
    match body {
        ResponseBody::Stream(stream) => (head, stream),
        ResponseBody::Collected(body) => panic!("{path}: not a stream: {body:?}"),
        ResponseBody::Socket(_) => panic!("{path}: not a stream"),
    }
}

/// The pieces of a body, and how it ended.
async fn pieces(mut body: Box<StreamedBody>) -> (Vec<Bytes>, Result<(), CallError>) {
    let mut pieces = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => pieces.push(frame.into_data().unwrap()),
            Err(error) => return (pieces, Err(error)),
        }
    }
    (pieces, Ok(()))
}

#[tokio::test(flavor = "multi_thread")]
async fn yields_pieces() {
    for (_project, guest) in workers() {
        let (head, body) = stream(&guest, "/pieces").await;
        assert_eq!(
            (head.status.as_u16(), &head.headers["x-a"]),
            (201, &"b".parse().unwrap())
        );
        let (pieces, end) = pieces(body).await;
        assert_eq!(pieces, ["0;", "1;", "2;"]);
        end.unwrap();
        let whole = guest.serve(get("/").into()).await.unwrap().into_body();
        assert!(matches!(whole, ResponseBody::Collected(body) if body == "alist"));
    }
    let (_project, python) = workers().remove(0);
    let (pieces, end) = pieces(stream(&python, "/async").await.1).await;
    assert_eq!(pieces, ["0;", "1;", "2;"]);
    end.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_an_endless_body() {
    for (_project, guest) in workers() {
        let (_, mut body) = stream(&guest, "/endless").await;
        for _ in 0..100 {
            let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(piece.len(), 1000);
        }
        drop(body);
        assert_eq!(guest.call(get("/")).await.unwrap().body(), "alist");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_after_the_head_breaks_the_body() {
    for (_project, guest) in workers() {
        let (pieces, end) = pieces(stream(&guest, "/failing").await.1).await;
        assert_eq!(pieces, ["a piece", "another"]);
        let error = end.unwrap_err().to_string();
        assert!(error.contains("boom"), "{error}");
        // The head was not sent yet.
        let error = guest.call(get("/bad-head")).await.unwrap_err().to_string();
        assert!(error.contains("999"), "{error}");
        let error = guest.call(get("/wrong")).await.unwrap_err().to_string();
        assert!(error.contains("String") || error.contains("int"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_changes_of_a_stream_at_its_end() {
    for ((_project, guest), name) in workers().into_iter().zip(["w.py", "w.rb"]) {
        let (mut spec, store) = (spec(), Arc::new(wws_kv::MemoryStore::default()));
        let store: Arc<dyn wws_kv::Store> = store;
        spec.kv = Some(wws_engine::KvGrant::new(store.clone(), "ns"));
        let guest = {
            drop(guest);
            _project.guest(name, spec)
        };
        let (_, mut body) = stream(&guest, "/storing").await;
        while let Some(frame) = body.frame().await {
            frame.unwrap();
        }
        assert_eq!(
            store.get("ns", "stored").await.unwrap().unwrap(),
            "yes",
            "{name}"
        );
    }
}

/// What a guest answers as a whole.
async fn text(guest: &Guest, call: Call<RequestBody>) -> String {
    let body = guest.serve(call).await.unwrap().into_body();
    let body = body.collect(1 << 20).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_a_request_as_it_arrives() {
    for (_project, guest) in workers() {
        assert!(guest.takes_streams());
        for (path, expected) in [("/echo", "one"), ("/upper", "ONE")] {
            let (call, sender) = upload(path);
            sender.send("one".into()).await.unwrap();
            let ResponseBody::Stream(mut body) = guest.serve(call).await.unwrap().into_body()
            else {
                panic!("{path}: not a stream");
            };
            for n in 0..3 {
                let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
                assert_eq!(piece, expected, "{path}");
                if n < 2 {
                    sender.send("one".into()).await.unwrap();
                }
            }
            sender.finish().await.unwrap();
            let (rest, end) = pieces(body).await;
            assert!(rest.is_empty(), "{path}");
            end.unwrap();
        }
        for (path, expected) in [
            ("/count", "2000"),
            ("/whole", "2000 2000 2000"),
            (
                "/again",
                "Error: the body was read in chunks, or closed: it is not kept",
            ),
            ("/", "alist"),
        ] {
            let (call, sender) = upload(path);
            let sending = tokio::spawn(async move {
                for _ in 0..2 {
                    if sender.send("x".repeat(1000).into()).await.is_err() {
                        return;
                    }
                }
                let _ = sender.finish().await;
            });
            let text = text(&guest, call).await;
            assert!(text.ends_with(expected), "{path}: {text}");
            sending.await.unwrap();
        }
        // A client that goes away: the body has no end.
        let (call, sender) = upload("/broken");
        sender.send("x".into()).await.unwrap();
        drop(sender);
        let text = text(&guest, call).await;
        assert!(text.contains("Error: the body of the request: "), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_any_size_in_constant_memory() {
    const PIECE: usize = 512 << 10;
    const PIECES: usize = 600;
    let workers = workers_with(|spec| {
        spec.limits.memory = 96 << 20;
        spec.limits.buffers = 4 << 20;
    });
    for (_project, guest) in workers {
        let (call, sender) = upload("/count");
        let sending = tokio::spawn(async move {
            let piece = Bytes::from(vec![b'x'; PIECE]);
            for _ in 0..PIECES {
                sender.send(piece.clone()).await.unwrap();
            }
            sender.finish().await.unwrap();
        });
        // 300 MiB.
        assert_eq!(text(&guest, call).await, (PIECE * PIECES).to_string());
        sending.await.unwrap();
        // As a whole, it is bounded.
        let (call, sender) = upload("/whole");
        let sending = tokio::spawn(async move {
            let piece = Bytes::from(vec![b'x'; PIECE]);
            while sender.send(piece.clone()).await.is_ok() {}
        });
        let error = guest.serve(call).await.err().unwrap().to_string();
        assert!(error.contains("limits.buffers"), "{error}");
        sending.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_a_fetched_body_as_it_arrives() {
    let reaching = |spec: &mut GuestSpec, address: std::net::SocketAddr| {
        spec.env = vec![("TARGET".into(), format!("http://{address}"))];
        spec.http = Some(outgoing(address, &[http::Method::GET]));
    };
    let address = slow_server(1000, Duration::from_millis(20)).await;
    for (_project, guest) in workers_with(|spec| reaching(spec, address)) {
        let (_, mut body) = stream(&guest, "/fetch").await;
        for _ in 0..3 {
            let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(piece.iter().all(|byte| *byte == b'x'));
        }
        drop(body);
        let text = text(&guest, get("/fetch-part").into()).await;
        assert!(
            text.contains("Error: the body was read in chunks"),
            "{text}"
        );
    }
    // More than a collected answer may have: 10 MiB.
    let address = slow_server(11_000, Duration::ZERO).await;
    for (_project, guest) in workers_with(|spec| reaching(spec, address)) {
        let (pieces, end) = pieces(stream(&guest, "/fetch").await.1).await;
        end.unwrap();
        assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>(), 11_000_000);
        let text = text(&guest, get("/fetch-too-large").into()).await;
        assert_eq!(text, "invalid-response-body");
    }
    let address = slow_server(200, Duration::ZERO).await;
    for (_project, guest) in workers_with(|spec| reaching(spec, address)) {
        assert_eq!(text(&guest, get("/fetch-text").into()).await, "200000");
    }
}
