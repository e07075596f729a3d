//! One container, run by `ctr run`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Pid;

use crate::containerd::Containerd;
use crate::http::{self, Answer};
use crate::{command, port, wait};

/// The runtime under test.
pub const RUNTIME: &str = "io.containerd.wws.v1";

/// containerd's own runtime, the peer.
pub const RUNC: &str = "io.containerd.runc.v2";

/// The longest wait for a container to answer or to end.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A container to be run: in the host's network, on a free port.
#[derive(Debug)]
pub struct Run<'c> {
    containerd: &'c Containerd,
    image: String,
    name: String,
    runtime: String,
    platform: Option<&'static str>,
    options: Vec<String>,
    arguments: Vec<String>,
    host_network: bool,
    port: u16,
}

impl<'c> Run<'c> {
    /// A container of workers from `image`, called `name`, that serves on a free port.
    ///
    /// # Errors
    /// There is no free port.
    pub fn workers(containerd: &'c Containerd, image: &str, name: &str) -> Result<Self> {
        let run = Self::new(containerd, image, name, Some("wasi/wasm"))?;
        let port = run.port;
        Ok(run.env("WWS_PORT", &port.to_string()))
    }

    /// A container of workers from `image`, called `name`, that is told no port.
    ///
    /// # Errors
    /// There is no free port.
    pub fn without_port(containerd: &'c Containerd, image: &str, name: &str) -> Result<Self> {
        Self::new(containerd, image, name, Some("wasi/wasm"))
    }

    /// A container of a native program from `image`, called `name`. The program finds its port in
    /// `PORT`.
    ///
    /// # Errors
    /// There is no free port.
    pub fn native(containerd: &'c Containerd, image: &str, name: &str) -> Result<Self> {
        let run = Self::new(containerd, image, name, None)?;
        let port = run.port;
        Ok(run.env("PORT", &port.to_string()))
    }

    fn new(
        containerd: &'c Containerd,
        image: &str,
        name: &str,
        platform: Option<&'static str>,
    ) -> Result<Self> {
        let port = port::free()?;
        let (image, name) = (image.to_owned(), name.to_owned());
        Ok(Self {
            containerd,
            image,
            name,
            runtime: RUNTIME.to_owned(),
            platform,
            options: Vec::new(),
            arguments: Vec::new(),
            host_network: true,
            port,
        })
    }

    /// Sets the runtime, instead of ours.
    #[must_use]
    pub fn runtime(mut self, runtime: impl Into<String>) -> Self {
        self.runtime = runtime.into();
        self
    }

    /// Names no platform: the image is found for this machine's.
    #[must_use]
    pub fn any_platform(mut self) -> Self {
        self.platform = None;
        self
    }

    /// Gives it a network namespace of its own, in which there is loopback alone.
    /// [`Container::curl_inside`] asks there.
    #[must_use]
    pub fn own_network(mut self) -> Self {
        self.host_network = false;
        self
    }

