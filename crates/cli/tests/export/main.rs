//! Telemetry that a server exports by OTLP, as a collector receives it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub
)]

mod receiver;
mod server;

use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};

use receiver::{Answer, PATIENCE, Received, Receiver, attributes};
use server::{Site, TRACE, answers, fetches, logs, traps};

/// Exports soon, so that tests need not wait.
const SOON: [(&str, &str); 3] = [
    ("OTEL_BSP_SCHEDULE_DELAY", "20"),
    ("OTEL_BLRP_SCHEDULE_DELAY", "20"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
];

fn one_span(received: &Received, name: &str) -> Option<Span> {
    let mut spans = received.spans.iter().map(|(_, span)| span);
    spans.find(|span| span.name == name).cloned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_request_is_a_span_with_the_names_of_the_conventions() {
    let collector = Receiver::start();
    let site = Site::new(&[("[id].wasm", answers()), ("bad.wasm", traps())]);
    let server = site
        .export_to(&collector)
        .env("OTEL_SERVICE_NAME", "shop")
        .env(
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test",
        )
        .start();
    server.get("/7?secret", "user-agent: me/1\r\n");
    server.get("/bad", "");
    server.get("/none/at/all", "");
    let ok = collector.wait("the span", |all| one_span(all, "GET /[id]"));
    let of = attributes(&ok.attributes);
    for (name, expected) in [
        ("http.request.method", "GET"),
        ("http.route", "/[id]"),
        ("http.response.status_code", "200"),
        ("url.path", "/7"),
        ("url.scheme", "http"),
        ("server.address", "a.example"),
        ("server.port", "81"),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("user_agent.original", "me/1"),
    ] {
        assert_eq!(
            of.get(name).map(String::as_str),
            Some(expected),
            "{name}: {of:?}"
        );
    }
    assert!(!format!("{of:?}").contains("secret"), "{of:?}");
    assert_eq!(ok.kind(), SpanKind::Server);
    assert!(ok.parent_span_id.is_empty() && ok.status.is_none());
    assert!(ok.end_time_unix_nano >= ok.start_time_unix_nano && ok.start_time_unix_nano > 0);
    let bad = collector.wait("the failure", |all| one_span(all, "GET /bad"));
    assert_eq!(bad.status.unwrap().code(), StatusCode::Error);
    assert_eq!(attributes(&bad.attributes)["error.type"], "500");
    let none = collector.wait("the unrouted request", |all| one_span(all, "GET"));
    assert!(
        none.status.is_none(),
        "a client's mistake is no failure of the server"
    );
    let received = collector.received();
    let (resource, _) = &received.spans[0];
    assert_eq!(resource["service.name"], "shop");
    assert_eq!(resource["deployment.environment.name"], "test");
    assert_eq!(resource["service.instance.id"].len(), 36);
}

#[test]
fn one_trace_leads_from_the_client_through_two_servers() {
    let collector = Receiver::start();
    let back = Site::new(&[("back.wasm", answers())]);
    let back = back
        .export_to(&collector)
        .env("OTEL_SERVICE_NAME", "back")
        .start();
    let url = format!("http://{}/back", back.address);
    let front = Site::new(&[("front.wasm", fetches(&url))]);
    front.file(
        "front.toml",
        "version = \"1\"\n[features.http_requests]\nallowed_hosts = [\"127.0.0.1\"]\n\
         allow_http = true\n",
    );
    let front = front
        .export_to(&collector)
        .env("OTEL_SERVICE_NAME", "front")
        .start();
    let answer = front.get(
        "/front",
        &format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n"),
    );
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let spans = collector.wait("three spans", |all| {
        let spans = [all.spans_of("front"), all.spans_of("back")].concat();
        (spans.len() == 3).then(|| spans.into_iter().cloned().collect::<Vec<_>>())
    });
    let of = |service: &str, kind: SpanKind| {
        let received = collector.received();
        let spans = received.spans_of(service).into_iter();
        spans
            .clone()
            .find(|span| span.kind() == kind)
            .unwrap()
            .clone()
    };
    let (first, sent) = (of("front", SpanKind::Server), of("front", SpanKind::Client));
    let second = of("back", SpanKind::Server);
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE));
    assert_eq!(hex(&first.parent_span_id), "00f067aa0ba902b7");
    assert_eq!(sent.parent_span_id, first.span_id);
    assert_eq!(second.parent_span_id, sent.span_id);
    // W3C's sampled flag, and whether the parent is in another process.
    assert_eq!((first.flags, sent.flags), (0x301, 0x101));
    let sent = attributes(&sent.attributes);
    assert_eq!(sent["server.address"], "127.0.0.1");
    assert_eq!(sent["http.response.status_code"], "200");
}

