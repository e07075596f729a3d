//! Measures the engine's time for a JavaScript worker: `cargo run --release -p wws-languages --example hello`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use wws_engine::{Call, Engine, EngineOptions, GuestLimits, GuestSpec};
use wws_languages::JavaScript;
use wws_project::beneath::Root;

fn main() {
    let source = std::env::args().nth(1).unwrap_or_else(|| {
        "export default { fetch(request) { return new Response('hello ' + request.url) } }".into()
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("index.js"), source).unwrap();
    let engine = Engine::new(&EngineOptions {
        memory: 1 << 30,
        concurrency: 64,
    })
    .unwrap();
    let start = Instant::now();
    let javascript = JavaScript::new(&engine, None).unwrap();
    println!("compile: {:?}", start.elapsed());
    let start = Instant::now();
    let root = Root::open(folder.path()).unwrap();
    let spec = GuestSpec {
        name: "hello".into(),
        env: vec![],
        args: vec![],
        folders: vec![],
        kv: None,
        http: None,
        limits: GuestLimits {
            memory: 128 << 20,
            table_elements: 100_000,
            cpu_time: Duration::from_secs(5),
            wall_time: Duration::from_secs(30),
            output: 16 << 20,
            log: 1 << 20,
            http_calls: 50,
        },
    };
    let guest = javascript
        .guest(&root, Path::new("index.js"), spec)
        .unwrap();
    println!("load: {:?}", start.elapsed());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut times = Vec::with_capacity(20_000);
        for _ in 0..times.capacity() {
            let call = Call {
                request: http::Request::get("http://localhost/x")
                    .header("accept", "*/*")
                    .header("user-agent", "hello")
                    .body(Bytes::new())
                    .unwrap(),
                params: vec![],
                request_id: String::new(),
            };
            let start = Instant::now();
            guest.call(call).await.unwrap();
            times.push(start.elapsed());
        }
        times.sort_unstable();
        let at = |part: f64| times[(times.len() as f64 * part) as usize];
        println!(
            "calls: p50 {:?}, p90 {:?}, p99 {:?}",
            at(0.5),
            at(0.9),
            at(0.99)
        );
    });
}
