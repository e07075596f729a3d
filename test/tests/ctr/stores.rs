//! Key/value stores of containers: a file on a volume, beside `wws kv` by exec, and a Redis that
//! two containers share.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use wws_test::container::{Container, Run};
use wws_test::containerd::{Containerd, Version};
use wws_test::image::Image;

#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helps unit tests, too"
)]
#[path = "../../../crates/kv/tests/common/redis.rs"]
mod redis;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../crates/server/tests/server/common/wat.rs"]
mod wat_text;

const CLIENTS: u32 = 8;
const EACH: u32 = 1_000;

/// An image whose workers count in a store: `/serial` reads and writes, `/atomic` increments.
fn counting(name: &str, store: &str) -> Result<Image> {
    let kv = |namespace: &str, more: &str| {
        format!("[data.kv]\nstore = \"main\"\nnamespace = \"{namespace}\"\n{more}\n")
    };
    let atomic = "export default { async fetch() { return new Response(`${await \
                  Cache.increment('n')}`); } };";
    Image::workers(name)
        .directory("data")?
        .file(".wws.toml", format!("[stores.main]\n{store}\n"))?
        .file("serial.wasm", wat::parse_str(wat_text::counts())?)?
        .file("serial.toml", kv("serial", "consistency = \"serial\""))?
        .file("atomic.js", atomic)?
        .file("atomic.toml", kv("atomic", ""))
}

/// All clients count at once, each in one of the containers.
fn count(containers: &[&Container<'_>], path: &str) -> Result<()> {
    let done = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS as usize)
            .map(|client| {
                let (container, done) = (containers[client % containers.len()], &done);
                scope.spawn(move || -> Result<()> {
                    for _ in 0..EACH {
                        let answer = container.get(path)?;
                        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        clients
            .into_iter()
            .try_for_each(|client| client.join().map_err(|_| anyhow::anyhow!("a panic"))?)
    })?;
    let acknowledged = done.load(Ordering::Relaxed);
    let next = containers[0].get(path)?.text();
    println!("{path}: {acknowledged} acknowledged, {next} with one more");
    assert_eq!(next, (CLIENTS * EACH + 1).to_string());
    Ok(())
}

#[test]
fn kv_by_exec_reads_and_changes_a_store_on_a_volume() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let store = "kind = \"file\"\npath = \"/data/kv\"";
    let image = counting("stores", store)?.import(&containerd)?;
    let volume = containerd.directory().join("volume");
    fs::create_dir(&volume)?;
    let run = |name: &str| -> Result<Run<'_>> {
        Ok(Run::workers(&containerd, &image, name)?.mount(&volume, "/data"))
    };
    let mut first = run("first")?.start()?;
    first.wait_until_up()?;
    assert_eq!(first.get("/atomic")?.text(), "1");
    let mut execs = 0;
    let mut kv = |words: &[&str]| {
        execs += 1;
        let id = format!("kv{execs}");
        let exec = ["task", "exec", "--exec-id", &id, "first", "wws", "kv"];
        containerd.try_ctr(&[&exec, words].concat())
    };
    kv(&["set", "atomic", "n", "41"])?.success()?;
    assert_eq!(first.get("/atomic")?.text(), "42");
    kv(&["export", "-o", "/data/backup"])?.success()?;
    let backup = fs::read_to_string(volume.join("backup"))?;
    assert!(
        backup.contains(r#"{"namespace":"atomic","key":"n","value":"42"}"#),
        "{backup}"
    );
    assert_eq!(first.get("/atomic")?.text(), "43");
    let imported = kv(&["import", "/data/backup"])?.success()?;
    assert_eq!(imported, "imported 1 entry\n");
    assert_eq!(first.get("/atomic")?.text(), "43");
    let missing = kv(&["get", "atomic", "m"])?;
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    // A second container is refused, and says who has the store.
    let mut second = run("second")?.start()?;
    assert_eq!(second.wait()?, 78);
    let log = second.log()?;
    assert!(
        log.contains("/data/kv is in use by") && log.contains("(process 1 on "),
        "{log}"
    );
    second.remove()?;
    // A crash of the container loses nothing.
    first.signal("SIGKILL")?;
    first.wait()?;
    first.remove()?;
    let mut third = run("third")?.start()?;
    third.wait_until_up()?;
    assert_eq!(third.get("/atomic")?.text(), "44");
    third.signal("SIGTERM")?;
    assert_eq!(third.wait()?, 0);
    third.remove()?;
    containerd.expect_nothing_left()
}

#[test]
fn counts_of_a_container_are_exact() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    for (name, store) in [
        ("memory", "kind = \"memory\""),
        ("file", "kind = \"file\"\npath = \"/data/kv\""),
    ] {
        let image = counting(name, store)?.import(&containerd)?;
        let mut container = Run::workers(&containerd, &image, name)?.start()?;
        container.wait_until_up()?;
        for path in ["/serial", "/atomic"] {
            count(&[&container], path).context(name)?;
        }
        container.signal("SIGTERM")?;
        assert_eq!(container.wait()?, 0);
        container.remove()?;
    }
    containerd.expect_nothing_left()
}

#[test]
fn counts_of_two_containers_in_redis_are_exact() -> Result<()> {
    let containerd = Containerd::start(Version::MAIN)?;
    let redis = redis::Redis::start();
    let store = "kind = \"redis\"\nurl = \"$REDIS_URL\"";
    let image = counting("shared", store)?
        .directory("run/redis")?
        .import(&containerd)?;
    let start = |name: &str| -> Result<Container<'_>> {
        let mut container = Run::workers(&containerd, &image, name)?
            .env("REDIS_URL", "redis+unix:///run/redis/redis")
            .mount(redis.directory(), "/run/redis")
            .start()?;
        container.wait_until_up()?;
        Ok(container)
    };
    let (mut one, mut other) = (start("one")?, start("other")?);
    for path in ["/serial", "/atomic"] {
        count(&[&one, &other], path)?;
    }
    for container in [&mut one, &mut other] {
        container.signal("SIGTERM")?;
        assert_eq!(container.wait()?, 0);
        container.remove()?;
    }
    containerd.expect_nothing_left()
}
