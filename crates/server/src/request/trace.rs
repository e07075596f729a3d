//! The trace of a request: its context, and its span if the trace is recorded.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, Version, header};
use tracing::field::{DisplayValue, display};
use wws_telemetry::{
    Attributes, Hex, Method, Sampler, Span, SpanKind, TraceContext, Value, WorkerSeries,
};

const TRACEPARENT: HeaderName = HeaderName::from_static(wws_telemetry::TRACEPARENT);
const TRACESTATE: HeaderName = HeaderName::from_static(wws_telemetry::TRACESTATE);

/// Longest texts of a client in a span, in bytes. Longer ones are cut.
const MAX_PATH: usize = 1024;
const MAX_USER_AGENT: usize = 256;
const MAX_METHOD: usize = 32;

/// The trace that a request belongs to, if it belongs to one.
#[derive(Default)]
pub(crate) struct RequestTrace {
    /// The span of the request; the client's own if traces are not exported.
    context: Option<TraceContext>,
    /// Whether `context` begins here: workers get it instead of the client's.
    is_own: bool,
    /// The client's span.
    parent: Option<[u8; 8]>,
    /// `None` if the trace is not recorded.
    span: Option<Box<RecordedRequest>>,
}

/// What is recorded when a request comes.
struct RecordedRequest {
    start: SystemTime,
    version: Version,
    user_agent: Option<HeaderValue>,
    /// The URL, once it is known.
    url: Option<Uri>,
}

/// What is known when a request has ended.
pub(crate) struct RequestEnd<'a> {
    pub(crate) method: &'a http::Method,
    pub(crate) target: &'a Uri,
    /// The status of the response, if there was one.
    pub(crate) status: Option<u16>,
    /// Who ended the response before its end.
    pub(crate) aborted_by: Option<&'static str>,
    /// Whether that, or the status, is the client's doing.
    pub(crate) is_clients: bool,
    pub(crate) client: Option<IpAddr>,
    pub(crate) request_id: &'a str,
    pub(crate) time: Duration,
}

impl RequestTrace {
    /// Continues the client's trace, or begins one. Without a `sampler`, nothing is exported.
    pub(crate) fn begin<B>(sampler: Option<Sampler>, request: &Request<B>) -> Self {
        let parent = parent(request.headers());
        let Some(sampler) = sampler else {
            return Self {
                context: parent,
                ..Self::default()
            };
        };
        let context = sampler.begin(parent);
        let span = context.is_sampled().then(|| {
            Box::new(RecordedRequest {
                start: SystemTime::now(),
                version: request.version(),
                user_agent: request.headers().get(header::USER_AGENT).cloned(),
                url: None,
            })
        });
        Self {
            context: Some(context),
            is_own: true,
            parent: parent.map(|parent| parent.span_id()),
            span,
        }
    }

    /// Records the URL of the request.
    pub(crate) fn set_url(&mut self, url: &Uri) {
        if let Some(span) = &mut self.span {
            span.url = Some(url.clone());
        }
    }

    /// Sets the headers from which a worker, and the engine for its outgoing requests, read the
    /// trace.
    pub(crate) fn pass_on(&self, headers: &mut HeaderMap) {
        let Some(context) = self.context.filter(|_| self.is_own) else {
            return;
        };
        if self.parent.is_none() {
            // It belongs to no trace.
            headers.remove(TRACESTATE);
        }
        if let Ok(value) = HeaderValue::from_bytes(&context.header()) {
            headers.insert(TRACEPARENT, value);
        }
    }

    /// The span of the request, or the client's own if traces are not exported.
    pub(crate) fn context(&self) -> Option<TraceContext> {
        self.context
    }

    /// The id of the trace, for logs.
    pub(crate) fn trace_id(&self) -> Option<DisplayValue<Hex<16>>> {
        self.context.map(|context| display(context.trace_hex()))
    }

