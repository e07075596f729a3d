//! A collector: it takes OTLP over HTTP and decodes what arrives.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{KeyValue, any_value},
    logs::v1::LogRecord,
    metrics::v1::{metric::Data, number_data_point},
    trace::v1::Span,
};
use prost::Message;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// No test waits longer for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How a collector answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With this status.
    Status(u16),
    /// It closes the connection.
    Away,
}

/// What has arrived.
#[derive(Default)]
pub struct Received {
    /// The headers of all requests that were answered with 200.
    pub headers: Vec<BTreeMap<String, String>>,
    /// Spans, with the attributes of their resource.
    pub spans: Vec<(Attributes, Span)>,
    pub logs: Vec<(Attributes, LogRecord)>,
    pub metrics: Vec<ExportMetricsServiceRequest>,
    /// All requests, whatever the answer.
    pub requests: usize,
}

/// Attributes by name. Numbers are shown as text.
pub type Attributes = BTreeMap<String, String>;

pub fn attributes(list: &[KeyValue]) -> Attributes {
    let value = |pair: &KeyValue| match pair.value.as_ref().and_then(|v| v.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    list.iter()
        .map(|pair| (pair.key.clone(), value(pair)))
        .collect()
}

/// A series as the text format writes it, without the types of metrics.
type Series = BTreeMap<String, f64>;

impl Received {
    /// The spans of a service.
    pub fn spans_of(&self, service: &str) -> Vec<&Span> {
        let spans = self.spans.iter();
        spans
            .filter(|(resource, _)| resource["service.name"] == service)
            .map(|(_, span)| span)
            .collect()
    }

    /// The series that arrived last, as `/metrics` names them.
    pub fn series(&self) -> Series {
        let mut series = Series::new();
        let Some(last) = self.metrics.last() else {
            return series;
        };
        let metrics = &last.resource_metrics[0].scope_metrics[0].metrics;
        for metric in metrics {
            let (name, labels) = (
                &metric.name,
                |list: &[KeyValue], more: &[(&str, String)]| {
                    let labels = list.iter().map(|pair| {
                        let all = attributes(std::slice::from_ref(pair));
                        format!("{}=\"{}\"", pair.key, all[&pair.key])
                    });
                    let more = more
                        .iter()
                        .map(|(name, value)| format!("{name}=\"{value}\""));
                    let all: Vec<_> = labels.chain(more).collect();
                    match all.is_empty() {
                        true => String::new(),
                        false => format!("{{{}}}", all.join(",")),
                    }
                },
            );
            let points = match metric.data.as_ref().unwrap() {
                Data::Gauge(gauge) => &gauge.data_points,
                Data::Sum(sum) => &sum.data_points,
                Data::Histogram(histogram) => {
                    for point in &histogram.data_points {
                        let bounds = point.explicit_bounds.iter().map(f64::to_string);
                        let bounds = bounds.chain(["+Inf".to_owned()]);
                        let mut count = 0;
                        for (bound, bucket) in bounds.zip(&point.bucket_counts) {
                            count += bucket;
                            let labels = labels(&point.attributes, &[("le", bound)]);
                            series.insert(format!("{name}_bucket{labels}"), count as f64);
                        }
                        let labels = labels(&point.attributes, &[]);
                        series.insert(format!("{name}_sum{labels}"), point.sum.unwrap());
                        series.insert(format!("{name}_count{labels}"), point.count as f64);
                    }
                    continue;
                }
                other => panic!("{other:?}"),
            };
            for point in points {
                let Some(number_data_point::Value::AsDouble(value)) = point.value else {
                    panic!("{point:?}")
                };
                let labels = labels(&point.attributes, &[]);
                series.insert(format!("{name}{labels}"), value);
            }
        }
        series
    }
}

struct ReceiverState {
    received: Mutex<Received>,
    changed: Condvar,
    answer: Mutex<Answer>,
}

pub struct Receiver {
    state: Arc<ReceiverState>,
    pub url: String,
}

impl Receiver {
    pub fn start() -> Self {
        Self::listen(None)
    }

    /// A collector that speaks TLS.
    pub fn with_tls(config: ServerConfig) -> Self {
        Self::listen(Some(Arc::new(config)))
    }

    fn listen(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(ReceiverState {
            received: Mutex::default(),
            changed: Condvar::new(),
            answer: Mutex::new(Answer::Status(200)),
        });
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (state, tls) = (shared.clone(), tls.clone());
                thread::spawn(move || {
                    let stream = stream?;
                    match tls {
                        None => state.serve(&stream, &stream),
                        Some(config) => {
                            let connection = ServerConnection::new(config).unwrap();
                            let stream = Mutex::new(StreamOwned::new(connection, stream));
                            state.serve(Locked(&stream), Locked(&stream))
                        }
                    }
                });
            }
        });
        Self {
            state,
            url: format!("{scheme}://{address}"),
        }
    }

    pub fn answers(&self, answer: Answer) {
        *self.state.answer.lock().unwrap() = answer;
    }

    pub fn received(&self) -> MutexGuard<'_, Received> {
        self.state.received.lock().unwrap()
    }

    /// Waits for something to arrive.
    pub fn wait<T>(&self, what: &str, find: impl Fn(&Received) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        let mut received = self.received();
        loop {
            if let Some(found) = find(&received) {
                return found;
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what} did not arrive");
            (received, _) = self.state.changed.wait_timeout(received, left).unwrap();
        }
    }
}