    /// Adds options of `ctr run`.
    #[must_use]
    pub fn options(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(ToString::to_string));
        self
    }

    /// Adds a variable to the container's environment.
    #[must_use]
    pub fn env(self, name: &str, value: &str) -> Self {
        self.options(&["--env", &format!("{name}={value}")])
    }

    /// Binds the file or directory `from` of the host to `to` in the container, writable.
    #[must_use]
    pub fn mount(self, from: &Path, to: &str) -> Self {
        self.bind(from, to, "rw")
    }

    /// Binds the file or directory `from` of the host to `to` in the container, read-only.
    #[must_use]
    pub fn mount_read_only(self, from: &Path, to: &str) -> Self {
        self.bind(from, to, "ro")
    }

    fn bind(self, from: &Path, to: &str, mode: &str) -> Self {
        self.options(&[
            "--mount",
            &format!(
                "type=bind,src={},dst={to},options=rbind:{mode}",
                from.display()
            ),
        ])
    }

    /// Sets the container's arguments, instead of the image's.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(ToString::to_string).collect();
        self
    }

    /// The port that the container will be told to listen on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it in the foreground of a `ctr run`, which takes its output until it ends.
    ///
    /// # Errors
    /// `ctr` cannot be started. What `ctr` says later is in [`Container::log`].
    pub fn start(self) -> Result<Container<'c>> {
        let log = self
            .containerd
            .directory()
            .join(format!("{}.log", self.name));
        let file = File::create_new(&log)?;
        let mut command = self.command(&[]);
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let ctr = command.spawn().context("start ctr")?;
        Ok(Container {
            containerd: self.containerd,
            name: self.name,
            port: self.port,
            log,
            ctr,
        })
    }

    /// Starts it in the background (`ctr run --detach`), and returns when `ctr` does, with nobody
    /// to take its output.
    ///
    /// # Errors
    /// It does not start: what `ctr` wrote.
    pub fn start_detached(self) -> Result<()> {
        command::run(&mut self.command(&["--detach"]), LIMIT)?
            .success()
            .with_context(|| format!("ctr run --detach {}", self.name))?;
        Ok(())
    }

    /// The command that [`Run::start`] runs, as one would type it.
    #[must_use]
    pub fn command_line(&self) -> String {
        let command = self.command(&[]);
        let words = command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned());
        let options = words
            .collect::<Vec<_>>()
            .join(" ")
            .replace(" --", " \\\n    --");
        format!("ctr {options}")
    }

    /// The command that [`Run::start`] runs, for a caller with other ideas about its output.
    #[must_use]
    pub fn command_to_start(&self) -> Command {
        self.command(&[])
    }

    fn command(&self, options: &[&str]) -> Command {
        let mut command = self.containerd.ctr_command();
        command.args([
            "run",
            "--runtime",
            &self.runtime,
            "--snapshotter",
            self.containerd.snapshotter(),
        ]);
        if self.host_network {
            command.arg("--net-host");
        }
        command
            .arg("--fifo-dir")
            .arg(self.containerd.directory().join("fifo"));
        if let Some(platform) = self.platform {
            command.args(["--platform", platform]);
        }
        command
            .args(options)
            .args(&self.options)
            .args([&self.image, &self.name])
            .args(&self.arguments);
        command
    }
}

/// A container in the foreground of a `ctr run`. containerd's end is its end, if nothing ends it
/// before.
#[derive(Debug)]
pub struct Container<'c> {
    containerd: &'c Containerd,
    name: String,
    port: u16,
    log: PathBuf,
    ctr: Child,
}

