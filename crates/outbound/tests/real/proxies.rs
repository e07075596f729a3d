//! Requests through the operator's proxy, and what is checked all the same.

use std::sync::{Arc, Mutex};

use crate::common::{Authority, Names, Server, client_with, get, ok, options, policy, redirect};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use wws_outbound::{ClientOptions, Dns, Error, ErrorKind, Policy, Proxies, Roots};

/// A proxy that sends everything to one server, whatever it is asked for; it keeps the heads of
/// what it was asked.
struct Relay {
    address: std::net::SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Relay {
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Self {
            address: listener.local_addr().unwrap(),
            heads: Arc::default(),
        };
        let heads = relay.heads.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let heads = heads.clone();
                tokio::spawn(async move {
                    let _ = Self::serve(stream, heads, port).await;
                });
            }
        });
        relay
    }

    async fn serve(
        mut stream: TcpStream,
        heads: Arc<Mutex<Vec<String>>>,
        port: u16,
    ) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        heads.lock().unwrap().push(text.clone());
        if text.contains("denied") {
            return stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await;
        }
        let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
        if text.starts_with("CONNECT ") {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        } else {
            server.write_all(&head).await?;
        }
        tokio::io::copy_bidirectional(&mut stream, &mut server).await?;
        Ok(())
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    /// The proxy for everything but what `no` names.
    fn proxies(&self, no: &'static str) -> Proxies {
        let all = format!("http://me:secret@{}", self.address);
        Proxies::from_env(|name| match name {
            "ALL_PROXY" => Some(&all),
            "NO_PROXY" => Some(no),
            _ => None,
        })
        .expect("a proxy")
    }

    fn options(&self) -> ClientOptions {
        ClientOptions {
            proxies: self.proxies(""),
            ..options()
        }
    }
}

const PASSWORD: &str = "roxy-authorization: basic bwu6c2vjcmv0";

#[tokio::test]
async fn plain_http_is_forwarded_and_connections_are_used_again() {
    let server = Server::http(|seen| match seen.target.contains("/moved") {
        true => redirect(302, "http://b.example/end"),
        false => ok("fine"),
    })
    .await;
    let relay = Relay::to(server.port()).await;
    let client = client_with(relay.options());
    let policy = policy(&["a.example", "b.example"]);
    for _ in 0..2 {
        let answer = get(&client, &policy, "http://a.example/x?y").await;
        assert_eq!(answer.expect("answer").body(), "fine");
    }
    get(&client, &policy, "http://a.example/moved")
        .await
        .expect("redirected");
    let seen: Vec<_> = server.seen().iter().map(|s| s.target.clone()).collect();
    assert_eq!(
        seen,
        [
            "http://a.example:80/x?y",
            "http://a.example:80/x?y",
            "http://a.example:80/moved",
            "http://b.example:80/end"
        ]
    );
    assert_eq!(server.seen()[0].headers["host"], "a.example");
    assert_eq!(relay.heads().len(), 2, "one connection for each host");
    assert!(relay.heads()[0].to_lowercase().contains(PASSWORD));
}

#[tokio::test]
async fn https_goes_through_a_tunnel_end_to_end() {
    let authority = Authority::new();
    let acceptor = authority.acceptor("a.example");
    let server = Server::start("127.0.0.1:0", Some(acceptor), |_| ok("secret")).await;
    let relay = Relay::to(server.port()).await;
    let directory = authority.directory();
    let client = client_with(ClientOptions {
        roots: Roots {
            directories: vec![directory.path().into()],
            ..Roots::default()
        },
        ..relay.options()
    });
    for _ in 0..2 {
        let answer = get(&client, &policy(&["a.example"]), "https://a.example/x").await;
        assert_eq!(answer.expect("answer").body(), "secret");
    }
    let heads = relay.heads();
    assert_eq!(heads.len(), 1);
    assert!(
        heads[0].starts_with("CONNECT a.example:443 HTTP/1.1\r\n"),
        "{heads:?}"
    );
    assert!(heads[0].to_lowercase().contains(PASSWORD));
    let seen = &server.seen()[0];
    assert_eq!(seen.target, "/x");
    assert!(!seen.headers.contains_key("proxy-authorization"));
}

/// What the policy says of a request through a proxy that would let everything pass.
async fn refused(relay: &Relay, dns: Dns, policy: &Policy, url: &str) -> Error {
    let client = client_with(ClientOptions {
        dns,
        ..relay.options()
    });
    get(&client, policy, url).await.expect_err(url)
}

