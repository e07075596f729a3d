//! Instances of components that answer several requests.

use std::time::{Duration, Instant};

use wws_engine::{Call, CallError, CallReport, Engine, Guest};
use wws_telemetry::Telemetry;

use crate::{engine, guest, request, spec};

/// A component that counts its requests: the status of a response is 200 more. The path says what
/// else a request does.
const COUNTER: &str = r#"(component
  (import "wasi:http/types@0.2.0" (instance $http
    (type $dns-record (record (field "rcode" (option string)) (field "info-code" (option u16))))
    (export "DNS-error-payload" (type $dns (eq $dns-record)))
    (type $alert-record (record (field "alert-id" (option u8)) (field "alert-message" (option string))))
    (export "TLS-alert-received-payload" (type $alert (eq $alert-record)))
    (type $size-record (record (field "field-name" (option string)) (field "field-size" (option u32))))
    (export "field-size-payload" (type $size (eq $size-record)))
    (type $error-variant (variant
        (case "DNS-timeout") (case "DNS-error" $dns) (case "destination-not-found")
        (case "destination-unavailable") (case "destination-IP-prohibited")
        (case "destination-IP-unroutable") (case "connection-refused")
        (case "connection-terminated") (case "connection-timeout")
        (case "connection-read-timeout") (case "connection-write-timeout")
        (case "connection-limit-reached") (case "TLS-protocol-error")
        (case "TLS-certificate-error") (case "TLS-alert-received" $alert)
        (case "HTTP-request-denied") (case "HTTP-request-length-required")
        (case "HTTP-request-body-size" (option u64)) (case "HTTP-request-method-invalid")
        (case "HTTP-request-URI-invalid") (case "HTTP-request-URI-too-long")
        (case "HTTP-request-header-section-size" (option u32))
        (case "HTTP-request-header-size" (option $size))
        (case "HTTP-request-trailer-section-size" (option u32))
        (case "HTTP-request-trailer-size" $size) (case "HTTP-response-incomplete")
        (case "HTTP-response-header-section-size" (option u32))
        (case "HTTP-response-header-size" $size) (case "HTTP-response-body-size" (option u64))
        (case "HTTP-response-trailer-section-size" (option u32))
        (case "HTTP-response-trailer-size" $size)
        (case "HTTP-response-transfer-coding" (option string))
        (case "HTTP-response-content-coding" (option string)) (case "HTTP-response-timeout")
        (case "HTTP-upgrade-failed") (case "HTTP-protocol-error") (case "loop-detected")
        (case "configuration-error") (case "internal-error" (option string))))
    (export "error-code" (type $error (eq $error-variant)))
    (export "fields" (type $fields (sub resource)))
    (export "incoming-request" (type $incoming-request (sub resource)))
    (export "outgoing-response" (type $outgoing-response (sub resource)))
    (export "response-outparam" (type $response-outparam (sub resource)))
    (export "[constructor]fields" (func (result (own $fields))))
    (export "[method]incoming-request.path-with-query" (func
      (param "self" (borrow $incoming-request)) (result (option string))))
    (export "[constructor]outgoing-response" (func (param "headers" (own $fields))
      (result (own $outgoing-response))))
    (export "[method]outgoing-response.set-status-code" (func
      (param "self" (borrow $outgoing-response)) (param "status-code" u16) (result (result))))
    (export "[static]response-outparam.set" (func (param "param" (own $response-outparam))
      (param "response" (result (own $outgoing-response) (error $error)))))))
  (alias export $http "incoming-request" (type $incoming-request))
  (alias export $http "response-outparam" (type $response-outparam))
  (core module $libc-code
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
  (core instance $libc (instantiate $libc-code))
  (core func $fields (canon lower (func $http "[constructor]fields")))
  (core func $path (canon lower (func $http "[method]incoming-request.path-with-query")
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core func $response (canon lower (func $http "[constructor]outgoing-response")))
  (core func $set-status (canon lower (func $http "[method]outgoing-response.set-status-code")))
  (core func $set (canon lower (func $http "[static]response-outparam.set")
    (memory (core memory $libc "memory"))))
  (core func $drop-request (canon resource.drop $incoming-request))
  (core module $code
    (import "libc" "memory" (memory 1))
    (import "host" "fields" (func $fields (result i32)))
    (import "host" "path" (func $path (param i32 i32)))
    (import "host" "response" (func $response (param i32) (result i32)))
    (import "host" "set-status" (func $set-status (param i32 i32) (result i32)))
    (import "host" "set" (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
    (import "host" "drop-request" (func $drop-request (param i32)))
    (global $n (mut i32) (i32.const 0))
    (func (export "handle") (param $request i32) (param $out i32)
      (local $action i32) (local $answer i32) (local $times i32)
      (global.set $n (i32.add (global.get $n) (i32.const 1)))
      (call $path (local.get $request) (i32.const 0))
      (local.set $action (i32.load8_u (i32.add (i32.load (i32.const 4)) (i32.const 1))))
      (if (i32.ne (local.get $action) (i32.const 107)) (then (call $drop-request (local.get $request))))
      (if (i32.eq (local.get $action) (i32.const 110)) (then (return)))
      (if (i32.eq (local.get $action) (i32.const 108)) (then (loop $forever (br $forever))))
      (if (i32.eq (local.get $action) (i32.const 98)) (then (loop $many
        (br_if $many (i32.lt_u (local.tee $times (i32.add (local.get $times) (i32.const 1))) (i32.const 20000000))))))
      (local.set $answer (call $response (call $fields)))
      (drop (call $set-status (local.get $answer) (i32.add (i32.const 200) (global.get $n))))
      (call $set (local.get $out) (i32.const 0) (local.get $answer)
        (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
      (if (i32.eq (local.get $action) (i32.const 116)) (then (unreachable)))))
  (core instance $main (instantiate $code
    (with "libc" (instance (export "memory" (memory $libc "memory"))))
    (with "host" (instance
      (export "fields" (func $fields)) (export "path" (func $path))
      (export "response" (func $response)) (export "set-status" (func $set-status))
      (export "set" (func $set)) (export "drop-request" (func $drop-request))))))
  (func $handle (param "request" (own $incoming-request))
    (param "response-out" (own $response-outparam)) (canon lift (core func $main "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#;

fn to(path: &str) -> Call {
    let mut call = request();
    *call.request.uri_mut() = format!("http://localhost/{path}").parse().unwrap();
    call
}

/// How many requests the instance has answered.
async fn count(guest: &Guest, path: &str) -> Result<u16, CallError> {
    let response = guest.call(to(path)).await?;
    Ok(response.status().as_u16() - 200)
}

async fn counts(guest: &Guest, path: &str, requests: usize) -> Vec<u16> {
    let mut counts = Vec::new();
    for _ in 0..requests {
        counts.push(count(guest, path).await.unwrap());
    }
    counts
}

fn counter(engine: &Engine) -> Guest {
    guest(engine, COUNTER, spec())
}

#[tokio::test]
async fn state_survives_only_with_reuse() {
    let engine = engine();
    let fresh = counter(&engine);
    assert_eq!(counts(&fresh, "count", 3).await, [1, 1, 1]);
    let reused = counter(&engine).reusing(3).unwrap();
    assert_eq!(counts(&reused, "count", 7).await, [1, 2, 3, 1, 2, 3, 1]);
    reused.trim();
    assert_eq!(counts(&reused, "count", 1).await, [1]);
}

#[tokio::test]
async fn only_components_of_wasi_0_3_answer_several_requests_at_once() {
    let error = counter(&engine())
        .reusing(10)
        .unwrap()
        .concurrent(2)
        .err()
        .unwrap();
    let text = error.to_string();
    assert!(
        text.contains("`instances.concurrent`") && text.contains("WASI 0.3"),
        "{text}"
    );
}

#[tokio::test]
async fn discards_an_instance_that_failed() {
    let mut spec = spec();
    spec.limits.cpu_time = Duration::from_millis(100);
    let guest = guest(&engine(), COUNTER, spec).reusing(100).unwrap();
    for path in ["trap", "no-response", "loop"] {
        assert_eq!(counts(&guest, "count", 2).await, [1, 2]);
        let error = count(&guest, path).await.expect_err(path);
        let is_expected = match path {
            "trap" => matches!(error, CallError::Trap { .. }),
            "loop" => matches!(error, CallError::CpuTime(_)),
            _ => matches!(error, CallError::NoResponse),
        };
        assert!(is_expected, "{path}: {error}");
    }
    assert_eq!(counts(&guest, "count", 2).await, [1, 2]);
}

#[tokio::test]
async fn discards_an_instance_that_keeps_a_request() {
    let guest = counter(&engine()).reusing(100).unwrap();
    assert_eq!(counts(&guest, "count", 2).await, [1, 2]);
    // The request, with its connection, would live as long as the instance.
    assert_eq!(counts(&guest, "keep", 2).await, [3, 1]);
}

#[tokio::test]
async fn idle_instances_are_charged_and_released() {
    let engine = engine();
    let guest = counter(&engine).reusing(100).unwrap();
    let free = engine.free_memory();
    assert_eq!(counts(&guest, "count", 50).await.last(), Some(&50));
    let held = free - engine.free_memory();
    // Two memories, a stack and fixed costs.
    assert!((1 << 16..16 << 20).contains(&held), "{held}");
    guest.trim();
    assert_eq!(engine.free_memory(), free);
}

#[tokio::test]
async fn the_cpu_time_of_each_call_is_reported() {
    let telemetry = Telemetry::default();
    let series = telemetry.worker("/counter");
    let guest = counter(&engine()).reusing(3).unwrap();
    guest.report_to(CallReport {
        series: series.clone(),
        log_level: tracing::level_filters::LevelFilter::INFO,
        log_rate: 0,
    });
    let mut before = Duration::ZERO;
    // The last call of the fourth instance is not its last one.
    for _ in 0..11 {
        counts(&guest, "busy", 1).await;
        // What follows the response is not waited for.
        let start = Instant::now();
        while series.summary().cpu < before + Duration::from_millis(1) {
            assert!(start.elapsed() < Duration::from_secs(60), "no report");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        before = series.summary().cpu;
    }
    guest.trim();
    assert_eq!(series.summary().cpu, before, "a call is reported twice");
}
