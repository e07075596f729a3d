//! Projects in temporary directories.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::type_complexity,
    dead_code,
    unreachable_pub
)]

pub mod isolation;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use wws_engine::{
    BodySender, Call, Code, CodeCache, Engine, EngineOptions, Guest, GuestLimits, GuestSpec,
    LoadError, RequestBody, interpreter_module,
};
use wws_languages::{CompiledLanguage, JavaScript, Language, Python, Ruby};
use wws_outbound::{Client, ClientOptions, Policy, PolicyLimits};
use wws_project::beneath::Root;

pub static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    Engine::new(&EngineOptions {
        memory: 1 << 30,
        concurrency: 32,
        open_files: 1000,
        ..EngineOptions::default()
    })
    .unwrap()
});

pub static JAVASCRIPT: LazyLock<CompiledLanguage> =
    LazyLock::new(|| interpreter(JavaScript.built_in().unwrap().wasm, Arc::new(JavaScript)));

pub static PYTHON: LazyLock<CompiledLanguage> =
    LazyLock::new(|| interpreter(&wasm("python/python.wasm"), Arc::new(Python)));

pub static RUBY: LazyLock<CompiledLanguage> =
    LazyLock::new(|| interpreter(&wasm("ruby/ruby+stdlib.wasm"), Arc::new(Ruby)));

/// The file of an interpreter that is not part of the server: `scripts/interpreters.sh all` fetches
/// it.
pub fn wasm(name: &str) -> Vec<u8> {
    let path = Path::new(env!("WWS_INTERPRETERS")).join(name);
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; scripts/interpreters.sh all", path.display()))
}

/// The cache of all test programs, in the directory that cargo has for tests: each interpreter is
/// compiled once.
fn code_cache() -> CodeCache {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("code");
    CodeCache::open(&dir, 1 << 30).unwrap()
}

/// Compiled code of a module that is called as it is, as that of runtimes is.
pub fn code(wasm: &[u8]) -> Code {
    let (cache, key) = (code_cache(), ENGINE.code_key(&Sha256::digest(wasm).into()));
    if !cache.has(&key) {
        let code = ENGINE.precompile(wasm).unwrap();
        cache.store(&key, &code).unwrap();
    }
    ENGINE.compile_cached(wasm, &key, &cache).unwrap().0
}

fn interpreter(wasm: &[u8], language: Arc<dyn Language>) -> CompiledLanguage {
    let (cache, key) = (
        code_cache(),
        ENGINE.interpreter_key(&Sha256::digest(wasm).into()),
    );
    if !cache.has(&key) {
        let module = interpreter_module(wasm).unwrap();
        let code = ENGINE.precompile(&module).unwrap();
        cache.store(&key, &code).unwrap();
    }
    CompiledLanguage::new(language, &ENGINE, wasm, Some((&cache, &key))).unwrap()
}

pub struct Project(tempfile::TempDir);

impl Project {
    pub fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn load(&self, file: &str, spec: GuestSpec) -> Result<Guest, LoadError> {
        let root = Root::open(self.0.path()).unwrap();
        let language = match file.rsplit_once('.') {
            Some((_, "py")) => &PYTHON,
            Some((_, "rb")) => &RUBY,
            _ => &JAVASCRIPT,
        };
        language.guest(&root, Path::new(file), spec)
    }

    pub fn guest(&self, file: &str, spec: GuestSpec) -> Guest {
        self.load(file, spec).unwrap()
    }
}

pub fn spec() -> GuestSpec {
    GuestSpec {
        name: "test".into(),
        env: vec![],
        args: vec![],
        directories: vec![],
        kv: None,
        http: None,
        limits: GuestLimits {
            memory: 128 << 20,
            table_elements: 100_000,
            cpu_time: Duration::from_secs(2),
            // Other programs may want the CPUs as well.
            wall_time: Duration::from_secs(120),
            output: 16 << 20,
            log: 64 << 10,
            http_calls: 50,
            buffers: 64 << 20,
            open_files: 64,
            stream: wws_engine::StreamLimits::default(),
        },
    }
}

pub fn get(path: &str) -> Call {
    call(http::Method::GET, path, Vec::new())
}

pub fn post(path: &str, body: Vec<u8>) -> Call {
    call(http::Method::POST, path, body)
}

/// A request whose body is sent by the test.
pub fn upload(path: &str) -> (Call<RequestBody>, BodySender) {
    let (sender, body) = BodySender::new();
    let call: Call<RequestBody> = post(path, Vec::new()).into();
    let (head, _) = call.request.into_parts();
    let call = Call {
        request: http::Request::from_parts(head, RequestBody::Stream(body)),
        params: call.params,
        request_id: call.request_id,
    };
    (call, sender)
}

fn call(method: http::Method, path: &str, body: Vec<u8>) -> Call {
    Call {
        request: http::Request::builder()
            .method(method)
            .uri(format!("http://localhost{path}"))
            .body(Bytes::from(body))
            .unwrap(),
        params: vec![],
        request_id: "r".into(),
    }
}

/// How often a test tries what depends on time: on a busy machine a try may take longer than what
/// it is compared with.
const TRIES: usize = 20;

