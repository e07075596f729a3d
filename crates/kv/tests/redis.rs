//! The store in Redis, with Debian's Redis.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wws_kv::{Change, Error, RedisOptions, RedisStore, Store, StoreLimits};

mod common;
#[path = "common/redis.rs"]
mod server;

use server::{PATIENCE, Redis};

fn store(redis: &Redis) -> RedisStore {
    RedisStore::new(
        &redis.url(),
        RedisOptions::default(),
        StoreLimits::default(),
    )
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_in_redis() {
    let redis = Redis::start();
    common::holds(Arc::new(store(&redis))).await;
    // Another server finds it all.
    let found = store(&redis).get("concurrent", "n").await.unwrap();
    assert_eq!(found.as_deref(), Some("800"));
}

/// An access list that was enough for the commands of before.
#[tokio::test(flavor = "multi_thread")]
async fn holds_with_few_rights() {
    let redis = Redis::start();
    let commands = [
        "eval",
        "get",
        "set",
        "del",
        "exists",
        "zadd",
        "zrem",
        "zrange",
        "zrangebylex",
        "mget",
        "incrby",
        "pttl",
        "pexpire",
        "scan",
    ];
    let rights = commands.map(|command| format!("+{command}"));
    let mut user = vec!["ACL", "SETUSER", "few", "on", ">p", "~wws:*"];
    user.extend(rights.iter().map(String::as_str));
    assert_eq!(redis.ask(&user), "OK");
    let url = format!("{}?user=few&pass=p", redis.url());
    let (options, limits) = (RedisOptions::default(), StoreLimits::default());
    common::holds(Arc::new(RedisStore::new(&url, options, limits).unwrap())).await;
}

/// Redis forgets scripts when it is asked to, as when it is started again.
#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_redis_forgot_are_sent_again() {
    let redis = Redis::start();
    let store = store(&redis);
    for sum in 1..4 {
        assert_eq!(store.increment("n", "count", 1).await.unwrap(), sum);
        assert_eq!(redis.ask(&["SCRIPT", "FLUSH"]), "OK");
    }
}

