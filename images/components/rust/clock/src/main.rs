//! The time as server-sent events: `/clock` without an end, `/clock?count=3` three times.

use std::convert::Infallible;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_lite::stream::unfold;
use wstd::http::{Body, Error, Request, Response};
use wstd::time::Duration;

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let count = request
        .uri()
        .query()
        .and_then(|query| query.strip_prefix("count="))
        .and_then(|count| count.parse().ok())
        .unwrap_or(u64::MAX);
    Ok(Response::builder()
        .header("content-type", "text/event-stream")
        .header("cache-control", "no-store")
        .body(Body::from_try_stream(events(count)))?)
}

/// An event for each second, the first at once.
fn events(count: u64) -> impl futures_lite::Stream<Item = Result<String, Infallible>> {
    unfold(0, move |tick| async move {
        if tick == count {
            return None;
        }
        if tick > 0 {
            wstd::task::sleep(Duration::from_secs(1)).await;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = now.map_or(0, |now| now.as_secs());
        Some((Ok(format!("id: {tick}\ndata: {seconds}\n\n")), tick + 1))
    })
}
