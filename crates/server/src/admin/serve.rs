//! Serves operators: few connections, each for a short time and one request.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::Semaphore, time::timeout};

use crate::admin::listen::{AdminListener, AdminStream};
use crate::request::app::App;
use crate::status::answer::{self, StatusClient, StatusRequest};

/// Connections of operators at once; further ones wait until one has ended.
const MAX_CONNECTIONS: usize = 32;

/// Time for the head of a request to arrive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for a whole connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);

/// Maximum size of the head of a request, in bytes.
const MAX_HEADER_BYTES: usize = 16 << 10;

/// Wait after a failed accept; the cause is most often that too many files are open.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers operators until the future is dropped.
pub(crate) async fn serve(listener: AdminListener, app: Arc<App>) -> Infallible {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Never closed.
        let place = places.clone().acquire_owned().await;
        match listener.accept().await {
            Ok((stream, client)) => {
                let app = app.clone();
                tokio::spawn(async move {
                    let _place = place;
                    // A slow client loses its place to another one.
                    let _ = timeout(CONNECTION_TIMEOUT, connection(stream, client, app)).await;
                });
            }
            Err(error) => {
                tracing::debug!("cannot accept connections on the admin address: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(stream: Box<dyn AdminStream>, client: StatusClient, app: Arc<App>) {
    let service = service_fn(|request: Request<Incoming>| {
        let app = app.clone();
        async move {
            let response = respond(&app, client, &request).await;
            Ok::<_, Infallible>(response.map(Full::new))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_header_size(MAX_HEADER_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!("connection on the admin address: {error}");
    }
}

async fn respond(app: &App, client: StatusClient, request: &Request<Incoming>) -> Response<Bytes> {
    let request = StatusRequest {
        method: request.method(),
        uri: request.uri(),
        headers: request.headers(),
        client,
    };
    let generation = app.generation();
    answer::admin(&app.status(&generation), &request).await
}
