//! Redirects are requests: each is checked as the first was.

use crate::common::{Server, client, get, ok, policy, redirect};
use bytes::Bytes;
use http::{Method, Request};
use wws_outbound::{AnsweredBy, ErrorKind, KeepRedirects};

/// `/to/STATUS/URL` redirects there, everything else answers.
async fn server() -> Server {
    Server::http(|seen| match seen.target.strip_prefix("/to/") {
        Some(rest) => {
            let (status, url) = rest.split_once('/').expect("a status");
            redirect(status.parse().expect("status"), url)
        }
        None => ok("arrived"),
    })
    .await
}

#[tokio::test]
async fn followed_where_allowed() {
    let (a, b) = (server().await, server().await);
    let client = client("");
    let policy = policy(&["127.0.0.1"]);
    let url = a.url(&format!("/to/302/{}", b.url("/end?x=1")));
    let response = get(&client, &policy, &url).await.expect("answer");
    assert_eq!(response.body(), "arrived");
    assert_eq!(
        response.extensions().get::<AnsweredBy>(),
        Some(&AnsweredBy {
            url: b.url("/end?x=1"),
            redirects: 1
        })
    );
    assert_eq!(b.seen()[0].target, "/end?x=1");
    assert_eq!(b.seen()[0].headers["host"], b.address.to_string());
}

#[tokio::test]
async fn refused_where_not_allowed() {
    let (a, b) = (server().await, server().await);
    let client = client(&format!("evil.example=127.0.0.1:{}", b.port()));
    let allowed = format!("127.0.0.1:{}", a.port());
    let policy = policy(&[&allowed]);
    for (to, named) in [
        (b.url("/"), format!("127.0.0.1:{}", b.port())),
        ("http://evil.example/".into(), "evil.example:80".into()),
        (
            "http://169.254.169.254/latest/meta-data/".into(),
            "169.254.169.254".into(),
        ),
        (format!("ftp://127.0.0.1:{}/", a.port()), "ftp".into()),
        ("file:///etc/passwd".into(), "file".into()),
    ] {
        let url = a.url(&format!("/to/302/{to}"));
        let error = get(&client, &policy, &url).await.expect_err(&to);
        assert_eq!(error.kind, ErrorKind::NotAllowed, "{to}: {error}");
        assert!(
            error.message.contains(&named) && error.message.contains("127.0.0.1` redirects"),
            "{error}"
        );
    }
    assert_eq!(b.connections(), 0);
}

#[tokio::test]
async fn refused_where_the_address_is() {
    let a = Server::http(|seen| redirect(307, seen.headers["x-to"].to_str().expect("text"))).await;
    let client = client(&format!("a.example=127.0.0.1:{}", a.port()));
    // The name is allowed and overridden; addresses that the DNS could give are not.
    let policy = policy(&["a.example", "*"]);
    let ways = [
        ("http://127.0.0.1:1/", "a loopback address"),
        ("http://localhost:1/", "a loopback address"),
        ("http://LocalHost.:1/", "a loopback address"),
        ("http://x.localhost/", "a loopback address"),
        ("//127.0.0.1:1/", "a loopback address"),
        ("http://[::1]:1/", "a loopback address"),
        ("http://2130706433/", "a loopback address"),
        ("http://0x7f.1/", "a loopback address"),
        ("http://127.1/", "a loopback address"),
        ("http://0177.0.0.1/", "a loopback address"),
        ("http://127.0.0.1./", "a loopback address"),
        ("http://%31%32%37.0.0.1/", "a loopback address"),
        ("http:\\\\127.0.0.1\\", "a loopback address"),
        ("http://0/", "an unspecified address"),
        ("http://[::]/", "an unspecified address"),
        ("http://[::ffff:7f00:1]/", "an IPv4-mapped address"),
        ("http://[64:ff9b::7f00:1]/", "a NAT64 address"),
        ("http://169.254.169.254/", "the cloud's metadata service"),
        ("http://[fd00:ec2::254]/", "the cloud's metadata service"),
        ("http://[fd12::1]/", "a private address"),
    ];
    for (to, what) in ways {
        let request = http::Request::get("http://a.example/")
            .header("x-to", to)
            .body(Bytes::new())
            .unwrap();
        let error = client.send(&policy, request).await.expect_err(to);
        assert_eq!(error.kind, ErrorKind::NotAllowed, "{to}: {error}");
        assert!(error.message.contains(what), "{to}: {error}");
    }
    assert_eq!(a.seen().len(), ways.len());
}

