//! Every feature of a worker; `kits/README.md` says what each answers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, hint};

use anyhow::{Context, Result, bail};
use wasm_workers_rs::bindings::send_http_request;
use wasm_workers_rs::http::{HeaderValue, Request, Response, StatusCode, header};
use wasm_workers_rs::{Cache, Content, worker};

static CALLS: AtomicUsize = AtomicUsize::new(0);

#[worker(params, cache)]
fn features(
    request: Request<Vec<u8>>,
    params: &HashMap<String, String>,
    cache: &mut Cache,
) -> Result<Response<Content>> {
    let feature = params
        .get("feature")
        .context("the route has no [feature]")?;
    let mut response = match feature.as_str() {
        "echo" => echo(request),
        "headers" => headers(&request),
        "status" => status(&request)?,
        "fetch" => fetch(request)?,
        _ => match text(feature, request, cache)? {
            Some(text) => Response::new(text.into()),
            None => Response::builder()
                .status(StatusCode::NOT_FOUND)
                .body(format!("no such feature: {feature}").into())?,
        },
    };
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    let headers = response.headers_mut();
    headers.entry(header::CONTENT_TYPE).or_insert(text);
    Ok(response)
}

/// Features that answer nothing but a text.
fn text(feature: &str, request: Request<Vec<u8>>, cache: &mut Cache) -> Result<Option<String>> {
    Ok(Some(match feature {
        "hello" => format!("Hello, {}!", query(&request, "name")),
        "vars" => env::var("GREETING")?,
        "count" => {
            let before = cache.get("count").and_then(|count| count.parse().ok());
            let count = before.unwrap_or(0) + 1;
            cache.insert("count".to_owned(), count.to_string());
            count.to_string()
        }
        "forget" => {
            cache.remove("count");
            "forgotten".to_owned()
        }
        "keep" => {
            if request.method() == "POST" {
                let body = String::from_utf8(request.into_body())?;
                cache.insert("kept".to_owned(), body);
            }
            cache.get("kept").cloned().unwrap_or_default()
        }
        "read" => fs::read_to_string("/data/in.txt")?,
        "write" => {
            fs::write("/data/out.txt", request.body())?;
            fs::read_to_string("/data/out.txt")?
        }
        "fail" => bail!("features: failed on purpose"),
        "log" => {
            eprintln!("features: a líne in the log");
            "logged".to_owned()
        }
        "global" => (CALLS.fetch_add(1, Ordering::Relaxed) + 1).to_string(),
        "random" => {
            let mut bytes = [0; 16];
            getrandom::fill(&mut bytes)?;
            bytes.map(|byte| format!("{byte:02x}")).concat()
        }
        "loop" => loop {
            hint::black_box(0);
        },
        "eat" => {
            let mut eaten = Vec::new();
            loop {
                eaten.push(hint::black_box(vec![1u8; 1 << 20]));
            }
        }
        "recurse" => recurse(1).to_string(),
        _ => return Ok(None),
    }))
}

fn echo(request: Request<Vec<u8>>) -> Response<Content> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(body.into());
    if let Some(kind) = head.headers.get(header::CONTENT_TYPE) {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, kind.clone());
    }
    response
}

fn headers(request: &Request<Vec<u8>>) -> Response<Content> {
    let values: Vec<_> = request.headers().get_all("x-in").iter().collect();
    let texts = values
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()));
    let mut response = Response::new(texts.collect::<Vec<_>>().join("|").into());
    let headers = response.headers_mut();
    for value in values {
        headers.append("x-out", value.clone());
    }
    for cookie in ["a=1", "b=2; Path=/"] {
        headers.append(header::SET_COOKIE, HeaderValue::from_static(cookie));
    }
    response
}

fn status(request: &Request<Vec<u8>>) -> Result<Response<Content>> {
    let code = query(request, "code");
    let response = Response::builder()
        .status(code.parse::<u16>()?)
        .header("x-code", &code);
    Ok(response.body(code.into())?)
}

fn fetch(request: Request<Vec<u8>>) -> Result<Response<Content>> {
    let outgoing = Request::builder()
        .method(request.method())
        .uri(query(&request, "url"))
        .header("x-sent", "yes")
        .header("x-sent", "again")
        .body(request.into_body())?;
    let (head, body) = match send_http_request(outgoing) {
        Ok(response) => response.into_parts(),
        Err(error) => {
            let response = Response::builder().status(StatusCode::BAD_GATEWAY);
            return Ok(response.body(error.to_string().into())?);
        }
    };
    let mut response = Response::new(body.into());
    *response.status_mut() = head.status;
    for value in head.headers.get_all("x-from") {
        response.headers_mut().append("x-from", value.clone());
    }
    Ok(response)
}

/// The decoded value of a name in the query; empty without it.
fn query<B>(request: &Request<B>, name: &str) -> String {
    let query = request.uri().query().unwrap_or_default();
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let pair = pairs.find(|(key, _)| key == name);
    pair.map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

fn recurse(depth: usize) -> usize {
    if hint::black_box(depth) == usize::MAX {
        return 0;
    }
    recurse(depth + 1) + hint::black_box(depth)
}