    /// The id of the span, for logs.
    pub(crate) fn span_id(&self) -> Option<DisplayValue<Hex<8>>> {
        self.context.map(|context| display(context.span_hex()))
    }

    /// Hands the span over to a copy.
    pub(crate) fn hand_over(&mut self) -> Self {
        Self {
            span: self.span.take(),
            ..*self
        }
    }

    /// Queues the span for export.
    pub(crate) fn end(&mut self, series: &WorkerSeries, end: &RequestEnd<'_>) {
        let (Some(span), Some(context)) = (self.span.take(), self.context) else {
            return;
        };
        let method = Method::new(end.method.as_str());
        let method_name = match method {
            // The standard's names for what may be anything.
            Method::Other => "HTTP",
            known => known.text(),
        };
        let route = Some(series.route()).filter(|route| route.starts_with('/'));
        let is_failure = end.status.is_none_or(|status| status >= 500) || end.aborted_by.is_some();
        series.spans().push(Span {
            context,
            parent: self.parent,
            name: match route {
                Some(route) => format!("{method_name} {route}"),
                None => method_name.to_owned(),
            },
            kind: SpanKind::Server,
            start: span.start,
            time: end.time,
            attributes: attributes(&span, method, route, end),
            failed: is_failure && !end.is_clients,
        });
    }
}

/// The context that a client sends. Several of them are none.
fn parent(headers: &HeaderMap) -> Option<TraceContext> {
    let mut all = headers.get_all(TRACEPARENT).iter();
    let (header, more) = (all.next()?, all.next());
    TraceContext::parse(header.to_str().ok()?).filter(|_| more.is_none())
}

/// What is known of a request by the names of the semantic conventions. The query may hold secrets.
fn attributes(
    span: &RecordedRequest,
    method: Method,
    route: Option<&str>,
    end: &RequestEnd<'_>,
) -> Attributes {
    let mut all = Vec::with_capacity(12);
    let mut text = |name, value: &str| all.push((name, Value::Text(value.to_owned())));
    match method {
        Method::Other => {
            text("http.request.method", "_OTHER");
            let original = cut(end.method.as_str(), MAX_METHOD);
            text("http.request.method_original", original);
        }
        known => text("http.request.method", known.text()),
    }
    text("url.path", cut(end.target.path(), MAX_PATH));
    text("wws.request_id", end.request_id);
    if let Some(route) = route {
        text("http.route", route);
    }
    let url = span.url.as_ref();
    if let Some(scheme) = url.and_then(Uri::scheme_str) {
        text("url.scheme", scheme);
    }
    if let Some(host) = url.and_then(Uri::host) {
        text("server.address", host);
    }
    if let Some(client) = end.client {
        text("client.address", &client.to_string());
    }
    text(
        "network.protocol.version",
        match span.version {
            Version::HTTP_10 => "1.0",
            Version::HTTP_2 => "2",
            _ => "1.1",
        },
    );
    let user_agent = span.user_agent.as_ref();
    if let Some(user_agent) = user_agent.and_then(|header| header.to_str().ok()) {
        text("user_agent.original", cut(user_agent, MAX_USER_AGENT));
    }
    let error = match (end.aborted_by, end.status) {
        (Some(by), _) => Some(by.to_owned()),
        (None, Some(status @ 500..)) => Some(status.to_string()),
        (None, _) => None,
    };
    if let Some(error) = error {
        text("error.type", &error);
    }
    if let Some(port) = url.and_then(Uri::port_u16) {
        all.push(("server.port", Value::Integer(port.into())));
    }
    if let Some(status) = end.status {
        let status = Value::Integer(status.into());
        all.push(("http.response.status_code", status));
    }
    all
}

fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use wws_telemetry::Telemetry;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn request(headers: &[(HeaderName, &str)]) -> Request<()> {
        let mut request = Request::new(());
        for (name, value) in headers {
            request.headers_mut().append(name, value.parse().unwrap());
        }
        request
    }

    fn passed_on(sampler: Option<Sampler>, request: &mut Request<()>) -> Option<TraceContext> {
        let trace = RequestTrace::begin(sampler, request);
        trace.pass_on(request.headers_mut());
        parent(request.headers())
    }

    #[test]
    fn without_an_exporter_the_clients_context_stays() {
        let mut one = request(&[(TRACEPARENT, PARENT)]);
        assert_eq!(passed_on(None, &mut one).unwrap().to_string(), PARENT);
        let trace = RequestTrace::begin(None, &one);
        assert_eq!(
            trace.trace_id().unwrap().to_string(),
            "4bf92f3577b34da6a3ce929d0e0e4736"
        );
        assert_eq!(passed_on(None, &mut request(&[])), None);
    }

    #[test]
    fn workers_get_the_span_of_their_request() {
        let sampler = Some(Sampler::default());
        let mut one = request(&[(TRACEPARENT, PARENT), (TRACESTATE, "v=1")]);
        let context = passed_on(sampler, &mut one).unwrap();
        assert_eq!(
            context.trace_hex(),
            parent(&one_parent()).unwrap().trace_hex()
        );
        assert_ne!(context.to_string(), PARENT);
        assert_eq!(one.headers()[TRACESTATE], "v=1");
        let mut root = request(&[(TRACESTATE, "v=1")]);
        assert!(passed_on(sampler, &mut root).unwrap().is_sampled());
        assert!(!root.headers().contains_key(TRACESTATE));
        let off = passed_on(Some(Sampler::Off), &mut request(&[])).unwrap();
        assert!(
            !off.is_sampled(),
            "later servers know that it is not recorded"
        );
    }

    fn one_parent() -> HeaderMap {
        request(&[(TRACEPARENT, PARENT)]).into_parts().0.headers
    }

    #[test]
    fn rejects_two_trace_contexts() {
        let two = request(&[(TRACEPARENT, PARENT), (TRACEPARENT, PARENT)]);
        assert_eq!(parent(two.headers()), None);
    }

    #[test]
    fn a_span_is_bounded_and_does_not_show_the_query() {
        let telemetry = Telemetry::default();
        telemetry.spans().enable(|| {});
        let mut request = request(&[(header::USER_AGENT, &"u".repeat(9000))]);
        *request.method_mut() = "BREW".parse().unwrap();
        *request.uri_mut() = format!("/{}?secret", "p".repeat(9000)).parse().unwrap();
        let mut trace = RequestTrace::begin(Some(Sampler::On), &request);
        trace.set_url(&"https://a.example:8443/x?secret".parse().unwrap());
        let end = RequestEnd {
            method: request.method(),
            target: request.uri(),
            status: Some(503),
            aborted_by: None,
            is_clients: false,
            client: None,
            request_id: "1",
            time: Duration::from_millis(5),
        };
        trace.end(&telemetry.worker("/x/[id]"), &end);
        trace.end(&telemetry.worker("/x/[id]"), &end);
        let spans = telemetry.spans().take(9);
        let [span] = spans.as_slice() else {
            unreachable!("{spans:?}")
        };
        assert_eq!((span.name.as_str(), span.failed), ("HTTP /x/[id]", true));
        assert!(!format!("{span:?}").contains("secret"));
        let of = |name| {
            let mut all = span.attributes.iter();
            all.find_map(|(other, value)| (*other == name).then_some(value))
        };
        let text = |text: &str| Value::Text(text.into());
        assert_eq!(of("http.request.method"), Some(&text("_OTHER")));
        assert_eq!(of("http.request.method_original"), Some(&text("BREW")));
        assert_eq!(of("error.type"), Some(&text("503")));
        assert_eq!(of("server.port"), Some(&Value::Integer(8443)));
        assert_eq!(of("url.scheme"), Some(&text("https")));
        assert_eq!(of("user_agent.original"), Some(&text(&"u".repeat(256))));
        assert!(matches!(of("url.path"), Some(Value::Text(path)) if path.len() == MAX_PATH));
    }
}
