//! What a component makes the host hold or do is charged, bounded, and given back.

mod files;

use std::sync::Arc;

use bytes::Bytes;
use wws_engine::{CallError, Engine, GuestSpec, PreopenedDirectory};

use crate::interfaces::{CLOCK, IO, SUBSCRIBE, WRITE, http};
use crate::program::{HostFunction, program};
use crate::{MIB, engine, guest, request, run, spec};
use files::{in_directory, spec_in};

const READ: HostFunction = HostFunction {
    name: "read",
    path: ("streams", "[method]input-stream.read"),
    signature: "(param i32 i64 i32)",
};

const BLOCKING_READ: HostFunction = HostFunction {
    name: "blocking-read",
    path: ("streams", "[method]input-stream.blocking-read"),
    signature: "(param i32 i64 i32)",
};

/// Standard input and output.
const STDIO: &str = r#"
    (import "wasi:cli/stdin@0.2.0" (instance $stdin
      (alias outer 1 $input-stream (type $outer-input))
      (export "input-stream" (type $stream (eq $outer-input)))
      (export "get-stdin" (func (result (own $stream))))))
    (import "wasi:cli/stdout@0.2.0" (instance $stdout
      (alias outer 1 $output-stream (type $outer-output))
      (export "output-stream" (type $stream (eq $outer-output)))
      (export "get-stdout" (func (result (own $stream))))))"#;

const STDIN: HostFunction = HostFunction {
    name: "stdin",
    path: ("stdin", "get-stdin"),
    signature: "(result i32)",
};

const STDOUT: HostFunction = HostFunction {
    name: "stdout",
    path: ("stdout", "get-stdout"),
    signature: "(result i32)",
};

/// The error of a program that trapped.
fn trapped(result: Result<(), CallError>) -> String {
    match result.unwrap_err() {
        error @ CallError::Trap { .. } => error.to_string(),
        error => panic!("no trap: {error}"),
    }
}

#[tokio::test]
async fn streams_return_at_most_one_piece() {
    // Reads all of standard input, which is longer than 1 MiB.
    let body = r"
        (local.set $h (call $stdin))
        (loop $all
          (call $blocking-read (local.get $h) (i64.const -1) (i32.const 0))
          (if (i32.eqz (i32.load8_u (i32.const 0)))
            (then
              (call $check (i32.le_u (i32.load (i32.const 8)) (i32.const 65536)))
              (local.set $n (i32.add (local.get $n) (i32.load (i32.const 8))))
              (br $all))))
        (i32.gt_u (local.get $n) (i32.const 1048576))
        (call $check)
        (i32.const 0)";
    let functions = [STDIN, READ, BLOCKING_READ];
    let text = program(&format!("{IO}{STDIO}"), &functions, &[], 4, "", body);
    let mut call = request();
    *call.request.body_mut() = Bytes::from(vec![b'a'; 1 << 20]);
    let read = guest(&engine(), &text, spec()).call(call).await;
    assert!(matches!(read, Err(CallError::BadResponse(_))), "{read:?}");
}

#[tokio::test]
async fn output_of_a_program_is_bounded_and_charged() {
    // Prints 64 KiB, again and again.
    let body = r"
        (local.set $h (call $stdout))
        (loop $ever
          (call $write (local.get $h) (i32.const 65536) (i32.const 65536) (i32.const 0))
          (br_if $ever (i32.eqz (i32.load8_u (i32.const 0)))))
        (i32.const 1)";
    let text = program(&format!("{IO}{STDIO}"), &[STDOUT, WRITE], &[], 4, "", body);
    let engine = engine();
    let free = engine.free_memory();
    let floods = guest(&engine, &text, spec());
    let error = run(&floods).await.unwrap_err();
    assert!(matches!(error, CallError::TooMuchOutput(_)), "{error}");
    let mut small = spec();
    small.limits.buffers = MIB;
    small.limits.output = 16 * MIB;
    // Half of the buffers is for what is decoded.
    let error = run(&guest(&engine, &text, small)).await.unwrap_err();
    assert!(matches!(error, CallError::TooMuchOutput(_)), "{error}");
    assert_eq!(engine.free_memory(), free);
}

