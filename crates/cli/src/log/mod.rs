//! The log: lines of text or JSON to standard error. Nobody waits for its reader.

mod writer;

use std::{io, time::Duration};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer, Registry, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};
use wws_project::LogFormat;

use writer::Writer;

/// The running log.
pub(crate) struct Log(Writer);

impl Log {
    /// Starts the log. `filter` is `WWS_LOG`: a level, or `TARGET=LEVEL,...`.
    pub(crate) fn start(format: LogFormat, filter: Option<&str>) -> io::Result<Self> {
        let writer = Writer::start(format == LogFormat::Json)?;
        let (targets, bad) = match filter.map(str::parse::<Targets>) {
            None => (usual(), None),
            Some(Ok(targets)) => (targets, None),
            Some(Err(error)) => (usual(), Some(error)),
        };
        let lines = fmt::layer().with_writer(writer.clone());
        let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
            LogFormat::Text => lines.boxed(),
            LogFormat::Json => lines
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .boxed(),
        };
        tracing_subscriber::registry()
            .with(lines.with_filter(targets))
            .try_init()
            .map_err(io::Error::other)?;
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

fn usual() -> Targets {
    Targets::new().with_default(LevelFilter::INFO)
}
