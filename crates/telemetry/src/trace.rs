//! Trace contexts of W3C: the header `traceparent`, and ids of spans.

use std::{cell::Cell, fmt, hash::BuildHasher};

/// The header with a trace context.
pub const TRACEPARENT: &str = "traceparent";

/// The header with what vendors add to it.
pub const TRACESTATE: &str = "tracestate";

/// The flag of a trace that is recorded.
const SAMPLED: u8 = 1;

/// The length of a header in version 00.
const LENGTH: usize = 55;

/// A span and the trace that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: [u8; 16],
    span: [u8; 8],
    flags: u8,
}

impl TraceContext {
    /// A new trace.
    #[must_use]
    pub fn root(sampled: bool) -> Self {
        let mut trace = [0; 16];
        trace[..8].copy_from_slice(&random());
        trace[8..].copy_from_slice(&random());
        Self {
            trace,
            span: random(),
            flags: u8::from(sampled),
        }
    }

    /// The context of a header `traceparent`; `None` if it is not valid.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let bytes = header.as_bytes();
        let (version, rest) = (bytes.get(..3)?, bytes.get(3..LENGTH)?);
        // Later versions may add parts, of which this one knows nothing; `ff` is none.
        match version {
            b"00-" if bytes.len() != LENGTH => return None,
            b"ff-" => return None,
            [high, low, b'-'] => {
                hex_digit(*high)?;
                hex_digit(*low)?;
                if bytes.get(LENGTH).is_some_and(|next| *next != b'-') {
                    return None;
                }
            }
            _ => return None,
        }
        let (trace, span, flags) = (&rest[..32], &rest[33..49], &rest[50..52]);
        if rest[32] != b'-' || rest[49] != b'-' {
            return None;
        }
        let (trace, span) = (hex::<16>(trace)?, hex::<8>(span)?);
        let [flags] = hex::<1>(flags)?;
        // Flags of later versions are not passed on.
        let flags = flags & SAMPLED;
        (trace != [0; 16] && span != [0; 8]).then_some(Self { trace, span, flags })
    }

    /// A span below this one, in the same trace.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            span: random(),
            ..*self
        }
    }

    /// The same span, recorded or not.
    #[must_use]
    pub fn with_sampled(&self, sampled: bool) -> Self {
        Self {
            flags: self.flags & !SAMPLED | u8::from(sampled),
            ..*self
        }
    }

    /// Whether the trace is recorded.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The id of the trace.
    #[must_use]
    pub fn trace_id(&self) -> [u8; 16] {
        self.trace
    }

    /// The id of the span.
    #[must_use]
    pub fn span_id(&self) -> [u8; 8] {
        self.span
    }

    /// The header's value.
    #[must_use]
    pub fn header(&self) -> [u8; LENGTH] {
        let mut header = [b'-'; LENGTH];
        header[..2].copy_from_slice(b"00");
        write_hex(&mut header[3..35], &self.trace);
        write_hex(&mut header[36..52], &self.span);
        write_hex(&mut header[53..], &[self.flags]);
        header
    }

    /// The id of the trace, for logs.
    #[must_use]
    pub fn trace_hex(&self) -> Hex<16> {
        Hex(self.trace)
    }

    /// The id of the span, for logs.
    #[must_use]
    pub fn span_hex(&self) -> Hex<8> {
        Hex(self.span)
    }
}

/// Bytes that are shown in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hex<const N: usize>(pub [u8; N]);

impl<const N: usize> Hex<N> {
    /// The bytes of digits in lower case; `None` if these are others, or too few or many.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 2 * N)
            .then(|| hex(text.as_bytes()))?
            .map(Self)
    }
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for bytes in self.0.chunks(8) {
            let mut digits = [0; 16];
            let digits = &mut digits[..2 * bytes.len()];
            write_hex(digits, bytes);
            f.write_str(std::str::from_utf8(digits).map_err(|_| fmt::Error)?)?;
        }
        Ok(())
    }
}

/// The header's value.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.header()).map_err(|_| fmt::Error)?)
    }
}

/// Writes bytes in hexadecimal to twice as many.
fn write_hex(to: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in to.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// A digit in lower case, as the specification demands.
fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
    }
    Some(bytes)
}

/// Random bytes that are not all zero. Ids need to be unique, not secret.
fn random() -> [u8; 8] {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(seed());
    }
    // SplitMix64.
    let value = STATE.with(|state| {
        let next = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(next);
        let mixed = (next ^ next >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    });
    value.max(1).to_be_bytes()
}

/// A seed that differs for each thread and process.
fn seed() -> u64 {
    // The standard library takes its keys from the operating system.
    std::collections::hash_map::RandomState::new().hash_one(std::process::id())
}

/// A part of all traces: the same trace is in or out in every process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampler {
    /// None.
    Off,
    /// All.
    On,
    /// This part, from 0 to 1, by the trace's id.
    Ratio(f64),
    /// As the client decided; where it has not, as the other sampler says.
    Parent(RootSampler),
}

