//! What calls report to the telemetry of their worker: what they used, and their outgoing requests
//! with the trace that they belong to.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use wws_outbound::ErrorKind;
use wws_telemetry::{Outgoing, Span, SpanKind, TraceContext, Value, WorkerSeries};

use crate::host::grants::GuestGrants;

const TRACEPARENT: HeaderName = HeaderName::from_static(wws_telemetry::TRACEPARENT);
const TRACESTATE: HeaderName = HeaderName::from_static(wws_telemetry::TRACESTATE);

/// The trace of a call, which its outgoing requests continue.
#[derive(Clone, Debug)]
pub(crate) struct CallTrace {
    context: TraceContext,
    state: Option<HeaderValue>,
}

impl CallTrace {
    /// The trace in the headers of a call's request, if it has one. `sends`: whether the guest can
    /// send requests that continue it.
    pub(crate) fn of(headers: &HeaderMap, sends: bool) -> Option<Self> {
        let header = headers.get(TRACEPARENT)?.to_str().ok()?;
        Some(Self {
            context: TraceContext::parse(header)?,
            state: sends.then(|| trace_state(headers)).flatten(),
        })
    }

    /// The span that the call is, or the caller's.
    pub(crate) fn context(&self) -> TraceContext {
        self.context
    }
}

/// What vendors added to a trace. As clients choose it, and it is sent with each outgoing request,
/// what is longer than the standard requires to be passed on is left out (W3C Trace Context
/// 3.3.1.5).
fn trace_state(headers: &HeaderMap) -> Option<HeaderValue> {
    const MAX_LENGTH: usize = 512;
    const MAX_MEMBERS: usize = 32;
    let mut all = String::new();
    for line in headers.get_all(TRACESTATE) {
        let line = line.to_str().ok()?;
        if all.len() + line.len() + 1 > MAX_LENGTH {
            return None;
        }
        if !all.is_empty() {
            all.push(',');
        }
        all.push_str(line);
    }
    let members = all.split(',').count();
    (!all.is_empty() && members <= MAX_MEMBERS)
        .then(|| HeaderValue::try_from(all).ok())
        .flatten()
}

/// An outgoing request that is counted when it ends.
pub(crate) struct OutgoingReport {
    series: Option<Arc<WorkerSeries>>,
    start: Instant,
    span: Option<OutgoingSpan>,
}

/// The span of an outgoing request of a trace that is recorded.
struct OutgoingSpan {
    parent: TraceContext,
    context: TraceContext,
    start: SystemTime,
    attributes: Vec<(&'static str, Value)>,
}

impl OutgoingReport {
    /// Begins a request of a worker. One that has no trace context of its own gets that of the
    /// call, with the id of a new span.
    pub(crate) fn begin<B>(
        grants: &GuestGrants,
        trace: Option<&CallTrace>,
        request: &mut Request<B>,
    ) -> Self {
        let series = grants.series().cloned();
        let mut span = None;
        if let Some(trace) = trace
            && !request.headers().contains_key(TRACEPARENT)
        {
            let context = trace.context.child();
            if let Ok(value) = HeaderValue::from_bytes(&context.header()) {
                let headers = request.headers_mut();
                headers.insert(TRACEPARENT, value);
                if let Some(state) = &trace.state {
                    headers.insert(TRACESTATE, state.clone());
                }
            }
            let exported = series
                .as_ref()
                .is_some_and(|series| series.spans().is_enabled());
            if exported && context.is_sampled() {
                span = Some(OutgoingSpan {
                    parent: trace.context,
                    context,
                    start: SystemTime::now(),
                    attributes: attributes(request.method(), request.uri()),
                });
            }
        }
        Self {
            series,
            start: Instant::now(),
            span,
        }
    }

    /// Counts how the request ended.
    pub(crate) fn end_with<T>(
        self,
        result: Result<http::Response<T>, wws_outbound::Error>,
    ) -> Result<http::Response<T>, wws_outbound::Error> {
        self.end_as(result, http::Response::status)
    }

    /// [`Self::end_with`] of a request whose answer is something else with a status.
    pub(crate) fn end_as<T>(
        mut self,
        result: Result<T, wws_outbound::Error>,
        status: impl FnOnce(&T) -> http::StatusCode,
    ) -> Result<T, wws_outbound::Error> {
        match &result {
            Ok(answer) => self.end(Outgoing::Answered, Some(status(answer))),
            Err(error) => self.end(outcome(error.kind), None),
        }
        result
    }

