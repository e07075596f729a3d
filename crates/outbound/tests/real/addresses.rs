//! Names lead only to addresses that the policy admits, and connections go to those.

use crate::common::{Names, Server, client, client_with, get, ok, options, policy};
use wws_outbound::{ClientOptions, Dns, ErrorKind, Overrides};

#[tokio::test]
async fn literals_need_their_own_entry() {
    let server = Server::http(|_| ok("inside")).await;
    let client = client("");
    let url = server.url("/");
    for hosts in [
        &["*"][..],
        &["example.com"],
        &["localhost"],
        &["127.0.0.2"],
        &["127.0.0.1:1"],
        &[],
    ] {
        let error = get(&client, &policy(hosts), &url)
            .await
            .expect_err("refused");
        assert_eq!(error.kind, ErrorKind::NotAllowed, "{hosts:?}");
        assert!(error.message.contains("127.0.0.1"), "{error}");
    }
    let localhost = format!("http://localhost:{}/", server.port());
    for hosts in [&["*"][..], &["localhost"]] {
        let error = get(&client, &policy(hosts), &localhost)
            .await
            .expect_err("refused");
        assert!(
            error
                .message
                .contains("`localhost` is at a loopback address"),
            "{error}"
        );
    }
    assert_eq!(server.connections(), 0);
    let exact = server.address.to_string();
    for (hosts, url) in [
        (&["127.0.0.1"][..], &url),
        (&[exact.as_str()], &url),
        (&["localhost", "127.0.0.1"], &localhost),
    ] {
        assert_eq!(
            get(&client, &policy(hosts), url)
                .await
                .expect("allowed")
                .body(),
            "inside"
        );
    }
}

#[tokio::test]
async fn rejects_names_that_resolve_to_private_addresses() {
    let server = Server::http(|_| ok("inside")).await;
    let (names, dns) = Names::start(60).await;
    let client = client_with(ClientOptions { dns, ..options() });
    for (name, address, what) in [
        ("loop.example", "127.0.0.1", "a loopback address"),
        ("private.example", "10.1.2.3", "a private address"),
        (
            "meta.example",
            "169.254.169.254",
            "the cloud's metadata service",
        ),
        ("local.example", "169.254.1.1", "a link-local address"),
        ("cgnat.example", "100.64.0.1", "a private address"),
        ("zero.example", "0.0.0.0", "an unspecified address"),
        ("loop6.example", "::1", "a loopback address"),
        (
            "mapped.example",
            "::ffff:127.0.0.1",
            "an IPv4-mapped address",
        ),
        ("nat64.example", "64:ff9b::7f00:1", "a NAT64 address"),
        ("sixtofour.example", "2002:7f00:1::", "a 6to4 address"),
        (
            "aws.example",
            "fd00:ec2::254",
            "the cloud's metadata service",
        ),
        ("ula.example", "fd12::1", "a private address"),
    ] {
        names.set(name, &[address]);
        let url = format!("http://{name}:{}/", server.port());
        let error = get(&client, &policy(&[name, "*"]), &url)
            .await
            .expect_err(name);
        assert_eq!(error.kind, ErrorKind::NotAllowed, "{name}: {error}");
        assert!(
            error.message.contains(name) && error.message.contains(what),
            "{error}"
        );
        assert!(
            !error.message.contains(address),
            "the address is the resolver's knowledge: {error}"
        );
    }
    assert_eq!(server.connections(), 0);
    let url = format!("http://loop.example:{}/", server.port());
    let named = policy(&["loop.example", "127.0.0.1"]);
    assert_eq!(
        get(&client, &named, &url).await.expect("named").body(),
        "inside"
    );
    assert_eq!(
        server.seen()[0].headers["host"],
        format!("loop.example:{}", server.port())
    );
}

#[tokio::test]
async fn names_of_services_and_networks_allow_nothing_else() {
    let (names, dns) = Names::start(60).await;
    let client = client_with(ClientOptions { dns, ..options() });
    for (name, address) in [
        ("far.example", "192.168.255.254"),
        ("loop", "127.0.0.1"),
        ("meta", "169.254.169.254"),
        ("x.internal", "100.100.100.200"),
        ("other", "10.1.2.3"),
    ] {
        names.set(name, &[address]);
    }
    let listed = policy(&["*", "far.example", "loop", "meta", "x.internal"])
        .allow_private(&["172.16.0.0/12".to_owned()])
        .expect("networks");
    for (name, what) in [
        ("far.example", "or allow_private has its network"),
        ("loop", "a loopback address"),
        ("meta", "the cloud's metadata service"),
        ("x.internal", "the cloud's metadata service"),
        // `*` writes no name out.
        ("other", "a private address"),
    ] {
        let url = format!("http://{name}:9/");
        let error = get(&client, &listed, &url).await.expect_err(name);
        assert_eq!(error.kind, ErrorKind::NotAllowed, "{error}");
        assert!(error.message.contains(what), "{error}");
    }
}