/// A sampler of traces that begin here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RootSampler {
    /// None.
    Off,
    /// All.
    On,
    /// This part, from 0 to 1.
    Ratio(f64),
}

/// The standard's.
impl Default for Sampler {
    fn default() -> Self {
        Self::Parent(RootSampler::On)
    }
}

impl Sampler {
    /// The sampler of `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`; the standard's default
    /// if they are empty. `None` if a name is unknown, or a ratio not from 0 to 1.
    #[must_use]
    pub fn of(name: &str, argument: &str) -> Option<Self> {
        let ratio = || -> Option<f64> {
            let ratio = match argument.trim() {
                "" => 1.0,
                text => text.parse().ok()?,
            };
            (0.0..=1.0).contains(&ratio).then_some(ratio)
        };
        Some(match name.trim() {
            "" | "parentbased_always_on" => Self::Parent(RootSampler::On),
            "parentbased_always_off" => Self::Parent(RootSampler::Off),
            "parentbased_traceidratio" => Self::Parent(RootSampler::Ratio(ratio()?)),
            "always_on" => Self::On,
            "always_off" => Self::Off,
            "traceidratio" => Self::Ratio(ratio()?),
            _ => return None,
        })
    }

    /// The context of a request that came with `parent`, or with none.
    #[must_use]
    pub fn begin(self, parent: Option<TraceContext>) -> TraceContext {
        let context = match parent {
            Some(parent) => parent.child(),
            None => TraceContext::root(false),
        };
        let sampled = match (self, parent) {
            (Self::Off, _) => false,
            (Self::On, _) => true,
            (Self::Ratio(ratio), _) => is_in(ratio, &context),
            (Self::Parent(_), Some(parent)) => parent.is_sampled(),
            (Self::Parent(RootSampler::Off), None) => false,
            (Self::Parent(RootSampler::On), None) => true,
            (Self::Parent(RootSampler::Ratio(ratio)), None) => is_in(ratio, &context),
        };
        context.with_sampled(sampled)
    }
}

/// Whether a trace is among a part of all, by the last 56 bits of its id, which W3C wants random.
fn is_in(ratio: f64, context: &TraceContext) -> bool {
    let mut low = [0; 8];
    low[1..].copy_from_slice(&context.trace[9..]);
    (u64::from_be_bytes(low) as f64) < ratio * (1_u64 << 56) as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn reads_and_writes_the_header() {
        let context = TraceContext::parse(HEADER).unwrap();
        assert!(context.is_sampled());
        assert_eq!(context.to_string(), HEADER);
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(context.trace_hex().to_string(), trace);
        assert_eq!(Hex::parse(trace), Some(context.trace_hex()));
        assert_eq!(Hex::<8>::parse(trace), None);
        assert_eq!(context.span_hex().to_string(), "00f067aa0ba902b7");
        let child = context.child();
        assert_eq!(child.trace_id(), context.trace_id());
        assert_ne!(child.span_id(), context.span_id());
        let later = format!("01{}-more", &HEADER[2..]);
        assert_eq!(TraceContext::parse(&later), Some(context));
    }

    #[test]
    fn rejects_invalid_contexts() {
        let upper = HEADER.to_uppercase();
        let longer = format!("{HEADER}-x");
        for bad in [
            "",
            "00",
            &HEADER[..54],
            &longer,
            &upper,
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
            "0ö-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn ids_differ_among_threads() {
        let threads = (0..4).map(|_| {
            std::thread::spawn(|| {
                let roots = (0..100).map(|_| TraceContext::root(true));
                roots
                    .map(|root| (root.trace, root.span))
                    .collect::<Vec<_>>()
            })
        });
        let all: Vec<_> = threads
            .collect::<Vec<_>>()
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect();
        let unique: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(unique.len(), 400);
    }

    #[test]
    fn samplers_follow_the_standard_s_names() {
        let parent = TraceContext::parse(HEADER).unwrap();
        let unsampled = parent.with_sampled(false);
        let sampled = |name, argument, parent| {
            Sampler::of(name, argument)
                .unwrap()
                .begin(parent)
                .is_sampled()
        };
        assert!(sampled("", "", None) && sampled("", "", Some(parent)));
        assert!(!sampled("", "", Some(unsampled)));
        assert!(!sampled("always_off", "", Some(parent)));
        assert!(sampled("always_on", "", Some(unsampled)));
        assert!(sampled("parentbased_always_off", "", Some(parent)));
        assert!(!sampled("parentbased_always_off", "", None));
        assert!(sampled("parentbased_traceidratio", "0", Some(parent)));
        let count = (0..10_000)
            .filter(|_| sampled("parentbased_traceidratio", "0.1", None))
            .count();
        assert!((800..1200).contains(&count), "{count}");
        for (name, argument) in [("all", ""), ("traceidratio", "2"), ("traceidratio", "x")] {
            assert_eq!(Sampler::of(name, argument), None, "{name} {argument}");
        }
    }
}