#[tokio::test]
async fn methods_are_checked_and_bodies_dropped() {
    let a = server().await;
    let client = client("");
    let hosts = ["127.0.0.1".to_owned()];
    let post_only =
        wws_outbound::Policy::new(&hosts, &[Method::POST], true, crate::common::limits()).unwrap();
    let request = |status: u16| {
        Request::post(a.url(&format!("/to/{status}//end")))
            .header("content-type", "text/plain")
            .header("authorization", "secret")
            .body(Bytes::from_static(b"body"))
            .unwrap()
    };
    let error = client
        .send(&post_only, request(303))
        .await
        .expect_err("GET is not allowed");
    assert_eq!(error.kind, ErrorKind::NotAllowed);
    assert!(error.message.contains("GET"), "{error}");

    client
        .send(&post_only, request(308))
        .await
        .expect("the same again");
    client
        .send(&policy(&["127.0.0.1"]), request(302))
        .await
        .expect("as GET");
    let ends: Vec<_> = a
        .seen()
        .into_iter()
        .filter(|seen| seen.target == "/end")
        .collect();
    assert_eq!(
        (&ends[0].method, &ends[0].body[..]),
        (&Method::POST, &b"body"[..])
    );
    assert_eq!(
        (&ends[1].method, &ends[1].body[..]),
        (&Method::GET, &b""[..])
    );
    assert!(!ends[1].headers.contains_key("content-type"));
    assert!(ends[0].headers.contains_key("authorization"), "same origin");
    assert!(ends[1].headers.contains_key("authorization"), "same origin");
}

#[tokio::test]
async fn only_post_becomes_get_where_the_standard_says_so() {
    let a = server().await;
    let hosts = ["127.0.0.1".to_owned()];
    let methods = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
    ];
    let policy =
        wws_outbound::Policy::new(&hosts, &methods, true, crate::common::limits()).unwrap();
    let client = client("");
    for (status, method, expected) in [
        (301, Method::POST, Method::GET),
        (302, Method::POST, Method::GET),
        (303, Method::PUT, Method::GET),
        (301, Method::PUT, Method::PUT),
        (302, Method::PATCH, Method::PATCH),
        (302, Method::DELETE, Method::DELETE),
        (307, Method::POST, Method::POST),
    ] {
        let request = Request::builder()
            .method(method.clone())
            .uri(a.url(&format!("/to/{status}//end")))
            .header("content-type", "text/plain")
            .body(Bytes::from_static(b"data"))
            .unwrap();
        client.send(&policy, request).await.expect("answer");
        let seen = a.seen().pop().expect("a request");
        let kept = method == expected;
        assert_eq!(
            (&seen.target[..], &seen.method),
            ("/end", &expected),
            "{status} {method}"
        );
        let body = if kept { &b"data"[..] } else { b"" };
        assert_eq!(&seen.body[..], body, "{status} {method}");
        assert_eq!(
            seen.headers.contains_key("content-type"),
            kept,
            "{status} {method}"
        );
    }
}

#[tokio::test]
async fn credentials_do_not_travel() {
    let (a, b) = (server().await, server().await);
    let client = client("");
    let back = a.url("/end");
    let request = Request::get(a.url(&format!("/to/302/{}", b.url(&format!("/to/302/{back}")))))
        .header("authorization", "Bearer x")
        .header("cookie", "a=b")
        .header("x-else", "kept")
        .body(Bytes::new())
        .unwrap();
    client
        .send(&policy(&["127.0.0.1"]), request)
        .await
        .expect("answer");
    assert!(a.seen()[0].headers.contains_key("authorization"));
    for seen in [&b.seen()[0], &a.seen()[1]] {
        assert!(
            !seen.headers.contains_key("authorization") && !seen.headers.contains_key("cookie")
        );
        assert_eq!(seen.headers["x-else"], "kept");
    }
}

#[tokio::test]
async fn stops_redirect_loops() {
    let a = Server::http(|_| redirect(302, "/again")).await;
    let error = get(&client(""), &policy(&["127.0.0.1"]), &a.url("/"))
        .await
        .expect_err("a loop");
    assert_eq!(error.kind, ErrorKind::RedirectLoop);
    assert!(error.message.contains("more than 5 redirects"), "{error}");
    assert_eq!(a.seen().len(), 6);
    assert_eq!(
        a.connections(),
        1,
        "redirects with short bodies keep the connection"
    );
}

#[tokio::test]
async fn kept_where_asked() {
    let a = server().await;
    let mut request = Request::get(a.url("/to/302//end"))
        .body(Bytes::new())
        .unwrap();
    request.extensions_mut().insert(KeepRedirects);
    let response = client("")
        .send(&policy(&["127.0.0.1"]), request)
        .await
        .expect("answer");
    assert_eq!(
        (response.status().as_u16(), &response.headers()["location"]),
        (302, &"/end".parse().unwrap())
    );
}

#[tokio::test]
async fn broken_locations_are_errors() {
    let a = server().await;
    for to in ["http://", "http://[::1", "https://me:secret@127.0.0.1/"] {
        let error = get(
            &client(""),
            &policy(&["127.0.0.1"]),
            &a.url(&format!("/to/302/{to}")),
        )
        .await
        .expect_err(to);
        assert_eq!(error.kind, ErrorKind::Internal, "{error}");
    }
}
