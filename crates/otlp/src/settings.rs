//! The standard variables.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use wws_telemetry::Sampler;

/// The endpoint if the variables name an exporter, but no endpoint.
const DEFAULT_ENDPOINT: &str = "http://localhost:4318";

/// Attributes of the resource, at most.
const MAX_ATTRIBUTES: usize = 128;

/// What can be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Counters, gauges and histograms.
    Metrics,
    /// Lines of the log.
    Logs,
}

impl Signal {
    /// Its name in messages and paths.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }
}

/// A variable that has no effect, or not the one that was wanted. The value is not shown where it
/// may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {message}")]
pub struct SettingProblem {
    /// The variable.
    pub variable: String,
    /// What is wrong, what was expected, and what holds instead.
    pub message: String,
}

/// Where a signal is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// The URL of the signal.
    pub url: Uri,
    /// Headers of each request. Their values are marked as sensitive.
    pub headers: HeaderMap,
    /// The time for one request.
    pub timeout: Duration,
    /// Whether bodies are compressed.
    pub gzip: bool,
    /// A file with the certificates that are trusted; the usual ones if there is none.
    pub certificate: Option<PathBuf>,
}

/// What is exported, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportSettings {
    /// Where spans are sent; `None` if they are not.
    pub traces: Option<Endpoint>,
    /// Where metrics are sent.
    pub metrics: Option<Endpoint>,
    /// Where lines of the log are sent.
    pub logs: Option<Endpoint>,
    /// Which traces are recorded.
    pub sampler: Sampler,
    /// The attributes of the resource that the variables set.
    pub resource: BTreeMap<String, String>,
    /// The time between two exports of metrics.
    pub metric_interval: Duration,
    /// How long a span waits for others.
    pub span_delay: Duration,
    /// How long a line of the log waits for others.
    pub log_delay: Duration,
}

impl ExportSettings {
    /// Reads the variables; `get` returns the value of one. Returns `None` if nothing is to be
    /// exported, and what was wrong, each variable once.
    pub fn from_env<'a>(
        get: impl Fn(&str) -> Option<&'a str>,
    ) -> (Option<Self>, Vec<SettingProblem>) {
        let mut reader = Reader {
            get,
            problems: Vec::new(),
        };
        let settings = reader.settings();
        (settings, reader.problems)
    }

    /// The endpoint of a signal.
    #[must_use]
    pub fn endpoint(&self, signal: Signal) -> Option<&Endpoint> {
        match signal {
            Signal::Traces => self.traces.as_ref(),
            Signal::Metrics => self.metrics.as_ref(),
            Signal::Logs => self.logs.as_ref(),
        }
    }
}

/// Reads variables and collects problems.
struct Reader<F> {
    get: F,
    problems: Vec<SettingProblem>,
}

