//! The interfaces beside wasi:http:
//!
//! | route | does |
//! |---|---|
//! | `/open?bucket=` | opens a bucket, and says what came of it |
//! | `/get/KEY`, `/set/KEY`, `/delete/KEY`, `/exists/KEY` | one key; the body is the value that is set |
//! | `/keys` | all keys, page by page, a line for each |
//! | `/increment/KEY?by=1`, `/increment-many/KEY?count=1000` | adds to a number |
//! | `/batch` | sets, gets and deletes `a`, `b` and `c` at once |
//! | `/config`, `/config/NAME` | all of `wasi:config`; one (404 without it) |
//! | `/log?context=x&message=y` | a message of each level |
//!
//! All but `/open` use the bucket `?bucket=`, `default` without it.

use support::Target;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

use crate::bindings::wasi::config::store as config;
use crate::bindings::wasi::keyvalue::store::{self, Bucket, Error};
use crate::bindings::wasi::keyvalue::{atomics, batch};
use crate::bindings::wasi::logging::logging::{Level, log};

mod bindings {
    wit_bindgen::generate!({ path: "wit", world: "state", generate_all });
}

struct State;

wasip2::http::proxy::export!(State);

impl Guest for State {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        let (route, rest) = target.split();
        match route {
            "config" => return configuration(rest, out),
            "log" => return write_log(&target, out),
            _ => {}
        }
        let bucket = match store::open(target.parameter("bucket").unwrap_or("default")) {
            Ok(bucket) => bucket,
            Err(error) => return support::text(out, 500, &format!("{error:?}\n")),
        };
        let answer = match route {
            "open" => Ok(Some("opened\n".into())),
            "get" => bucket.get(rest).map(|value| value.map(lossy)),
            "set" => {
                let body = request.consume().expect("the body for the first time");
                let value = support::collect(&body).expect("a whole body");
                bucket.set(rest, &value).map(|()| Some("set\n".into()))
            }
            "delete" => bucket.delete(rest).map(|()| Some("deleted\n".into())),
            "exists" => bucket
                .exists(rest)
                .map(|exists| Some(format!("{exists}\n"))),
            "keys" => keys(&bucket).map(Some),
            "increment" => atomics::increment(&bucket, rest, target.number("by", 1))
                .map(|sum| Some(sum.to_string())),
            "increment-many" => (0..target.number("count", 1000))
                .try_fold(0, |_, _| atomics::increment(&bucket, rest, 1))
                .map(|sum| Some(sum.to_string())),
            "batch" => all_at_once(&bucket).map(Some),
            _ => Ok(None),
        };
        match answer {
            Ok(Some(text)) => support::text(out, 200, &text),
            Ok(None) => support::text(out, 404, "nothing there\n"),
            Err(error) => support::text(out, 500, &format!("{error:?}\n")),
        }
    }
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

fn keys(bucket: &Bucket) -> Result<String, Error> {
    let (mut keys, mut cursor) = (Vec::new(), None);
    loop {
        let page = bucket.list_keys(cursor)?;
        keys.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            keys.sort();
            return Ok(keys.join("\n"));
        }
    }
}

fn all_at_once(bucket: &Bucket) -> Result<String, Error> {
    let names = ["a", "b", "c"].map(String::from);
    let values = names
        .clone()
        .map(|name| (name.clone(), name.repeat(2).into_bytes()));
    batch::set_many(bucket, &values)?;
    let mut asked = names.to_vec();
    asked.push("missing".into());
    let found = batch::get_many(bucket, &asked)?;
    let found: Vec<String> = found
        .into_iter()
        .map(|pair| {
            pair.map_or("none".into(), |(name, value)| {
                format!("{name}={}", lossy(value))
            })
        })
        .collect();
    batch::delete_many(bucket, &names)?;
    Ok(format!(
        "{} then {}\n",
        found.join(" "),
        keys(bucket)?.len()
    ))
}

fn configuration(name: &str, out: ResponseOutparam) {
    if name.is_empty() {
        match config::get_all() {
            Ok(mut pairs) => {
                pairs.sort();
                let text: String = pairs
                    .iter()
                    .map(|(name, value)| format!("{name}={value}\n"))
                    .collect();
                support::text(out, 200, &text);
            }
            Err(error) => support::text(out, 500, &format!("{error:?}\n")),
        }
        return;
    }
    match config::get(name) {
        Ok(Some(value)) => support::text(out, 200, &value),
        Ok(None) => support::text(out, 404, "no such name\n"),
        Err(error) => support::text(out, 500, &format!("{error:?}\n")),
    }
}

fn write_log(target: &Target, out: ResponseOutparam) {
    let context = target.parameter("context").unwrap_or("test");
    let message = target.parameter("message").unwrap_or("a message");
    for level in [
        Level::Trace,
        Level::Debug,
        Level::Info,
        Level::Warn,
        Level::Error,
        Level::Critical,
    ] {
        log(level, context, &format!("{level:?} {message}"));
    }
    support::text(out, 200, "logged\n");
}
