//! Export of traces, metrics and logs by OTLP over HTTP, as the standard variables (`OTEL_*`) say.
//!
//! [`ExportSettings`] reads the variables; an [`Exporter`] sends what
//! [`Telemetry`](wws_telemetry::Telemetry) holds. Requests are never delayed: what they record
//! waits in bounded queues, and is dropped and counted when these are full. While nothing is
//! recorded, no timer runs.
//!
//! The messages are the generated types of `opentelemetry-proto`; they are sent by the HTTP client
//! of `wws-outbound`, so that there is one TLS implementation and one resolver.

#![forbid(unsafe_code)]

mod encode;
mod exporter;
mod sender;
mod settings;

pub use exporter::{ExportError, ExportOptions, Exporter, RunningExporter};
pub use settings::{Endpoint, ExportSettings, SettingProblem, Signal};
