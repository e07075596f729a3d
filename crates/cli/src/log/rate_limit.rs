//! Limits how often one problem is logged: a worker that fails a million times has a few lines, and
//! a count of the rest.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tracing::{
    Event, Level, Metadata,
    callsite::Identifier,
    field::{Field, Visit},
    level_filters::LevelFilter,
    subscriber::Interest,
};
use tracing_subscriber::layer::{Context, Filter};

/// The number of lines of one problem within [`WINDOW`].
const LINES: u32 = 50;

/// The time window of [`LINES`].
const WINDOW: Duration = Duration::from_secs(10);

/// The number of problems that are counted separately; further ones are counted as one.
const MAX_PROBLEMS: usize = 1024;

/// The target of lines that report suppressed lines; these have no limit.
const TARGET: &str = "wws::log";

/// Counts warnings and errors, by their place in the program and by worker. Lines of guests have
/// their own limits.
#[derive(Default)]
pub(crate) struct RateLimit {
    problems: Mutex<HashMap<Problem, Count>>,
    /// Lines were suppressed and not reported yet.
    is_pending: AtomicBool,
}

/// Whether a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Write,
    /// It is suppressed; the `first` one schedules a report.
    Suppress {
        first: bool,
    },
}

/// The kind of a line; `None` stands for all without their own count.
type Problem = Option<(Identifier, String)>;

#[derive(Clone, Copy)]
struct Count {
    since: Instant,
    lines: u32,
    suppressed: u64,
    level: Level,
}

/// Suppressed lines.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Suppressed {
    level: Level,
    /// Empty if the lines do not belong to a worker.
    worker: String,
    pub(crate) count: u64,
}

impl fmt::Display for Suppressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} more lines like this left out: {LINES} in {} seconds are written",
            self.count,
            WINDOW.as_secs()
        )
    }
}

impl Suppressed {
    /// Logs how many lines were suppressed.
    pub(crate) fn log(&self) {
        let worker = (!self.worker.is_empty()).then_some(self.worker.as_str());
        tracing::warn!(
            target: TARGET,
            of_level = %self.level, worker, suppressed = self.count,
            "{self}"
        );
    }
}

impl RateLimit {
    fn lock(&self) -> MutexGuard<'_, HashMap<Problem, Count>> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a line, and returns whether it is written.
    fn admit(&self, site: Identifier, worker: String, level: Level, now: Instant) -> Verdict {
        let mut problems = self.lock();
        let mut problem = Some((site, worker));
        if !problems.contains_key(&problem) && problems.len() >= MAX_PROBLEMS {
            problems.retain(|_, count| count.suppressed > 0 || now < count.since + WINDOW);
            if problems.len() >= MAX_PROBLEMS {
                problem = None;
            }
        }
        let count = problems.entry(problem).or_insert(Count {
            since: now,
            lines: 0,
            suppressed: 0,
            level,
        });
        // Suppressed lines are reported first.
        if count.suppressed == 0 && now >= count.since + WINDOW {
            (count.since, count.lines) = (now, 0);
        }
        if count.lines < LINES {
            count.lines += 1;
            return Verdict::Write;
        }
        count.suppressed += 1;
        let first = !self.is_pending.swap(true, Relaxed);
        Verdict::Suppress { first }
    }

    /// The suppressed lines to report: those whose window is over, or all if it is the `last`
    /// chance.
    pub(crate) fn take(&self, last: bool) -> Vec<Suppressed> {
        if !self.is_pending.load(Relaxed) {
            return Vec::new();
        }
        self.take_at(last, Instant::now())
    }

    fn take_at(&self, last: bool, now: Instant) -> Vec<Suppressed> {
        let mut taken = Vec::new();
        let mut is_pending = false;
        let mut problems = self.lock();
        for (problem, count) in problems
            .iter_mut()
            .filter(|(_, count)| count.suppressed > 0)
        {
            if !last && now < count.since + WINDOW {
                is_pending = true;
                continue;
            }
            taken.push(Suppressed {
                level: count.level,
                worker: problem
                    .as_ref()
                    .map(|(_, worker)| worker.clone())
                    .unwrap_or_default(),
                count: std::mem::take(&mut count.suppressed),
            });
            (count.since, count.lines) = (now, 0);
        }
        self.is_pending.store(is_pending, Relaxed);
        taken
    }

    /// The time of the next report.
    pub(crate) fn due(&self) -> Option<Instant> {
        if !self.is_pending.load(Relaxed) {
            return None;
        }
        let problems = self.lock();
        let pending = problems.values().filter(|count| count.suppressed > 0);
        pending.map(|count| count.since + WINDOW).min()
    }
}

/// The filter of a layer.
pub(crate) struct RateLimited {
    limit: Arc<RateLimit>,
    /// Wakes the thread that reports suppressed lines.
    wake: Box<dyn Fn() + Send + Sync>,
}

