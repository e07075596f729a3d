//! The log: lines of text or JSON on standard error. Writers never wait for the reader.

mod access;
#[cfg(test)]
mod captured;
mod escape;
mod export;
mod pretty;
mod rate_limit;
mod tail;
mod writer;

use std::{io, sync::Arc, time::Duration};

use tracing::{Level, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer, Registry,
    filter::{FilterExt, Targets},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};
use wws_project::LogFormat;
use wws_server::Telemetry;

use crate::colour::Painter;
use export::ExportLayer;
use pretty::Pretty;
use rate_limit::{RateLimit, RateLimited};
use tail::TailLayer;
use writer::Writer;

/// What the lines of the log look like.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LogStyle {
    /// For programs, and for people later.
    Format(LogFormat),
    /// For a person who watches; `offset` is the local time's, in seconds east of UTC.
    Pretty { painter: Painter, offset: i64 },
}

/// The running log.
pub(crate) struct Log(Writer);

impl Log {
    /// Starts the log. `filter` is `WWS_LOG`: a level, or `TARGET=LEVEL,...`.
    pub(crate) fn start(
        style: LogStyle,
        filter: Option<&str>,
        telemetry: Telemetry,
    ) -> io::Result<Self> {
        let limit = Arc::new(RateLimit::default());
        let writer = Writer::start(style, limit.clone())?;
        let limited = RateLimited::new(limit, {
            let writer = writer.clone();
            move || writer.wake()
        });
        let (targets, bad) = match filter.map(str::parse::<Targets>) {
            None => (usual(), None),
            Some(Ok(targets)) => (targets, None),
            Some(Err(error)) => (usual(), Some(error)),
        };
        // Requests are described by lines of their own format, and by counters and spans.
        if targets.would_enable("access", &Level::INFO) {
            let writer = writer.clone();
            telemetry.access_log().on_line(move |line| match style {
                LogStyle::Format(format) => access::write(&writer, format, line),
                LogStyle::Pretty { painter, offset } => {
                    let line = Pretty { painter, offset }.request(line);
                    writer.append(line.as_bytes());
                }
            });
        } else {
            telemetry.access_log().on_line(|_| {});
        }
        let lines = fmt::layer().with_writer(writer.clone());
        let lines: Box<dyn Layer<Registry> + Send + Sync> = match style {
            LogStyle::Pretty { painter, offset } => lines
                .with_ansi(false)
                .event_format(Pretty { painter, offset })
                .boxed(),
            LogStyle::Format(LogFormat::Text) => lines.boxed(),
            LogStyle::Format(LogFormat::Json) => lines
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .boxed(),
        };
        let (tail, export) = (TailLayer(telemetry.clone()), ExportLayer(telemetry));
        tracing_subscriber::registry()
            .with(lines.with_filter(targets.clone().and(limited)))
            // One filter: each is asked about each line.
            .with(tail.and_then(export).with_filter(targets))
            .try_init()
            .map_err(io::Error::other)?;
        std::panic::set_hook(Box::new(log_panic));
        if let Some(error) = bad {
            tracing::warn!("WWS_LOG is not a filter, as `info` or `wws_server=debug`: {error}");
        }
        Ok(Self(writer))
    }

    /// Waits until all lines are written, or for `limit`.
    pub(crate) fn flush(&self, limit: Duration) {
        self.0.flush(limit);
    }
}

/// Logs a panic as one bounded, escaped line: guests and clients may cause many.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text = match (
        payload.downcast_ref::<&str>(),
        payload.downcast_ref::<String>(),
    ) {
        (Some(text), _) => text,
        (None, Some(text)) => text.as_str(),
        (None, None) => "no message",
    };
    match panic.location() {
        Some(place) => tracing::error!("a defect of the server: panicked at {place}: {text}"),
        None => tracing::error!("a defect of the server: panicked: {text}"),
    }
}

fn usual() -> Targets {
    Targets::new().with_default(LevelFilter::INFO)
}
