//! The store in Redis, with Debian's Redis.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

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
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut command = redis::cmd("DEL");
    command.arg("wws:{n}:t");
    assert_eq!(
        command.query_async::<u32>(&mut connection).await.unwrap(),
        1
    );
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