#[tokio::test]
async fn uses_only_admitted_addresses() {
    let good = Server::http(|_| ok("good")).await;
    let at = format!("127.0.0.2:{}", good.port());
    let bad = Server::start(&at, None, |_| ok("bad")).await;
    let (names, dns) = Names::start(60).await;
    names.set("both.example", &["127.0.0.2", "127.0.0.1", "10.0.0.1"]);
    let client = client_with(ClientOptions { dns, ..options() });
    let url = format!("http://both.example:{}/", good.port());
    let policy = policy(&["both.example", "127.0.0.1"]);
    assert_eq!(
        get(&client, &policy, &url).await.expect("answer").body(),
        "good"
    );
    assert_eq!(bad.connections(), 0);
}

#[tokio::test]
async fn checks_a_name_again_when_its_address_changes() {
    let server = Server::http(|_| ok("first")).await;
    let at = format!("127.0.0.2:{}", server.port());
    let inside = Server::start(&at, None, |_| ok("inside")).await;
    // No time to live: each request asks anew.
    let (names, dns) = Names::start(0).await;
    names.set("moves.example", &["127.0.0.1"]);
    let client = client_with(ClientOptions { dns, ..options() });
    let policy = policy(&["moves.example", "127.0.0.1"]);
    let url = format!("http://moves.example:{}/", server.port());
    assert_eq!(
        get(&client, &policy, &url).await.expect("answer").body(),
        "first"
    );
    // One look-up for one request: what was checked is what was connected to.
    let mut asked = names.asked();
    asked.sort_unstable();
    assert_eq!(asked, ["moves.example A", "moves.example AAAA"]);

    names.set("moves.example", &["127.0.0.2"]);
    let error = get(&client, &policy, &url)
        .await
        .expect_err("it moved inside");
    assert_eq!(error.kind, ErrorKind::NotAllowed);
    assert_eq!((server.connections(), inside.connections()), (1, 0));
}

#[tokio::test]
async fn overrides_may_lead_to_private_addresses_but_not_past_the_allow_list() {
    let server = Server::http(|_| ok("stand-in")).await;
    let client = client(&format!(
        "api.example.com:80=127.0.0.1:{},other.example=127.0.0.1",
        server.port()
    ));
    let response = get(
        &client,
        &policy(&["api.example.com"]),
        "http://api.example.com/x",
    )
    .await
    .expect("overridden");
    assert_eq!(response.body(), "stand-in");
    assert_eq!(server.seen()[0].headers["host"], "api.example.com");
    let other = format!("http://other.example:{}/", server.port());
    get(&client, &policy(&["other.example"]), &other)
        .await
        .expect("its own port");
    for (hosts, url) in [
        (["x.example"], "http://api.example.com/"),
        (["api.example.com"], "http://127.0.0.1/"),
    ] {
        let error = get(&client, &policy(&hosts), url)
            .await
            .expect_err("not in the list");
        assert_eq!(error.kind, ErrorKind::NotAllowed);
    }
    // Another port of the host is not overridden, and there is no DNS here.
    let error = get(
        &client,
        &policy(&["api.example.com"]),
        "http://api.example.com:81/",
    )
    .await
    .expect_err("no DNS");
    assert_eq!(error.kind, ErrorKind::Internal, "{error}");
}

#[tokio::test]
async fn files_of_the_system() {
    let server = Server::http(|_| ok("by hosts")).await;
    let etc = tempfile::tempdir().unwrap();
    let hosts = etc.path().join("hosts");
    std::fs::write(&hosts, "# ours\n127.0.0.1 db.internal db\n").unwrap();
    let client = client_with(ClientOptions {
        dns: Dns::System(etc.path().into()),
        ..options()
    });
    let policy = policy(&["db", "db.internal", "127.0.0.1", "else.example"]);
    // Without a resolv.conf, hosts alone answers.
    for name in ["db", "db.internal", "DB.Internal."] {
        let url = format!("http://{name}:{}/", server.port());
        assert_eq!(
            get(&client, &policy, &url).await.expect(name).body(),
            "by hosts"
        );
    }
    let error = get(&client, &policy, "http://else.example/")
        .await
        .expect_err("no servers");
    assert_eq!(error.kind, ErrorKind::Internal);
    assert!(
        error.message.contains("cannot resolve `else.example`"),
        "{error}"
    );
}

#[tokio::test]
async fn reports_names_that_do_not_resolve() {
    let (names, dns) = Names::start(60).await;
    let client = client_with(ClientOptions { dns, ..options() });
    for _ in 0..3 {
        let error = get(&client, &policy(&["gone.example"]), "http://gone.example/")
            .await
            .expect_err("no such name");
        assert_eq!(error.kind, ErrorKind::Internal);
        assert!(error.message.contains("no such name"), "{error}");
    }
    assert!(names.asked().len() <= 6, "{:?}", names.asked());
}

