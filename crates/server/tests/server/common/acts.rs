//! A server whose workers are words: a worker's file has no content, and its name is what it does.

use std::{
    path::Path,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use wws_engine::{GuestSpec, LoadError, Program};
use wws_languages::{BuiltInInterpreter, Language, Languages};
use wws_project::{InterpreterOrigin, LanguageSpec, LoadOptions, beneath::Root};
use wws_server::PrepareOptions;

use super::{PATIENCE, Running, Site};

static INTERPRETER: LazyLock<Vec<u8>> =
    LazyLock::new(|| ::wat::parse_str(r#"(module (memory (export "memory") 1))"#).unwrap());

/// What a worker does.
pub struct Act {
    pub word: String,
    /// Counted up by a worker that has ended.
    pub ended: Arc<AtomicU32>,
    /// Closed once workers may go on that wait for the test.
    held: Arc<Semaphore>,
}

impl Act {
    /// Waits until the test lets workers go on.
    pub async fn wait_for_test(&self) {
        let _ = self.held.acquire().await;
    }
}

/// Makes the program of a worker.
pub type MakeProgram = fn(Act) -> Arc<dyn Program>;

/// The language of these workers.
struct Acts {
    ended: Arc<AtomicU32>,
    held: Arc<Semaphore>,
    make: MakeProgram,
}

impl Language for Acts {
    fn spec(&self) -> LanguageSpec {
        LanguageSpec {
            name: "act",
            interpreter: InterpreterOrigin::BuiltIn,
            extensions: &["act"],
            convertible: &[],
        }
    }

    fn built_in(&self) -> Option<BuiltInInterpreter> {
        Some(BuiltInInterpreter {
            name: "no interpreter",
            wasm: &INTERPRETER,
        })
    }

    fn program(
        &self,
        _: &Root,
        file: &Path,
        _: &mut GuestSpec,
    ) -> Result<Arc<dyn Program>, LoadError> {
        Ok((self.make)(Act {
            word: file.file_stem().unwrap().to_str().unwrap().to_owned(),
            ended: self.ended.clone(),
            held: self.held.clone(),
        }))
    }
}

/// A server with these workers.
pub struct Acting {
    pub server: Running,
    ended: Arc<AtomicU32>,
    held: Arc<Semaphore>,
}

impl Acting {
    /// Starts a server of `site` with a worker for each of `words`, and these lines of `[server]`
    /// and `[limits]`.
    pub async fn start(
        site: &Site,
        server: &str,
        limits: &str,
        words: &[&str],
        make: MakeProgram,
    ) -> Self {
        site.file(
            ".wws.toml",
            format!("version = 1\n[server]\n{server}\n[limits]\n{limits}\n"),
        );
        for word in words {
            site.file(&format!("{word}.act"), "");
        }
        let ended = Arc::new(AtomicU32::new(0));
        let held = Arc::new(Semaphore::new(0));
        let acts = Acts {
            ended: ended.clone(),
            held: held.clone(),
            make,
        };
        let options = PrepareOptions {
            languages: Languages::standard().with(Arc::new(acts)),
            ..PrepareOptions::default()
        };
        let server = site.start_prepared(&LoadOptions::default(), &options).await;
        Self {
            server,
            ended,
            held,
        }
    }

    /// Lets workers go on that wait for the test.
    pub fn go_on(&self) {
        self.held.close();
    }

    /// Waits until so many workers have ended.
    pub async fn wait_for_end_of(&self, workers: u32) {
        let ended = async {
            while self.ended.load(SeqCst) < workers {
                sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(PATIENCE, ended).await.is_ok(), "they end");
    }
}
