//! Responses that are sent while a worker makes them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{Project, get, spec};
use http_body_util::BodyExt;
use wws_engine::{CallError, Guest, ResponseBody, StreamedBody};

const PYTHON: &str = r#"
import asyncio
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
def worker(request):
    path = request.path
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
def worker(request)
  case request.path
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
    let store: Arc<dyn wws_kv::Store> = Arc::new(wws_kv::MemoryStore::default());
    [("w.py", PYTHON), ("w.rb", RUBY)]
        .map(|(file, source)| {
            let project = Project::new(&[(file, source)]);
            let mut spec = spec();
            spec.limits.wall_time = Duration::from_secs(60);
            spec.kv = Some((store.clone(), file.into()));
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
async fn parts_are_pieces() {
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
async fn a_body_may_have_no_end() {
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
async fn what_a_stream_stores_is_there_at_its_end() {
    for ((_project, guest), name) in workers().into_iter().zip(["w.py", "w.rb"]) {
        let (mut spec, store) = (spec(), Arc::new(wws_kv::MemoryStore::default()));
        let store: Arc<dyn wws_kv::Store> = store;
        spec.kv = Some((store.clone(), "ns".into()));
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