/// Calls a guest until it answers with `expected`, which depends on how long something took.
pub async fn answers_in_time(guest: &Guest, expected: &str) {
    let mut answers = Vec::new();
    for _ in 0..TRIES {
        let body = guest.call(get("/")).await.unwrap().into_body();
        answers.push(String::from_utf8(body.to_vec()).unwrap());
        if answers.last().unwrap() == expected {
            return;
        }
    }
    panic!("never {expected:?}: {answers:#?}");
}

/// Calls a guest until it answers that it waited less than a second. Returns the answer: numbers,
/// of which the first is how long it waited.
pub async fn waits_less_than_a_second(guest: &Guest) -> Vec<f64> {
    let mut answers = Vec::new();
    for _ in 0..TRIES {
        let body = guest.call(get("/")).await.unwrap().into_body();
        let text = String::from_utf8(body.to_vec()).unwrap();
        let numbers: Vec<f64> = text.split(' ').map(|n| n.parse().unwrap()).collect();
        if numbers[0] < 1.0 {
            return numbers;
        }
        answers.push(text);
    }
    panic!("never less than a second: {answers:#?}");
}

/// A server on loopback that answers each connection's first request with what `answer` returns of
/// it, after a delay.
pub async fn loopback(
    delay: Duration,
    answer: impl Fn(&[u8]) -> Vec<u8> + Clone + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 64 << 10];
                let n = stream.read(&mut request).await.unwrap();
                tokio::time::sleep(delay).await;
                let _ = stream.write_all(&answer(&request[..n])).await;
            });
        }
    });
    address
}

/// A server that sends `count` pieces of 1000 bytes, one every `pause`, without a length.
pub async fn slow_server(count: usize, pause: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(head.as_bytes()).await;
                for _ in 0..count {
                    if stream.write_all(&[b'x'; 1000]).await.is_err() {
                        return;
                    }
                    if !pause.is_zero() {
                        tokio::time::sleep(pause).await;
                    }
                }
            });
        }
    });
    address
}

/// A response that echoes its request, with two cookies.
pub fn echo(request: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 201 Created\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        request.len()
    );
    [head.as_bytes(), request].concat()
}

/// A server that redirects `from` to `to`, and answers everything else with `text`.
pub async fn redirecting(from: &'static str, to: &'static str, text: &'static str) -> SocketAddr {
    loopback(Duration::ZERO, move |request| {
        let answer = if request.starts_with(format!("GET {from} ").as_bytes()) {
            format!("302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        } else {
            format!(
                "200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
                text.len()
            )
        };
        format!("HTTP/1.1 {answer}").into_bytes()
    })
    .await
}

/// What a worker needs to send requests to an address.
pub fn outgoing(address: SocketAddr, methods: &[http::Method]) -> (Policy, Client) {
    let hosts = [address.to_string()];
    let policy = Policy::new(&hosts, methods, true, PolicyLimits::default()).unwrap();
    (policy, Client::new(ClientOptions::default()).unwrap())
}

/// The spec of a worker that may send requests to an address, which is its variable `TARGET`.
pub fn reaching(address: SocketAddr, methods: &[http::Method]) -> GuestSpec {
    let mut spec = spec();
    spec.env = vec![("TARGET".into(), format!("http://{address}"))];
    spec.http = Some(outgoing(address, methods));
    spec
}

/// Runs a worker that lists, compares and sets for a time, with a store in memory and one in a
/// file.
pub async fn store_operations(file: &str, source: &str, refused: &str) {
    use wws_kv::{Change, FileStore, MemoryStore, Store, StoreLimits};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kv");
    let stores: [Arc<dyn Store>; 2] = [
        Arc::new(MemoryStore::default()),
        Arc::new(FileStore::open(&path, StoreLimits::default()).unwrap()),
    ];
    let project = Project::new(&[(file, source)]);
    for store in stores {
        let keys = ["a:1", "a:2", "b"];
        let changes = keys.map(|key| Change::Set(key.into(), "x".into()));
        store.apply("ns", changes.into()).await.unwrap();
        let mut spec = spec();
        spec.kv = Some(wws_engine::KvGrant::new(store.clone(), "ns"));
        let response = project.guest(file, spec).call(get("/")).await.unwrap();
        let found: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        let refused: Vec<serde_json::Value> = serde_json::from_str(refused).unwrap();
        let mut expected = vec![
            serde_json::json!(["a:2", "a:3"]),
            // Two keys of the store, of which one is removed.
            serde_json::json!(["a:2"]),
            serde_json::json!(["a:3"]),
        ];
        expected.extend([
            true.into(),
            false.into(),
            "1".into(),
            true.into(),
            "3".into(),
        ]);
        expected.extend(refused);
        assert_eq!(found, serde_json::Value::from(expected));
        assert_eq!(store.get("ns", "k").await.unwrap().as_deref(), Some("3"));
        assert_eq!(
            store.get("ns", "a:3").await.unwrap().as_deref(),
            Some("new")
        );
        assert_eq!(store.get("ns", "a:1").await.unwrap(), None);
        for _ in 0..3000 {
            if store.get("ns", "short").await.unwrap().is_none() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(store.get("ns", "short").await.unwrap(), None);
    }
}