#[test]
fn the_sampler_decides_which_traces_are_recorded() {
    for (sampler, ratio, expected) in [
        ("traceidratio", "0", 0),
        ("traceidratio", "1", 20),
        ("always_off", "", 0),
        ("parentbased_traceidratio", "0", 10),
    ] {
        let collector = Receiver::start();
        let site = Site::new(&[("w.wasm", logs("a line"))]);
        let server = site
            .export_to(&collector)
            .env("OTEL_TRACES_SAMPLER", sampler)
            .env("OTEL_TRACES_SAMPLER_ARG", ratio)
            .start();
        for number in 0..20 {
            let headers = match number % 2 {
                0 => format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n"),
                _ => String::new(),
            };
            server.get("/w", &headers);
        }
        let requests = r#"wws_requests_total{worker="/w",method="GET",status="2xx"}"#;
        collector.wait("all metrics and spans", |all| {
            let counted = all.series().get(requests) == Some(&20.0);
            (counted && all.spans.len() >= expected).then_some(())
        });
        server.stop();
        let received = collector.received();
        assert_eq!(received.spans.len(), expected, "{sampler} {ratio}");
    }
}

#[test]
fn metrics_are_those_of_the_admin_address() {
    let collector = Receiver::start();
    let site = Site::new(&[("w.wasm", answers()), ("bad.wasm", traps())]);
    let server = site
        .export_to(&collector)
        .env("WWS_ADMIN", "127.0.0.1:0")
        .start();
    (0..5).for_each(|_| drop(server.get("/w", "")));
    server.get("/bad", "");
    server.get("/none", "");
    let admin = server.admin.clone().unwrap();
    let start = Instant::now();
    loop {
        let page = receiver::exchange(
            &admin,
            "GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        );
        let shown = page.lines().filter(|line| line.starts_with("wws_"));
        // Reading changes what the process uses, and the memory of a connection is freed late.
        let shown = shown.filter(|line| !line.starts_with("wws_guest_memory"));
        let shown: Vec<(String, f64)> = shown
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
            .collect();
        assert!(shown.len() > 60, "{page}");
        let exported = collector.received().series();
        let differs = |(name, value): &&(String, f64)| exported.get(name) != Some(value);
        let different: Vec<_> = shown.iter().filter(differs).collect();
        let requests = r#"wws_requests_total{worker="/w",method="GET",status="2xx"}"#;
        if different.is_empty() && exported[requests] == 5.0 {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{different:#?}\n{exported:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn lines_of_a_worker_arrive_with_their_trace() {
    let collector = Receiver::start();
    let site = Site::new(&[("w.wasm", logs("low on coffee")), ("bad.wasm", traps())]);
    let server = site
        .export_to(&collector)
        .env("WWS_LOG_FORMAT", "json")
        .start();
    server.get(
        "/w",
        &format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n"),
    );
    server.get("/bad", "");
    let find = |text: &'static str| {
        collector.wait(text, |all| {
            let mut records = all.logs.iter().map(|(_, record)| record);
            let found = records.find(|record| {
                let body = format!("{:?}", record.body);
                body.contains(text)
            });
            found.cloned()
        })
    };
    let line = find("low on coffee");
    assert_eq!(line.severity_text, "INFO");
    let of = attributes(&line.attributes);
    assert_eq!(
        (of["wws.worker"].as_str(), of["log.target"].as_str()),
        ("w.wasm", "guest")
    );
    let span = collector.wait("the span", |all| one_span(all, "GET /w"));
    assert_eq!(
        (&line.trace_id, &line.span_id),
        (&span.trace_id, &span.span_id)
    );
    assert_eq!(hex(&line.trace_id), TRACE);
    let failure = find("trapped");
    assert_eq!(failure.severity_text, "ERROR");
    let span = collector.wait("the failure", |all| one_span(all, "GET /bad"));
    assert_eq!(failure.span_id, span.span_id);
    let log = server.stop();
    let line = log
        .lines()
        .find(|line| line.contains("low on coffee"))
        .unwrap();
    assert!(
        line.contains(&format!("\"trace_id\":\"{TRACE}\"")),
        "{line}"
    );
    let access = log
        .lines()
        .find(|line| line.contains("\"path\":\"/w\""))
        .unwrap();
    assert!(
        access.contains(&format!("\"trace_id\":\"{TRACE}\"")),
        "{access}"
    );
    let received = collector.received();
    let exported = |text| {
        received
            .logs
            .iter()
            .any(|(_, line)| format!("{line:?}").contains(text))
    };
    assert!(
        !exported("\"access\""),
        "spans and metrics describe requests"
    );
}

#[test]
fn sends_spans_again_when_the_collector_returns() {
    for away in [Answer::Away, Answer::Status(503)] {
        let collector = Receiver::start();
        collector.answers(away);
        let site = Site::new(&[("w.wasm", answers())]);
        let start = Instant::now();
        let server = site.export_to(&collector).start();
        (0..5).for_each(|_| drop(server.get("/w", "")));
        collector.wait("attempts", |all| (all.requests >= 3).then_some(()));
        // Requests are answered meanwhile.
        assert!(server.get("/w", "").starts_with("HTTP/1.1 200"));
        collector.answers(Answer::Status(200));
        collector.wait("all spans", |all| (all.spans.len() == 6).then_some(()));
        let log = server.stop();
        let failures = log.lines().filter(|line| line.contains("cannot export"));
        let minutes = usize::try_from(start.elapsed().as_secs() / 60).unwrap();
        assert!((1..=1 + minutes).contains(&failures.count()), "{log}");
        assert!(log.contains("again"), "{log}");
        assert!(
            !collector
                .received()
                .logs
                .iter()
                .any(|(_, line)| { format!("{line:?}").contains("cannot export") })
        );
    }
}

#[test]
fn drops_and_counts_what_exceeds_the_queue() {
    let collector = Receiver::start();
    collector.answers(Answer::Away);
    let site = Site::new(&[("w.wasm", answers())]);
    let server = site
        .export_to(&collector)
        .env("WWS_ADMIN", "127.0.0.1:0")
        .env("OTEL_LOGS_EXPORTER", "none")
        .start();
    // More than the queue and one message take.
    server.get_many("/none", 2048 + 512 + 100);
    let admin = server.admin.clone().unwrap();
    let page = receiver::exchange(
        &admin,
        "GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    );
    let name = "wws_export_dropped_total{signal=\"traces\"} ";
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    let dropped: u64 = line.expect(&page).parse().unwrap();
    assert!(dropped >= 100, "{dropped}");
    assert!(!page.contains("signal=\"logs\""), "{page}");
}

#[test]
fn does_not_repeat_rejected_exports() {
    let collector = Receiver::start();
    collector.answers(Answer::Status(401));
    let site = Site::new(&[("w.wasm", answers())]);
    let server = site
        .export_to(&collector)
        .env("OTEL_METRICS_EXPORTER", "none")
        .env("OTEL_LOGS_EXPORTER", "none")
        .start();
    server.get("/w", "");
    collector.wait("an attempt", |all| (all.requests == 1).then_some(()));
    collector.answers(Answer::Status(200));
    server.get("/w", "");
    collector.wait("the second span", |all| {
        (!all.spans.is_empty()).then_some(())
    });
    let log = server.stop();
    assert!(log.contains("the collector answers 401"), "{log}");
    let received = collector.received();
    assert_eq!((received.requests, received.spans.len()), (2, 1));
}

#[test]
fn standard_variables_set_headers_compression_and_certificates() {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let private = rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    let mut collector = Receiver::with_tls(config);
    collector.url = collector.url.replace("127.0.0.1", "localhost");
    let site = Site::new(&[("w.wasm", answers())]);
    site.file("../ca.pem", &certificate.pem());
    let trusted = site.path("../ca.pem");
    let server = site
        .export_to(&collector)
        .env("OTEL_EXPORTER_OTLP_CERTIFICATE", &trusted)
        .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        .env("OTEL_EXPORTER_OTLP_HEADERS", "api-key=my%20secret,other=1")
        .start();
    server.get("/w", "");
    collector.wait("the span", |all| one_span(all, "GET /w"));
    let headers = collector.received().headers[0].clone();
    assert_eq!(
        (headers["api-key"].as_str(), headers["other"].as_str()),
        ("my secret", "1")
    );
    assert_eq!(headers["content-encoding"], "gzip");
    assert!(
        headers["user-agent"].starts_with("wws-otlp/"),
        "{headers:?}"
    );
    // Without the certificate, nothing is sent.
    let distrustful = site.export_to(&collector).start();
    let before = collector.received().spans.len();
    distrustful.get("/w", "");
    distrustful.wait_for_line("cannot export");
    let log = distrustful.stop();
    assert!(!log.contains("secret"), "{log}");
    assert_eq!(collector.received().spans.len(), before);
}

#[test]
fn wrong_values_are_one_warning_each_and_the_server_runs() {
    let collector = Receiver::start();
    let site = Site::new(&[("w.wasm", answers())]);
    let server = site
        .export_to(&collector)
        .env("OTEL_TRACES_SAMPLER", "sometimes")
        .env("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
        .env("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "nowhere")
        .start();
    server.get("/w", "");
    collector.wait("the span", |all| one_span(all, "GET /w"));
    let log = server.stop();
    for variable in [
        "OTEL_TRACES_SAMPLER: `sometimes` is not supported",
        "OTEL_EXPORTER_OTLP_TIMEOUT: expected a number",
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT: not a URL",
    ] {
        let lines = log.lines().filter(|line| line.contains(variable));
        assert_eq!(lines.count(), 1, "{variable}\n{log}");
    }
    assert!(collector.received().logs.is_empty());
}

#[test]
fn idle_server_with_an_exporter_sleeps() {
    let collector = Receiver::start();
    let site = Site::new(&[("w.wasm", answers())]);
    let server = site.export_to(&collector).start();
    server.get("/w", "");
    collector.wait("the span", |all| one_span(all, "GET /w"));
    // Timers of the last request end: memory is returned, connections are closed.
    let start = Instant::now();
    let wait = Duration::from_millis(1500);
    loop {
        let before = (collector.received().requests, server.wakeups());
        std::thread::sleep(wait);
        let after = (collector.received().requests, server.wakeups());
        // Metrics at each interval would be 15 of each.
        if after.0 == before.0 && after.1 - before.1 < 5 {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{before:?} {after:?}");
    }
    let exports = collector.received().metrics.len();
    server.get("/w", "");
    collector.wait("metrics", |all| (all.metrics.len() > exports).then_some(()));
}
