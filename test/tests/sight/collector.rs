//! An OpenTelemetry collector receives traces, metrics and logs of containers.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;
use ureq::http::Request;
use wws_test::container::{Container, Run};
use wws_test::containerd::{Containerd, Version};
use wws_test::image::Image;
use wws_test::{http, port, wait, workspace};

const LIMIT: Duration = Duration::from_secs(60);

/// The trace and the span of a client.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// A collector that writes what it receives to a file, one message a line.
struct Collector {
    child: Child,
    directory: TempDir,
    url: String,
}

impl Drop for Collector {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The members of an array below `value`.
fn all<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}

/// An attribute as text.
fn attribute(of: &Value, name: &str) -> Option<String> {
    let found = all(of, "attributes").find(|one| one["key"] == name)?;
    let value = found["value"].as_object()?.values().next()?;
    Some(
        value
            .as_str()
            .map_or_else(|| value.to_string(), ToOwned::to_owned),
    )
}

/// What was received of one kind, with the name of its service.
fn received(lines: &[Value], of: [&str; 3]) -> Vec<(String, Value)> {
    let [resources, scopes, items] = of;
    let mut found = Vec::new();
    for resource in lines.iter().flat_map(|line| all(line, resources)) {
        let service = attribute(&resource["resource"], "service.name").unwrap_or_default();
        for scope in all(resource, scopes) {
            found.extend(all(scope, items).map(|item| (service.clone(), item.clone())));
        }
    }
    found
}

impl Collector {
    fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let port = port::free()?;
        let config = format!(
            "receivers: {{ otlp: {{ protocols: {{ http: {{ endpoint: '127.0.0.1:{port}' }} }} }} \
             }}\n\
             exporters: {{ lines: {{}} }}\n\
             service:\n\
             \x20 telemetry: {{ metrics: {{ level: none }} }}\n\
             \x20 pipelines:\n\
             \x20   traces: {{ receivers: [otlp], exporters: [lines] }}\n\
             \x20   metrics: {{ receivers: [otlp], exporters: [lines] }}\n\
             \x20   logs: {{ receivers: [otlp], exporters: [lines] }}\n"
        );
        let path = directory.path().join("config.yaml");
        fs::write(&path, config)?;
        let child = Command::new(program()?)
            .arg("--config")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(File::create(directory.path().join("lines"))?)
            .stderr(File::create(directory.path().join("log"))?)
            .spawn()
            .context("start the collector")?;
        let mut collector = Self {
            child,
            directory,
            url: format!("http://127.0.0.1:{port}"),
        };
        wait::until("the collector listens", LIMIT, || {
            let ended = collector.child.try_wait()?;
            anyhow::ensure!(ended.is_none(), "it has ended: {}", collector.log());
            Ok(http::get(port, "/").ok())
        })?;
        Ok(collector)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn lines(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.directory.path().join("lines"))?;
        // The last line may not be complete.
        let lines = text.lines().map(serde_json::from_str::<Value>);
        Ok(lines.filter_map(Result::ok).collect())
    }

    fn spans(&self) -> Result<Vec<(String, Value)>> {
        let of = ["resourceSpans", "scopeSpans", "spans"];
        Ok(received(&self.lines()?, of))
    }

    /// Variables of a service that exports to it soon.
    fn variables(&self, service: &str) -> [(&'static str, String); 5] {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", self.url.clone()),
            ("OTEL_SERVICE_NAME", service.to_owned()),
            ("OTEL_BSP_SCHEDULE_DELAY", "100".into()),
            ("OTEL_BLRP_SCHEDULE_DELAY", "100".into()),
            ("OTEL_METRIC_EXPORT_INTERVAL", "500".into()),
        ]
    }
}

fn program() -> Result<PathBuf> {
    let program = workspace::root().join("target/tools/collector/otelcol");
    anyhow::ensure!(program.exists(), "run `scripts/sight.sh` first");
    Ok(program)
}

fn exporting<'c>(run: Run<'c>, collector: &Collector, service: &str) -> Run<'c> {
    let variables = collector.variables(service);
    variables
        .iter()
        .fold(run, |run, (name, value)| run.env(name, value))
}

