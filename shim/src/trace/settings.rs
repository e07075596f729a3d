//! The standard variables, as far as the shim has use for them.

use std::time::Duration;

use percent_encoding::percent_decode_str;

/// The longest time for a request, whatever the variable says.
const MAX_TIMEOUT: Duration = Duration::from_secs(10);

/// Attributes of the resource and headers at most.
const MAX_PAIRS: usize = 64;

/// A variable has a value that the shim cannot use. Headers are not shown: they may be secrets.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TraceSettingsError {
    /// Another protocol than the one that the shim speaks.
    #[error("OTEL_EXPORTER_OTLP_PROTOCOL is `{0}`: the shim has http/protobuf alone")]
    Protocol(String),
    /// An unknown sampler.
    #[error("OTEL_TRACES_SAMPLER is `{0}`")]
    Sampler(String),
    /// The part of all traces is not a number from 0 to 1.
    #[error("OTEL_TRACES_SAMPLER_ARG is no number from 0 to 1")]
    SampledPart,
    /// The endpoint is not a URL that the shim can use.
    #[error("the endpoint of OTEL_EXPORTER_OTLP_* is not http://HOST[:PORT][/PATH]")]
    Endpoint,
    /// The endpoint is reached by TLS.
    #[error(
        "the shim has no TLS: the endpoint has to be http://, as of a collector on this machine"
    )]
    EndpointTls,
    /// A pair of the headers is no header of HTTP.
    #[error("OTEL_EXPORTER_OTLP_HEADERS has what is no header")]
    Headers,
}

/// What is exported, and where.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TraceSettings {
    pub(super) endpoint: TraceEndpoint,
    pub(super) sampling: Sampling,
    /// Attributes of the resource.
    pub(super) resource: Vec<(String, String)>,
}

/// Where spans are sent.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct TraceEndpoint {
    pub(super) host: String,
    pub(super) port: u16,
    /// The path, with a query.
    pub(super) path: String,
    /// Lines of the head of each request, with line breaks. They may have a secret.
    pub(super) headers: String,
    pub(super) timeout: Duration,
}

impl std::fmt::Debug for TraceEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Which traces are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Sampling {
    All,
    /// A part of all.
    Part(f64),
    /// Those that the caller records, and a part of those without a caller.
    AsParent(f64),
}

