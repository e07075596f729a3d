//! Interfaces that components of several tests import.
#![allow(dead_code, reason = "not every test has all of them")]

use crate::program::{HostFunction, program};

/// `wasi:io`.
pub(crate) const IO: &str = r#"
    (import "wasi:io/error@0.2.0" (instance $io-errors (export "error" (type (sub resource)))))
    (alias export $io-errors "error" (type $io-error))
    (import "wasi:io/poll@0.2.0" (instance $poll
      (export "pollable" (type $pollable (sub resource)))
      (export "poll" (func (param "in" (list (borrow $pollable))) (result (list u32))))))
    (alias export $poll "pollable" (type $pollable))
    (import "wasi:io/streams@0.2.0" (instance $streams
      (alias outer 1 $io-error (type $outer-error))
      (export "error" (type $error (eq $outer-error)))
      (type $variant (variant (case "last-operation-failed" (own $error)) (case "closed")))
      (export "stream-error" (type $stream-error (eq $variant)))
      (export "input-stream" (type $input-stream (sub resource)))
      (export "output-stream" (type $output-stream (sub resource)))
      (export "[method]input-stream.read" (func (param "self" (borrow $input-stream))
        (param "len" u64) (result (result (list u8) (error $stream-error)))))
      (export "[method]input-stream.blocking-read" (func (param "self" (borrow $input-stream))
        (param "len" u64) (result (result (list u8) (error $stream-error)))))
      (export "[method]output-stream.write" (func (param "self" (borrow $output-stream))
        (param "contents" (list u8)) (result (result (error $stream-error)))))))
    (alias export $streams "input-stream" (type $input-stream))
    (alias export $streams "output-stream" (type $output-stream))"#;

pub(crate) const WRITE: HostFunction = HostFunction {
    name: "write",
    path: ("streams", "[method]output-stream.write"),
    signature: "(param i32 i32 i32 i32)",
};

/// `wasi:clocks`, whose pollables never become ready in time.
pub(crate) const CLOCK: &str = r#"
    (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
      (alias outer 1 $pollable (type $outer-pollable))
      (export "pollable" (type $pollable (eq $outer-pollable)))
      (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))"#;

pub(crate) const SUBSCRIBE: HostFunction = HostFunction {
    name: "subscribe",
    path: ("clock", "subscribe-duration"),
    signature: "(param i64) (result i32)",
};

/// `wasi:http/types`, as far as the tests use it.
pub(crate) const HTTP: &str = r#"
    (import "wasi:http/types@0.2.0" (instance $http
      (alias outer 1 $output-stream (type $outer-output))
      (export "output-stream" (type $output-stream (eq $outer-output)))
      (type $variant (variant (case "invalid-syntax") (case "forbidden") (case "immutable")))
      (export "header-error" (type $header-error (eq $variant)))
      (export "fields" (type $fields (sub resource)))
      (export "outgoing-request" (type $outgoing-request (sub resource)))
      (export "outgoing-response" (type $outgoing-response (sub resource)))
      (export "outgoing-body" (type $outgoing-body (sub resource)))
      (export "[constructor]fields" (func (result (own $fields))))
      (export "[method]fields.append" (func (param "self" (borrow $fields)) (param "name" string)
        (param "value" (list u8)) (result (result (error $header-error)))))
      (export "[constructor]outgoing-request" (func (param "headers" (own $fields))
        (result (own $outgoing-request))))
      (export "[method]outgoing-request.set-path-with-query" (func
        (param "self" (borrow $outgoing-request)) (param "path-with-query" (option string))
        (result (result))))
      (export "[constructor]outgoing-response" (func (param "headers" (own $fields))
        (result (own $outgoing-response))))
      (export "[method]outgoing-response.body" (func (param "self" (borrow $outgoing-response))
        (result (result (own $outgoing-body)))))
      (export "[method]outgoing-body.write" (func (param "self" (borrow $outgoing-body))
        (result (result (own $output-stream)))))))
    (alias export $http "fields" (type $fields))
    (alias export $http "outgoing-request" (type $outgoing-request))
    (alias export $http "outgoing-response" (type $outgoing-response))"#;

pub(crate) const FIELDS: HostFunction = HostFunction {
    name: "fields",
    path: ("http", "[constructor]fields"),
    signature: "(result i32)",
};

pub(crate) const APPEND: HostFunction = HostFunction {
    name: "append",
    path: ("http", "[method]fields.append"),
    signature: "(param i32 i32 i32 i32 i32 i32)",
};

/// A program with headers, requests and responses; "x-name" lies at 1024.
pub(crate) fn http(body: &str) -> String {
    let functions = [
        FIELDS,
        APPEND,
        WRITE,
        HostFunction {
            name: "request",
            path: ("http", "[constructor]outgoing-request"),
            signature: "(param i32) (result i32)",
        },
        HostFunction {
            name: "set-path",
            path: ("http", "[method]outgoing-request.set-path-with-query"),
            signature: "(param i32 i32 i32 i32) (result i32)",
        },
        HostFunction {
            name: "response",
            path: ("http", "[constructor]outgoing-response"),
            signature: "(param i32) (result i32)",
        },
        HostFunction {
            name: "body",
            path: ("http", "[method]outgoing-response.body"),
            signature: "(param i32 i32)",
        },
        HostFunction {
            name: "stream",
            path: ("http", "[method]outgoing-body.write"),
            signature: "(param i32 i32)",
        },
    ];
    let drops = ["fields", "outgoing-request", "outgoing-response"];
    let fill = "(memory.fill (i32.const 65536) (i32.const 97) (i32.const 65536))";
    let body = format!("{fill}\n{body}");
    program(
        &format!("{IO}{HTTP}"),
        &functions,
        &drops,
        4,
        "x-name",
        &body,
    )
}
