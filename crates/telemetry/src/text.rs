//! The text formats: Prometheus 0.0.4 and OpenMetrics 1.0.

use std::fmt::Write;

use crate::sink::{Family, Labels, MetricKind, Sink};

/// A text format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFormat {
    /// Prometheus 0.0.4, which every scraper reads.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl TextFormat {
    /// The format for a client that sent this header `Accept`.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The value of `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Writes metrics as text.
pub struct TextSink {
    format: TextFormat,
    name: &'static str,
    text: String,
}

impl TextSink {
    /// An empty text.
    #[must_use]
    pub fn new(format: TextFormat) -> Self {
        Self {
            format,
            name: "",
            text: String::with_capacity(16 << 10),
        }
    }

    /// The text.
    #[must_use]
    pub fn finish(mut self) -> String {
        if self.format == TextFormat::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, more: Option<(&str, &str)>, value: f64) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let mut separator = '{';
        for (name, value) in labels.iter().copied().chain(more) {
            self.text.push(separator);
            separator = ',';
            self.text.push_str(name);
            self.text.push_str("=\"");
            escape(&mut self.text, value);
            self.text.push('"');
        }
        if separator == ',' {
            self.text.push('}');
        }
        // Writing to a string cannot fail. `f64` is shown so that it reads as the same number.
        let _ = writeln!(self.text, " {value}");
    }
}

/// Escapes the value of a label.
fn escape(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}

impl Sink for TextSink {
    fn family(&mut self, family: Family) {
        self.name = family.name;
        let name = match self.format {
            TextFormat::Prometheus => family.name,
            // The family of a counter has the name without the suffix of its values.
            TextFormat::OpenMetrics => family.name.trim_end_matches("_total"),
        };
        let kind = match family.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let help = family.help;
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn number(&mut self, labels: Labels<'_>, value: f64) {
        self.line("", labels, None, value);
    }

    fn histogram(&mut self, labels: Labels<'_>, bounds: &[f64], buckets: &[u64], sum: f64) {
        let mut count = 0;
        let bounds = bounds.iter().copied().chain([f64::INFINITY]);
        for (bound, bucket) in bounds.zip(buckets) {
            count += bucket;
            let bound = match bound.is_finite() {
                true if self.format == TextFormat::OpenMetrics && bound.fract() == 0.0 => {
                    format!("{bound:.1}")
                }
                true => bound.to_string(),
                false => "+Inf".to_owned(),
            };
            self.line("_bucket", labels, Some(("le", &bound)), count as f64);
        }
        self.line("_sum", labels, None, sum);
        self.line("_count", labels, None, count as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::{counter, gauge, histogram};

    fn text(format: TextFormat) -> String {
        let mut sink = TextSink::new(format);
        sink.family(counter("a_total", "As."));
        sink.number(&[("worker", "/\"x\"\\\n")], 3.0);
        sink.number(&[("worker", "/y"), ("method", "GET")], 4e15);
        sink.family(gauge("b", "Bs."));
        sink.number(&[], 0.25);
        sink.family(histogram("c_seconds", "Cs."));
        sink.histogram(&[("worker", "/y")], &[0.1, 1.0], &[1, 0, 2], 7.5);
        sink.finish()
    }

    #[test]
    fn writes_prometheus_text() {
        let expected = r#"# HELP a_total As.
# TYPE a_total counter
a_total{worker="/\"x\"\\\n"} 3
a_total{worker="/y",method="GET"} 4000000000000000
# HELP b Bs.
# TYPE b gauge
b 0.25
# HELP c_seconds Cs.
# TYPE c_seconds histogram
c_seconds_bucket{worker="/y",le="0.1"} 1
c_seconds_bucket{worker="/y",le="1"} 1
c_seconds_bucket{worker="/y",le="+Inf"} 3
c_seconds_sum{worker="/y"} 7.5
c_seconds_count{worker="/y"} 3
"#;
        assert_eq!(text(TextFormat::Prometheus), expected);
    }

    #[test]
    fn writes_openmetrics_for_those_that_accept_it() {
        let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2";
        let format = TextFormat::accepted(accept);
        let text = text(format);
        assert!(
            text.starts_with("# HELP a As.\n# TYPE a counter\na_total{"),
            "{text}"
        );
        assert!(text.contains("le=\"1.0\"} 1\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
        assert_eq!(TextFormat::accepted("*/*"), TextFormat::Prometheus);
    }
}
