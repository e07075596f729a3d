//! Spans.

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{self, ResourceSpans, ScopeSpans, Status, span::SpanKind as Kind, status},
};
use prost::Message;
use wws_telemetry::{Span, SpanKind};

use super::{Source, attributes, nanoseconds};

/// Flags of a span: those of its context, and whether its parent is in another process.
const SAMPLED: u32 = 1;
const HAS_IS_REMOTE: u32 = 1 << 8;
const IS_REMOTE: u32 = 1 << 9;

/// The request that exports spans.
pub(crate) fn spans(source: &Source, spans: Vec<Span>) -> Vec<u8> {
    let scope_spans = ScopeSpans {
        scope: source.scope(),
        spans: spans.into_iter().map(span).collect(),
        ..ScopeSpans::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: source.resource(),
            scope_spans: vec![scope_spans],
            ..ResourceSpans::default()
        }],
    }
    .encode_to_vec()
}

fn span(span: Span) -> v1::Span {
    let kind = match span.kind {
        SpanKind::Server => Kind::Server,
        SpanKind::Internal => Kind::Internal,
        SpanKind::Client => Kind::Client,
    };
    // The parent of a server's span is the caller's.
    let remote = match (span.kind, span.parent) {
        (SpanKind::Server, Some(_)) => HAS_IS_REMOTE | IS_REMOTE,
        _ => HAS_IS_REMOTE,
    };
    let sampled = match span.context.is_sampled() {
        true => SAMPLED,
        false => 0,
    };
    let start = nanoseconds(span.start);
    let time = u64::try_from(span.time.as_nanos()).unwrap_or(u64::MAX);
    v1::Span {
        trace_id: span.context.trace_id().to_vec(),
        span_id: span.context.span_id().to_vec(),
        parent_span_id: span.parent.map(|id| id.to_vec()).unwrap_or_default(),
        flags: remote | sampled,
        name: span.name,
        kind: kind.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start.saturating_add(time),
        attributes: attributes(span.attributes),
        status: span.failed.then(|| Status {
            code: status::StatusCode::Error.into(),
            ..Status::default()
        }),
        ..v1::Span::default()
    }
}
