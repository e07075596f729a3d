//! Spans of what the shim does for a container, exported by OTLP as the standard variables
//! (`OTEL_*`) of containerd say.
//!
//! Without an endpoint nothing is recorded. A span that ends waits in a bounded queue; a task sends
//! the queue and ends, so no timer runs while nothing happens. No call of containerd waits for it.
//! The messages are written here: the crates of the server's exporter are larger than this program.

mod encode;
mod send;
mod settings;

use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use crate::error::Error;
use crate::sys::log;
use settings::{Sampling, TraceSettings};

/// Spans that wait at most. A container has about ten.
const MAX_WAITING: usize = 512;

/// How long spans wait for others.
const GATHER: Duration = Duration::from_millis(500);

/// Records spans. Cheap to clone; does nothing without an endpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tracer(Option<Arc<TracerState>>);

#[derive(Debug)]
struct TracerState {
    settings: TraceSettings,
    waiting: Mutex<Vec<EndedSpan>>,
    /// Whether a task sends what waits.
    is_sending: AtomicBool,
    /// Nothing waits any more.
    sent: Notify,
    /// Whether the last request failed, which was logged.
    has_failed: AtomicBool,
}

/// A span that has ended.
#[derive(Debug)]
struct EndedSpan {
    trace: [u8; 16],
    id: [u8; 8],
    parent: Option<[u8; 8]>,
    name: &'static str,
    /// Whether it answers a request of containerd.
    is_server: bool,
    begin: SystemTime,
    end: SystemTime,
    attributes: Vec<(&'static str, String)>,
    /// Why it failed.
    error: Option<String>,
}

impl Tracer {
    /// The tracer that the variables of this process ask for.
    pub(crate) fn from_env() -> Self {
        let read = TraceSettings::read(|name| std::env::var(name).ok());
        let settings = read.unwrap_or_else(|problem| {
            log::warning!("no spans are exported: {problem}");
            None
        });
        Self::new(settings)
    }

    fn new(settings: Option<TraceSettings>) -> Self {
        Self(settings.map(|settings| {
            Arc::new(TracerState {
                settings,
                waiting: Mutex::default(),
                is_sending: AtomicBool::new(false),
                sent: Notify::new(),
                has_failed: AtomicBool::new(false),
            })
        }))
    }

    /// Begins the span of a request, whose `traceparent` header is given if it has one.
    pub(crate) fn begin(&self, name: &'static str, traceparent: Option<&str>) -> Span {
        let Some(state) = &self.0 else {
            return Span::default();
        };
        let parent = traceparent.and_then(parse_traceparent);
        let (trace, parent) = match parent {
            Some(parent) if !state.settings.sampling.takes_child(&parent) => {
                return Span::default();
            }
            Some(parent) => (parent.trace, Some(parent.span)),
            None => {
                let trace = random();
                if !state.settings.sampling.takes_root(&trace) {
                    return Span::default();
                }
                (trace, None)
            }
        };
        Span::new(state.clone(), name, trace, parent, true)
    }

    /// Waits until all spans are sent, or for `limit`.
    pub(crate) async fn flush(&self, limit: Duration) {
        let Some(state) = &self.0 else { return };
        let sent = async {
            loop {
                let sent = state.sent.notified();
                if !state.is_sending.load(Ordering::Relaxed) {
                    return;
                }
                sent.await;
            }
        };
        let _ = tokio::time::timeout(limit, sent).await;
    }
}

impl TracerState {
    fn waiting(&self) -> MutexGuard<'_, Vec<EndedSpan>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a span, and starts a task that sends it, unless one runs.
    fn push(self: &Arc<Self>, span: EndedSpan) {
        {
            let mut waiting = self.waiting();
            if waiting.len() >= MAX_WAITING {
                return;
            }
            waiting.push(span);
        }
        if self.is_sending.swap(true, Ordering::Relaxed) {
            return;
        }
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(self.clone().send())),
            Err(_) => self.is_sending.store(false, Ordering::Relaxed),
        }
    }

    async fn send(self: Arc<Self>) {
        loop {
            tokio::time::sleep(GATHER).await;
            let spans = std::mem::take(&mut *self.waiting());
            if spans.is_empty() {
                self.is_sending.store(false, Ordering::Relaxed);
                self.sent.notify_waiters();
                return;
            }
            let body = encode::request(&self.settings.resource, &spans);
            let sent = send::post(&self.settings.endpoint, &body).await;
            let had_failed = self.has_failed.swap(sent.is_err(), Ordering::Relaxed);
            if let Err(problem) = sent
                && !had_failed
            {
                log::warning!("{} spans are lost: {problem}", spans.len());
            }
        }
    }
}

/// A span, which ends when it is dropped. Without a tracer, or outside of the sample, it does
/// nothing.
#[derive(Debug, Default)]
pub(crate) struct Span(Option<Box<OpenSpan>>);

#[derive(Debug)]
struct OpenSpan {
    tracer: Arc<TracerState>,
    span: EndedSpan,
}

