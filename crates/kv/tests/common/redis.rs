//! Debian's Redis, which scripts/redis.sh unpacks.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A Redis of this test alone.
pub(crate) struct Redis {
    directory: TempDir,
    child: Option<Child>,
    options: Vec<String>,
}

/// The server, with its libraries.
pub(crate) fn program() -> Command {
    tool("redis-server")
}

fn tool(name: &str) -> Command {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|directory| directory.join("target/tools/redis/usr"))
        .find(|tools| tools.exists())
        .expect("target/tools/redis: scripts/redis.sh unpacks it");
    let mut command = Command::new(tools.join("bin").join(name));
    command.env("LD_LIBRARY_PATH", tools.join("lib/x86_64-linux-gnu"));
    command
}

impl Redis {
    pub(crate) fn start() -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), &[])
    }

    /// Starts one with further options, and files in its directory.
    pub(crate) fn start_with(directory: TempDir, options: &[&str]) -> Self {
        let mut redis = Self {
            directory,
            child: None,
            options: options.iter().map(|&option| option.to_owned()).collect(),
        };
        redis.run();
        redis
    }

    /// The directory of its socket.
    #[allow(dead_code, reason = "of other tests")]
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("redis")
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    pub(crate) fn run(&mut self) {
        let socket = self.socket();
        let child = program()
            .args(["--port", "0", "--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", "no", "--unixsocket"])
            .arg(&socket)
            .args(&self.options)
            .current_dir(self.directory.path())
            .stdout(std::fs::File::create(self.log()).unwrap())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let started = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            let is_late = started.elapsed() > PATIENCE;
            if ended.is_some() || is_late {
                panic!(
                    "{ended:?}: {}",
                    std::fs::read_to_string(self.log()).unwrap()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it answers to a command.
    #[allow(dead_code, reason = "of other tests")]
    pub(crate) fn ask(&self, command: &[&str]) -> String {
        let mut client = tool("redis-cli");
        client.arg("-s").arg(self.socket()).args(command);
        let output = client.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout)
            .unwrap()
            .trim_end()
            .to_owned()
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
