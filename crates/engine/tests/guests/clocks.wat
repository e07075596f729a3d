;; Waits for clocks, and traps where they do not agree. The first letter of the program's name says what it does.
(module
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_res_get" (func $step (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get"
    (func $prestat (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 1024) "{\22data\22:\22hello\22,\22status\22:200}")

  (func $check (param $good i32)
    (if (i32.eqz (local.get $good)) (then (unreachable))))

  (func $now (param $clock i32) (result i64)
    (call $check (i32.eqz (call $time (local.get $clock) (i64.const 0) (i32.const 0))))
    (i64.load (i32.const 0)))

  ;; A subscription at 64, its event at 128. Returns the error of the call.
  (func $wait (param $clock i32) (param $time i64) (param $absolute i32) (result i32)
    (memory.fill (i32.const 64) (i32.const 0) (i32.const 128))
    (i32.store (i32.const 80) (local.get $clock))
    (i64.store (i32.const 88) (local.get $time))
    (i32.store16 (i32.const 104) (local.get $absolute))
    (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192)))

  (func $compute (param $nanoseconds i64)
    (local $end i64)
    (local.set $end (i64.add (call $now (i32.const 1)) (local.get $nanoseconds)))
    (loop $again
      (br_if $again (i64.lt_u (call $now (i32.const 1)) (local.get $end)))))

  ;; 300 ms of work, then until 50 ms later.
  (func $deadline (param $clock i32)
    (local $deadline i64) (local $late i64)
    (call $compute (i64.const 300000000))
    (local.set $deadline (i64.add (call $now (local.get $clock)) (i64.const 50000000)))
    (call $check (i32.eqz
      (call $wait (local.get $clock) (local.get $deadline) (i32.const 1))))
    (local.set $late (i64.sub (call $now (local.get $clock)) (local.get $deadline)))
    (call $check (i64.ge_s (local.get $late) (i64.const 0)))
    (call $check (i64.lt_s (local.get $late) (i64.const 200000000))))

  ;; Waiting takes no CPU time, computing does.
  (func $cpu (param $clock i32)
    (local $before i64) (local $used i64)
    (local.set $before (call $now (local.get $clock)))
    (call $check (i32.eqz (call $wait (i32.const 1) (i64.const 300000000) (i32.const 0))))
    (local.set $used (i64.sub (call $now (local.get $clock)) (local.get $before)))
    (call $check (i64.lt_s (local.get $used) (i64.const 200000000)))
    (call $compute (i64.const 20000000))
    (local.set $used (i64.sub (call $now (local.get $clock)) (local.get $before)))
    (call $check (i64.ge_s (local.get $used) (i64.const 20000000))))

  (func $steps
    (local $clock i32)
    (loop $next
      (call $check (i32.eqz (call $step (local.get $clock) (i32.const 0))))
      (call $check (i64.eq (i64.load (i32.const 0)) (i64.const 1)))
      (local.set $clock (i32.add (local.get $clock) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $clock) (i32.const 4))))
    (call $check (i32.eq (call $step (i32.const 4) (i32.const 0)) (i32.const 28)))
    (call $check (i32.eq (call $time (i32.const 4) (i64.const 0) (i32.const 0)) (i32.const 28)))
    ;; A guest that waits uses no CPU time: the wait would never end.
    (call $check (i32.eq (call $wait (i32.const 2) (i64.const 1) (i32.const 0)) (i32.const 28)))
    (call $check (i32.eq
      (call $poll (i32.const 0) (i32.const 0) (i32.const 1025) (i32.const 192))
      (i32.const 28))))

  ;; The directory of descriptor 3 is no longer there once it was closed.
  (func $directory
    (call $check (i32.eqz (call $prestat (i32.const 3) (i32.const 0))))
    (call $check (i32.eqz (call $close (i32.const 3))))
    (call $check (i32.eq (call $prestat (i32.const 3) (i32.const 0)) (i32.const 8))))

  (func (export "_start")
    (local $name i32)
    (drop (call $args (i32.const 0) (i32.const 512)))
    (local.set $name (i32.load8_u (i32.const 512)))
    (if (i32.eq (local.get $name) (i32.const 0x6d)) ;; m
      (then (call $deadline (i32.const 1))))
    (if (i32.eq (local.get $name) (i32.const 0x72)) ;; r
      (then (call $deadline (i32.const 0))))
    (if (i32.eq (local.get $name) (i32.const 0x63)) ;; c
      (then (call $cpu (i32.const 2)) (call $cpu (i32.const 3))))
    (if (i32.eq (local.get $name) (i32.const 0x73)) ;; s
      (then (call $steps)))
    (if (i32.eq (local.get $name) (i32.const 0x64)) ;; d
      (then (call $directory)))
    (if (i32.eq (local.get $name) (i32.const 0x77)) ;; w
      (then (drop (call $wait (i32.const 1) (i64.const 300000000) (i32.const 0)))))
    (if (i32.eq (local.get $name) (i32.const 0x6c)) ;; l
      (then (loop $again
        (call $compute (i64.const 1200000))
        (drop (call $wait (i32.const 1) (i64.const 1) (i32.const 0)))
        (br $again))))
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.const 29))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
