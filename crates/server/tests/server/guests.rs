//! Guests that misbehave: the caller learns nothing, the operator the cause, and others are served.

use std::time::{Duration, Instant};

use crate::common::{Running, Site, log, wat};

/// Calls that are long have a low priority: on a busy machine they take much longer than the CPU
/// time that they use.
const LIMITS: &str = "version = \"1\"\n[limits]\ncpu_time = \"300ms\"\nwall_time = \"60s\"\n\
    memory = \"8MiB\"\noutput = \"64KiB\"\nlog = \"4KiB\"\n";

async fn server(guest: &str, limits: &str) -> Running {
    let site = Site::new();
    site.wasm("bad.wasm", guest)
        .file("bad.toml", limits)
        .wasm("good.wasm", &wat::answers("good"));
    site.start().await
}

/// Calls the bad guest. Returns the status, once the log has the cause.
async fn status(guest: &str, id: &str, cause: &str) -> u16 {
    status_within(LIMITS, guest, id, cause).await
}

async fn status_within(limits: &str, guest: &str, id: &str, cause: &str) -> u16 {
    let server = server(guest, limits).await;
    let mut client = server.connect().await;
    let response = client
        .request("GET", "/bad", &format!("x-request-id: {id}\r\n"), b"")
        .await;
    let line = log::line(id, cause).await;
    assert!(line.contains("worker=\"bad.wasm\""), "{line}");
    if response.status >= 500 {
        let text = response.text();
        assert!(text.contains(id) && !text.contains(cause), "{text}");
    }
    assert_eq!(
        client.get("/good").await.text(),
        "good",
        "on the same connection"
    );
    response.status
}

#[tokio::test(flavor = "multi_thread")]
async fn stops_a_worker_that_loops() {
    assert_eq!(
        status(&wat::loops(), "bad-loop", "limits.cpu_time").await,
        504
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn stops_a_worker_that_sleeps_too_long() {
    let limits = LIMITS.replace("60s", "1s");
    let sleeps = wat::sleeps(120_000);
    assert_eq!(
        status_within(&limits, &sleeps, "bad-sleep", "limits.wall_time").await,
        504
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn denies_memory_beyond_the_limit() {
    let eats = wat::prints(
        "{}",
        "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) \
         unreachable",
    );
    assert_eq!(status(&eats, "bad-memory", "limits.memory").await, 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn stops_a_worker_that_prints_four_gigabytes() {
    let floods = wat::prints(
        "{}",
        "(loop $more (call $put (i32.const 1) (i32.const 0) (i32.const 65536)) (br $more))",
    );
    assert_eq!(status(&floods, "bad-output", "limits.output").await, 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn truncates_a_gigabyte_of_log() {
    let floods = wat::prints(
        r#"{"data":"done"}"#,
        "(local.set $n (i32.const 16384))
         (loop $more
           (call $put (i32.const 2) (i32.const 65536) (i32.const 65536))
           (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))",
    );
    assert_eq!(status(&floods, "bad-log", "limits.log").await, 200);
    let logged: usize = log::lines("bad-log", "guest").iter().map(String::len).sum();
    assert!(logged < 64 << 10, "{logged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_500_for_invalid_output() {
    for (name, printed, cause) in [
        ("text", "hello", "begins with \\\"hello\\\""),
        ("nothing", "", "nothing was printed"),
        ("status", r#"{"data":"","status":99999}"#, "status 99999"),
        (
            "lines",
            r#"{"data":"","headers":{"x-a":"b\r\nset-cookie: c"}}"#,
            "line break",
        ),
        (
            "name",
            r#"{"data":"","headers":{"x\r\na":"b"}}"#,
            "not the name of a header",
        ),
    ] {
        let id = format!("bad-response-{name}");
        // The cause's own words; quotes are written as the log writes them.
        let cause = cause.replace("\\\"", "\"");
        assert_eq!(
            status(&wat::prints(printed, ""), &id, &cause).await,
            500,
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_500_for_traps_and_exits() {
    assert_eq!(
        status(&wat::prints("{}", "unreachable"), "bad-trap", "trapped").await,
        500
    );
    let exits = r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const 3))))"#;
    assert_eq!(status(exits, "bad-exit", "exited with code 3").await, 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_worker_is_served_while_others_misbehave() {
    let site = Site::new();
    for name in ["loop1", "loop2", "eat", "flood"] {
        let guest = match name {
            "eat" => wat::prints(
                "{}",
                "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) \
                 (loop $x (br $x))",
            ),
            "flood" => wat::prints(
                "{}",
                "(loop $more (call $put (i32.const 2) (i32.const 65536) (i32.const 65536)) (br \
                 $more))",
            ),
            _ => wat::loops(),
        };
        site.wasm(&format!("{name}.wasm"), &guest)
            .file(&format!("{name}.toml"), LIMITS);
    }
    site.wasm("good.wasm", &wat::answers("good"));
    let server = site.start().await;
    let address = server.address;
    let mut bad = Vec::new();
    for name in ["loop1", "loop2", "eat", "flood"] {
        for _ in 0..50 {
            bad.push(tokio::spawn(async move {
                let mut client = crate::common::client::Client::connect(address).await;
                let path = format!("/{name}");
                loop {
                    client.get(&path).await;
                }
            }));
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut client = server.connect().await;
    let mut times = Vec::new();
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        let start = Instant::now();
        assert_eq!(client.get("/good").await.text(), "good");
        times.push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for task in bad {
        task.abort();
    }
    times.sort();
    let p90 = times[times.len() * 9 / 10];
    // Loose: the clients of this test and other programs compete for the same CPUs. `make bench`
    // measures it. One by one, the others would take 30 s of CPU time.
    assert!(p90 < Duration::from_secs(5), "{p90:?} of {}", times.len());
}
