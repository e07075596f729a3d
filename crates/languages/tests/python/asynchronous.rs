//! Asynchronous workers and event loops.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_worker_answers() {
    let (_project, guest) = worker(
        "async def part(): return 'ok'\nasync def worker(request): return Response(await part())",
    );
    assert_eq!(text(&guest, "/").await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn sleeps_for_the_requested_time() {
    let (_project, guest) = worker(
        r#"
import time, threading, select
start, begun = time.monotonic(), time.process_time()
def worker(request):
    before, used = time.time(), time.process_time()
    assert time.monotonic() - start > 1.5
    assert begun <= used < begun + 1, (begun, used)
    time.sleep(0.3)
    time.sleep(0)
    threading.Event().wait(0.01)
    select.select([], [], [], 0.01)
    slept = time.time() - before
    assert time.process_time() - used < 0.25
    end = time.perf_counter() + 0.05
    while time.perf_counter() < end: pass
    worked = time.process_time() - used
    return Response(f"{slept} {worked} {time.process_time_ns() / 1e9 - used}")
"#,
    );
    tokio::time::sleep(std::time::Duration::from_millis(1600)).await;
    let times = common::waits_less_than_a_second(&guest).await;
    assert!(times[0] >= 0.32, "slept {times:?}");
    assert!(times[1] >= 0.045 && times[1] < 2.0, "worked {times:?}");
    assert!(times[2] >= times[1] && times[2] < 2.0, "worked {times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_an_event_loop() {
    let (_project, guest) = worker(
        r#"
import asyncio, time
async def part(n):
    await asyncio.sleep(0.02)
    return n
async def refused(call):
    try:
        await call()
    except Exception as error:
        return type(error).__name__ + ": " + str(error)
async def all_of_it():
    before = time.monotonic()
    got = await asyncio.gather(*(part(n) for n in range(5)))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(part(5))
    got.append(task.result())
    try:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(1000)
    except TimeoutError:
        got.append("timeout")
    queue = asyncio.Queue()
    asyncio.get_running_loop().call_later(0.01, queue.put_nowait, "queued")
    got.append(await queue.get())
    asyncio.create_task(part(6))
    assert time.monotonic() - before < 900
    return got
async def worker(request):
    if request.path == "/thread": return Response(await refused(lambda: asyncio.to_thread(print)))
    if request.path == "/socket": return Response(await refused(lambda: asyncio.open_connection("a.b", 80)))
    if request.path == "/process": return Response(await refused(lambda: asyncio.create_subprocess_exec("ls")))
    if request.path == "/never": await asyncio.Event().wait()
    if request.path == "/raise": raise KeyError("x")
    if request.path == "/parts":
        async def parts():
            for n in "abc":
                await asyncio.sleep(0)
                yield n
        return Response(parts())
    return Response(str(await all_of_it()))
"#,
    );
    for _ in 0..2 {
        assert_eq!(
            text(&guest, "/").await,
            "[0, 1, 2, 3, 4, 5, 'timeout', 'queued']"
        );
    }
    assert_eq!(text(&guest, "/parts").await, "abc");
    for (path, why) in [
        (
            "/thread",
            "RuntimeError: can't start new thread: a worker has one",
        ),
        ("/socket", "a worker has no sockets: use fetch()"),
        (
            "/process",
            "NotImplementedError: a worker starts no processes",
        ),
    ] {
        let answer = text(&guest, path).await;
        assert!(answer.contains(why), "{path}: {answer}");
    }
    for (path, why) in [
        ("/never", "all tasks wait for something that never comes"),
        ("/raise", "w.py:33:34: KeyError: 'x'"),
    ] {
        let error = guest.call(get(path)).await.unwrap_err().to_string();
        assert!(error.contains(why), "{path}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_the_event_loop_of_an_ordinary_worker() {
    let (_project, guest) = worker(
        r#"
import asyncio
async def part(n):
    await asyncio.sleep(0.001)
    return str(n)
print(asyncio.run(part(1)))
def worker(request):
    if request.path == "/returned": return later()
    return Response(asyncio.run(part(2)) + asyncio.run(part(3)))
async def later(): return Response(await part(4))
"#,
    );
    assert_eq!(text(&guest, "/").await, "23");
    assert_eq!(text(&guest, "/returned").await, "4");
}