impl RateLimited {
    pub(crate) fn new(limit: Arc<RateLimit>, wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            limit,
            wake: Box::new(wake),
        }
    }
}

impl<S> Filter<S> for RateLimited {
    fn enabled(&self, _metadata: &Metadata<'_>, _context: &Context<'_, S>) -> bool {
        true
    }

    // For these the other filter decides, once for each place in the program instead of for each
    // event.
    fn callsite_enabled(&self, _metadata: &'static Metadata<'static>) -> Interest {
        Interest::always()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }

    fn event_enabled(&self, event: &Event<'_>, _context: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // More severe levels are smaller.
        if *metadata.level() > Level::WARN || matches!(metadata.target(), TARGET | "guest") {
            return true;
        }
        let mut worker = Worker(String::new());
        event.record(&mut worker);
        let (site, level) = (metadata.callsite(), *metadata.level());
        match self.limit.admit(site, worker.0, level, Instant::now()) {
            Verdict::Write => true,
            Verdict::Suppress { first } => {
                if first {
                    (self.wake)();
                }
                false
            }
        }
    }
}

/// Reads the name of an event's worker.
struct Worker(String);

impl Visit for Worker {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "worker" {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn fmt::Debug) {}
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::log::captured::CapturedLines;
    use tracing_subscriber::{Layer, fmt, layer::SubscriberExt};

    fn site() -> Identifier {
        use tracing::Callsite;
        struct Site;
        impl Callsite for Site {
            fn set_interest(&self, _: tracing::subscriber::Interest) {}
            fn metadata(&self) -> &Metadata<'_> {
                unreachable!("only its address is used")
            }
        }
        static SITE: Site = Site;
        Identifier(&SITE)
    }

    #[test]
    fn counts_suppressed_lines_per_worker_and_reports_them_once() {
        let limit = RateLimit::default();
        let start = Instant::now();
        let admit = |worker: &str, after| {
            let verdict = limit.admit(site(), worker.to_owned(), Level::ERROR, start + after);
            verdict == Verdict::Write
        };
        let admitted = (0..1000).filter(|_| admit("a", Duration::ZERO)).count();
        assert_eq!(admitted, 50);
        assert!(admit("b", Duration::ZERO));
        assert_eq!(limit.due(), Some(start + WINDOW));
        assert_eq!(limit.take_at(false, start + WINDOW / 2), []);
        let reported = limit.take_at(false, start + WINDOW);
        let expected = Suppressed {
            level: Level::ERROR,
            worker: "a".into(),
            count: 950,
        };
        assert_eq!(reported, [expected]);
        assert_eq!((limit.due(), limit.take(true).len()), (None, 0));
        assert!(admit("a", WINDOW));
    }

    #[test]
    fn keeps_few_lines_and_reports_the_last_count() {
        let limit = RateLimit::default();
        let start = Instant::now();
        for window in 0..5 {
            for _ in 0..50 {
                let verdict =
                    limit.admit(site(), String::new(), Level::WARN, start + WINDOW * window);
                assert_eq!(verdict, Verdict::Write);
            }
        }
        for first in [true, false] {
            let verdict = limit.admit(site(), String::new(), Level::WARN, start + WINDOW * 4);
            assert_eq!(verdict, Verdict::Suppress { first });
        }
        assert_eq!(limit.take(true).len(), 1);
    }

    #[test]
    fn counts_problems_beyond_the_bound_together() {
        let limit = RateLimit::default();
        let now = Instant::now();
        let admitted = (0..MAX_PROBLEMS + 1000)
            .map(|number| limit.admit(site(), number.to_string(), Level::ERROR, now))
            .filter(|verdict| *verdict == Verdict::Write)
            .count();
        assert_eq!(admitted, MAX_PROBLEMS + 50);
    }

    #[test]
    fn limits_the_rate_of_errors_only() {
        let lines = CapturedLines::default();
        let writer = lines.clone();
        let limit = Arc::new(RateLimit::default());
        let layer = fmt::layer()
            .with_writer(move || writer.clone())
            .with_filter(RateLimited::new(limit.clone(), || {}));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            for _ in 0..200 {
                tracing::error!(worker = "a", "failed");
                tracing::error!(worker = "b", "failed");
                tracing::info!("fine");
                tracing::error!(target: "guest", worker = "a", "own words");
            }
            limit.take(true).iter().for_each(Suppressed::log);
        });
        let text = lines.text();
        let count = |words: &str| text.lines().filter(|line| line.contains(words)).count();
        assert_eq!(
            (count("failed"), count("fine"), count("own words")),
            (100, 200, 200)
        );
        assert_eq!(count("150 more lines"), 2, "{text}");
    }
}
