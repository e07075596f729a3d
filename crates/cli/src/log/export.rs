//! Passes lines of the log to the exporter, with the trace that they belong to.

use std::{
    fmt::{self, Write},
    time::SystemTime,
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};
use wws_telemetry::{Attributes, Hex, LogRecord, Severity, Telemetry, Value};

/// Fields of a line besides its text, at most.
const MAX_FIELDS: usize = 16;

/// Crates whose lines are not exported: exporting them would cause more of them.
const EXPORTING: [&str; 2] = ["wws_otlp", "wws_outbound"];

/// Queues each event for export.
pub(crate) struct ExportLayer(pub(crate) Telemetry);

impl<S: Subscriber> Layer<S> for ExportLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let logs = self.0.logs();
        let source = event.metadata().target().split("::").next();
        if !logs.is_enabled() || source.is_some_and(|source| EXPORTING.contains(&source)) {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        fields.add("log.target", || {
            Value::Text(event.metadata().target().to_owned())
        });
        logs.push(LogRecord {
            time: SystemTime::now(),
            severity: severity(*event.metadata().level()),
            text: fields.text,
            attributes: fields.attributes,
            trace: fields.trace.zip(fields.span),
        });
    }
}

fn severity(level: Level) -> Severity {
    match level {
        Level::TRACE => Severity::Trace,
        Level::DEBUG => Severity::Debug,
        Level::INFO => Severity::Info,
        Level::WARN => Severity::Warn,
        Level::ERROR => Severity::Error,
    }
}

/// The parts of an event.
#[derive(Default)]
struct Fields {
    text: String,
    attributes: Attributes,
    trace: Option<[u8; 16]>,
    span: Option<[u8; 8]>,
}

impl Fields {
    fn add(&mut self, name: &'static str, value: impl FnOnce() -> Value) {
        if self.attributes.len() < MAX_FIELDS {
            self.attributes.push((name, value()));
        }
    }
}

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), || Value::Integer(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field.name(), || match i64::try_from(value) {
            Ok(value) => Value::Integer(value),
            Err(_) => Value::Number(value as f64),
        });
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field.name(), || Value::Number(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), || Value::Flag(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let name = match field.name() {
            "message" => {
                value.clone_into(&mut self.text);
                return;
            }
            "worker" => "wws.worker",
            "request_id" => "wws.request_id",
            name => name,
        };
        self.add(name, || Value::Text(value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            // Writing to a string cannot fail.
            "message" => drop(write!(self.text, "{value:?}")),
            "trace_id" => self.trace = Hex::parse(&format!("{value:?}")).map(|Hex(id)| id),
            "span_id" => self.span = Hex::parse(&format!("{value:?}")).map(|Hex(id)| id),
            name => self.add(name, || Value::Text(format!("{value:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tracing::field::display;
    use tracing_subscriber::layer::SubscriberExt;
    use wws_telemetry::TraceContext;

    fn exported(telemetry: &Telemetry, log: impl FnOnce()) -> Vec<LogRecord> {
        let layer = ExportLayer(telemetry.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        telemetry.logs().take(100)
    }

    #[test]
    fn keeps_the_fields_and_the_trace_of_a_line() {
        let telemetry = Telemetry::default();
        assert!(exported(&telemetry, || tracing::info!("nobody exports")).is_empty());
        telemetry.logs().enable(|| {});
        let context = TraceContext::root(true);
        let records = exported(&telemetry, || {
            let trace_id = Some(display(context.trace_hex()));
            let span_id = Some(display(context.span_hex()));
            tracing::warn!(
                target: "guest",
                worker = "a", request_id = "1", trace_id, span_id, n = 7,
                "{} words", 2
            );
            tracing::error!("of the server");
        });
        let [guest, server] = <[LogRecord; 2]>::try_from(records).unwrap();
        assert_eq!(guest.text, "2 words");
        assert_eq!(guest.severity, Severity::Warn);
        let ids = (context.trace_id(), context.span_id());
        assert_eq!(guest.trace, Some(ids));
        let text = |text: &str| Value::Text(text.into());
        let expected = vec![
            ("wws.worker", text("a")),
            ("wws.request_id", text("1")),
            ("n", Value::Integer(7)),
            ("log.target", text("guest")),
        ];
        assert_eq!(guest.attributes, expected);
        assert_eq!((server.severity, server.trace), (Severity::Error, None));
    }

    #[test]
    fn lines_of_the_exporter_are_not_exported() {
        let telemetry = Telemetry::default();
        telemetry.logs().enable(|| {});
        let records = exported(&telemetry, || {
            tracing::warn!(target: "wws_otlp::sender", "cannot export");
            tracing::debug!(target: "wws_outbound", "no connection");
        });
        assert!(records.is_empty());
    }
}
