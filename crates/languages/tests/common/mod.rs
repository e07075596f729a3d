//! Projects in temporary folders.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    unreachable_pub
)]

use std::{path::Path, sync::LazyLock, time::Duration};

use bytes::Bytes;
use wws_engine::{Call, Engine, EngineOptions, Guest, GuestLimits, GuestSpec, LoadError};
use wws_languages::JavaScript;
use wws_project::beneath::Root;

/// Compiled once for all tests.
pub static JAVASCRIPT: LazyLock<JavaScript> = LazyLock::new(|| {
    let engine = Engine::new(&EngineOptions {
        memory: 1 << 30,
        concurrency: 32,
    })
    .unwrap();
    JavaScript::new(&engine, None).unwrap()
});

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
        JAVASCRIPT.guest(&root, Path::new(file), spec)
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
        folders: vec![],
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
