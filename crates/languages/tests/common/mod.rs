//! Projects in temporary folders.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::type_complexity,
    dead_code,
    unreachable_pub
)]

use std::{path::Path, sync::LazyLock, time::Duration};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use wws_engine::{
    Call, CodeCache, CodeKey, Engine, EngineOptions, Guest, GuestLimits, GuestSpec, LoadError,
    interpreter_module,
};
use wws_languages::{GuestError, JavaScript, Python, Ruby};
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

/// Compiled once for all tests.
pub static JAVASCRIPT: LazyLock<JavaScript> =
    LazyLock::new(|| JavaScript::new(&ENGINE, None).unwrap());

pub static PYTHON: LazyLock<Python> =
    LazyLock::new(|| interpreter("python/python.wasm", Python::new));

pub static RUBY: LazyLock<Ruby> = LazyLock::new(|| interpreter("ruby/ruby+stdlib.wasm", Ruby::new));

/// The file of an interpreter that is not part of the server: `scripts/interpreters.sh all` fetches it.
pub fn wasm(name: &str) -> Vec<u8> {
    let path = Path::new(env!("WWS_INTERPRETERS")).join(name);
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; scripts/interpreters.sh all", path.display()))
}

/// An interpreter. Its code is kept for the next run, in the folder that cargo has for tests.
fn interpreter<T>(
    name: &str,
    make: fn(&Engine, &[u8], Option<(&CodeCache, &CodeKey)>) -> Result<T, LoadError>,
) -> T {
    let wasm = wasm(name);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("code");
    let cache = CodeCache::open(&folder, 1 << 30).unwrap();
    let key = ENGINE.interpreter_key(&Sha256::digest(&wasm).into());
    if !cache.has(&key) {
        let module = interpreter_module(&wasm).unwrap();
        cache
            .store(&key, &ENGINE.precompile(&module).unwrap())
            .unwrap();
    }
    make(&ENGINE, &wasm, Some((&cache, &key))).unwrap()
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

    pub fn load(&self, file: &str, spec: GuestSpec) -> Result<Guest, GuestError> {
        let root = Root::open(self.0.path()).unwrap();
        match file.rsplit_once('.') {
            Some((_, "py")) => Ok(PYTHON.guest(&root, Path::new(file), spec)?),
            Some((_, "rb")) => Ok(RUBY.guest(&root, Path::new(file), spec)?),
            _ => JAVASCRIPT.guest(&root, Path::new(file), spec),
        }
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
            wall_time: Duration::from_secs(10),
            output: 16 << 20,
            log: 64 << 10,
            http_calls: 50,
            buffers: 64 << 20,
            open_files: 64,
        },
    }
}

pub fn get(path: &str) -> Call {
    call(http::Method::GET, path, Vec::new())
}

pub fn post(path: &str, body: Vec<u8>) -> Call {
    call(http::Method::POST, path, body)
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

/// A server that sends `/moved` to `/end`, and what a worker needs to ask it.
pub async fn redirecting() -> (
    std::net::SocketAddr,
    (wws_outbound::Policy, wws_outbound::Client),
) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use wws_outbound::{Client, ClientOptions, Policy, PolicyLimits};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 8 << 10];
            let n = stream.read(&mut request).await.unwrap();
            let answer = if request[..n].starts_with(b"GET /moved ") {
                "HTTP/1.1 302 Found\r\nlocation: /end\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            } else {
                "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nend"
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let hosts = [address.to_string()];
    let policy = Policy::new(&hosts, &[http::Method::GET], true, PolicyLimits::default()).unwrap();
    let client = Client::new(ClientOptions::default()).unwrap();
    (address, (policy, client))
}
