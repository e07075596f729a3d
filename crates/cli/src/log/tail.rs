//! Passes lines of the log to the tail that the panel shows.

use std::fmt::{self, Write};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};
use wws_server::Telemetry;

/// Adds each event to the log's tail.
pub(crate) struct TailLayer(pub(crate) Telemetry);

impl<S: Subscriber> Layer<S> for TailLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let tail = self.0.tail();
        if !tail.is_enabled() {
            return;
        }
        let mut line = EventText::default();
        event.record(&mut line);
        tail.add(&line.worker, event.metadata().level().as_str(), &line.text);
    }
}

/// The parts of an event that the tail shows.
#[derive(Default)]
struct EventText {
    worker: String,
    text: String,
}

impl Visit for EventText {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "worker" => value.clone_into(&mut self.worker),
            "message" => value.clone_into(&mut self.text),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a string cannot fail.
            let _ = write!(self.text, "{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn keeps_lines_by_worker() {
        let telemetry = Telemetry::default();
        telemetry.tail().enable();
        let layer = TailLayer(telemetry.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!(target: "guest", worker = "a", "{} words", 2);
            tracing::error!(worker = "b", "failed");
            tracing::warn!("of the server");
        });
        let text = |worker: &str| -> Vec<String> {
            let lines = telemetry.tail().lines(worker).into_iter();
            lines
                .map(|line| format!("{} {}", line.level, line.text))
                .collect()
        };
        assert_eq!(text("a"), ["INFO 2 words"]);
        assert_eq!(text("b"), ["ERROR failed"]);
        assert_eq!(text(""), ["WARN of the server"]);
    }
}
