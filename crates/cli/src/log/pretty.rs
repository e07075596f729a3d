//! Lines of the log for a person at a terminal: `wws dev`.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use wws_telemetry::AccessLine;

use super::escape::escape_controls;
use crate::colour::{Colour, Painter};

/// Fields that connect lines to other tools, which a person at a terminal does not need.
const HIDDEN: [&str; 3] = ["request_id", "trace_id", "span_id"];

/// The space before the second and each further line of a message.
const INDENT: &str = "         ";

/// Writes the time of day, the worker and the message; of a request its method, path, status and
/// time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pretty {
    pub(super) painter: Painter,
    /// Seconds east of UTC.
    pub(super) offset: i64,
}

impl Pretty {
    fn line(&self, target: &str, level: Level, fields: &Fields) -> String {
        let time = self.time();
        format!("{time} {}\n", self.message(target, level, fields))
    }

    fn time(&self) -> String {
        let time = time_of_day(unix_time() + self.offset);
        self.painter.paint(Colour::Dim, &time)
    }

    /// The line of a request.
    pub(super) fn request(&self, line: &AccessLine<'_>) -> String {
        let painter = self.painter;
        let colour = match line.status / 100 {
            2 => Colour::Green,
            3 => Colour::Cyan,
            5 => Colour::Red,
            _ => Colour::Yellow,
        };
        let ms = line.time.as_secs_f64() * 1000.0;
        let mut text = format!(
            "{} {:7} {} {} {}",
            self.time(),
            escaped(line.method),
            painter.paint(colour, &line.status.to_string()),
            escaped(line.path),
            painter.paint(Colour::Dim, &format!("{ms:.1} ms")),
        );
        if let Some(by) = line.aborted_by {
            text += &painter.paint(Colour::Yellow, &format!(" aborted: {by}"));
        }
        text + "\n"
    }

    fn message(&self, target: &str, level: Level, fields: &Fields) -> String {
        let painter = self.painter;
        let mut text = String::new();
        let (word, colour) = match level {
            Level::ERROR => ("error: ", Colour::Red),
            Level::WARN => ("warning: ", Colour::Yellow),
            _ => ("", Colour::Plain),
        };
        text += &painter.paint(colour, word);
        if let Some(worker) = fields.get("worker") {
            text += &painter.paint(Colour::Cyan, &format!("[{worker}] "));
        }
        let (first, rest) = fields.message.split_at(match target {
            // What was done, in the first word.
            "wws::dev" => fields
                .message
                .find([' ', ':'])
                .unwrap_or(fields.message.len()),
            _ => 0,
        });
        text += &painter.paint(Colour::Green, first);
        text += rest;
        for (name, value) in &fields.others {
            if *name != "worker" && !HIDDEN.contains(name) {
                text += &painter.paint(Colour::Dim, &format!(" {name}={value}"));
            }
        }
        text
    }
}

impl<S, N> FormatEvent<S, N> for Pretty
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        writer.write_str(&self.line(metadata.target(), *metadata.level(), &fields))
    }
}

/// The escaped fields of an event.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Fields {
    fn get(&self, name: &str) -> Option<String> {
        let found = self.others.iter().find(|(other, _)| *other == name);
        found.map(|(_, value)| value.clone())
    }

    fn add(&mut self, field: &Field, value: &str) {
        // Guests and clients write some of it: it must not look like another line, or steer the
        // terminal. Further lines are indented.
        let lines = value.trim_end().split('\n');
        let escaped: Vec<_> = lines.map(escaped).collect();
        match field.name() {
            "message" => self.message = escaped.join(&format!("\n{INDENT}")),
            name => self.others.push((name, escaped.join("\\n"))),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(text, "{value:?}");
        self.add(field, &text);
    }
}

fn escaped(text: &str) -> String {
    String::from_utf8_lossy(&escape_controls(text.as_bytes())).into_owned()
}

fn unix_time() -> i64 {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0))
}

fn time_of_day(seconds: i64) -> String {
    let second = seconds.rem_euclid(24 * 60 * 60);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{hour:02}:{minute:02}:{:02}", second % 60)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::log::captured::CapturedLines;

    fn written(painter: Painter, write: impl FnOnce()) -> Vec<String> {
        let lines = CapturedLines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(Pretty { painter, offset: 0 })
            .with_ansi(false)
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), write);
        let text = lines.text();
        let lines = text.lines().map(|line| match line.strip_prefix(INDENT) {
            Some(_) => line.to_owned(),
            None => line.split_once(' ').unwrap().1.to_owned(),
        });
        lines.collect()
    }

    #[test]
    fn lines_name_the_worker_and_the_request() {
        let lines = written(Painter::new(false), || {
            tracing::info!(target: "guest", worker = "hello", request_id = "1", "{} words", 2);
            tracing::error!(
                worker = "hello",
                request_id = "1",
                "Error: x\n  at a.js:1:2\n"
            );
            tracing::warn!(n = 7, "careful");
        });
        let expected = [
            "[hello] 2 words",
            "error: [hello] Error: x",
            "           at a.js:1:2",
            "warning: careful n=7",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn requests_have_their_status_and_time() {
        let pretty = Pretty {
            painter: Painter::new(false),
            offset: 0,
        };
        let mut line = AccessLine {
            method: "GET",
            path: "/a\u{1b}",
            status: 200,
            bytes: 1,
            time: std::time::Duration::from_micros(1260),
            client: None,
            worker: None,
            request_id: "1",
            trace: None,
            aborted_by: None,
        };
        let written = |line: &AccessLine<'_>| pretty.request(line).split_off(9);
        assert_eq!(written(&line), "GET     200 /a\\u{1b} 1.3 ms\n");
        (line.status, line.aborted_by) = (499, Some("client"));
        assert!(written(&line).ends_with("1.3 ms aborted: client\n"));
    }

    #[test]
    fn escapes_terminal_controls_of_guests() {
        let lines = written(Painter::new(true), || {
            tracing::info!(target: "guest", worker = "a\n\u{1b}[2J", "x\ry\u{1b}]0;z\u{7}");
        });
        let expected = "\u{1b}[36m[a\\n\\u{1b}[2J] \u{1b}[0mx\\ry\\u{1b}]0;z\\u{7}";
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn prints_the_time_of_day() {
        assert_eq!(time_of_day(0), "00:00:00");
        assert_eq!(time_of_day(86_399 + 86_400), "23:59:59");
        assert_eq!(time_of_day(-3600), "23:00:00");
    }
}
