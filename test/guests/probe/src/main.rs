//! The worker of the end-to-end tests. The query says what it does; the answer is what came of it:
//!
//! * `read=PATH`: the file's content.
//! * `write=PATH`: writes `written by a worker` into the file.
//! * `var=NAME`: the value of a variable.
//! * `log=TEXT`: a line on standard error.
//! * `sleep=MILLISECONDS`: the line `asleep` on standard error, then sleep.
//!
//! What fails is answered with status 500 and the system's own words, so that a test can tell one
//! error from another.

use std::time::Duration;
use std::{env, fs, thread};

use anyhow::{Result, bail};
use wasm_workers_rs::http::{Request, Response};
use wasm_workers_rs::{Content, worker};

#[worker]
fn probe(request: Request<String>) -> Result<Response<Content>> {
    let (status, text) = match act(request.uri().query().unwrap_or_default()) {
        Ok(text) => (200, text),
        Err(error) => (500, format!("{error:#}")),
    };
    Ok(Response::builder().status(status).body(text.into())?)
}

fn act(query: &str) -> Result<String> {
    match query.split_once('=') {
        Some(("read", path)) => Ok(fs::read_to_string(path)?),
        Some(("write", path)) => {
            fs::write(path, "written by a worker")?;
            Ok("written".to_owned())
        }
        Some(("var", name)) => Ok(env::var(name)?),
        Some(("log", text)) => {
            eprintln!("{text}");
            Ok("logged".to_owned())
        }
        Some(("sleep", milliseconds)) => {
            eprintln!("asleep");
            thread::sleep(Duration::from_millis(milliseconds.parse()?));
            Ok("awake".to_owned())
        }
        _ => bail!("unknown query `{query}`"),
    }
}
