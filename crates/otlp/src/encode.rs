//! The messages of OTLP.

mod logs;
mod metrics;
mod resource;
mod spans;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use wws_telemetry::{Attributes, Value};

pub(crate) use logs::logs;
pub(crate) use metrics::metrics;
pub(crate) use resource::{Source, rejected};
pub(crate) use spans::spans;

/// Nanoseconds since 1970.
fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn attribute(name: &str, value: any_value::Value) -> KeyValue {
    KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn text(name: &str, value: impl Into<String>) -> KeyValue {
    attribute(name, any_value::Value::StringValue(value.into()))
}

fn attributes(attributes: Attributes) -> Vec<KeyValue> {
    let all = attributes.into_iter();
    all.map(|(name, value)| {
        let value = match value {
            Value::Text(text) => any_value::Value::StringValue(text),
            Value::Integer(number) => any_value::Value::IntValue(number),
            Value::Number(number) => any_value::Value::DoubleValue(number),
            Value::Flag(flag) => any_value::Value::BoolValue(flag),
        };
        attribute(name, value)
    })
    .collect()
}