    fn end(&mut self, outcome: Outgoing, status: Option<http::StatusCode>) {
        let Some(series) = self.series.take() else {
            return;
        };
        let time = self.start.elapsed();
        series.sent(outcome, time);
        let Some(mut span) = self.span.take() else {
            return;
        };
        match status {
            Some(status) => span.attributes.push((
                "http.response.status_code",
                Value::Integer(status.as_u16().into()),
            )),
            None => span
                .attributes
                .push(("error.type", Value::Text(outcome.text().to_owned()))),
        }
        let name = match span.attributes.first() {
            Some((_, Value::Text(method))) => method.clone(),
            _ => "HTTP".to_owned(),
        };
        series.spans().push(Span {
            context: span.context,
            parent: Some(span.parent.span_id()),
            name,
            kind: SpanKind::Client,
            start: span.start,
            time,
            attributes: span.attributes,
            failed: status.is_none_or(|status| status.as_u16() >= 400),
        });
    }
}

fn outcome(kind: ErrorKind) -> Outgoing {
    match kind {
        ErrorKind::NotAllowed => Outgoing::NotAllowed,
        ErrorKind::Timeout => Outgoing::Timeout,
        ErrorKind::InvalidRequest
        | ErrorKind::InvalidRequestBody
        | ErrorKind::InvalidResponseBody
        | ErrorKind::RedirectLoop => Outgoing::Invalid,
        ErrorKind::Internal => Outgoing::Failed,
    }
}

/// A request whose future was dropped.
impl Drop for OutgoingReport {
    fn drop(&mut self) {
        self.end(Outgoing::Cancelled, None);
    }
}

/// What is known of a request by the standard's names. The path and the query may hold secrets.
fn attributes(method: &Method, uri: &Uri) -> Vec<(&'static str, Value)> {
    let mut attributes = vec![(
        "http.request.method",
        Value::Text(method.as_str().to_owned()),
    )];
    if let Some(host) = uri.host() {
        attributes.push(("server.address", Value::Text(host.to_owned())));
    }
    let scheme = uri.scheme_str();
    let port = uri.port_u16().or(match scheme {
        Some("https") => Some(443),
        Some("http") => Some(80),
        _ => None,
    });
    if let Some(port) = port {
        attributes.push(("server.port", Value::Integer(port.into())));
    }
    if let Some(scheme) = scheme {
        attributes.push(("url.scheme", Value::Text(scheme.to_owned())));
    }
    attributes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use wws_telemetry::Telemetry;

    use super::*;
    use crate::spec::{GuestLimits, GuestSpec, StreamLimits};

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn grants() -> GuestGrants {
        let limits = GuestLimits {
            memory: 1 << 20,
            table_elements: 1,
            cpu_time: Duration::from_secs(1),
            wall_time: Duration::from_secs(1),
            output: 1,
            buffers: 1,
            log: 1,
            http_calls: 1,
            open_files: 1,
            stream: StreamLimits::default(),
        };
        let spec = GuestSpec {
            name: "w".into(),
            env: vec![],
            args: vec![],
            directories: vec![],
            kv: None,
            http: None,
            limits,
        };
        GuestGrants::new(spec, vec![]).unwrap()
    }

    fn trace() -> CallTrace {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, PARENT.parse().unwrap());
        headers.insert(TRACESTATE, "vendor=1".parse().unwrap());
        CallTrace::of(&headers, true).unwrap()
    }

    fn begin(grants: &GuestGrants, headers: &mut HeaderMap) -> OutgoingReport {
        let mut request = Request::get("https://api.example/path?secret")
            .body(())
            .unwrap();
        *request.headers_mut() = std::mem::take(headers);
        let report = OutgoingReport::begin(grants, Some(&trace()), &mut request);
        *headers = std::mem::take(request.headers_mut());
        report
    }

    #[test]
    fn outgoing_requests_continue_the_trace_with_a_new_span() {
        let mut headers = HeaderMap::new();
        begin(&grants(), &mut headers);
        let parent = TraceContext::parse(PARENT).unwrap();
        let sent = TraceContext::parse(headers[TRACEPARENT].to_str().unwrap()).unwrap();
        assert_eq!(sent.trace_id(), parent.trace_id());
        assert_ne!(sent.span_id(), parent.span_id());
        assert!(sent.is_sampled());
        assert_eq!(headers[TRACESTATE], "vendor=1");
    }

    #[test]
    fn outgoing_trace_headers_are_bounded() {
        let state = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(TRACESTATE, line.parse().unwrap());
            }
            trace_state(&headers)
        };
        assert_eq!(state(&["a=1", "b=2"]).unwrap(), "a=1,b=2");
        assert_eq!(state(&[]), None);
        assert_eq!(state(&[&format!("a={}", "x".repeat(600))]), None);
        assert_eq!(state(&vec!["a=1"; 33]), None);
        assert!(state(&vec!["a=1"; 32]).is_some());
    }

    #[test]
    fn keeps_the_trace_context_of_a_worker() {
        let own = "00-4bf92f3577b34da6a3ce929d0e0e4736-1111111111111111-00";
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, own.parse().unwrap());
        begin(&grants(), &mut headers);
        assert_eq!(headers[TRACEPARENT], own);
        assert!(!headers.contains_key(TRACESTATE));
    }

    #[test]
    fn requests_are_counted_and_recorded_if_somebody_exports() {
        let (telemetry, grants) = (Telemetry::default(), grants());
        let report = crate::host::grants::GuestReport {
            series: telemetry.worker("/w"),
            log_level: tracing::level_filters::LevelFilter::TRACE,
            log_rate: 0,
            rate: Default::default(),
        };
        assert!(grants.report.set(report).is_ok());
        drop(begin(&grants, &mut HeaderMap::new()));
        assert!(telemetry.spans().is_empty());
        telemetry.spans().enable(|| {});
        let answered = http::Response::builder().status(503).body(()).unwrap();
        let _ = begin(&grants, &mut HeaderMap::new()).end_with(Ok(answered));
        let [span] = <[Span; 1]>::try_from(telemetry.spans().take(9)).unwrap();
        assert_eq!(span.parent, Some(trace().context.span_id()));
        assert_eq!((span.name.as_str(), span.failed), ("GET", true));
        let attribute = |name| {
            let mut all = span.attributes.iter();
            all.find(|(other, _)| *other == name)
                .map(|(_, value)| value.clone())
        };
        assert_eq!(
            attribute("server.address"),
            Some(Value::Text("api.example".into()))
        );
        assert_eq!(attribute("server.port"), Some(Value::Integer(443)));
        assert_eq!(
            attribute("http.response.status_code"),
            Some(Value::Integer(503))
        );
        assert!(!format!("{span:?}").contains("secret"));
    }
}
