//! Lines of the log.

use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, any_value},
    logs::v1::{self, ResourceLogs, ScopeLogs, SeverityNumber},
};
use prost::Message;
use wws_telemetry::{LogRecord, Severity};

use super::{Source, attributes, nanoseconds};

/// The request that exports lines of the log.
pub(crate) fn logs(source: &Source, records: Vec<LogRecord>) -> Vec<u8> {
    let scope_logs = ScopeLogs {
        scope: source.scope(),
        log_records: records.into_iter().map(record).collect(),
        ..ScopeLogs::default()
    };
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: source.resource(),
            scope_logs: vec![scope_logs],
            ..ResourceLogs::default()
        }],
    }
    .encode_to_vec()
}

fn record(record: LogRecord) -> v1::LogRecord {
    let (number, name) = match record.severity {
        Severity::Trace => (SeverityNumber::Trace, "TRACE"),
        Severity::Debug => (SeverityNumber::Debug, "DEBUG"),
        Severity::Info => (SeverityNumber::Info, "INFO"),
        Severity::Warn => (SeverityNumber::Warn, "WARN"),
        Severity::Error => (SeverityNumber::Error, "ERROR"),
    };
    let time = nanoseconds(record.time);
    let (trace, span) = match record.trace {
        Some((trace, span)) => (trace.to_vec(), span.to_vec()),
        None => (Vec::new(), Vec::new()),
    };
    v1::LogRecord {
        time_unix_nano: time,
        observed_time_unix_nano: time,
        severity_number: number.into(),
        severity_text: name.to_owned(),
        body: Some(AnyValue {
            value: Some(any_value::Value::StringValue(record.text)),
        }),
        attributes: attributes(record.attributes),
        trace_id: trace,
        span_id: span,
        ..v1::LogRecord::default()
    }
}
