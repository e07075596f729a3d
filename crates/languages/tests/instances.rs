//! Instances that answer several requests, in each language.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::{Project, get, loopback, outgoing, spec};
use wws_engine::{Guest, GuestSpec};

const JAVASCRIPT: &str = r#"
let count = 0;
export default {
  async fetch(request, env) {
    count++;
    const path = new URL(request.url).pathname;
    if (path === "/fails") throw new Error("boom");
    if (path === "/fetch") return new Response(`${count} ${(await fetch(env.TARGET)).status}`);
    if (path === "/left") setTimeout(() => { count += 100; }, 50);
    if (path === "/cleared") clearTimeout(setTimeout(() => { count += 100; }, 50));
    if (path === "/stream") return new Response((async function* () { yield `${count}`; })());
    if (path === "/long") return new Response((async function* () { for (let i = 0; i < 100; i++) yield "x"; })());
    return new Response(`${count}`);
  },
};
"#;

const PYTHON: &str = r#"
import os
count = 0
def worker(request):
    global count
    count += 1
    path = request.path
    if path == "/fails":
        raise ValueError("boom")
    if path == "/fetch":
        return f"{count} {fetch(os.environ['TARGET']).status}"
    if path == "/stream":
        return Response(iter([str(count)]))
    if path == "/long":
        return Response(iter(["x"] * 100))
    return str(count)
"#;

const RUBY: &str = r##"
$count = 0
def worker(request)
  $count += 1
  case request.path
  when "/fails" then raise "boom"
  when "/fetch" then "#{$count} #{fetch(ENV["TARGET"]).status}"
  when "/stream" then Response.new([$count.to_s].each)
  when "/long" then Response.new((["x"] * 100).each)
  else $count.to_s
  end
end
"##;

const WORKERS: [(&str, &str); 3] = [("w.js", JAVASCRIPT), ("w.py", PYTHON), ("w.rb", RUBY)];

fn guest(file: &str, source: &str, spec: GuestSpec) -> (Project, Guest) {
    let project = Project::new(&[(file, source)]);
    let guest = project.guest(file, spec);
    (project, guest)
}

async fn text(guest: &Guest, path: &str) -> String {
    let response = guest.call(get(path)).await.unwrap();
    String::from_utf8(response.into_body().to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn globals_survive_exactly_when_asked() {
    for (file, source) in WORKERS {
        let (_project, fresh) = guest(file, source, spec());
        for _ in 0..3 {
            assert_eq!(text(&fresh, "/").await, "1", "{file}");
        }
        let (_project, reused) = guest(file, source, spec());
        let reused = reused.reusing(4).unwrap();
        let mut counts = Vec::new();
        for _ in 0..6 {
            counts.push(text(&reused, "/").await);
        }
        assert_eq!(counts, ["1", "2", "3", "4", "1", "2"], "{file}");
        // The instance is back soon after the end of its body.
        let mut pause = Duration::from_millis(20);
        loop {
            reused.trim();
            assert_eq!(text(&reused, "/stream").await, "1", "{file}");
            tokio::time::sleep(pause).await;
            if text(&reused, "/stream").await == "2" {
                break;
            }
            pause *= 2;
            assert!(pause < Duration::from_secs(60), "{file}: it is not back");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn discards_an_instance_that_failed() {
    for (file, source) in WORKERS {
        let (_project, guest) = guest(file, source, spec());
        let guest = guest.reusing(100).unwrap();
        for _ in 0..2 {
            assert_eq!(text(&guest, "/").await, "1", "{file}");
            assert_eq!(text(&guest, "/").await, "2", "{file}");
            let error = guest.call(get("/fails")).await.unwrap_err().to_string();
            assert!(error.contains("boom"), "{file}: {error}");
        }
        // A client that goes away.
        assert_eq!(text(&guest, "/").await, "1", "{file}");
        let response = guest.serve(get("/long").into()).await.unwrap();
        drop(response);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(text(&guest, "/").await, "1", "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_for_each_request() {
    let address = loopback(Duration::ZERO, |_| {
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok".to_vec()
    });
    let address = address.await;
    for (file, source) in WORKERS {
        let mut spec = spec();
        spec.limits.http_calls = 1;
        spec.env = vec![("TARGET".into(), format!("http://{address}"))];
        spec.http = Some(outgoing(address, &[http::Method::GET]));
        let (_project, guest) = guest(file, source, spec);
        let guest = guest.reusing(100).unwrap();
        for n in 1..=3 {
            assert_eq!(text(&guest, "/fetch").await, format!("{n} 200"), "{file}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_request_goes_on_in_the_next() {
    let (_project, guest) = guest("w.js", JAVASCRIPT, spec());
    let guest = guest.reusing(100).unwrap();
    assert_eq!(text(&guest, "/").await, "1");
    // Its timer is not due yet: the instance is thrown away.
    assert_eq!(text(&guest, "/left").await, "2");
    assert_eq!(text(&guest, "/").await, "1");
    assert_eq!(text(&guest, "/cleared").await, "2");
    assert_eq!(text(&guest, "/").await, "3");
}
