//! Reports the progress of long operations. A download: on a terminal a line that is updated,
//! elsewhere a line for each file. Compilation: a line now and then.

use std::{
    cell::Cell,
    io::{IsTerminal, Write, stderr},
    sync::mpsc::{RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use wws_image::PullProgress;
use wws_runtimes::Progress;
use wws_server::Compiling;

/// The time between two updates of the line.
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
            Some(of) => format!(
                "[{}] {} of {}",
                filled(bytes, of),
                megabytes(bytes),
                megabytes(of)
            ),
            None => megabytes(bytes),
        };
        // A closed terminal is not an error.
        let _ = write!(stderr(), "\r\x1b[K    {text}").and_then(|()| stderr().flush());
    }

    fn ended(&self) {
        if self.shown.take().is_some() {
            let _ = write!(stderr(), "\r\x1b[K").and_then(|()| stderr().flush());
        }
    }
}

impl PullProgress for Bar {
    fn fetching(&self, digest: &str, bytes: u64) {
        // As Docker shortens it.
        let short: String = digest.chars().take(19).collect();
        Progress::fetching(self, &format!("{short} ({})", megabytes(bytes)));
    }

    fn received(&self, bytes: u64, of: u64) {
        Progress::received(self, bytes, Some(of));
    }

    fn ended(&self) {
        Progress::ended(self);
    }
}

/// A bar that is filled as far as `bytes` of `of`.
fn filled(bytes: u64, of: u64) -> String {
    const WIDTH: u64 = 30;
    let done = (bytes.min(of) * WIDTH).checked_div(of).unwrap_or(WIDTH);
    let width = |count: u64| usize::try_from(count).unwrap_or_default();
    "#".repeat(width(done)) + &" ".repeat(width(WIDTH - done))
}

/// The time until compilation is first reported, and between further reports.
const FIRST: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_secs(10);

/// Runs `work`, and meanwhile reports with `say` what is being compiled, if that takes seconds.
pub(crate) fn while_compiling<T>(
    compiling: &Compiling,
    say: impl Fn(&str) + Send,
    work: impl FnOnce() -> T,
) -> T {
    std::thread::scope(|scope| {
        let (end, ended) = channel::<()>();
        let watch = move || {
            let (started, mut next) = (Instant::now(), FIRST);
            while ended.recv_timeout(next) == Err(RecvTimeoutError::Timeout) {
                let names = compiling.names();
                if !names.is_empty() {
                    let seconds = started.elapsed().as_secs();
                    say(&format!("compiling {}: {seconds} s so far", listed(&names)));
                }
                next = AGAIN;
            }
        };
        // Without a thread, nothing is reported.
        let watching = std::thread::Builder::new().spawn_scoped(scope, watch);
        let done = work();
        drop((end, watching));
        done
    })
}

/// The first of several names.
pub(crate) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let mut text = names[..names.len().min(SHOWN)].join(", ");
    if let Some(more) = names.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        text += &format!(" and {more} more");
    }
    text
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_filled_as_bytes_arrive() {
        assert_eq!(filled(0, 10), " ".repeat(30));
        assert_eq!(filled(5, 10), "#".repeat(15) + &" ".repeat(15));
        for (bytes, of) in [(10, 10), (11, 10), (0, 0)] {
            assert_eq!(filled(bytes, of), "#".repeat(30));
        }
    }

    #[test]
    fn lists_some_names() {
        let names: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).into();
        assert_eq!(listed(&names[..1]), "a");
        assert_eq!(listed(&names[..3]), "a, b, c");
        assert_eq!(listed(&names), "a, b, c and 2 more");
    }

    #[test]
    fn returns_as_soon_as_the_work_is_done() {
        let started = Instant::now();
        let done = while_compiling(&Compiling::default(), |_| {}, || 7);
        assert_eq!(done, 7);
        assert!(started.elapsed() < FIRST);
    }
}