#[tokio::test]
async fn random_bytes_have_a_limit() {
    let imports = r#"(import "wasi:random/random@0.2.0" (instance $random
      (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))"#;
    let function = || HostFunction {
        name: "random",
        path: ("random", "get-random-bytes"),
        signature: "(param i64 i32)",
    };
    let asks = |len: u32| {
        let body = format!(
            r"(call $random (i64.const {len}) (i32.const 0))
            (call $check (i32.eq (i32.load (i32.const 4)) (i32.const {len})))
            (i32.const 0)"
        );
        program(imports, &[function()], &[], 4, "", &body)
    };
    let engine = engine();
    run(&guest(&engine, &asks(65536), spec())).await.unwrap();
    let text = trapped(run(&guest(&engine, &asks(65537), spec())).await);
    assert!(text.contains("65537"), "{text}");
}

#[tokio::test]
async fn program_of_wasi_0_2_may_import_from_0_3() {
    let random = HostFunction {
        name: "random",
        path: ("random", "get-random-u64"),
        signature: "(result i64)",
    };
    let imports = r#"(import "wasi:random/random@0.3.0" (instance $random
        (export "get-random-u64" (func (result u64)))))"#;
    let body = "(drop (call $random)) (i32.const 0)";
    let text = program(imports, &[random], &[], 2, "", body);
    run(&guest(&engine(), &text, spec())).await.unwrap();
}

#[tokio::test]
async fn poll_has_a_limit() {
    let polls = |count: u32| {
        let body = format!(
            r"(local.set $h (call $subscribe (i64.const 0)))
            (loop $all
              (i32.store (i32.add (i32.const 4096) (i32.mul (local.get $i) (i32.const 4))) (local.get $h))
              (local.set $i (i32.add (local.get $i) (i32.const 1)))
              (br_if $all (i32.lt_u (local.get $i) (i32.const {count}))))
            (call $poll (i32.const 4096) (i32.const {count}) (i32.const 0))
            (call $check (i32.eq (i32.load (i32.const 4)) (i32.const {count})))
            (call $drop-pollable (local.get $h))
            (i32.const 0)"
        );
        let poll = HostFunction {
            name: "poll",
            path: ("poll", "poll"),
            signature: "(param i32 i32 i32)",
        };
        let functions = [SUBSCRIBE, poll];
        program(
            &format!("{IO}{CLOCK}"),
            &functions,
            &["pollable"],
            2,
            "",
            &body,
        )
    };
    let engine = engine();
    run(&guest(&engine, &polls(1024), spec())).await.unwrap();
    let text = trapped(run(&guest(&engine, &polls(1025), spec())).await);
    assert!(text.contains("a poll of 1025 pollables"), "{text}");
}

#[tokio::test]
async fn leaked_resources_end_the_call_and_nothing_else() {
    let body = r"
        (loop $leaks
          (drop (call $subscribe (i64.const 1000000000)))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $leaks (i32.lt_u (local.get $i) (i32.const 10000))))
        (i32.const 0)";
    let text = program(&format!("{IO}{CLOCK}"), &[SUBSCRIBE], &[], 1, "", body);
    let engine = engine();
    let free = engine.free_memory();
    let leaks = guest(&engine, &text, spec());
    let other = guest(
        &engine,
        &program("", &[], &[], 1, "", "(i32.const 0)"),
        spec(),
    );
    for _ in 0..20 {
        let (leaked, answered) = tokio::join!(run(&leaks), run(&other));
        answered.unwrap();
        let text = trapped(leaked);
        assert!(text.contains("resource table"), "{text}");
    }
    assert_eq!(engine.free_memory(), free);
}

