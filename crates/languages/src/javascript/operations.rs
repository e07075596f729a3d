//! What runs while a worker waits: outgoing requests, timers, files, counters. The kit numbers them.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use wws_engine::{AnsweredBy, Host, HttpFailure, KeepRedirects, header_map};

use super::{
    files::{self, FileCall},
    state::{Done, Ended, PENDING, State},
};

/// An operation as the kit asks for it.
pub(super) enum Operation {
    /// Method, URL, header names and values; and the body.
    Fetch(String, Bytes),
    Sleep(Duration),
    Increment(String, f64),
    File(FileCall),
}

type Outcome = Result<Ended, String>;

/// Starts an operation. `Err`: it cannot be started now; the text is for the kit's exception.
pub(super) fn start(host: &mut Host, id: f64, operation: Operation) -> Result<(), &'static str> {
    let state = State::of(host).map_err(|_| "no state")?;
    if state.loading {
        return Err("only while a request is handled: not where the worker is loaded");
    }
    if state.pending.len() >= PENDING {
        return Err("too many operations have not ended");
    }
    let (fetches, files) = (state.fetches.clone(), state.files.clone());
    let future: BoxFuture<'static, Outcome> = match operation {
        Operation::Fetch(head, body) => match request(&head, body).and_then(|request| {
            host.send_http(request)
                .map_err(|failure| http_failure(&failure))
        }) {
            Ok(sending) => async move {
                let _place = fetches.acquire_owned().await;
                sending
                    .await
                    .map(respond)
                    .map_err(|failure| http_failure(&failure))
            }
            .boxed(),
            Err(failure) => std::future::ready(Err(failure)).boxed(),
        },
        Operation::Sleep(time) => tokio::time::sleep(time)
            .map(|()| Ok(Ended::default()))
            .boxed(),
        Operation::Increment(key, by) => match host.kv() {
            Some(kv) => {
                let (store, namespace) = kv.store();
                async move {
                    // The kit checked that it is a whole number.
                    let sum = store.increment(&namespace, &key, by as i64).await;
                    sum.map(|sum| Ended {
                        text: sum.to_string(),
                        learned: Some((key, sum.to_string())),
                        ..Ended::default()
                    })
                    .map_err(|error| format!("Error:{error}"))
                }
                .boxed()
            }
            None => std::future::ready(Err(
                "Error:this worker has no key/value store: its TOML has no [data.kv]".into(),
            ))
            .boxed(),
        },
        Operation::File(call) => {
            let folders = host.folders().clone();
            async move {
                let _place = files.acquire_owned().await;
                tokio::task::spawn_blocking(move || files::run(&folders, &call))
                    .await
                    .unwrap_or_else(|error| Err(format!("EIO:{error}")))
                    .map(|(text, bytes)| Ended {
                        text,
                        bytes,
                        learned: None,
                    })
            }
            .boxed()
        }
    };
    let state = State::of(host).map_err(|_| "no state")?;
    state.pending.push(
        async move {
            Done {
                id,
                result: future.await,
            }
        }
        .boxed(),
    );
    Ok(())
}

fn http_failure(failure: &HttpFailure) -> String {
    format!(
        "TypeError/{}:fetch failed: {}",
        failure.kind.name(),
        failure.message
    )
}

fn request(head: &str, body: Bytes) -> Result<Request<Bytes>, String> {
    let bad = |what: &str| format!("TypeError:fetch failed: {what}");
    let mut parts = head.split('\0');
    let (method, url) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let mut request = Request::new(body);
    let method = match method.strip_suffix(" manual") {
        Some(method) => {
            request.extensions_mut().insert(KeepRedirects);
            method
        }
        None => method,
    };
    *request.method_mut() = method.parse().map_err(|_| bad("the method is not valid"))?;
    // A fragment is not sent.
    let sent = url.split('#').next().unwrap_or(url);
    *request.uri_mut() = sent.parse().map_err(|_| bad("the URL is not valid"))?;
    let lines = std::iter::from_fn(|| Some((parts.next()?.as_bytes(), parts.next()?.as_bytes())));
    *request.headers_mut() = header_map(lines).map_err(|error| bad(&error.message))?;
    Ok(request)
}

/// The answer as the kit reads it: status, URL, `redirected` or nothing, names and values of headers.
fn respond(response: Response<Bytes>) -> Ended {
    let by = response.extensions().get::<AnsweredBy>();
    let (url, redirects) = by.map_or(("", 0), |by| (&by.url, by.redirects));
    let redirected = if redirects > 0 { "redirected" } else { "" };
    let mut head = format!("{}\0{url}\0{redirected}", response.status().as_u16());
    for (name, value) in response.headers() {
        head.push('\0');
        head.push_str(name.as_str());
        head.push('\0');
        match std::str::from_utf8(value.as_bytes()) {
            Ok(value) => head.push_str(value),
            // Latin-1, as in the worker protocol.
            Err(_) => head.extend(value.as_bytes().iter().map(|byte| *byte as char)),
        }
    }
    Ended {
        text: head,
        bytes: Some(response.into_body()),
        learned: None,
    }
}
