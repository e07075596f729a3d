//! All functions that tell a guest the time, or wait for a time, have the same clocks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::limits;
use wws_engine::{Call, CallError, Guest, GuestLimits, GuestSpec, PreopenedDirectory};

const GUEST: &str = include_str!("guests/clocks.wat");

fn guest(does: &str, directories: Vec<PreopenedDirectory>) -> Guest {
    let engine = common::engine(256 << 20);
    let module = engine.compile(&wat::parse_str(GUEST).unwrap()).unwrap();
    let spec = GuestSpec {
        name: does.into(),
        args: vec![does.into()],
        directories,
        ..common::spec(GuestLimits {
            cpu_time: Duration::from_secs(1),
            ..limits()
        })
    };
    engine.guest(&module, spec).unwrap()
}

async fn run(guest: &Guest) -> Result<(), CallError> {
    let call = Call {
        request: http::Request::get("http://localhost/")
            .body(Bytes::new())
            .unwrap(),
        params: vec![],
        request_id: "r".into(),
    };
    guest.call(call).await.map(|response| {
        assert_eq!(response.body().as_ref(), b"hello");
    })
}

#[tokio::test]
async fn waits_until_absolute_monotonic_time() {
    run(&guest("monotonic", vec![])).await.unwrap();
}

#[tokio::test]
async fn waits_until_absolute_realtime() {
    run(&guest("realtime", vec![])).await.unwrap();
}

#[tokio::test]
async fn waiting_does_not_count_as_cpu_time() {
    run(&guest("cpu", vec![])).await.unwrap();
}

#[tokio::test]
async fn reports_clock_resolution_and_unknown_clocks() {
    run(&guest("steps", vec![])).await.unwrap();
}

#[tokio::test]
async fn does_not_list_closed_directory() {
    let dir = tempfile::tempdir().unwrap();
    let directory = PreopenedDirectory {
        dir: std::fs::File::open(dir.path()).unwrap(),
        to: "/data".into(),
    };
    run(&guest("directory", vec![directory])).await.unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn waiting_blocks_no_thread() {
    let guest = guest("wait", vec![]);
    let start = Instant::now();
    let calls: Vec<_> = (0..30)
        .map(|_| {
            let guest = guest.clone();
            tokio::spawn(async move { run(&guest).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    // One after the other they would take nine seconds.
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn work_between_short_waits_stops_at_cpu_time() {
    let error = run(&guest("loop", vec![])).await.unwrap_err();
    assert!(matches!(error, CallError::CpuTime(_)), "{error}");
}
