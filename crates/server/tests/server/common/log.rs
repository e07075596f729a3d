//! What was logged, by the name of the request.

use std::{
    io,
    sync::{Mutex, Once},
    time::{Duration, Instant},
};

use super::PATIENCE;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Collect;

impl io::Write for Collect {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LINES
            .lock()
            .unwrap()
            .push(String::from_utf8_lossy(line).into_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub fn start() {
    static START: Once = Once::new();
    START.call_once(|| tracing_subscriber::fmt().with_writer(|| Collect).init());
}

/// The lines so far that have both texts.
pub fn lines(id: &str, text: &str) -> Vec<String> {
    LINES
        .lock()
        .unwrap()
        .iter()
        .filter(|line| line.contains(id) && line.contains(text))
        .cloned()
        .collect()
}

/// Waits until a guest has begun that sleeps.
pub async fn begun(id: &str) {
    line(id, super::wat::BEGUN.trim_end()).await;
}

/// Waits for a line that has both texts.
pub async fn line(id: &str, text: &str) -> String {
    let start = Instant::now();
    loop {
        if let Some(line) = lines(id, text).pop() {
            return line;
        }
        let all = lines(id, "");
        assert!(
            start.elapsed() < PATIENCE,
            "no line with {text:?} among {all:#?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
