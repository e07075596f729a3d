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

/// Writes what it reads to the log, then answers.
pub fn logs_input() -> String {
    let before = r"
      (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 130000))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (call $put (i32.const 2) (i32.const 65536) (i32.load (i32.const 8)))";
    prints(r#"{"data":"ok"}"#, before)
}

/// Answers after so many milliseconds.
pub fn sleeps(milliseconds: u64) -> String {
    let before = format!(
        "(i32.store (i32.const 112) (i32.const 1))
         (i64.store (i32.const 120) (i64.const {}))
         (drop (call $poll (i32.const 96) (i32.const 200) (i32.const 1) (i32.const 300)))",
        milliseconds * 1_000_000
    );
    prints(r#"{"data":"slept"}"#, &before)
}

/// Computes for ever.
pub fn loops() -> String {
    prints("{}", "(loop $for_ever (br $for_ever))")
}