#[tokio::test]
async fn handles_of_own_resources_are_bounded() {
    // Each takes a place in a table of the host's, and nothing of the guest's memory.
    let imports = "(type $own (resource (rep i32))) (core func $new (canon resource.new $own))";
    let body = r"
        (loop $ever (drop (call $new (i32.const 1))) (br $ever))
        (i32.const 0)";
    let text = program(imports, &[], &[], 1, "", body)
        .replace(
            r#"(import "libc" "memory" (memory 0))"#,
            r#"(import "libc" "memory" (memory 0))
               (import "host" "new" (func $new (param i32) (result i32)))"#,
        )
        .replace(
            r#"(with "host" (instance "#,
            r#"(with "host" (instance (export "new" (func $new)) "#,
        );
    let text = trapped(run(&guest(&engine(), &text, spec())).await);
    assert!(text.contains("handle limit"), "{text}");
}

fn with_buffers(engine: &Engine, text: &str, buffers: u64) -> wws_engine::Guest {
    let mut spec = spec();
    spec.limits.buffers = buffers;
    guest(engine, text, spec)
}

#[tokio::test]
async fn headers_are_charged_until_they_are_dropped() {
    let append = r"
        (local.set $h (call $fields))
        (call $append (local.get $h) (i32.const 1024) (i32.const 6) (i32.const 65536) (i32.const 60000) (i32.const 0))
        (call $check (i32.eqz (i32.load8_u (i32.const 0))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))";
    let drops = http(&format!(
        r"(loop $many
          {append}
          (call $drop-fields (local.get $h))
          (br_if $many (i32.lt_u (local.get $i) (i32.const 1000))))
        (i32.const 0)"
    ));
    // With requests that have them, 500 times.
    let moves = http(&format!(
        r"(loop $many
          {append}
          (call $drop-outgoing-request (call $request (local.get $h)))
          (br_if $many (i32.lt_u (local.get $i) (i32.const 500))))
        (i32.const 0)"
    ));
    let keeps = http(&format!("(loop $ever {append} (br $ever)) (i32.const 0)"));
    let engine = engine();
    let free = engine.free_memory();
    run(&with_buffers(&engine, &drops, MIB)).await.unwrap();
    run(&with_buffers(&engine, &moves, MIB)).await.unwrap();
    let text = trapped(run(&with_buffers(&engine, &keeps, MIB)).await);
    assert!(text.contains("limits.buffers"), "{text}");
    assert_eq!(engine.free_memory(), free);
}

#[tokio::test]
async fn parts_of_requests_are_charged() {
    let body = r#"
        (local.set $h (call $request (call $fields)))
        (i32.store8 (i32.const 65536) (i32.const 47))
        (loop $ever
          (call $check (i32.eqz (call $set-path (local.get $h) (i32.const 1) (i32.const 65536) (i32.const 60000))))
          (br $ever))
        (i32.const 0)"#;
    let engine = engine();
    let free = engine.free_memory();
    let text = trapped(run(&with_buffers(&engine, &http(body), MIB)).await);
    assert!(text.contains("limits.buffers"), "{text}");
    let long = body.replace("60000", "70000");
    let text = trapped(run(&with_buffers(&engine, &http(&long), MIB)).await);
    assert!(text.contains("a text of 70000 bytes"), "{text}");
    assert_eq!(engine.free_memory(), free);
}

