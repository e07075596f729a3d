//! What telemetry is of: the process, as attributes.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceResponse, common::v1::InstrumentationScope,
    resource::v1::Resource,
};
use prost::Message;

use super::text;

/// The name of the service if the variables set none.
const SERVICE: &str = "wws";

/// The process that telemetry comes from.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    resource: Resource,
    scope: InstrumentationScope,
}

impl Source {
    /// A process of a program with this version. `set`: attributes, which take precedence.
    pub(crate) fn new(version: &str, set: &BTreeMap<String, String>) -> Self {
        let mut attributes = BTreeMap::from([
            ("service.name".to_owned(), SERVICE.to_owned()),
            ("service.instance.id".to_owned(), instance_id()),
            ("telemetry.sdk.name".to_owned(), "wws".to_owned()),
            ("telemetry.sdk.language".to_owned(), "rust".to_owned()),
            ("telemetry.sdk.version".to_owned(), version.to_owned()),
        ]);
        attributes.extend(set.clone());
        let attributes = attributes.into_iter();
        Self {
            resource: Resource {
                attributes: attributes.map(|(name, value)| text(&name, value)).collect(),
                ..Resource::default()
            },
            scope: InstrumentationScope {
                name: "wws".to_owned(),
                version: version.to_owned(),
                ..InstrumentationScope::default()
            },
        }
    }

    pub(super) fn resource(&self) -> Option<Resource> {
        Some(self.resource.clone())
    }

    pub(super) fn scope(&self) -> Option<InstrumentationScope> {
        Some(self.scope.clone())
    }
}

/// A random UUID: counters of several processes of a service must not be taken for one's.
fn instance_id() -> String {
    let mut random = [0; 16];
    if getrandom::fill(&mut random).is_err() {
        // Less unique, which is harmless.
        random[..4].copy_from_slice(&std::process::id().to_le_bytes());
    }
    let bits = u128::from_be_bytes(random);
    // Version 4, variant 1 (RFC 9562, 5.4).
    let bits = bits & !(0xf << 76) & !(0b11 << 62) | 4 << 76 | 0b10 << 62;
    let digits = format!("{bits:032x}");
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32];
    parts.map(|part| digits[part].to_owned()).join("-")
}

/// The number of items that a collector rejected, and why, according to its response. The messages
/// of all signals have the same encoding.
pub(crate) fn rejected(response: &[u8]) -> Option<(u64, String)> {
    let response = ExportTraceServiceResponse::decode(response).ok()?;
    let partial = response.partial_success?;
    let count = u64::try_from(partial.rejected_spans).unwrap_or(0);
    (count > 0).then_some((count, partial.error_message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::collector::logs::v1::{
        ExportLogsPartialSuccess, ExportLogsServiceResponse,
    };

    #[test]
    fn an_instance_has_a_random_uuid() {
        let id = instance_id();
        assert_ne!(id, instance_id());
        let bytes = id.as_bytes();
        assert_eq!((id.len(), bytes[14]), (36, b'4'), "{id}");
        assert!(b"89ab".contains(&bytes[19]), "{id}");
        assert!(id.match_indices('-').map(|(at, _)| at).eq([8, 13, 18, 23]));
    }

    #[test]
    fn variables_take_precedence() {
        let set = BTreeMap::from([("service.name".to_owned(), "shop".to_owned())]);
        let source = Source::new("1.2.3", &set);
        let names: Vec<_> = source.resource.attributes.iter().collect();
        let of = |name: &str| names.iter().filter(|pair| pair.key == name).count();
        assert_eq!((of("service.name"), of("service.instance.id")), (1, 1));
        assert!(names.contains(&&text("service.name", "shop")));
    }

    #[test]
    fn reads_partial_success_of_each_signal() {
        let response = |rejected_log_records| {
            ExportLogsServiceResponse {
                partial_success: Some(ExportLogsPartialSuccess {
                    rejected_log_records,
                    error_message: "too old".into(),
                }),
            }
            .encode_to_vec()
        };
        assert_eq!(rejected(&response(3)), Some((3, "too old".into())));
        assert_eq!(rejected(&response(0)), None);
        assert_eq!(rejected(b""), None);
        assert_eq!(rejected(b"{}"), None);
    }
}
