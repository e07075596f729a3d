//! Certificates are checked for the host that was asked for.

use crate::common::{Authority, Server, client_with, get, ok, options};
use http::Method;
use wws_outbound::{Client, ClientOptions, ErrorKind, Overrides, Policy, Roots};

fn https_only(hosts: &[&str]) -> Policy {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    Policy::new(&hosts, &[Method::GET], false, crate::common::limits()).expect("policy")
}

fn client(authority: &Authority, overrides: &str) -> Client {
    let directory = authority.directory();
    client_with(ClientOptions {
        roots: Roots {
            directories: vec![directory.path().into()],
            ..Roots::default()
        },
        resolve: Overrides::parse(overrides).expect("overrides"),
        ..options()
    })
}

#[tokio::test]
async fn own_authority_and_one_connection() {
    let authority = Authority::new();
    let server = Server::start(
        "127.0.0.1:0",
        Some(authority.acceptor("api.example.com")),
        |_| ok("secret"),
    )
    .await;
    let client = client(
        &authority,
        &format!("api.example.com:443=127.0.0.1:{}", server.port()),
    );
    for _ in 0..10 {
        let response = get(
            &client,
            &https_only(&["api.example.com"]),
            "https://api.example.com/",
        )
        .await
        .expect("answer");
        assert_eq!(response.body(), "secret");
    }
    assert_eq!(server.connections(), 1);
    assert_eq!(server.seen()[0].headers["host"], "api.example.com");
}

#[tokio::test]
async fn addresses_have_certificates_too() {
    let authority = Authority::new();
    let server = Server::start("127.0.0.1:0", Some(authority.acceptor("127.0.0.1")), |_| {
        ok("secret")
    })
    .await;
    let url = format!("https://{}/", server.address);
    get(&client(&authority, ""), &https_only(&["127.0.0.1"]), &url)
        .await
        .expect("answer");
}

#[tokio::test]
async fn another_authority_another_name_and_no_tls_are_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = Server::start(
        "127.0.0.1:0",
        Some(authority.acceptor("api.example.com")),
        |_| ok("secret"),
    )
    .await;
    let plain = Server::http(|_| ok("plain")).await;
    let overrides = format!(
        "api.example.com=127.0.0.1:{0},evil.example=127.0.0.1:{0},plain.example=127.0.0.1:{1}",
        server.port(),
        plain.port()
    );
    let policy = https_only(&["api.example.com", "evil.example", "plain.example"]);
    for (client, url, part) in [
        (
            client(&other, &overrides),
            "https://api.example.com/",
            "UnknownIssuer",
        ),
        (
            client_with(ClientOptions {
                resolve: Overrides::parse(&overrides).unwrap(),
                ..options()
            }),
            "https://api.example.com/",
            "UnknownIssuer",
        ),
        (
            client(&authority, &overrides),
            "https://evil.example/",
            "certificate",
        ),
        (
            client(&authority, &overrides),
            "https://plain.example/",
            "cannot connect",
        ),
    ] {
        let error = get(&client, &policy, url).await.expect_err(url);
        assert_eq!(error.kind, ErrorKind::Internal, "{error}");
        assert!(error.message.contains(part), "{error}");
    }
    assert!(server.seen().is_empty() && plain.seen().is_empty());
}

#[tokio::test]
async fn a_pooled_connection_is_for_its_own_host() {
    let authority = Authority::new();
    let server = Server::start("127.0.0.1:0", Some(authority.acceptor("a.example")), |_| {
        ok("secret")
    })
    .await;
    let client = client(
        &authority,
        &format!(
            "a.example=127.0.0.1:{0},b.example=127.0.0.1:{0}",
            server.port()
        ),
    );
    let policy = https_only(&["a.example", "b.example"]);
    get(&client, &policy, "https://a.example/")
        .await
        .expect("its own");
    get(&client, &policy, "https://b.example/")
        .await
        .expect_err("another's");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_redirect_to_plain_http_is_refused() {
    let authority = Authority::new();
    let plain = Server::http(|_| ok("plain")).await;
    let server = Server::start("127.0.0.1:0", Some(authority.acceptor("a.example")), |_| {
        crate::common::redirect(302, "http://a.example/")
    })
    .await;
    let client = client(
        &authority,
        &format!(
            "a.example:443=127.0.0.1:{},a.example:80=127.0.0.1:{}",
            server.port(),
            plain.port()
        ),
    );
    let error = get(&client, &https_only(&["a.example"]), "https://a.example/")
        .await
        .expect_err("plain http");
    assert_eq!(error.kind, ErrorKind::NotAllowed);
    assert!(
        error.message.contains("allow_http") && error.message.contains("a.example"),
        "{error}"
    );
    assert_eq!(plain.connections(), 0);
}
