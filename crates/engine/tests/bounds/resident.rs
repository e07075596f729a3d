//! What the process has resident, beside what it charged.

use super::*;

/// Kinds, counts and sizes of attacks by a fixed sequence of pseudo-random numbers: whatever comes
/// together, what is resident stays within the account and a constant for the allocator, stacks and
/// idle slots.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resident_memory_never_exceeds_the_account() {
    const PURGE_DELAY: &str = "MIMALLOC_PURGE_DELAY";
    // What is freed is to be given back at once: otherwise the allocator keeps for a while what
    // differs from run to run.
    if std::env::var_os(PURGE_DELAY).is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "resident_memory_never_exceeds_the_account"])
            .env(PURGE_DELAY, "0")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let _turn = TURN.lock().await;
    const ACCOUNT: u64 = 96 * MIB;
    const CONSTANT: u64 = 48 * MIB;
    return_memory_at_once();
    let engine = engine(ACCOUNT);
    let grows = prints(
        1,
        OK,
        "(drop (memory.grow (i32.const 600)))
        (memory.fill (i32.const 65536) (i32.const 7) (i32.const 39000000))",
    );
    let floods = prints(
        40,
        OK,
        "(loop $l (call $put (i32.const 1) (i32.const 65536) (i32.const 524288)) (br $l))",
    );
    let deep = prints(1, OK, "(call $deep (i32.const 60000))").replace(
        "(func $put",
        "(func $deep (param i32) (if (local.get 0) (then (call $deep (i32.sub (local.get 0) \
         (i32.const 1)))))) (func $put",
    );
    let limits = GuestLimits {
        wall_time: Duration::from_secs(20),
        ..spec().limits
    };
    let spec = || GuestSpec {
        limits: limits.clone(),
        ..spec()
    };
    let kinds: Vec<Guest> = [prints(1, OK, ""), grows, floods, deep]
        .iter()
        .map(|text| guest_with(&engine, text, spec()))
        .collect();
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut next = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let account: Account = engine.account().clone();
    let (_, peak) = peak(async {
        for _ in 0..12 {
            let mut calls = Vec::new();
            for _ in 0..next(40) {
                let guest = kinds[next(kinds.len() as u64) as usize].clone();
                let size = [0, 10_000, 1 << 20, 4 << 20][next(4) as usize];
                let byte = [1, b'a', 0xff][next(3) as usize];
                // What a server would have charged for the upload.
                let Some(charge) = account.charge(size) else {
                    continue;
                };
                let body = charge.hold(vec![byte; size as usize].into());
                calls.push(tokio::spawn(async move {
                    guest.call(request("/", body)).await.map(drop)
                }));
            }
            for call in calls {
                let _ = call.await.unwrap();
            }
        }
    })
    .await;
    assert!(peak < ACCOUNT + CONSTANT, "{} MiB", peak / MIB);
    // Calls in the slow lane that were aborted end when a CPU is idle.
    let end = Instant::now() + Duration::from_secs(60);
    while account.free() < account.total() && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(account.free(), account.total());
}

#[tokio::test(flavor = "multi_thread")]
async fn resident_memory_of_components_never_exceeds_the_account() {
    let _turn = TURN.lock().await;
    // What the account does not hold: code, slots that wait, the host's own state of calls.
    const BESIDE: u64 = 24 * MIB;
    let headers = interfaces::http(
        r"(loop $ever
          (call $append (call $fields) (i32.const 1024) (i32.const 6) (i32.const 65536) (i32.const 60000) (i32.const 0))
          (br $ever))
        (i32.const 0)",
    );
    let bodies = interfaces::http(
        r"(loop $ever
          (call $body (call $response (call $fields)) (i32.const 0))
          (call $stream (i32.load (i32.const 4)) (i32.const 0))
          (call $write (i32.load (i32.const 4)) (i32.const 65536) (i32.const 65536) (i32.const 0))
          (br $ever))
        (i32.const 0)",
    );
    let leaks = program::program(
        &format!("{}{}", interfaces::IO, interfaces::CLOCK),
        &[interfaces::SUBSCRIBE],
        &[],
        1,
        "",
        r"(loop $ever (drop (call $subscribe (i64.const 1000000000))) (br $ever)) (i32.const 0)",
    );
    let engine = engine(64 * MIB);
    let free = engine.free_memory();
    let guests: Vec<_> = [&headers, &bodies, &leaks]
        .map(|text| guest_with(&engine, text, spec()))
        .into();
    let attack = async {
        let end = Instant::now() + Duration::from_secs(3);
        let calls: Vec<_> = (0..24)
            .map(|number: usize| {
                let guest = guests[number % guests.len()].clone();
                tokio::spawn(async move {
                    let mut calls = 0;
                    while Instant::now() < end {
                        guest.call(get("/")).await.unwrap_err();
                        calls += 1;
                    }
                    calls
                })
            })
            .collect();
        let mut all = 0;
        for call in calls {
            all += call.await.unwrap();
        }
        all
    };
    let (calls, most) = peak(attack).await;
    assert!(calls >= 24, "{calls} calls");
    assert!(most < 64 * MIB + BESIDE, "{} MiB", most / MIB);
    assert_eq!(engine.free_memory(), free);
}
