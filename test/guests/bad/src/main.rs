//! The worker that does all that a worker must not, without the kit, which would keep it from some.
//! The query says what:
//!
//! * `loop`: computes for ever. `sleep`: sleeps for a day.
//! * `memory`: takes memory until there is none. `stack`: recurses until there is none.
//! * `stdout`: 4 GiB of one JSON string. `stderr`: 1 GiB of lines, and then an answer. `line`: 1
//!   GiB without a line break there.
//! * `nothing`, `text`, `half`, `two`: prints nothing, no JSON, half an object, two objects.
//! * `status=N`: answers with that status.
//! * `header-break`, `header-name`, `header-zero`: a header with a line break in its value, one
//!   without a proper name, one with a zero byte in its value. `framing`: headers that would frame
//!   the message otherwise. `headers=N`: that many headers.
//! * `base64`: data that is said to be base64 and is not. `type`: fields of other types.
//! * `trap`, `panic`, `exit=N`: ends in that way.
//! * `kv=N`: a store of N keys. `value=N`: one of one value of N bytes.
//!
//! Anything else is answered as it should be, with the text `good`.

use std::io::{Read, Write, stdin, stdout};
use std::process::exit;
use std::time::Duration;
use std::{hint, thread};

const GIB: u64 = 1 << 30;

fn main() {
    let mut request = Vec::new();
    // A request that cannot be read is answered like one without a query.
    let _ = stdin().read_to_end(&mut request);
    let request = String::from_utf8_lossy(&request);
    let url = after(&request, "\"url\":\"").split('"').next();
    let query = after(url.unwrap_or_default(), "?");
    let (deed, number) = query.split_once('=').unwrap_or((query, "0"));
    let number: i64 = number.parse().unwrap_or(0);
    match deed {
        "loop" => spin(),
        "sleep" => thread::sleep(Duration::from_secs(24 * 60 * 60)),
        "memory" => eat(),
        "stack" => drop(dig(number)),
        "stdout" => flood(&mut stdout().lock(), 4 * GIB, b"{\"data\":\"", b'a'),
        "stderr" => {
            for _ in 0..GIB / 1024 {
                eprintln!("{}", "a line of the log ".repeat(57));
            }
            print(GOOD);
        }
        "line" => {
            flood(&mut std::io::stderr().lock(), GIB, b"", b'a');
            print(GOOD);
        }
        "nothing" => {}
        "text" => print("<h1>no JSON</h1>"),
        "half" => print(&GOOD[..GOOD.len() / 2]),
        "two" => print(&[GOOD, GOOD].concat()),
        "status" => print(&format!(r#"{{"data":"","status":{number}}}"#)),
        "header-break" => with_headers(r#""x-a":"b\r\nx-injected: yes""#),
        "header-name" => with_headers(r#""x a\r\nx-injected":"yes""#),
        "header-zero" => with_headers(r#""x-a":"b\u0000""#),
        "framing" => with_headers(
            r#""content-length":"3","transfer-encoding":"chunked","connection":"upgrade","upgrade":"h2c""#,
        ),
        "headers" => {
            let all: Vec<_> = (0..number).map(|n| format!("\"x-{n}\":\"{n}\"")).collect();
            with_headers(&all.join(","));
        }
        "base64" => print(r#"{"data":"%%%","base64":true}"#),
        "type" => print(r#"{"data":7,"status":"fine","headers":[]}"#),
        "trap" => trap(),
        "panic" => panic!("a panic of a worker"),
        "exit" => exit(i32::try_from(number).unwrap_or(1)),
        "kv" => {
            let all: Vec<_> = (0..number).map(|n| format!("\"k{n}\":\"{n}\"")).collect();
            print(&format!(r#"{{"data":"","kv":{{{}}}}}"#, all.join(",")));
        }
        "value" => {
            let value = "v".repeat(usize::try_from(number).unwrap_or(0));
            print(&format!(r#"{{"data":"","kv":{{"k":"{value}"}}}}"#));
        }
        _ => print(GOOD),
    }
}

const GOOD: &str = r#"{"data":"good","status":200,"headers":{"content-type":"text/plain"}}"#;

fn after<'a>(text: &'a str, mark: &str) -> &'a str {
    text.split_once(mark).map_or("", |(_, rest)| rest)
}

fn print(text: &str) {
    let _ = stdout().write_all(text.as_bytes());
}

fn with_headers(headers: &str) {
    print(&format!(
        r#"{{"data":"","status":200,"headers":{{{headers}}}}}"#
    ));
}

fn spin() {
    let mut n = 0u64;
    loop {
        n = hint::black_box(n.wrapping_add(1));
    }
}

/// Takes memory and writes to it, so that it is really taken.
fn eat() {
    let mut all = Vec::new();
    loop {
        all.push(hint::black_box(vec![1u8; 1 << 20]));
    }
}

fn dig(depth: i64) -> i64 {
    let here = hint::black_box([depth; 64]);
    if here[1] == i64::MAX {
        return 0;
    }
    dig(depth + 1) + here[0]
}

/// Writes `bytes` bytes, and goes on even if nobody takes them.
fn flood(to: &mut dyn Write, bytes: u64, first: &[u8], byte: u8) {
    let chunk = vec![byte; 1 << 16];
    let _ = to.write_all(first);
    for _ in 0..bytes >> 16 {
        let _ = to.write_all(&chunk);
    }
}

fn trap() {
    #[cfg(target_arch = "wasm32")]
    std::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    std::process::abort();
}