#[tokio::test]
async fn bodies_that_are_never_sent_are_charged() {
    // Responses with a piece of a body each; returns when a write fails.
    let body = r"
        (loop $ever
          (call $body (call $response (call $fields)) (i32.const 0))
          (call $check (i32.eqz (i32.load8_u (i32.const 0))))
          (call $stream (i32.load (i32.const 4)) (i32.const 0))
          (call $check (i32.eqz (i32.load8_u (i32.const 0))))
          (call $write (i32.load (i32.const 4)) (i32.const 65536) (i32.const 65536) (i32.const 0))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $ever (i32.eqz (i32.load8_u (i32.const 0)))))
        ;; It is the operation that failed.
        (call $check (i32.eqz (i32.load8_u (i32.const 4))))
        (call $check (i32.gt_u (local.get $i) (i32.const 20)))
        (call $check (i32.lt_u (local.get $i) (i32.const 34)))
        (i32.const 0)";
    let engine = engine();
    let free = engine.free_memory();
    // A little more than thirty pieces.
    run(&with_buffers(&engine, &http(body), 2 * MIB + (32 << 10)))
        .await
        .unwrap();
    assert_eq!(engine.free_memory(), free);
}

#[tokio::test]
async fn sockets_are_denied() {
    const ACCESS_DENIED: u32 = 1;
    let codes = [
        "unknown",
        "access-denied",
        "not-supported",
        "invalid-argument",
        "out-of-memory",
        "timeout",
        "concurrency-conflict",
        "not-in-progress",
        "would-block",
        "invalid-state",
        "new-socket-limit",
        "address-not-bindable",
        "address-in-use",
        "remote-unreachable",
        "connection-refused",
        "connection-reset",
        "connection-aborted",
        "datagram-too-large",
        "name-unresolvable",
        "temporary-resolver-failure",
        "permanent-resolver-failure",
    ]
    .map(|code| format!("\"{code}\""))
    .join(" ");
    let creates = |kind: &str| {
        format!(
            r#"(import "wasi:sockets/{kind}@0.2.0" (instance ${kind}
              (export "{kind}-socket" (type $socket (sub resource)))))
            (alias export ${kind} "{kind}-socket" (type ${kind}-socket))
            (import "wasi:sockets/{kind}-create-socket@0.2.0" (instance ${kind}-create
              (alias outer 1 ${kind}-socket (type $outer-socket))
              (export "{kind}-socket" (type $socket (eq $outer-socket)))
              (alias outer 1 $code (type $outer-code))
              (export "error-code" (type $code (eq $outer-code)))
              (alias outer 1 $family (type $outer-family))
              (export "ip-address-family" (type $family (eq $outer-family)))
              (export "create-{kind}-socket" (func (param "address-family" $family)
                (result (result (own $socket) (error $code)))))))"#
        )
    };
    let imports = format!(
        r#"(import "wasi:sockets/network@0.2.0" (instance $network
          (export "network" (type $net (sub resource)))
          (type $codes (enum {codes})) (export "error-code" (type $code (eq $codes)))
          (type $families (enum "ipv4" "ipv6"))
          (export "ip-address-family" (type $family (eq $families)))))
        (alias export $network "network" (type $net))
        (alias export $network "error-code" (type $code))
        (alias export $network "ip-address-family" (type $family))
        (import "wasi:sockets/instance-network@0.2.0" (instance $instance-network
          (alias outer 1 $net (type $outer-net))
          (export "network" (type $net (eq $outer-net)))
          (export "instance-network" (func (result (own $net))))))
        (import "wasi:sockets/ip-name-lookup@0.2.0" (instance $lookup
          (alias outer 1 $net (type $outer-net))
          (export "network" (type $net (eq $outer-net)))
          (alias outer 1 $code (type $outer-code))
          (export "error-code" (type $code (eq $outer-code)))
          (export "resolve-address-stream" (type $addresses (sub resource)))
          (export "resolve-addresses" (func (param "network" (borrow $net)) (param "name" string)
            (result (result (own $addresses) (error $code)))))))
        {}{}"#,
        creates("tcp"),
        creates("udp")
    );
    let create = |name, instance, function| HostFunction {
        name,
        path: (instance, function),
        signature: "(param i32 i32)",
    };
    let functions = [
        create("tcp", "tcp-create", "create-tcp-socket"),
        create("udp", "udp-create", "create-udp-socket"),
        HostFunction {
            name: "network",
            path: ("instance-network", "instance-network"),
            signature: "(result i32)",
        },
        HostFunction {
            name: "resolve",
            path: ("lookup", "resolve-addresses"),
            signature: "(param i32 i32 i32 i32)",
        },
    ];
    let denied = format!(
        r"(call $check (i32.eq (i32.load8_u (i32.const 0)) (i32.const 1)))
        (call $check (i32.eq (i32.load8_u (i32.const 4)) (i32.const {ACCESS_DENIED})))"
    );
    let body = format!(
        r"(call $tcp (i32.const 0) (i32.const 0)) {denied}
        (call $udp (i32.const 0) (i32.const 0)) {denied}
        (call $resolve (call $network) (i32.const 1024) (i32.const 9) (i32.const 0)) {denied}
        (i32.const 0)"
    );
    let text = program(&imports, &functions, &[], 1, "localhost", &body);
    run(&guest(&engine(), &text, spec())).await.unwrap();
}

