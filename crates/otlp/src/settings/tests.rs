#![allow(clippy::unwrap_used)]
use super::*;
use wws_telemetry::RootSampler;

fn read(variables: &[(&str, &'static str)]) -> (Option<ExportSettings>, Vec<String>) {
    let (settings, problems) = ExportSettings::from_env(|name| {
        let mut all = variables.iter();
        all.find_map(|(variable, value)| (*variable == name).then_some(*value))
    });
    (settings, problems.iter().map(ToString::to_string).collect())
}

const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");

#[test]
fn exports_nothing_without_an_endpoint() {
    assert_eq!(read(&[]), (None, vec![]));
    assert_eq!(read(&[("OTEL_SERVICE_NAME", "a")]), (None, vec![]));
    assert_eq!(
        read(&[ENDPOINT, ("OTEL_SDK_DISABLED", "True")]),
        (None, vec![])
    );
    let off = |signal: &'static str| (signal, "none");
    let all = [
        ENDPOINT,
        off("OTEL_TRACES_EXPORTER"),
        off("OTEL_METRICS_EXPORTER"),
        off("OTEL_LOGS_EXPORTER"),
    ];
    assert_eq!(read(&all), (None, vec![]));
}

#[test]
fn one_endpoint_is_for_all_signals() {
    let (settings, problems) = read(&[ENDPOINT]);
    let settings = settings.unwrap();
    assert_eq!(problems, [""; 0]);
    for signal in [Signal::Traces, Signal::Metrics, Signal::Logs] {
        let endpoint = settings.endpoint(signal).unwrap();
        let url = format!("http://collector:4318/v1/{}", signal.name());
        assert_eq!(endpoint.url.to_string(), url);
        assert_eq!(endpoint.timeout, Duration::from_secs(10));
        assert!(!endpoint.gzip && endpoint.headers.is_empty());
    }
    assert_eq!(settings.sampler, Sampler::Parent(RootSampler::On));
    assert_eq!(settings.metric_interval, Duration::from_secs(60));
}

#[test]
fn signals_have_their_own_variables() {
    let (settings, problems) = read(&[
        (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "https://traces.example/own",
        ),
        (
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
            "http://[::1]:4318/v1/logs",
        ),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=all,x=%20y%3D"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "api-key=traces"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
        ("OTEL_SERVICE_NAME", "shop"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=x, zone=a%2Cb"),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
    ]);
    let settings = settings.unwrap();
    assert_eq!(problems, [""; 0]);
    let traces = settings.traces.unwrap();
    assert_eq!(traces.url, "https://traces.example/own");
    assert_eq!(traces.headers.len(), 1);
    assert_eq!(traces.headers["api-key"], "traces");
    assert!(traces.gzip && settings.metrics.is_none());
    let logs = settings.logs.unwrap();
    assert_eq!(logs.headers["api-key"], "all");
    assert_eq!(logs.headers["x"], " y=");
    assert!(!format!("{logs:?}").contains("all\""), "{logs:?}");
    assert_eq!(logs.timeout, Duration::from_millis(500));
    assert_eq!(settings.resource["service.name"], "shop");
    assert_eq!(settings.resource["zone"], "a,b");
    let ratio = Sampler::Parent(RootSampler::Ratio(0.25));
    assert_eq!(settings.sampler, ratio);
}

#[test]
fn an_exporter_that_is_named_has_the_standard_endpoint() {
    let (settings, problems) = read(&[("OTEL_METRICS_EXPORTER", "otlp")]);
    let settings = settings.unwrap();
    assert_eq!(problems, [""; 0]);
    assert!(settings.traces.is_none() && settings.logs.is_none());
    let url = settings.metrics.unwrap().url;
    assert_eq!(url, "http://localhost:4318/v1/metrics");
}

#[test]
fn reports_each_wrong_value_once() {
    for (variable, value, expected) in [
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "collector:4318",
            "not a URL with http or https",
        ),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://", "not a URL"),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "http://me:secret@c",
            "a URL with a password",
        ),
        (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "ftp://c/",
            "traces are not exported",
        ),
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "grpc",
            "`grpc` is not supported: expected http/protobuf",
        ),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "secret",
            "expected NAME=VALUE",
        ),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "a b=secret",
            "`a b` cannot be sent",
        ),
        (
            "OTEL_EXPORTER_OTLP_TIMEOUT",
            "10s",
            "a number of milliseconds",
        ),
        (
            "OTEL_EXPORTER_OTLP_TIMEOUT",
            "0",
            "a number of milliseconds",
        ),
        (
            "OTEL_EXPORTER_OTLP_COMPRESSION",
            "zstd",
            "`zstd` is not supported",
        ),
        (
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
            "/no/such.pem",
            "cannot read `/no/such.pem`",
        ),
        (
            "OTEL_EXPORTER_OTLP_CLIENT_KEY",
            "/key.pem",
            "client certificates are not supported",
        ),
        (
            "OTEL_TRACES_SAMPLER",
            "jaeger_remote",
            "`jaeger_remote` is not supported",
        ),
        (
            "OTEL_TRACES_EXPORTER",
            "zipkin",
            "`zipkin` is not supported",
        ),
        (
            "OTEL_METRICS_EXPORTER",
            "prometheus",
            "`/metrics` of the admin address",
        ),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c", "ignoring all"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=%ff", "ignoring all"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "-1", "using 60000"),
        ("OTEL_BSP_SCHEDULE_DELAY", "x", "using 5000"),
        ("OTEL_SDK_DISABLED", "yes", "neither true nor false"),
        (
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            "delta",
            "sending cumulative",
        ),
    ] {
        let mut variables = vec![(variable, value)];
        if !variable.ends_with("OTLP_ENDPOINT") {
            variables.push(ENDPOINT);
        }
        let (_, problems) = read(&variables);
        assert_eq!(problems.len(), 1, "{variable}={value}: {problems:?}");
        let text = &problems[0];
        assert!(
            text.starts_with(variable) && text.contains(expected),
            "{text}"
        );
        assert!(!text.contains("secret"), "{text}");
    }
}

#[test]
fn a_wrong_ratio_records_all_traces() {
    let (settings, problems) = read(&[
        ENDPOINT,
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
    ]);
    assert_eq!(settings.unwrap().sampler, Sampler::Ratio(1.0));
    let expected =
        "OTEL_TRACES_SAMPLER_ARG: `1.5` is not a number from 0 to 1; recording all traces";
    assert_eq!(problems, [expected]);
}
