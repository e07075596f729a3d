//! Measures the engine's time for a worker: `hello [js|py|rb [SOURCE]]`. Python and Ruby: after
//! `scripts/interpreters.sh all`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use wws_engine::{Call, Engine, EngineOptions, GuestLimits, GuestSpec};
use wws_languages::{CompiledLanguage, JavaScript, Language, Python, Ruby};
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
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(file), source).unwrap();
    let interpreter = |name| std::fs::read(Path::new(env!("WWS_INTERPRETERS")).join(name)).unwrap();
    let engine = Engine::new(&EngineOptions {
        memory: 1 << 30,
        concurrency: 64,
        open_files: 1000,
        ..EngineOptions::default()
    })
    .unwrap();
    let root = Root::open(directory.path()).unwrap();
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
            stream: wws_engine::StreamLimits::default(),
        },
    };
    let start = Instant::now();
    let language: Arc<dyn Language> = match &*extension {
        "js" => Arc::new(JavaScript),
        "py" => Arc::new(Python),
        _ => Arc::new(Ruby),
    };
    let wasm = match (language.built_in(), &*extension) {
        (Some(built_in), _) => built_in.wasm.to_vec(),
        (None, "py") => interpreter("python/python.wasm"),
        (None, _) => interpreter("ruby/ruby+stdlib.wasm"),
    };
    let language = CompiledLanguage::new(language, &engine, &wasm, None).unwrap();
    let compiled = Instant::now();
    let guest = language.guest(&root, file, spec).unwrap();
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
