//! The message of OTLP (`ExportTraceServiceRequest`) as protobuf. Numbers are those of its fields.

use std::time::SystemTime;

use super::EndedSpan;

const SERVER: u64 = 2;
const INTERNAL: u64 = 1;
const ERROR: u64 = 2;

/// Appends fields of a message.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn fixed(&mut self, field: u64, value: u64) {
        self.varint(field << 3 | 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u64, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }

    /// An attribute: a name, and a text as its value.
    fn attribute(&mut self, field: u64, name: &str, value: &str) {
        self.message(field, |pair| {
            pair.bytes(1, name.as_bytes());
            pair.message(2, |any| any.bytes(1, value.as_bytes()));
        });
    }
}

/// The request that exports spans.
pub(super) fn request(resource: &[(String, String)], spans: &[EndedSpan]) -> Vec<u8> {
    let mut request = Message::default();
    request.message(1, |of_resource| {
        of_resource.message(1, |attributes| {
            for (name, value) in resource {
                attributes.attribute(1, name, value);
            }
        });
        of_resource.message(2, |of_scope| {
            of_scope.message(1, |scope| scope.bytes(1, b"containerd-shim-wws-v1"));
            for span in spans {
                of_scope.message(2, |message| write_span(message, span));
            }
        });
    });
    request.0
}

fn write_span(message: &mut Message, span: &EndedSpan) {
    message.bytes(1, &span.trace);
    message.bytes(2, &span.id);
    if let Some(parent) = &span.parent {
        message.bytes(4, parent);
    }
    message.bytes(5, span.name.as_bytes());
    message.number(6, if span.is_server { SERVER } else { INTERNAL });
    message.fixed(7, nanoseconds(span.begin));
    message.fixed(8, nanoseconds(span.end));
    for (name, value) in &span.attributes {
        message.attribute(9, name, value);
    }
    if let Some(error) = &span.error {
        message.message(15, |status| {
            status.bytes(2, error.as_bytes());
            status.number(3, ERROR);
        });
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn writes_protobuf() {
        let begin = SystemTime::UNIX_EPOCH + Duration::from_nanos(0x0102);
        let span = EndedSpan {
            trace: [1; 16],
            id: [2; 8],
            parent: Some([3; 8]),
            name: "n",
            is_server: true,
            begin,
            end: begin,
            attributes: vec![("a", "b".repeat(130))],
            error: Some("e".into()),
        };
        let mut message = Message::default();
        write_span(&mut message, &span);
        let mut expected = vec![0x0a, 16];
        expected.extend([1; 16]);
        expected.extend([0x12, 8]);
        expected.extend([2; 8]);
        expected.extend([0x22, 8]);
        expected.extend([3; 8]);
        expected.extend([0x2a, 1, b'n', 0x30, 2]);
        expected.extend([0x39, 2, 1, 0, 0, 0, 0, 0, 0]);
        expected.extend([0x41, 2, 1, 0, 0, 0, 0, 0, 0]);
        // 139 bytes: a name of 3, and a value of 3 and 133.
        expected.extend([0x4a, 0x8b, 1, 0x0a, 1, b'a', 0x12, 0x85, 1, 0x0a, 0x82, 1]);
        expected.extend([b'b'; 130]);
        expected.extend([0x7a, 5, 0x12, 1, b'e', 0x18, 2]);
        assert_eq!(message.0, expected);
    }
}