/// Namespaces around the size up to which one command reads them, with keys that are gone.
#[tokio::test(flavor = "multi_thread")]
async fn namespaces_of_any_size_are_read_as_a_whole() {
    let redis = Redis::start();
    let store = store(&redis);
    for namespace in ["n", "a*b", "{%}"] {
        for count in 1..140 {
            let (key, value) = (format!("k*{count}"), "v".repeat(count));
            store.set(namespace, key, value).await.unwrap();
            if count % 10 == 3 || count > 60 && count < 68 {
                let found = store.snapshot(namespace).await.unwrap();
                assert_eq!(found.size(), count, "{namespace}");
                let last = found.get(&*format!("k*{count}")).unwrap();
                assert_eq!(last.as_str().len(), count);
            }
        }
        // As one whose time has passed.
        let escaped = namespace
            .replace('%', "%25")
            .replace('{', "%7B")
            .replace('}', "%7D");
        let entry = format!("wws:{{{escaped}}}:k:k*1");
        assert_eq!(redis.ask(&["DEL", &entry]), "1");
        assert_eq!(store.snapshot(namespace).await.unwrap().size(), 138);
        for count in 2..120 {
            store.delete(namespace, format!("k*{count}")).await.unwrap();
        }
        assert_eq!(store.snapshot(namespace).await.unwrap().size(), 20);
        assert_eq!(store.snapshot(namespace).await.unwrap().size(), 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_count_exactly_in_turns() {
    let redis = Redis::start();
    let servers = [(); 2].map(|()| Arc::new(store(&redis)));
    let tasks = (0..16).map(|client| {
        let store = servers[client % 2].clone();
        tokio::spawn(async move {
            for _ in 0..15 {
                let turn = store.serial("n").await.unwrap();
                let now = store.snapshot("n").await.unwrap();
                let now = now
                    .get("count")
                    .map_or(0, |now| now.parse::<u32>().unwrap());
                let change = Change::Set("count".into(), (now + 1).to_string());
                store.apply_in("n", vec![change], &turn).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let found = servers[0].get("n", "count").await.unwrap();
    assert_eq!(found.as_deref(), Some("240"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_was_lost_writes_nothing() {
    let redis = Redis::start();
    let store = store(&redis);
    let turn = store.serial("n").await.unwrap();
    // As after a restart of a Redis that keeps nothing.
    assert_eq!(redis.ask(&["DEL", "wws:{n}:t"]), "1");
    let change = vec![Change::Set("a".into(), "1".into())];
    let lost = store.apply_in("n", change.clone(), &turn).await;
    assert!(matches!(lost, Err(Error::TurnLost)), "{lost:?}");
    assert_eq!(store.get("n", "a").await.unwrap(), None);
    drop(turn);
    let turn = store.serial("n").await.unwrap();
    store.apply_in("n", change, &turn).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_was_away_is_used_again() {
    let mut redis = Redis::start();
    let store = store(&redis);
    store.set("n", "kept".into(), "1".into()).await.unwrap();
    let mut counted = store.increment("n", "count", 1).await.unwrap();
    for round in ["first", "second"] {
        redis.kill();
        let asked = Instant::now();
        let away = store.get("n", "kept").await;
        assert!(
            matches!(&away, Err(error) if error.is_temporary()),
            "{away:?}"
        );
        assert!(asked.elapsed() < Duration::from_secs(30));
        assert!(store.increment("n", "count", 1).await.is_err());
        assert!(store.serial("n").await.is_err());
        redis.run();
        let returned = Instant::now();
        // Reads and increments, on all connections.
        let mut in_a_row = 0;
        while in_a_row < 8 {
            assert!(returned.elapsed() < PATIENCE, "not used again");
            in_a_row = match store.increment("n", "count", 1).await {
                Ok(sum) => {
                    counted += 1;
                    assert!(sum >= counted, "{sum} after {counted}");
                    in_a_row + 1
                }
                Err(_) => 0,
            };
            if in_a_row == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        println!("used again after {:?}", returned.elapsed());
        assert_eq!(store.get("n", "kept").await.unwrap().as_deref(), Some("1"));
        // Of its own: the next kill may come before it was passed on.
        drop(store.serial(round).await.unwrap());
    }
}

#[tokio::test]
async fn a_wrong_url_is_not_repeated_in_the_error() {
    for url in ["http://user:secret@host", "redis://:secret@host:port", ""] {
        let error = RedisStore::new(url, RedisOptions::default(), StoreLimits::default())
            .err()
            .unwrap();
        let text = format!("{error} {error:?}");
        assert!(!text.contains("secret"), "{text}");
    }
}

/// Certificates of the environment are for URLs with TLS.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_not_needed_without_tls() {
    let redis = Redis::start();
    let options = RedisOptions {
        roots: Some(Vec::new()),
        names: None,
    };
    let store = RedisStore::new(&redis.url(), options, StoreLimits::default()).unwrap();
    assert_eq!(store.get("n", "a").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_in_redis_with_tls_and_a_password() {
    let directory = tempfile::tempdir().unwrap();
    let authority = rcgen::KeyPair::generate().unwrap();
    let mut of_authority = rcgen::CertificateParams::new([]).unwrap();
    of_authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = of_authority.self_signed(&authority).unwrap().pem();
    let issuer = rcgen::Issuer::new(of_authority, authority);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = rcgen::CertificateParams::new(["localhost".into()]).unwrap();
    let own = names.signed_by(&key, &issuer).unwrap();
    for (name, text) in [
        ("authority", certificate.clone()),
        ("certificate", own.pem()),
        ("key", key.serialize_pem()),
    ] {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let redis = Redis::start_with(
        directory,
        &[
            "--bind",
            "127.0.0.1",
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            "certificate",
            "--tls-key-file",
            "key",
            "--tls-ca-cert-file",
            "authority",
            "--tls-auth-clients",
            "no",
            "--requirepass",
            "secret",
        ],
    );
    let store = |url: &str, roots: Option<&str>| {
        let options = RedisOptions {
            roots: roots.map(|pem| pem.as_bytes().to_vec()),
            names: None,
        };
        RedisStore::new(url, options, StoreLimits::default()).unwrap()
    };
    let url = format!("rediss://:secret@localhost:{port}");
    common::holds(Arc::new(store(&url, Some(&certificate)))).await;
    // An authority that is not trusted, another name, no TLS.
    for (url, roots) in [
        (url.clone(), None),
        (url.replace("localhost", "127.0.0.1"), Some(&*certificate)),
        (url.replace("rediss", "redis"), Some(&*certificate)),
    ] {
        let refused = store(&url, roots).get("concurrent", "n").await.unwrap_err();
        assert!(refused.is_temporary(), "{refused}");
        assert!(!refused.to_string().contains("secret"), "{refused}");
    }
    let wrong = store(&url.replace("secret", "other"), Some(&certificate));
    let refused = wrong.get("concurrent", "n").await.unwrap_err();
    assert!(!refused.to_string().contains("other"), "{refused}");
    drop(redis);
}

/// Names the process that runs in a network namespace of its own.
const IN_NAMESPACE: &str = "WWS_TEST_KV_NETWORK";

/// Runs a script, which may use `ip`.
fn sh(script: &str) {
    let ended = Command::new("sh").args(["-ec", script]).status().unwrap();
    assert!(ended.success(), "{script}: {ended}");
}

/// Ended with its handle.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A Redis in a network namespace of its own, at 10.99.0.2.
fn redis_beyond_a_cable(directory: &Path) -> Killed {
    let program = server::program();
    let mut command = Command::new("unshare");
    command.args(["--net", "--", "sh", "-ec"]);
    command.arg("ip link set lo up; exec \"$0\" \"$@\"");
    command.arg(program.get_program());
    command.args(["--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""]);
    for (name, value) in program.get_envs() {
        command.env(name, value.unwrap());
    }
    command.current_dir(directory).stdout(Stdio::null());
    let redis = Killed(command.spawn().unwrap());
    let pid = redis.0.id();
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let started = Instant::now();
    while std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap() == own {
        assert!(started.elapsed() < PATIENCE, "no namespace");
        std::thread::sleep(Duration::from_millis(5));
    }
    sh(&format!(
        "ip link set lo up
         ip link add here type veth peer name there
         ip link set there netns {pid}
         ip address add 10.99.0.1/24 dev here
         ip link set here up
         nsenter --target {pid} --net ip address add 10.99.0.2/24 dev there
         nsenter --target {pid} --net ip link set there up"
    ));
    redis
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_was_cut_off_is_used_again() {
    if std::env::var_os(IN_NAMESPACE).is_none() {
        // The whole test in a network of its own: that of the machine stays as it is.
        let user: &[&str] = match rustix::process::geteuid().is_root() {
            true => &[],
            false => &["--user", "--map-root-user"],
        };
        let ended = Command::new("unshare")
            .args(user)
            .args(["--net", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["a_redis_that_was_cut_off_is_used_again", "--exact"])
            .arg("--nocapture")
            .env(IN_NAMESPACE, "1")
            .status()
            .unwrap();
        assert!(ended.success(), "{ended}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let redis = redis_beyond_a_cable(directory.path());
    let cable = |state: &str| {
        let pid = redis.0.id();
        sh(&format!(
            "nsenter --target {pid} --net ip link set there {state}"
        ));
    };
    let limits = StoreLimits::default();
    let store = RedisStore::new("redis://10.99.0.2:6379", RedisOptions::default(), limits).unwrap();
    let mut counted = count_until_it_succeeds(&store, 0).await;
    for _ in 0..3 {
        cable("down");
        for _ in 0..3 {
            let asked = Instant::now();
            let away = store.increment("n", "count", 1).await.unwrap_err();
            assert!(away.is_temporary(), "{away}");
            println!("refused after {:?}: {away}", asked.elapsed());
        }
        cable("up");
        let returned = Instant::now();
        counted = count_until_it_succeeds(&store, counted).await;
        println!("used again after {:?}", returned.elapsed());
    }
}

/// Increments until it succeeds. Returns the sum. An increment whose answer was lost counts as
/// well.
async fn count_until_it_succeeds(store: &RedisStore, counted: i64) -> i64 {
    let started = Instant::now();
    loop {
        if let Ok(sum) = store.increment("n", "count", 1).await {
            assert!(sum > counted && sum <= counted + 4, "{sum} after {counted}");
            return sum;
        }
        assert!(started.elapsed() < PATIENCE, "not used again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