impl Span {
    fn new(
        tracer: Arc<TracerState>,
        name: &'static str,
        trace: [u8; 16],
        parent: Option<[u8; 8]>,
        is_server: bool,
    ) -> Self {
        let begin = SystemTime::now();
        Self(Some(Box::new(OpenSpan {
            tracer,
            span: EndedSpan {
                trace,
                id: random(),
                parent,
                name,
                is_server,
                begin,
                end: begin,
                attributes: Vec::new(),
                error: None,
            },
        })))
    }

    /// Begins a part of it.
    pub(crate) fn part(&self, name: &'static str) -> Self {
        match &self.0 {
            Some(open) => {
                let span = &open.span;
                Self::new(open.tracer.clone(), name, span.trace, Some(span.id), false)
            }
            None => Self::default(),
        }
    }

    /// Adds an attribute.
    pub(crate) fn set(&mut self, name: &'static str, value: impl std::fmt::Display) {
        if let Some(open) = &mut self.0 {
            open.span.attributes.push((name, value.to_string()));
        }
    }

    /// Records that it failed.
    pub(crate) fn failed(&mut self, error: &Error) {
        if let Some(open) = &mut self.0 {
            open.span.error = Some(format!("{error:#}"));
        }
    }

    /// Records whether it failed, and ends it.
    pub(crate) fn end<T>(mut self, result: &Result<T, Error>) {
        if let Err(error) = result {
            self.failed(error);
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            let OpenSpan { tracer, mut span } = *open;
            span.end = SystemTime::now();
            tracer.push(span);
        }
    }
}

/// The span of a caller.
#[derive(Debug, PartialEq, Eq)]
struct Parent {
    trace: [u8; 16],
    span: [u8; 8],
    is_sampled: bool,
}

impl Sampling {
    fn takes_child(self, parent: &Parent) -> bool {
        match self {
            Self::All => true,
            Self::Part(_) => self.takes_root(&parent.trace),
            Self::AsParent(_) => parent.is_sampled,
        }
    }

    fn takes_root(self, trace: &[u8; 16]) -> bool {
        match self {
            Self::All => true,
            // By the trace's number, so that all parts of a trace are recorded or none is.
            Self::Part(part) | Self::AsParent(part) => {
                let [.., a, b, c, d, e, f, g, h] = *trace;
                let number = u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 11;
                (number as f64) < part * (1_u64 << 53) as f64
            }
        }
    }
}

/// Reads a header of the W3C: version, trace, span and flags.
fn parse_traceparent(text: &str) -> Option<Parent> {
    let mut parts = text.trim().split('-');
    let version: [u8; 1] = bytes(parts.next()?)?;
    let (trace, span): ([u8; 16], [u8; 8]) = (bytes(parts.next()?)?, bytes(parts.next()?)?);
    let flags: [u8; 1] = bytes(parts.next()?)?;
    let is_valid = version != [0xff]
        && (version != [0] || parts.next().is_none())
        && trace != [0; 16]
        && span != [0; 8];
    is_valid.then_some(Parent {
        trace,
        span,
        is_sampled: flags[0] & 1 == 1,
    })
}

/// The bytes of hexadecimal digits in lower case.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    let is_hex = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    if digits.len() != 2 * N || !digits.iter().all(is_hex) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(bytes)
}

/// An identifier that no other has, and that is not zero.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let filled = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    if filled.is_err() || bytes == [0; N] {
        // Without random numbers, the time and the process differ.
        let time = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let number = time.as_nanos() ^ u128::from(std::process::id()) << 96 | 1;
        for (byte, other) in bytes.iter_mut().zip(number.to_le_bytes()) {
            *byte = other;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_the_span_of_a_caller() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let parent = parse_traceparent(text).unwrap();
        assert_eq!((parent.trace[0], parent.span[7]), (0x0a, 0x31));
        assert!(parent.is_sampled);
        let unsampled = text.replace("-01", "-00");
        assert!(!parse_traceparent(&unsampled).unwrap().is_sampled);
        assert!(parse_traceparent(&text.replace("00-0", "01-0")).is_some());
        for wrong in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(parse_traceparent(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn samples_a_part_of_the_traces() {
        let traces = (0..1000).map(|_| random::<16>());
        let taken = traces.filter(|trace| Sampling::Part(0.25).takes_root(trace));
        assert!((150..350).contains(&taken.count()));
        let trace = random();
        assert!(Sampling::Part(1.0).takes_root(&trace) && !Sampling::Part(0.0).takes_root(&trace));
        let parent = |is_sampled| Parent {
            trace,
            span: [1; 8],
            is_sampled,
        };
        assert!(Sampling::AsParent(0.0).takes_child(&parent(true)));
        assert!(!Sampling::AsParent(1.0).takes_child(&parent(false)));
        assert!(Sampling::All.takes_child(&parent(false)));
    }

    #[test]
    fn nothing_is_recorded_without_an_endpoint() {
        let tracer = Tracer::new(None);
        let span = tracer.begin("create", None);
        assert!(span.0.is_none() && span.part("x").0.is_none());
    }
}
