//! What tests of isolation share: one bad request fails alone.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use wws_engine::Guest;

use super::{Project, get, spec};

/// Calls that are long have a low priority: on a busy machine they take much longer than the CPU
/// time that they use.
const WALL_TIME: Duration = Duration::from_secs(120);

/// A guest of a source, with a limit of CPU time.
pub fn guest(file: &str, source: &str, cpu_time: Duration) -> (Project, Guest) {
    let project = Project::new(&[(file, source)]);
    let mut spec = spec();
    spec.limits.cpu_time = cpu_time;
    spec.limits.wall_time = WALL_TIME;
    let guest = project.guest(file, spec);
    (project, guest)
}

/// Calls with `/bad` fail for one of the reasons in `why`; calls with `/` are answered with "ok"
/// meanwhile and afterwards.
pub async fn fails_alone(file: &str, source: &str, why: &str) {
    let cpu_time = if why.contains("cpu_time") {
        Duration::from_millis(200)
    } else {
        Duration::from_secs(30)
    };
    let (_project, guest) = guest(file, source, cpu_time);
    let has_failed = Arc::new(AtomicBool::new(false));
    let good = {
        let (guest, has_failed) = (guest.clone(), has_failed.clone());
        tokio::spawn(async move {
            // Not for ever: on a busy machine they would starve the long call.
            let started = Instant::now();
            while !has_failed.load(SeqCst) && started.elapsed() < Duration::from_millis(600) {
                assert_eq!(guest.call(get("/")).await.unwrap().body(), "ok");
                tokio::task::yield_now().await;
            }
        })
    };
    let error = guest.call(get("/bad")).await.expect_err(source);
    has_failed.store(true, SeqCst);
    let error = error.to_string();
    assert!(
        why.split('|').any(|why| error.contains(why)),
        "{source}: {error}"
    );
    good.await.unwrap();
    assert_eq!(guest.call(get("/")).await.unwrap().body(), "ok");
}

/// All of several concurrent series of calls are answered with the same body.
pub async fn all_answer(guest: &Guest, series: usize, calls: usize, body: &'static str) {
    let tasks: Vec<_> = (0..series)
        .map(|_| {
            let guest = guest.clone();
            tokio::spawn(async move {
                for _ in 0..calls {
                    assert_eq!(guest.call(get("/")).await.unwrap().body(), body);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// No part of any answer, between commas, occurs twice. `end` is the constant end of an answer.
pub async fn draws_no_part_twice(guest: &Guest, calls: usize, parts: usize, end: &str) {
    let mut seen = HashSet::new();
    for _ in 0..calls {
        let body = guest.call(get("/")).await.unwrap().into_body();
        let body = String::from_utf8(body.to_vec()).unwrap();
        let drawn = body.strip_suffix(end).expect(&body);
        assert_eq!(drawn.split(',').count(), parts, "{body}");
        for part in drawn.split(',') {
            assert!(seen.insert(part.to_owned()), "{part} was drawn twice");
        }
    }
}