#[test]
#[ignore = "make test-sight"]
fn one_trace_leads_through_two_containers() -> Result<()> {
    let collector = Collector::start()?;
    let containerd = Containerd::start_sharing_code(Version::MAIN)?;
    let back = Image::workers("back")
        .file(
            "back.js",
            "export default { fetch: () => new Response('back') };",
        )?
        .import(&containerd)?;
    let back = exporting(
        Run::workers(&containerd, &back, "back")?,
        &collector,
        "back",
    );
    let front = format!(
        "export default {{ async fetch() {{
            console.log('asking the back');
            return fetch('http://127.0.0.1:{}/back');
        }} }};",
        back.port()
    );
    let toml = "[features.http_requests]\nallowed_hosts = [\"127.0.0.1\"]\nallow_http = true\n";
    let front = Image::workers("front")
        .file("front.js", front)?
        .file("front.toml", toml)?
        .import(&containerd)?;
    let front = exporting(
        Run::workers(&containerd, &front, "front")?,
        &collector,
        "front",
    );
    let mut containers: [Container<'_>; 2] = [back.start()?, front.start()?];
    for container in &mut containers {
        container.wait_until_up()?;
    }
    let url = format!("http://127.0.0.1:{}/front", containers[1].port());
    let request = Request::get(url).header("traceparent", format!("00-{TRACE}-{SPAN}-01"));
    let answer = http::send(request.body(())?)?;
    assert_eq!((answer.status, &*answer.text()), (200, "back"));

    let spans = wait::until("three spans", LIMIT, || {
        let mut spans = collector.spans()?;
        spans.retain(|(_, span)| span["traceId"] == TRACE);
        Ok((spans.len() == 3).then_some(spans))
    })?;
    // 2: server, 3: client.
    let of = |service: &str, kind: u8| {
        let found = spans
            .iter()
            .find(|(of, span)| of == service && span["kind"] == kind);
        let found = found.map(|(_, span)| span);
        found.with_context(|| format!("no span {service} {kind} in {spans:#?}"))
    };
    let (first, sent, second) = (of("front", 2)?, of("front", 3)?, of("back", 2)?);
    assert_eq!(first["parentSpanId"], SPAN);
    assert_eq!(sent["parentSpanId"], first["spanId"]);
    assert_eq!(second["parentSpanId"], sent["spanId"]);
    assert_eq!(first["name"], "GET /front");
    assert_eq!(attribute(second, "http.route").as_deref(), Some("/back"));

    wait::until("the worker's line, with its trace", LIMIT, || {
        let of = ["resourceLogs", "scopeLogs", "logRecords"];
        let lines = received(&collector.lines()?, of);
        let found = lines.into_iter().find(|(service, line)| {
            service == "front" && line["body"]["stringValue"] == "asking the back"
        });
        Ok(found.filter(|(_, line)| line["traceId"] == TRACE && line["spanId"] == first["spanId"]))
    })?;
    wait::until("the request's count", LIMIT, || {
        let of = ["resourceMetrics", "scopeMetrics", "metrics"];
        let metrics = received(&collector.lines()?, of);
        let counts = metrics.iter().filter(|(service, metric)| {
            service == "front" && metric["name"] == "wws_requests_total"
        });
        let mut points = counts.flat_map(|(_, metric)| all(&metric["sum"], "dataPoints"));
        let found = points.any(|point| {
            attribute(point, "worker").as_deref() == Some("/front")
                && point["asDouble"].as_f64() == Some(1.0)
        });
        Ok(found.then_some(()))
    })?;
    for container in &mut containers {
        container.signal("SIGTERM")?;
        assert_eq!(container.wait()?, 0);
        container.remove()?;
    }
    containerd.expect_nothing_left()
}

/// containerd 2 records each call of a shim's task service.
#[test]
#[ignore = "make test-sight"]
fn the_calls_of_the_shim_are_spans_of_containerd_2() -> Result<()> {
    let collector = Collector::start()?;
    let variables = collector.variables("containerd");
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| (*name, &**value))
        .collect();
    let containerd = Containerd::start_with_variables(Version::V2_1, &variables)?;
    let image = Image::workers("hello")
        .guest("hello", "hello.wasm")?
        .import(&containerd)?;
    let mut container = Run::workers(&containerd, &image, "hello")?.start()?;
    container.wait_until_up()?;
    container.signal("SIGTERM")?;
    container.wait()?;
    container.remove()?;
    for call in ["Create", "Start", "Delete"] {
        let name = format!("containerd.task.v2.Task/{call}");
        wait::until(&name, LIMIT, || {
            let spans = collector.spans()?;
            let names: Vec<_> = spans
                .iter()
                .filter_map(|(_, span)| span["name"].as_str())
                .collect();
            Ok(names
                .iter()
                .any(|other| other.ends_with(&name))
                .then_some(()))
        })
        .with_context(|| format!("{:?}", collector.spans()))?;
    }
    Ok(())
}
