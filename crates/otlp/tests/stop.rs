//! What is left when a server stops.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, SystemTime};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    time::timeout,
};
use wws_otlp::{ExportOptions, ExportSettings, Exporter};
use wws_telemetry::{LogRecord, Sampler, Severity, Span, SpanKind, Telemetry, TraceContext};

const PATIENCE: Duration = Duration::from_secs(60);

/// Answers one request on each connection. Returns the paths of `count` requests.
async fn paths(listener: TcpListener, count: usize) -> Vec<String> {
    let mut paths = Vec::new();
    while paths.len() < count {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let (mut lines, mut length) = (Vec::new(), 0);
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        stream.get_mut().write_all(answer).await.unwrap();
        paths.push(lines[0].split(' ').nth(1).unwrap().to_owned());
    }
    paths.sort();
    paths
}

fn exporter(url: &str) -> Exporter {
    let (settings, problems) = ExportSettings::from_env(|name| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(url),
        // Longer than the test.
        "OTEL_METRIC_EXPORT_INTERVAL" | "OTEL_BSP_SCHEDULE_DELAY" | "OTEL_BLRP_SCHEDULE_DELAY" => {
            Some("86400000")
        }
        "OTEL_EXPORTER_OTLP_TIMEOUT" => Some("86400000"),
        _ => None,
    });
    assert_eq!(problems, []);
    let exporter = Exporter::new(settings.unwrap(), &ExportOptions::default()).unwrap();
    assert_eq!(exporter.sampler(), Some(Sampler::default()));
    exporter
}

async fn until_enabled(telemetry: &Telemetry) {
    while !(telemetry.spans().is_enabled() && telemetry.logs().is_enabled()) {
        tokio::task::yield_now().await;
    }
}

fn record(telemetry: &Telemetry) {
    telemetry.spans().push(Span {
        context: TraceContext::root(true),
        parent: None,
        name: "GET".into(),
        kind: SpanKind::Server,
        start: SystemTime::now(),
        time: Duration::ZERO,
        attributes: vec![],
        failed: false,
    });
    telemetry.logs().push(LogRecord {
        time: SystemTime::now(),
        severity: Severity::Info,
        text: "last words".into(),
        attributes: vec![],
        trace: None,
    });
}

#[tokio::test]
async fn exports_the_rest_without_waiting() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let telemetry = Telemetry::default();
    let counted = telemetry.clone();
    let running = exporter(&url).start(&telemetry, move |sink| counted.collect(sink));
    until_enabled(&telemetry).await;
    record(&telemetry);
    let (paths, ()) = tokio::join!(paths(listener, 3), running.stop(PATIENCE));
    assert_eq!(paths, ["/v1/logs", "/v1/metrics", "/v1/traces"]);
    assert!(telemetry.spans().is_empty() && telemetry.logs().is_empty());
}

#[tokio::test]
async fn silent_collector_does_not_delay_the_exit() {
    // Connections wait in its backlog.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let telemetry = Telemetry::default();
    let running = exporter(&url).start(&telemetry, |_| {});
    until_enabled(&telemetry).await;
    record(&telemetry);
    let stopped = running.stop(Duration::from_millis(50));
    timeout(PATIENCE, stopped).await.unwrap();
    // It was asked, and has not answered.
    timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
}