#[tokio::test]
async fn connections_are_shared_only_among_equal_policies() {
    let server = Server::http(|_| ok("inside")).await;
    let (names, dns) = Names::start(60).await;
    names.set("db.example", &["127.0.0.1"]);
    let client = client_with(ClientOptions { dns, ..options() });
    let url = format!("http://db.example:{}/", server.port());
    let may = policy(&["db.example", "127.0.0.1"]);
    get(&client, &may, &url).await.expect("it may");
    // The connection is there and idle: that changes nothing for a worker that may not.
    let error = get(&client, &policy(&["db.example"]), &url)
        .await
        .expect_err("it may not");
    assert_eq!(error.kind, ErrorKind::NotAllowed);
    let error = get(&client, &policy(&["127.0.0.1"]), &url)
        .await
        .expect_err("nor may it");
    assert_eq!(error.kind, ErrorKind::NotAllowed);
    get(&client, &may, &url).await.expect("it still may");
    assert_eq!((server.seen().len(), server.connections()), (2, 1));
}

#[tokio::test]
async fn overrides_win_over_literals() {
    let server = Server::http(|_| ok("stand-in")).await;
    let client = client_with(ClientOptions {
        resolve: Overrides::parse(&format!("93.184.216.34=127.0.0.1:{}", server.port())).unwrap(),
        ..options()
    });
    let response = get(&client, &policy(&["*"]), "http://93.184.216.34/")
        .await
        .expect("overridden");
    assert_eq!(response.body(), "stand-in");
}

#[tokio::test]
async fn caches_dns_answers_for_their_ttl() {
    let server = Server::http(|_| ok("fine")).await;
    let (names, dns) = Names::start(60).await;
    names.set("kept.example", &["127.0.0.1"]);
    let client = client_with(ClientOptions { dns, ..options() });
    let url = format!("http://kept.example:{}/", server.port());
    for _ in 0..20 {
        get(&client, &policy(&["kept.example", "127.0.0.1"]), &url)
            .await
            .expect("answer");
    }
    assert_eq!((names.asked().len(), server.connections()), (2, 1));
}

#[tokio::test]
async fn both_families_and_a_server_that_never_answers_for_one() {
    let Ok(probe) = std::net::TcpListener::bind("[::1]:0") else {
        return; // A machine without IPv6.
    };
    drop(probe);
    let server = Server::start("[::1]:0", None, |_| ok("six")).await;
    let (names, dns) = Names::start(60).await;
    names.set("both.example", &["127.0.0.1", "::1"]);
    names.silent("slow.example A");
    names.set("slow.example", &["::1"]);
    let client = client_with(ClientOptions { dns, ..options() });
    let policy = policy(&["both.example", "slow.example", "127.0.0.1", "::1"]);
    // Nobody listens at IPv4's address: the other is tried.
    for name in ["both.example", "slow.example"] {
        let start = std::time::Instant::now();
        let url = format!("http://{name}:{}/", server.port());
        assert_eq!(get(&client, &policy, &url).await.expect(name).body(), "six");
        assert!(
            start.elapsed() < std::time::Duration::from_secs(4),
            "{name}: {:?}",
            start.elapsed()
        );
    }
}

#[tokio::test]
async fn reads_changed_system_files_again() {
    let server = Server::http(|_| ok("by hosts")).await;
    let etc = tempfile::tempdir().unwrap();
    let hosts = etc.path().join("hosts");
    std::fs::write(&hosts, "10.0.0.1 db\n").unwrap();
    let client = client_with(ClientOptions {
        dns: Dns::System(etc.path().into()),
        ..options()
    });
    let policy = policy(&["db", "127.0.0.1"]);
    let url = format!("http://db:{}/", server.port());
    get(&client, &policy, &url).await.expect_err("elsewhere");
    std::fs::write(&hosts, "127.0.0.1 db # moved\n").unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(5100)).await;
    get(&client, &policy, &url).await.expect("read again");
}

#[tokio::test]
async fn connection_is_not_shared_with_a_sender_that_may_not_reach_its_address() {
    let first = Server::http(|_| ok("first")).await;
    let at = format!("127.0.0.2:{}", first.port());
    let second = Server::start(&at, None, |_| ok("second")).await;
    let (names, dns) = Names::start(60).await;
    names.set("db.example", &["127.0.0.1", "127.0.0.2"]);
    let client = client_with(ClientOptions { dns, ..options() });
    let url = format!("http://db.example:{}/", first.port());
    let both = policy(&["db.example", "127.0.0.1", "127.0.0.2"]);
    let one = policy(&["db.example", "127.0.0.2"]);
    for (policy, body) in [
        (&both, "first"),
        (&one, "second"),
        (&both, "first"),
        (&one, "second"),
    ] {
        assert_eq!(
            get(&client, policy, &url).await.expect("answer").body(),
            body
        );
    }
    assert_eq!((first.connections(), second.connections()), (1, 1));
}
