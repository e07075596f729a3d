//! Content codings are undone for those who want that, and for nobody else.

use std::io::Write;

use crate::common::{Server, client, client_with, full, options, policy, redirect};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{Method, Request, Response};
use wws_outbound::{Client, ClientOptions, Decode, Error, ErrorKind, Policy};

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

const TEXT: &str = "some text that repeats itself; some text that repeats itself";

/// Answers in gzip, whatever is asked for.
async fn server() -> Server {
    Server::http(|seen| {
        if seen.target == "/moved" {
            return redirect(302, "/");
        }
        let (coding, body) = match seen.target.as_str() {
            "/bomb" => ("gzip", gzip(&vec![0; 16 << 20])),
            "/broken" => ("gzip", b"no gzip at all".to_vec()),
            "/zstd" => ("zstd", b"as it came".to_vec()),
            "/empty" => ("gzip", Vec::new()),
            _ => ("GZip", gzip(TEXT.as_bytes())),
        };
        Response::builder()
            .status(match seen.target.as_str() {
                "/unchanged" => 304,
                _ => 200,
            })
            .header("content-encoding", coding)
            .header("etag", "\"1\"")
            .body(full(body))
            .unwrap()
    })
    .await
}

async fn ask(
    client: &Client,
    url: &str,
    decode: Option<Decode>,
    headers: &[(&str, &str)],
) -> Result<Response<Bytes>, Error> {
    send(
        client,
        &policy(&["127.0.0.1"]),
        Method::GET,
        url,
        decode,
        headers,
    )
    .await
}

async fn send(
    client: &Client,
    policy: &Policy,
    method: Method,
    url: &str,
    decode: Option<Decode>,
    headers: &[(&str, &str)],
) -> Result<Response<Bytes>, Error> {
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(decode) = decode {
        request = request.extension(decode);
    }
    let request = request.body(Bytes::new()).unwrap();
    client.send(policy, request).await
}

#[tokio::test]
async fn decodes_where_the_sender_wants_it() {
    let server = server().await;
    let client = client("");
    let always = Some(Decode::Always);
    let unasked = Some(Decode::IfUnasked);
    let browser = [("accept-encoding", "gzip, deflate, br, zstd")];
    for (decode, headers, asked, is_undone) in [
        (always, &[][..], Some("gzip, deflate, br"), true),
        (always, &browser, Some("gzip, deflate, br"), true),
        (
            always,
            &[("accept-encoding", "identity")],
            Some("identity"),
            true,
        ),
        (always, &[("range", "bytes=0-")], Some("identity"), true),
        (unasked, &[], Some("gzip, deflate, br"), true),
        (unasked, &browser, Some("gzip, deflate, br, zstd"), false),
        (None, &[], None, false),
        (None, &browser, Some("gzip, deflate, br, zstd"), false),
    ] {
        let answer = ask(&client, &server.url("/moved"), decode, headers)
            .await
            .expect("answer");
        let what = format!("{decode:?} {headers:?}");
        if is_undone {
            assert_eq!(answer.body(), TEXT, "{what}");
        } else {
            assert_eq!(answer.body(), &gzip(TEXT.as_bytes()), "{what}");
        }
        for name in ["content-encoding", "content-length"] {
            assert_eq!(answer.headers().contains_key(name), !is_undone, "{what}");
        }
        assert_eq!(answer.headers()["etag"], "\"1\"");
        let seen = server.seen().pop().expect("a request");
        let value = seen.headers.get("accept-encoding");
        assert_eq!(value.map(|value| value.to_str().unwrap()), asked, "{what}");
    }
}

#[tokio::test]
async fn keeps_bodies_without_a_known_coding() {
    let server = server().await;
    let client = client("");
    let always = Some(Decode::Always);
    let hosts = ["127.0.0.1".to_owned()];
    let head = Policy::new(&hosts, &[Method::HEAD], true, crate::common::limits()).unwrap();
    let answer = send(&client, &head, Method::HEAD, &server.url("/"), always, &[])
        .await
        .expect("head");
    assert_eq!(answer.headers()["content-encoding"], "GZip");
    let answer = ask(&client, &server.url("/unchanged"), always, &[])
        .await
        .expect("304");
    assert_eq!(answer.headers()["content-encoding"], "GZip");
    let answer = ask(&client, &server.url("/zstd"), always, &[])
        .await
        .expect("zstd");
    assert_eq!(answer.headers()["content-encoding"], "zstd");
    assert_eq!(answer.body(), "as it came");
    let answer = ask(&client, &server.url("/empty"), always, &[])
        .await
        .expect("empty");
    assert!(answer.body().is_empty() && !answer.headers().contains_key("content-encoding"));
}

#[tokio::test]
async fn a_bomb_and_a_broken_body_are_errors() {
    let server = server().await;
    let always = Some(Decode::Always);
    let large = client("");
    for (path, part) in [
        ("/bomb", "larger than 1048576 bytes"),
        ("/broken", "cannot be decoded as gzip"),
    ] {
        let error = ask(&large, &server.url(path), always, &[])
            .await
            .expect_err(path);
        assert_eq!(error.kind, ErrorKind::InvalidResponseBody);
        assert!(error.message.contains(part), "{error}");
    }
    // What is decoded is charged, not only what came.
    let small = client_with(ClientOptions {
        memory: 256 << 10,
        ..options()
    });
    let error = ask(&small, &server.url("/bomb"), always, &[])
        .await
        .expect_err("no memory");
    assert!(error.message.contains("no memory left"), "{error}");
    let answer = ask(&small, &server.url("/"), always, &[]).await;
    assert_eq!(answer.expect("given back").body(), TEXT);
}
