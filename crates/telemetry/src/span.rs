//! Spans, log records, and their attributes.

use std::time::{Duration, SystemTime};

use crate::queue::Queued;
use crate::trace::TraceContext;

/// What a span is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// A request that the server answers.
    Server,
    /// A call of a worker.
    Internal,
    /// A request that a worker sends.
    Client,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A number.
    Number(f64),
    /// True or false.
    Flag(bool),
}

/// Names and values.
pub type Attributes = Vec<(&'static str, Value)>;

/// Something that took time, as a part of a trace.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its trace and its id.
    pub context: TraceContext,
    /// The span that it is a part of.
    pub parent: Option<[u8; 8]>,
    /// A name of few values.
    pub name: String,
    /// What it is about.
    pub kind: SpanKind,
    /// When it began.
    pub start: SystemTime,
    /// How long it took.
    pub time: Duration,
    /// What is known of it, by the standard's names.
    pub attributes: Attributes,
    /// Whether it failed.
    pub failed: bool,
}

/// How important a line of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The least important.
    Trace,
    /// For who looks for a defect.
    Debug,
    /// What is usual.
    Info,
    /// What may become a failure.
    Warn,
    /// A failure.
    Error,
}

/// A line of the log, for export.
#[derive(Clone, Debug)]
pub struct LogRecord {
    /// When it was written.
    pub time: SystemTime,
    /// How important it is.
    pub severity: Severity,
    /// Its text.
    pub text: String,
    /// The other fields.
    pub attributes: Attributes,
    /// The trace and the span of the request that it belongs to.
    pub trace: Option<([u8; 16], [u8; 8])>,
}

/// The memory of attributes, in bytes.
fn attribute_bytes(attributes: &Attributes) -> usize {
    let one = size_of::<(&'static str, Value)>();
    let texts = attributes.iter().map(|(_, value)| match value {
        Value::Text(text) => text.len(),
        Value::Integer(_) | Value::Number(_) | Value::Flag(_) => 0,
    });
    attributes.len() * one + texts.sum::<usize>()
}

impl Queued for Span {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.name.len() + attribute_bytes(&self.attributes)
    }
}

impl Queued for LogRecord {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.text.len() + attribute_bytes(&self.attributes)
    }
}
