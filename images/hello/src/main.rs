//! The smallest worker.

use anyhow::Result;
use wasm_workers_rs::http::{Request, Response};
use wasm_workers_rs::{Content, worker};

#[worker]
fn hello(_request: Request<String>) -> Result<Response<Content>> {
    Ok(Response::builder()
        .header("content-type", "text/plain")
        .body("Hello from a worker\n".into())?)
}