#[tokio::test]
async fn checks_apply_through_a_proxy() {
    let inside = Server::http(|_| ok("inside")).await;
    let relay = Relay::to(inside.port()).await;
    let (names, dns) = Names::start(60).await;
    names.set("evil.example", &["169.254.169.254"]);
    names.set("private.example", &["10.0.0.5"]);
    names.set("public.example", &["93.184.216.34"]);
    let any = policy(&["*"]);
    let listed = policy(&["a.example"]);
    for (policy, url) in [
        // Addresses in the URL.
        (&any, "http://169.254.169.254/latest/meta-data/"),
        (&any, "http://10.0.0.5/"),
        (&any, "http://127.0.0.1:1/"),
        (&any, "http://2130706433/"),
        (&any, "https://[fd00:ec2::254]/"),
        (&any, "http://localhost/"),
        // Names that anybody can make lead inside.
        (&any, "http://evil.example/"),
        (&any, "https://private.example/"),
        // What the list does not have.
        (&listed, "http://public.example/"),
        (&listed, "http://127.0.0.1:1/"),
    ] {
        let error = refused(&relay, dns.clone(), policy, url).await;
        assert_eq!(error.kind, ErrorKind::NotAllowed, "{url}: {error}");
    }
    assert_eq!(relay.heads(), [""; 0]);
    // A name that only `*` allows is looked up here; the proxy is given its address.
    let client = client_with(ClientOptions {
        dns: dns.clone(),
        ..relay.options()
    });
    let answer = get(&client, &any, "http://public.example/").await;
    assert_eq!(answer.expect("answer").body(), "inside");
    assert!(relay.heads()[0].starts_with("CONNECT 93.184.216.34:80 HTTP/1.1"));
    assert_eq!(inside.seen()[0].headers["host"], "public.example");
    // And one that cannot be looked up here is not sent at all.
    let error = refused(&relay, dns, &any, "http://unknown.example/").await;
    assert_eq!(error.kind, ErrorKind::Internal);
    assert_eq!(relay.heads().len(), 1);
}

#[tokio::test]
async fn connects_directly_to_hosts_without_a_proxy() {
    let server = Server::http(|_| ok("direct")).await;
    let elsewhere = Server::http(|_| ok("by proxy")).await;
    let relay = Relay::to(elsewhere.port()).await;
    let client = client_with(ClientOptions {
        proxies: relay.proxies("inside.example"),
        resolve: format!("a.example=127.0.0.1:{}", server.port())
            .parse()
            .unwrap(),
        ..options()
    });
    // This machine, and what the operator gave an address.
    let policy = policy(&["127.0.0.1", "a.example", "b.example", "inside.example"]);
    for (url, body) in [
        (server.url("/"), "direct"),
        ("http://a.example/".into(), "direct"),
        ("http://b.example/".into(), "by proxy"),
    ] {
        let answer = get(&client, &policy, &url).await;
        assert_eq!(answer.expect("answer").body(), body, "{url}");
    }
    let error = get(&client, &policy, "http://inside.example/")
        .await
        .expect_err("no DNS here");
    assert!(error.message.contains("cannot resolve"), "{error}");
}

#[tokio::test]
async fn reports_a_failed_proxy_without_its_address() {
    let server = Server::http(|_| ok("never")).await;
    let relay = Relay::to(server.port()).await;
    let client = client_with(relay.options());
    let policy = policy(&["denied.example", "a.example"]);
    let error = get(&client, &policy, "https://denied.example/")
        .await
        .expect_err("403");
    assert_eq!(error.kind, ErrorKind::Internal);
    assert!(
        error.message.contains("cannot connect to `denied.example`")
            && error.message.contains("proxy"),
        "{error}"
    );
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let all = format!("http://me:secret@{address}");
    let client = client_with(ClientOptions {
        proxies: Proxies::from_env(|name| (name == "ALL_PROXY").then_some(&*all)).unwrap(),
        ..options()
    });
    for url in ["https://a.example/", "http://a.example/"] {
        let error = get(&client, &policy, url).await.expect_err(url);
        assert!(error.message.contains("refused"), "{error}");
        assert!(!error.message.contains("secret") && !error.message.contains("127.0.0.1"));
    }
}
