//! How far a download is: on a terminal a line that changes, elsewhere a line for each file.

use std::{
    cell::Cell,
    io::{IsTerminal, Write, stderr},
    time::{Duration, Instant},
};

use wws_runtimes::Progress;

/// How often the line changes.
const PERIOD: Duration = Duration::from_millis(100);

/// Writes to standard error.
#[derive(Default)]
pub(crate) struct Bar {
    shown: Cell<Option<Instant>>,
}

impl Progress for Bar {
    fn fetching(&self, what: &str) {
        eprintln!("fetching {what}");
    }

    fn received(&self, bytes: u64, of: Option<u64>) {
        let is_due = self
            .shown
            .get()
            .is_none_or(|shown| shown.elapsed() >= PERIOD);
        if !is_due || !stderr().is_terminal() {
            return;
        }
        self.shown.set(Some(Instant::now()));
        let text = match of {
            Some(of) => format!("{} of {}", megabytes(bytes), megabytes(of)),
            None => megabytes(bytes),
        };
        // A terminal that is gone is no reason to stop.
        let _ = write!(stderr(), "\r\x1b[K    {text}").and_then(|()| stderr().flush());
    }

    fn ended(&self) {
        if self.shown.take().is_some() {
            let _ = write!(stderr(), "\r\x1b[K").and_then(|()| stderr().flush());
        }
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}
