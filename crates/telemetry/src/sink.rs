//! Families of metrics, independent of the format in which they are passed on.

/// What the values of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// A number that only grows. Its name ends with `_total`.
    Counter,
    /// A number that goes up and down.
    Gauge,
    /// Counts of values by size.
    Histogram,
}

/// Metrics with the same name.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// The name, with the unit.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// What its values are.
    pub kind: MetricKind,
}

/// Labels and their values.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

/// Takes metrics in one format. The values of a family follow its beginning.
pub trait Sink {
    /// Begins a family.
    fn family(&mut self, family: Family);

    /// The value of a counter or a gauge.
    fn number(&mut self, labels: Labels<'_>, value: f64);

    /// A histogram: counts of values up to each of `bounds` but larger than the one before, and as
    /// the last one of those without a bound.
    fn histogram(&mut self, labels: Labels<'_>, bounds: &[f64], buckets: &[u64], sum: f64);
}

/// Passes on a family with one value.
pub fn single(sink: &mut dyn Sink, family: Family, value: f64) {
    sink.family(family);
    sink.number(&[], value);
}

/// A counter.
#[must_use]
pub const fn counter(name: &'static str, help: &'static str) -> Family {
    Family {
        name,
        help,
        kind: MetricKind::Counter,
    }
}

/// A gauge.
#[must_use]
pub const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family {
        name,
        help,
        kind: MetricKind::Gauge,
    }
}

/// A histogram.
#[must_use]
pub const fn histogram(name: &'static str, help: &'static str) -> Family {
    Family {
        name,
        help,
        kind: MetricKind::Histogram,
    }
}
