//! A project in a temporary directory, served on a free port; a client that can misbehave; and what
//! was logged.
#![allow(unreachable_pub)]

pub mod acts;
pub mod client;
pub mod log;
pub mod socket;
pub mod wat;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::{sync::oneshot, task::JoinHandle};
use wws_project::{AdminAddress, LoadOptions};
use wws_server::{Drained, PrepareOptions, Reloader};

use client::{Client, Response};

/// No test waits longer for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A project that is being written.
#[derive(Clone)]
pub struct Site(Arc<tempfile::TempDir>);

impl Site {
    pub fn new() -> Self {
        log::start();
        Self(Arc::new(tempfile::tempdir().unwrap()))
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file.
    pub fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    /// Writes a module.
    pub fn wasm(&self, path: &str, text: &str) -> &Self {
        self.file(path, ::wat::parse_str(text).unwrap())
    }

    /// `[server]` of `.wws.toml`.
    pub fn settings(&self, lines: &str) -> &Self {
        self.file(".wws.toml", format!("version = 1\n[server]\n{lines}\n"))
    }

    fn prepare(
        &self,
        load: &LoadOptions,
        options: &PrepareOptions,
    ) -> Result<wws_server::Server, String> {
        let mut load = LoadOptions {
            languages: options.languages.specs(),
            ..load.clone()
        };
        // Tests choose the ids of their requests, by which they find lines of the log.
        let settings = std::fs::read_to_string(self.root().join(".wws.toml"));
        if !settings.is_ok_and(|text| text.contains("trusted_proxies")) {
            let trusted = ("WWS_TRUSTED_PROXIES".into(), "127.0.0.1".into());
            load.env.extend([trusted]);
        }
        let project = wws_project::load(self.root(), &load).map_err(|e| e.to_string())?;
        wws_server::prepare(project, options).map_err(|e| e.to_string())
    }

    /// What is said when it does not start.
    pub fn problems(&self) -> String {
        self.problems_with(&PrepareOptions::default())
    }

    pub fn problems_with(&self, options: &PrepareOptions) -> String {
        match self.prepare(&LoadOptions::default(), options) {
            Ok(_) => panic!("it starts"),
            Err(problems) => problems,
        }
    }

    pub async fn start(&self) -> Running {
        self.start_with(&LoadOptions::default()).await
    }

    pub async fn start_with(&self, options: &LoadOptions) -> Running {
        self.start_prepared(options, &PrepareOptions::default())
            .await
    }

    /// Starts a server that may use so many bytes.
    pub async fn start_within(&self, memory: u64) -> Running {
        let options = PrepareOptions {
            memory: Some(memory),
            ..PrepareOptions::default()
        };
        self.start_prepared(&LoadOptions::default(), &options).await
    }

    pub async fn start_prepared(&self, load: &LoadOptions, options: &PrepareOptions) -> Running {
        let server = self
            .prepare(load, options)
            .unwrap_or_else(|problems| panic!("{problems}"));
        let warnings = server.warnings().iter().map(ToString::to_string).collect();
        let reloader = server.reloader();
        let bound = server.bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let bound = bound.with_admin().unwrap();
        let admin = bound.admin_addr();
        let address = bound.local_addr();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(bound.run(async {
            let _ = stopped.await;
        }));
        Running {
            address,
            admin,
            reloader,
            stop: Some(stop),
            task,
            warnings,
            _site: self.clone(),
        }
    }
}

/// A server that runs.
pub struct Running {
    pub address: SocketAddr,
    /// The admin address, if it is on.
    pub admin: Option<AdminAddress>,
    /// Loads the project again.
    pub reloader: Reloader,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Drained>,
    /// What was odd of its workers.
    pub warnings: Vec<String>,
    /// Its files.
    _site: Site,
}

impl Running {
    pub async fn connect(&self) -> Client {
        Client::connect(self.address).await
    }

    /// A GET on a connection of its own.
    pub async fn get(&self, path: &str) -> Response {
        self.connect().await.get(path).await
    }

    /// Asks it to stop, as a signal does.
    pub fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    /// Waits until it has stopped.
    pub async fn stopped(self) -> Drained {
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("it stops")
            .unwrap()
    }
}