/// Both directions of a stream.
struct Locked<'a, S>(&'a Mutex<S>);

impl<S: Read> Read for Locked<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().read(buffer)
    }
}

impl<S: Write> Write for Locked<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.lock().unwrap().flush()
    }
}

impl ReceiverState {
    /// Answers the requests of a connection.
    fn serve(&self, read: impl Read, mut write: impl Write) -> std::io::Result<()> {
        let mut read = BufReader::new(read);
        loop {
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                if read.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                match line.trim_end() {
                    "" => break,
                    line => lines.push(line.to_owned()),
                }
            }
            let headers: BTreeMap<String, String> = lines[1..]
                .iter()
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect();
            let mut body = vec![0; headers["content-length"].parse().unwrap()];
            read.read_exact(&mut body)?;
            let answer = *self.answer.lock().unwrap();
            let mut received = self.received.lock().unwrap();
            received.requests += 1;
            if answer == Answer::Status(200) {
                let path = lines[0].split(' ').nth(1).unwrap().to_owned();
                take(&mut received, &path, headers, &body);
            }
            self.changed.notify_all();
            drop(received);
            match answer {
                Answer::Away => return Ok(()),
                Answer::Status(status) => {
                    write!(write, "HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n")?;
                    write.flush()?;
                }
            }
        }
    }
}

fn take(received: &mut Received, path: &str, headers: BTreeMap<String, String>, body: &[u8]) {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let mut plain = Vec::new();
    match headers.get("content-encoding").map(String::as_str) {
        Some("gzip") => {
            let mut decoder = flate2::read::GzDecoder::new(body);
            decoder.read_to_end(&mut plain).unwrap();
        }
        other => {
            assert_eq!(other, None);
            plain.extend_from_slice(body);
        }
    }
    let body = plain.as_slice();
    match path {
        "/v1/traces" => {
            let request = ExportTraceServiceRequest::decode(body).unwrap();
            for resource in request.resource_spans {
                let of = attributes(&resource.resource.unwrap().attributes);
                let spans = resource
                    .scope_spans
                    .into_iter()
                    .flat_map(|scope| scope.spans);
                received.spans.extend(spans.map(|span| (of.clone(), span)));
            }
        }
        "/v1/logs" => {
            let request = ExportLogsServiceRequest::decode(body).unwrap();
            for resource in request.resource_logs {
                let of = attributes(&resource.resource.unwrap().attributes);
                let scopes = resource.scope_logs.into_iter();
                let records = scopes.flat_map(|scope| scope.log_records);
                let records = records.map(|record| (of.clone(), record));
                received.logs.extend(records);
            }
        }
        "/v1/metrics" => {
            let request = ExportMetricsServiceRequest::decode(body).unwrap();
            received.metrics.push(request);
        }
        other => panic!("{other}"),
    }
    received.headers.push(headers);
}

/// Closes a client's direction and reads the rest.
pub fn exchange(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let _ = stream.shutdown(Shutdown::Both);
    text
}