#[tokio::test]
async fn arguments_beyond_their_limit_trap() {
    let text = in_directory(
        r"(call $create-directory (local.get $h) (i32.const 65536) (i32.const 4194304) (i32.const 0))
        (i32.const 0)",
    )
    .replace(
        "(memory (export \"memory\") 64)",
        "(memory (export \"memory\") 70)",
    );
    let directory = tempfile::tempdir().unwrap();
    let engine = engine();
    let within = guest(&engine, &text, spec_in(directory.path()));
    run(&within).await.unwrap();
    let beyond = text.replace("(i32.const 4194304)", "(i32.const 4194305)");
    let beyond = guest(&engine, &beyond, spec_in(directory.path()));
    trapped(run(&beyond).await);
}

#[tokio::test]
async fn texts_that_are_copied_at_once_have_a_lower_limit_and_are_charged() {
    let creates = |units: u32| {
        in_directory(&format!(
            r"(call $create-directory (local.get $h) (i32.const 65536) (i32.const {units}) (i32.const 0))
            (call $check (i32.eq (i32.load8_u (i32.const 0)) (i32.const 1)))
            (i32.const 0)"
        ))
    };
    let as_utf16 = |text: String| {
        text.replace(
            "(memory (core memory",
            "string-encoding=utf16 (memory (core memory",
        )
    };
    let directory = tempfile::tempdir().unwrap();
    let engine = engine();
    let load = |text: String| guest(&engine, &text, spec_in(directory.path()));
    let utf8 = load(creates(1_400_000));
    run(&utf8).await.unwrap();
    // Each unit has two bytes.
    let within = load(as_utf16(creates(600_000)));
    run(&within).await.unwrap();
    assert_eq!(within.call_cost(), utf8.call_cost() + 2 * MIB);
    trapped(run(&load(as_utf16(creates(700_000)))).await);
}

#[tokio::test]
async fn attacks_leave_no_charge_behind() {
    // All at once, again and again: headers, bodies and leaked resources.
    let keeps = http(
        r"(loop $ever
          (call $append (call $fields) (i32.const 1024) (i32.const 6) (i32.const 65536) (i32.const 60000) (i32.const 0))
          (br $ever))
        (i32.const 0)",
    );
    let grows = program(
        "",
        &[],
        &[],
        1,
        "",
        "(loop $ever (br_if $ever (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) \
         unreachable",
    )
    .replace("(import \"libc\" \"memory\" (memory 0))", "(memory 1)");
    let engine = engine();
    let free = engine.free_memory();
    let guests: Arc<[_]> = [
        guest(&engine, &keeps, spec()),
        guest(&engine, &grows, spec()),
    ]
    .into();
    let calls: Vec<_> = (0..8)
        .map(|number: usize| {
            let guests = guests.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    trapped(run(&guests[number % guests.len()]).await);
                }
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(engine.free_memory(), free);
}