impl TraceSettings {
    /// Reads the variables. `None`: nothing is to be exported.
    pub(super) fn read(
        get: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, TraceSettingsError> {
        let text = |name: &str| {
            let text = get(name)?.trim().to_owned();
            (!text.is_empty()).then_some(text)
        };
        let of_traces = |name: &str| {
            text(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}"))
                .or_else(|| text(&format!("OTEL_EXPORTER_OTLP_{name}")))
        };
        if text("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let exporter = text("OTEL_TRACES_EXPORTER");
        if exporter.is_some_and(|names| !names.split(',').any(|name| name.trim() == "otlp")) {
            return Ok(None);
        }
        let own = text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        let url = match (own, text("OTEL_EXPORTER_OTLP_ENDPOINT")) {
            (Some(url), _) => url,
            (None, Some(url)) => format!("{}/v1/traces", url.trim_end_matches('/')),
            (None, None) => return Ok(None),
        };
        if let Some(protocol) = of_traces("PROTOCOL")
            && protocol != "http/protobuf"
        {
            return Err(TraceSettingsError::Protocol(protocol));
        }
        let Some(sampling) = sampling(
            text("OTEL_TRACES_SAMPLER").as_deref(),
            text("OTEL_TRACES_SAMPLER_ARG").as_deref(),
        )?
        else {
            return Ok(None);
        };
        let timeout = of_traces("TIMEOUT").and_then(|text| text.parse().ok());
        let timeout = timeout.map_or(MAX_TIMEOUT, Duration::from_millis);
        let headers = pairs(&of_traces("HEADERS").unwrap_or_default());
        let mut resource = pairs(&text("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default());
        // That of the variables is containerd's.
        resource.retain(|(name, _)| name != "service.name" && name != "service.version");
        let service = [
            ("service.name", "containerd-shim-wws-v1"),
            ("service.version", env!("CARGO_PKG_VERSION")),
        ];
        resource.extend(service.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let mut endpoint = endpoint(&url)?;
        endpoint.timeout = timeout.min(MAX_TIMEOUT);
        endpoint.headers = lines(headers)?;
        Ok(Some(Self {
            endpoint,
            sampling,
            resource,
        }))
    }
}

fn sampling(
    name: Option<&str>,
    part: Option<&str>,
) -> Result<Option<Sampling>, TraceSettingsError> {
    let part = || match part.map(str::parse::<f64>) {
        None => Ok(1.0),
        Some(Ok(part)) if (0.0..=1.0).contains(&part) => Ok(part),
        Some(_) => Err(TraceSettingsError::SampledPart),
    };
    Ok(Some(match name {
        None | Some("parentbased_always_on") => Sampling::AsParent(1.0),
        Some("parentbased_always_off") => Sampling::AsParent(0.0),
        Some("parentbased_traceidratio") => Sampling::AsParent(part()?),
        Some("always_on") => Sampling::All,
        Some("traceidratio") => Sampling::Part(part()?),
        Some("always_off") => return Ok(None),
        Some(other) => return Err(TraceSettingsError::Sampler(other.to_owned())),
    }))
}

/// The parts of `http://HOST[:PORT][/PATH]`.
fn endpoint(url: &str) -> Result<TraceEndpoint, TraceSettingsError> {
    let Some(rest) = url.strip_prefix("http://") else {
        return Err(match url.starts_with("https://") {
            true => TraceSettingsError::EndpointTls,
            false => TraceSettingsError::Endpoint,
        });
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(TraceSettingsError::Endpoint)?;
            (host, port.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = port.map_or(Ok(80), str::parse);
    let port = port.map_err(|_| TraceSettingsError::Endpoint)?;
    if host.is_empty() || host.contains('@') || !is_plain(host) || !is_plain(path) {
        return Err(TraceSettingsError::Endpoint);
    }
    Ok(TraceEndpoint {
        host: host.to_owned(),
        port,
        path: path.to_owned(),
        headers: String::new(),
        timeout: MAX_TIMEOUT,
    })
}

/// Pairs as `a=b,c=d%20e`.
fn pairs(text: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| {
        let text = percent_decode_str(text.trim());
        text.decode_utf8_lossy().into_owned()
    };
    text.split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .filter(|(name, _)| !name.is_empty())
        .take(MAX_PAIRS)
        .collect()
}

/// Headers as lines.
fn lines(headers: Vec<(String, String)>) -> Result<String, TraceSettingsError> {
    let mut lines = String::new();
    for (name, value) in headers {
        let is_name = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let is_value = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !is_name || !is_value {
            return Err(TraceSettingsError::Headers);
        }
        lines.push_str(&format!("{name}: {value}\r\n"));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<TraceSettings>, TraceSettingsError> {
        TraceSettings::read(|name| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318");

    #[test]
    fn nothing_is_exported_unless_asked_for() {
        assert_eq!(read(&[]), Ok(None));
        for off in [
            ("OTEL_SDK_DISABLED", "true"),
            ("OTEL_TRACES_EXPORTER", "none"),
            ("OTEL_TRACES_SAMPLER", "always_off"),
        ] {
            assert_eq!(read(&[ENDPOINT, off]), Ok(None), "{off:?}");
        }
    }

    #[test]
    fn reads_the_variables() {
        let settings = read(&[
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b,x=1"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
            ("OTEL_SERVICE_NAME", "containerd"),
            ("OTEL_RESOURCE_ATTRIBUTES", "zone=a,service.name=containerd"),
        ]);
        let settings = settings.unwrap().unwrap();
        let endpoint = &settings.endpoint;
        assert_eq!((&*endpoint.host, endpoint.port), ("localhost", 4318));
        assert_eq!(endpoint.path, "/v1/traces");
        assert_eq!(endpoint.headers, "api-key: a b\r\nx: 1\r\n");
        assert_eq!(endpoint.timeout, Duration::from_millis(250));
        assert!(!format!("{settings:?}").contains("a b"));
        assert_eq!(settings.sampling, Sampling::AsParent(0.5));
        let names: Vec<&str> = settings.resource.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["zone", "service.name", "service.version"]);
        assert_eq!(settings.resource[1].1, "containerd-shim-wws-v1");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://[::1]/x?y");
        let endpoint = read(&[ENDPOINT, own]).unwrap().unwrap().endpoint;
        let parts = (&*endpoint.host, endpoint.port, &*endpoint.path);
        assert_eq!(parts, ("::1", 80, "/x?y"));
    }

    #[test]
    fn reports_what_it_cannot_do() {
        for (variable, value, expected) in [
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://a", "no TLS"),
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "a:4318",
                "http://HOST",
            ),
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "http://a:b",
                "http://HOST",
            ),
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "http://a b",
                "http://HOST",
            ),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b%0d%0ac: d", "no header"),
            ("OTEL_TRACES_SAMPLER", "jaeger", "jaeger"),
        ] {
            let problem = read(&[ENDPOINT, (variable, value)]).unwrap_err();
            let problem = problem.to_string();
            assert!(problem.contains(expected), "{problem}");
        }
    }
}
