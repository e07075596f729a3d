//! Measures the engine's time for a worker: `hello [js|py|rb [SOURCE]]`. Python and Ruby: after `scripts/interpreters.sh all`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use wws_engine::{Call, Engine, EngineOptions, GuestLimits, GuestSpec};
use wws_languages::{GuestError, JavaScript, Python, Ruby};
use wws_project::beneath::Root;

fn main() {
    let mut args = std::env::args().skip(1);
    let extension = args.next().unwrap_or_else(|| "js".into());
    let source = args.next().unwrap_or_else(|| {
        match &*extension {
            "js" => {
                "export default { fetch(request) { return new Response('hello ' + request.url) } }"
            }
            "py" => "def worker(request): return Response('hello ' + request.url)",
            _ => "def worker(request) = Response.new(\"hello #{request.url}\")",
        }
        .into()
    });
    let file = format!("index.{extension}");
    let file = Path::new(&file);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(file), source).unwrap();
    let interpreter = |name| std::fs::read(Path::new(env!("WWS_INTERPRETERS")).join(name)).unwrap();
    let engine = Engine::new(&EngineOptions {
        memory: 1 << 30,
        concurrency: 64,
        open_files: 1000,
        ..EngineOptions::default()
    })
    .unwrap();
    let root = Root::open(folder.path()).unwrap();
    let spec = GuestSpec {
        name: "hello".into(),
        env: vec![],
        args: vec![],
        directories: vec![],
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
            buffers: 64 << 20,
            open_files: 64,
        },
    };
    let start = Instant::now();
    let (compiled, guest) = match &*extension {
        "js" => {
            let javascript = JavaScript::new(&engine, None).unwrap();
            (Instant::now(), javascript.guest(&root, file, spec))
        }
        "py" => {
            let python = Python::new(&engine, &interpreter("python/python.wasm"), None).unwrap();
            let guest = python.guest(&root, file, spec);
            (Instant::now(), guest.map_err(GuestError::from))
        }
        _ => {
            let ruby = Ruby::new(&engine, &interpreter("ruby/ruby+stdlib.wasm"), None).unwrap();
            let guest = ruby.guest(&root, file, spec);
            (Instant::now(), guest.map_err(GuestError::from))
        }
    };
    let guest = guest.unwrap();
    println!("compile: {:?}", compiled - start);
    println!("load: {:?}", compiled.elapsed());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut times = Vec::with_capacity(10_000);
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
