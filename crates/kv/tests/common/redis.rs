//! Debian's Redis, which scripts/redis.sh unpacks.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A Redis of this test alone.
pub(crate) struct Redis {
    directory: TempDir,
    child: Option<Child>,
}

impl Redis {
    pub(crate) fn start() -> Self {
        let mut redis = Self {
            directory: tempfile::tempdir().unwrap(),
            child: None,
        };
        redis.run();
        redis
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("redis")
    }

    pub(crate) fn run(&mut self) {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/redis/usr");
        let program = tools.join("bin/redis-server");
        assert!(
            program.exists(),
            "{}: scripts/redis.sh unpacks it",
            program.display()
        );
        let socket = self.socket();
        let child = Command::new(program)
            .env("LD_LIBRARY_PATH", tools.join("lib/x86_64-linux-gnu"))
            .args(["--port", "0", "--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", "no", "--unixsocket"])
            .arg(&socket)
            .current_dir(self.directory.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let started = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(started.elapsed() < PATIENCE, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The URL of a store in it.
    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}
