//! Guests, in the text format of Wasm.

/// Prints `json`, after running `before`.
pub fn prints(json: &str, before: &str) -> String {
    let escaped: String = json.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    format!(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 4)
          (data (i32.const 1024) "{escaped}")
          (func $put (param $fd i32) (param $at i32) (param $length i32)
            (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $length))
            (drop (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
          (func (export "_start") (local $n i32) {before}
            (call $put (i32.const 1) (i32.const 1024) (i32.const {}))))"#,
        json.len()
    )
}

/// Answers with a body.
pub fn answers(data: &str) -> String {
    prints(&format!(r#"{{"data":"{data}","status":200}}"#), "")
}

/// What [`sleeps`] logs first.
pub const BEGUN: &str = "it has begun\n";

/// Writes what it reads to the log, then answers.
pub fn logs_input() -> String {
    let before = r"
      (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 130000))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (call $put (i32.const 2) (i32.const 65536) (i32.load (i32.const 8)))";
    prints(r#"{"data":"ok"}"#, before)
}

/// Adds 1 to the number that the namespace has for `n`, as it reads and prints it, and answers the
/// sum.
pub fn counts() -> String {
    r#"(module
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 2)
      (data (i32.const 1024) "{\"data\":\"")
      (data (i32.const 1040) "\",\"kv\":{\"n\":\"")
      (data (i32.const 1060) "\"}}")
      (func $put (param $at i32) (param $length i32)
        (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $length))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
      (func (export "_start") (local $end i32) (local $at i32) (local $n i32) (local $to i32)
        (local.set $end (i32.const 4096))
        (loop $more
          (i32.store (i32.const 0) (local.get $end)) (i32.store (i32.const 4) (i32.const 4096))
          (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
          (local.set $end (i32.add (local.get $end) (i32.load (i32.const 8))))
          (br_if $more (i32.load (i32.const 8))))
        (local.set $at (i32.const 4096))
        (block $found (loop $search
          (br_if $found (i32.ge_u (local.get $at) (local.get $end)))
          ;; "n":" in the order of a number's bytes, without the last quote.
          (br_if $found (i32.eq (i32.load (local.get $at)) (i32.const 0x3a226e22)))
          (local.set $at (i32.add (local.get $at) (i32.const 1)))
          (br $search)))
        (local.set $at (i32.add (local.get $at) (i32.const 5)))
        (block $read_all (loop $digits
          (br_if $read_all (i32.ge_u (local.get $at) (local.get $end)))
          (br_if $read_all (i32.gt_u (i32.sub (i32.load8_u (local.get $at)) (i32.const 48)) (i32.const 9)))
          (local.set $n (i32.add (i32.mul (local.get $n) (i32.const 10))
            (i32.sub (i32.load8_u (local.get $at)) (i32.const 48))))
          (local.set $at (i32.add (local.get $at) (i32.const 1)))
          (br $digits)))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (local.set $to (i32.const 2048))
        (loop $write_digits
          (local.set $to (i32.sub (local.get $to) (i32.const 1)))
          (i32.store8 (local.get $to) (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
          (local.set $n (i32.div_u (local.get $n) (i32.const 10)))
          (br_if $write_digits (local.get $n)))
        (call $put (i32.const 1024) (i32.const 9))
        (call $put (local.get $to) (i32.sub (i32.const 2048) (local.get $to)))
        (call $put (i32.const 1040) (i32.const 13))
        (call $put (local.get $to) (i32.sub (i32.const 2048) (local.get $to)))
        (call $put (i32.const 1060) (i32.const 3))))"#
        .into()
}

/// Logs that it has [`BEGUN`], and answers after so many milliseconds.
pub fn sleeps(milliseconds: u64) -> String {
    let word: String = BEGUN.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    let before = format!(
        "(call $put (i32.const 2) (i32.const 2048) (i32.const {}))
         (i32.store (i32.const 112) (i32.const 1))
         (i64.store (i32.const 120) (i64.const {}))
         (drop (call $poll (i32.const 96) (i32.const 200) (i32.const 1) (i32.const 300)))",
        BEGUN.len(),
        milliseconds * 1_000_000
    );
    let begun = format!("(data (i32.const 2048) \"{word}\") (func $put");
    prints(r#"{"data":"slept"}"#, &before).replace("(func $put", &begun)
}

/// Computes for ever.
pub fn loops() -> String {
    prints("{}", "(loop $for_ever (br $for_ever))")
}
