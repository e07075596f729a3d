//! Metrics.

use std::time::SystemTime;

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::KeyValue,
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
    },
};
use prost::Message;
use wws_telemetry::{Family, Labels, MetricKind, Sink};

use super::{Source, nanoseconds, text};

/// The request that exports metrics, which `collect` passes on. `start`: when the counters began.
pub(crate) fn metrics(
    source: &Source,
    start: SystemTime,
    collect: impl FnOnce(&mut dyn Sink),
) -> Vec<u8> {
    let mut sink = MetricsSink {
        start: nanoseconds(start),
        now: nanoseconds(SystemTime::now()),
        metrics: Vec::new(),
    };
    collect(&mut sink);
    // A family without values is none.
    sink.metrics.retain(|metric| match &metric.data {
        Some(Data::Gauge(gauge)) => !gauge.data_points.is_empty(),
        Some(Data::Sum(sum)) => !sum.data_points.is_empty(),
        Some(Data::Histogram(histogram)) => !histogram.data_points.is_empty(),
        _ => false,
    });
    let scope_metrics = ScopeMetrics {
        scope: source.scope(),
        metrics: sink.metrics,
        ..ScopeMetrics::default()
    };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: source.resource(),
            scope_metrics: vec![scope_metrics],
            ..ResourceMetrics::default()
        }],
    }
    .encode_to_vec()
}

/// Takes metrics as messages. Their names are those of the text formats.
struct MetricsSink {
    start: u64,
    now: u64,
    metrics: Vec<Metric>,
}

impl MetricsSink {
    fn data(&mut self) -> Option<&mut Data> {
        self.metrics.last_mut()?.data.as_mut()
    }
}

/// The unit that a name ends with.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name.rsplit('_').next() {
        Some("seconds") => "s",
        Some("bytes") => "By",
        _ => "",
    }
}

fn attributes(labels: Labels<'_>) -> Vec<KeyValue> {
    let labels = labels.iter();
    labels.map(|(name, value)| text(name, *value)).collect()
}

impl Sink for MetricsSink {
    fn family(&mut self, family: Family) {
        let cumulative = AggregationTemporality::Cumulative.into();
        let data = match family.kind {
            MetricKind::Counter => Data::Sum(Sum {
                aggregation_temporality: cumulative,
                is_monotonic: true,
                ..Sum::default()
            }),
            MetricKind::Gauge => Data::Gauge(Gauge::default()),
            MetricKind::Histogram => Data::Histogram(Histogram {
                aggregation_temporality: cumulative,
                ..Histogram::default()
            }),
        };
        self.metrics.push(Metric {
            name: family.name.to_owned(),
            description: family.help.to_owned(),
            unit: unit(family.name).to_owned(),
            data: Some(data),
            ..Metric::default()
        });
    }

    fn number(&mut self, labels: Labels<'_>, value: f64) {
        let (start, now) = (self.start, self.now);
        let mut point = NumberDataPoint {
            attributes: attributes(labels),
            time_unix_nano: now,
            value: Some(number_data_point::Value::AsDouble(value)),
            ..NumberDataPoint::default()
        };
        match self.data() {
            Some(Data::Gauge(gauge)) => gauge.data_points.push(point),
            Some(Data::Sum(sum)) => {
                point.start_time_unix_nano = start;
                sum.data_points.push(point);
            }
            _ => {}
        }
    }

    fn histogram(&mut self, labels: Labels<'_>, bounds: &[f64], buckets: &[u64], sum: f64) {
        let point = HistogramDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: self.start,
            time_unix_nano: self.now,
            count: buckets.iter().sum(),
            sum: Some(sum),
            bucket_counts: buckets.to_vec(),
            explicit_bounds: bounds.to_vec(),
            ..HistogramDataPoint::default()
        };
        if let Some(Data::Histogram(histogram)) = self.data() {
            histogram.data_points.push(point);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{
        collections::BTreeMap,
        time::{Duration, UNIX_EPOCH},
    };

    use wws_telemetry::{counter, gauge, histogram};

    fn collect(sink: &mut dyn Sink) {
        sink.family(counter("a_bytes_total", "As."));
        sink.number(&[("worker", "/x")], 3.0);
        sink.family(gauge("none", "None."));
        sink.family(gauge("b", "Bs."));
        sink.number(&[], 0.25);
        sink.family(histogram("c_seconds", "Cs."));
        sink.histogram(&[], &[0.1, 1.0], &[1, 0, 2], 7.5);
    }

    #[test]
    fn each_kind_has_its_message() {
        let start = UNIX_EPOCH + Duration::from_secs(5);
        let source = Source::new("1", &BTreeMap::new());
        let bytes = metrics(&source, start, collect);
        let request = ExportMetricsServiceRequest::decode(bytes.as_slice()).unwrap();
        let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
        let [a, b, c] = metrics.as_slice() else {
            unreachable!("{metrics:?}")
        };
        assert_eq!((a.name.as_str(), a.unit.as_str()), ("a_bytes_total", "By"));
        let Some(Data::Sum(sum)) = &a.data else {
            unreachable!("{a:?}")
        };
        assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
        let point = &sum.data_points[0];
        assert_eq!(point.start_time_unix_nano, 5_000_000_000);
        assert!(point.time_unix_nano > point.start_time_unix_nano);
        assert_eq!(point.attributes, [text("worker", "/x")]);
        assert_eq!(point.value, Some(number_data_point::Value::AsDouble(3.0)));
        assert!(matches!(&b.data, Some(Data::Gauge(gauge)) if gauge.data_points.len() == 1));
        let Some(Data::Histogram(histogram)) = &c.data else {
            unreachable!("{c:?}")
        };
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.sum), (3, Some(7.5)));
        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
        assert_eq!(c.unit, "s");
    }
}