impl Container<'_> {
    /// The port it serves on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The file that takes what the container writes.
    #[must_use]
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// What the container has written so far, both streams (and errors of `ctr run` itself).
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }

    /// Waits until the container's log contains `text`, and returns the log.
    ///
    /// # Errors
    /// It does not within seconds: the log as it is.
    pub fn wait_for_log(&self, text: &str) -> Result<String> {
        let found = wait::until(&format!("`{text}` in the log"), LIMIT, || {
            Ok(Some(self.log()?).filter(|log| log.contains(text)))
        });
        found.with_context(|| format!("the log:\n{}", self.log().unwrap_or_default()))
    }

    /// Waits until the server in it answers anything at all.
    ///
    /// # Errors
    /// It ends, or does not answer within seconds: its log.
    pub fn wait_until_up(&mut self) -> Result<()> {
        self.wait_until_up_within(LIMIT)
    }

    /// Waits until the server in it answers anything at all, for `limit` at most.
    ///
    /// # Errors
    /// It ends, or does not answer in time: its log.
    pub fn wait_until_up_within(&mut self, limit: Duration) -> Result<()> {
        let port = self.port;
        let up = wait::until("the container answers", limit, || {
            if let Some(status) = self.ctr.try_wait()? {
                bail!("the container has ended: {status}");
            }
            Ok(http::get(port, "/").ok())
        });
        up.with_context(|| format!("the log:\n{}", self.log().unwrap_or_default()))?;
        Ok(())
    }

    /// Gets `path` of its server.
    ///
    /// # Errors
    /// No complete answer: the error, and the container's log.
    pub fn get(&self, path: &str) -> Result<Answer> {
        http::get(self.port, path)
            .with_context(|| format!("GET {path}; the log:\n{}", self.log().unwrap_or_default()))
    }

    /// Gets `url` by curl from within the container's network namespace: the body of an answer that
    /// is no error.
    ///
    /// # Errors
    /// No such answer within seconds: what curl said.
    pub fn curl_inside(&self, url: &str) -> Result<String> {
        let pid = wait::until("a task", LIMIT, || Ok(self.pid().ok()))?;
        let network = format!("--net=/proc/{}/ns/net", pid.as_raw_nonzero());
        let mut last = None;
        let answer = wait::until("an answer inside", LIMIT, || {
            let mut curl = Command::new("nsenter");
            curl.args([&network, "curl", "--silent", "--show-error", "--fail"]);
            curl.args(["--noproxy", "*", "--max-time", "5", url]);
            let ended = command::run(&mut curl, LIMIT)?;
            match ended.success() {
                Ok(text) => Ok(Some(text)),
                Err(error) => {
                    last = Some(error);
                    Ok(None)
                }
            }
        });
        answer.with_context(|| format!("{last:?}; the log:\n{}", self.log().unwrap_or_default()))
    }

    /// Waits until the container's server says in its log that it listens.
    ///
    /// # Errors
    /// It ends, or does not within seconds: its log.
    pub fn wait_until_listening(&mut self) -> Result<String> {
        wait::until("the server listens", LIMIT, || {
            let log = self.log()?;
            if log.contains("listening on") {
                return Ok(Some(log));
            }
            if let Some(status) = self.ctr.try_wait()? {
                bail!("the container has ended: {status}; the log:\n{log}");
            }
            Ok(None)
        })
    }

    /// The PID of its init process.
    ///
    /// # Errors
    /// It has no task.
    pub fn pid(&self) -> Result<Pid> {
        pid(self.containerd, &self.name)
    }

    /// Sends a signal, by its name: `SIGTERM`.
    ///
    /// # Errors
    /// containerd refuses.
    pub fn signal(&self, signal: &str) -> Result<()> {
        self.containerd
            .ctr(&["task", "kill", "--signal", signal, &self.name])
            .map(drop)
    }

    /// Waits until it ends, and returns its exit code. Its task is deleted then; the container
    /// itself is not.
    ///
    /// # Errors
    /// It still runs after [`LIMIT`], or `ctr run` itself was killed.
    pub fn wait(&mut self) -> Result<i32> {
        let status = command::wait(&mut self.ctr, LIMIT)?;
        let status = status.with_context(|| {
            format!(
                "still running; the log:\n{}",
                self.log().unwrap_or_default()
            )
        })?;
        status.code().context("ctr run was killed")
    }

    /// Removes the container, once it has ended.
    ///
    /// # Errors
    /// containerd refuses.
    pub fn remove(&mut self) -> Result<()> {
        self.wait()?;
        self.containerd
            .ctr(&["container", "rm", &self.name])
            .map(drop)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // Only the client: the container is containerd's, and ends with it.
        drop(self.ctr.kill());
        drop(self.ctr.wait());
    }
}

/// The PID of the init process of the container `name`.
///
/// # Errors
/// It has no task.
pub fn pid(containerd: &Containerd, name: &str) -> Result<Pid> {
    let (pid, _) = task(containerd, name)?.with_context(|| format!("no task {name}"))?;
    Pid::from_raw(pid).with_context(|| format!("the task {name} has no process"))
}

/// The state of the container `name` as containerd says it (`RUNNING`, `STOPPED`); none without a
/// task.
///
/// # Errors
/// containerd refuses.
pub fn status(containerd: &Containerd, name: &str) -> Result<Option<String>> {
    Ok(task(containerd, name)?.map(|(_, status)| status))
}

/// Ends and removes the container `name`, which runs in the background.
///
/// # Errors
/// It does not end, or `ctr` fails.
pub fn end(containerd: &Containerd, name: &str) -> Result<()> {
    containerd.ctr(&["task", "kill", "--signal", "SIGKILL", name])?;
    wait::until("the task stopped", LIMIT, || {
        Ok(status(containerd, name)?.filter(|status| status == "STOPPED"))
    })?;
    containerd.ctr(&["task", "delete", name])?;
    containerd.ctr(&["container", "rm", name]).map(drop)
}

fn task(containerd: &Containerd, name: &str) -> Result<Option<(i32, String)>> {
    let tasks = containerd.ctr(&["task", "ls"])?;
    for line in tasks.lines() {
        let columns: Vec<_> = line.split_whitespace().collect();
        if let [id, pid, status] = columns[..]
            && id == name
        {
            return Ok(Some((pid.parse()?, status.to_owned())));
        }
    }
    Ok(None)
}