impl<'a, F: Fn(&str) -> Option<&'a str>> Reader<F> {
    /// The value of a variable. An empty one is as none.
    fn text(&self, variable: &str) -> Option<&'a str> {
        let text = (self.get)(variable)?.trim();
        (!text.is_empty()).then_some(text)
    }

    /// Adds a problem, unless the variable has one already: those of all signals are read thrice.
    fn problem(&mut self, variable: &str, message: impl Into<String>) {
        if !self.problems.iter().any(|other| other.variable == variable) {
            self.problems.push(SettingProblem {
                variable: variable.to_owned(),
                message: message.into(),
            });
        }
    }

    fn settings(&mut self) -> Option<ExportSettings> {
        match self.text("OTEL_SDK_DISABLED") {
            Some(text) if text.eq_ignore_ascii_case("true") => return None,
            Some(text) if !text.eq_ignore_ascii_case("false") => {
                let message = format!("`{text}` is neither true nor false: exporting");
                self.problem("OTEL_SDK_DISABLED", message);
            }
            _ => {}
        }
        let traces = self.endpoint(Signal::Traces);
        let metrics = self.endpoint(Signal::Metrics);
        let logs = self.endpoint(Signal::Logs);
        if traces.is_none() && metrics.is_none() && logs.is_none() {
            return None;
        }
        let sampler = match traces {
            Some(_) => self.sampler(),
            None => Sampler::Off,
        };
        if metrics.is_some() {
            self.temporality();
        }
        Some(ExportSettings {
            sampler,
            resource: self.resource(),
            metric_interval: self.milliseconds("OTEL_METRIC_EXPORT_INTERVAL", 60_000),
            span_delay: self.milliseconds("OTEL_BSP_SCHEDULE_DELAY", 5000),
            log_delay: self.milliseconds("OTEL_BLRP_SCHEDULE_DELAY", 1000),
            traces,
            metrics,
            logs,
        })
    }

    /// The variable of a signal, or that of all, and its value.
    fn of_signal(&self, signal: Signal, name: &str) -> Option<(String, &'a str)> {
        let own = format!(
            "OTEL_EXPORTER_OTLP_{}_{name}",
            signal.name().to_ascii_uppercase()
        );
        [own, format!("OTEL_EXPORTER_OTLP_{name}")]
            .into_iter()
            .find_map(|variable| {
                let text = self.text(&variable)?;
                Some((variable, text))
            })
    }

    /// Whether the variables name the exporter of a signal; `None` if they do not say.
    fn is_wanted(&mut self, signal: Signal) -> Option<bool> {
        let variable = format!("OTEL_{}_EXPORTER", signal.name().to_ascii_uppercase());
        let mut wanted = None;
        for name in self.text(&variable)?.split(',').map(str::trim) {
            match name {
                "otlp" => wanted = Some(true),
                "none" => wanted = wanted.or(Some(false)),
                "prometheus" if signal == Signal::Metrics => {
                    wanted = wanted.or(Some(false));
                    let message = "`prometheus` needs no variable: `/metrics` of the admin address \
                                   has the metrics";
                    self.problem(&variable, message);
                }
                other => {
                    wanted = wanted.or(Some(false));
                    let message = format!("`{other}` is not supported: expected otlp or none");
                    self.problem(&variable, message);
                }
            }
        }
        wanted
    }

    fn endpoint(&mut self, signal: Signal) -> Option<Endpoint> {
        let wanted = self.is_wanted(signal);
        let named = self.of_signal(signal, "ENDPOINT");
        let (variable, text) = match (wanted, named) {
            (Some(false), _) | (None, None) => return None,
            (_, Some(named)) => named,
            (Some(true), None) => ("OTEL_EXPORTER_OTLP_ENDPOINT".into(), DEFAULT_ENDPOINT),
        };
        let url = match variable.as_str() {
            "OTEL_EXPORTER_OTLP_ENDPOINT" => {
                format!("{}/v1/{}", text.trim_end_matches('/'), signal.name())
            }
            _ => text.to_owned(),
        };
        let url = match endpoint_url(&url) {
            Ok(url) => url,
            Err(problem) => {
                let message = format!(
                    "{problem}; expected a URL such as {DEFAULT_ENDPOINT}: {} are not exported",
                    signal.name()
                );
                self.problem(&variable, message);
                return None;
            }
        };
        if let Some((variable, protocol)) = self.of_signal(signal, "PROTOCOL")
            && protocol != "http/protobuf"
        {
            let message = format!(
                "`{protocol}` is not supported: expected http/protobuf, which collectors take at \
                 port 4318; {} are not exported",
                signal.name()
            );
            self.problem(&variable, message);
            return None;
        }
        Some(Endpoint {
            url,
            headers: self.headers(signal),
            timeout: self.timeout(signal),
            gzip: self.is_compressed(signal),
            certificate: self.certificate(signal),
        })
    }

    fn timeout(&mut self, signal: Signal) -> Duration {
        const DEFAULT: u64 = 10_000;
        match self.of_signal(signal, "TIMEOUT") {
            Some((variable, _)) => self.milliseconds(&variable, DEFAULT),
            None => Duration::from_millis(DEFAULT),
        }
    }

    fn is_compressed(&mut self, signal: Signal) -> bool {
        match self.of_signal(signal, "COMPRESSION") {
            Some((_, "gzip")) => true,
            None | Some((_, "none")) => false,
            Some((variable, other)) => {
                let message =
                    format!("`{other}` is not supported: expected gzip or none; not compressing");
                self.problem(&variable, message);
                false
            }
        }
    }

    fn certificate(&mut self, signal: Signal) -> Option<PathBuf> {
        for name in ["CLIENT_CERTIFICATE", "CLIENT_KEY"] {
            if let Some((variable, _)) = self.of_signal(signal, name) {
                self.problem(&variable, "client certificates are not supported");
            }
        }
        let (variable, path) = self.of_signal(signal, "CERTIFICATE")?;
        if let Err(error) = std::fs::metadata(path) {
            self.problem(&variable, format!("cannot read `{path}`: {error}"));
        }
        Some(path.into())
    }

    fn headers(&mut self, signal: Signal) -> HeaderMap {
        let Some((variable, text)) = self.of_signal(signal, "HEADERS") else {
            return HeaderMap::new();
        };
        let Some(pairs) = pairs(text) else {
            let message = "expected NAME=VALUE, several with commas between them, with special \
                           characters as %20; sending none of them";
            self.problem(&variable, message);
            return HeaderMap::new();
        };
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let header = HeaderName::try_from(name.as_str());
            let (Ok(header), Ok(mut value)) = (header, HeaderValue::try_from(value)) else {
                let message = format!("`{name}` cannot be sent as a header; leaving it out");
                self.problem(&variable, message);
                continue;
            };
            value.set_sensitive(true);
            headers.insert(header, value);
        }
        headers
    }

    fn milliseconds(&mut self, variable: &str, default: u64) -> Duration {
        const DAY: u64 = 24 * 60 * 60 * 1000;
        let parsed = match self.text(variable) {
            None => Some(default),
            Some(text) => text.parse().ok().filter(|ms| (1..=DAY).contains(ms)),
        };
        if parsed.is_none() {
            let message =
                format!("expected a number of milliseconds from 1 to {DAY}; using {default}");
            self.problem(variable, message);
        }
        Duration::from_millis(parsed.unwrap_or(default))
    }

    fn sampler(&mut self) -> Sampler {
        const NAME: &str = "OTEL_TRACES_SAMPLER";
        const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
        let name = self.text(NAME).unwrap_or("");
        let argument = self.text(ARGUMENT).unwrap_or("");
        if let Some(sampler) = Sampler::of(name, argument) {
            return sampler;
        }
        match Sampler::of(name, "") {
            Some(sampler) => {
                let message =
                    format!("`{argument}` is not a number from 0 to 1; recording all traces");
                self.problem(ARGUMENT, message);
                sampler
            }
            None => {
                let message = format!(
                    "`{name}` is not supported: expected always_on, always_off, traceidratio, \
                     parentbased_always_on, parentbased_always_off or parentbased_traceidratio; \
                     using parentbased_always_on"
                );
                self.problem(NAME, message);
                Sampler::default()
            }
        }
    }

    fn temporality(&mut self) {
        const NAME: &str = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        if let Some(text) = self.text(NAME)
            && !text.eq_ignore_ascii_case("cumulative")
        {
            let message = format!("`{text}` is not supported; sending cumulative metrics");
            self.problem(NAME, message);
        }
    }

    fn resource(&mut self) -> BTreeMap<String, String> {
        const NAME: &str = "OTEL_RESOURCE_ATTRIBUTES";
        let pairs = pairs(self.text(NAME).unwrap_or(""));
        let pairs = pairs.filter(|pairs| pairs.len() <= MAX_ATTRIBUTES);
        if pairs.is_none() {
            let message = format!(
                "expected at most {MAX_ATTRIBUTES} NAME=VALUE with commas between them, with \
                 special characters as %20; ignoring all of them"
            );
            self.problem(NAME, message);
        }
        let mut resource: BTreeMap<_, _> = pairs.unwrap_or_default().into_iter().collect();
        if let Some(name) = self.text("OTEL_SERVICE_NAME") {
            resource.insert("service.name".into(), name.into());
        }
        resource
    }
}

/// A URL that requests can be sent to. The problem does not show it: it may have a password.
fn endpoint_url(text: &str) -> Result<Uri, &'static str> {
    const NONE: &str = "not a URL with http or https";
    let url: Uri = text.parse().map_err(|_| NONE)?;
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        return Err(NONE);
    }
    match url.authority() {
        None => Err("a URL without a host"),
        Some(authority) if authority.as_str().contains('@') => {
            Err("a URL with a password, which belongs in OTEL_EXPORTER_OTLP_HEADERS")
        }
        Some(_) => Ok(url),
    }
}

/// The pairs of a list `a=b,c=d`, in which values are percent-encoded; `None` if it is none.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=')?;
            let name = name.trim();
            let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
            (!name.is_empty()).then(|| (name.to_owned(), value.into_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests;
