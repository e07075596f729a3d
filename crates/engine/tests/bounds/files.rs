//! Files and directories of guests.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn bounds_open_files_and_releases_them() {
    let _turn = TURN.lock().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("out"), "x").unwrap();
    let text = r#"(module
      (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (data (i32.const 64) "out")
      (data (i32.const 256) "{\"data\":\"000 00 0\"}")
      (func $number (param $at i32) (param $digits i32) (param $value i32)
        (loop $l
          (local.set $digits (i32.sub (local.get $digits) (i32.const 1)))
          (i32.store8 (i32.add (local.get $at) (local.get $digits))
            (i32.add (i32.const 48) (i32.rem_u (local.get $value) (i32.const 10))))
          (local.set $value (i32.div_u (local.get $value) (i32.const 10)))
          (br_if $l (local.get $digits))))
      (func $one (result i32)
        (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 3) (i32.const 0) (i64.const 2)
          (i64.const 0) (i32.const 0) (i32.const 16)))
      (func (export "_start") (local $count i32) (local $error i32)
        (block $done (loop $l
          (br_if $done (local.tee $error (call $one)))
          (local.set $count (i32.add (local.get $count) (i32.const 1)))
          (br_if $l (i32.lt_u (local.get $count) (i32.const 500)))))
        (call $number (i32.const 265) (i32.const 3) (local.get $count))
        (call $number (i32.const 269) (i32.const 2) (local.get $error))
        (drop (call $close (i32.load (i32.const 16))))
        (call $number (i32.const 272) (i32.const 1) (call $one))
        (i32.store (i32.const 0) (i32.const 256)) (i32.store (i32.const 4) (i32.const 19))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;
    let engine = engine(64 * MIB);
    let directory = || PreopenedDirectory {
        dir: std::fs::File::open(dir.path()).unwrap(),
        to: "/".into(),
    };
    let with = |open_files| {
        let limits = GuestLimits {
            open_files,
            ..spec().limits
        };
        let directories = vec![directory()];
        let spec = GuestSpec {
            limits,
            directories,
            ..spec()
        };
        guest_with(&engine, text, spec)
    };
    let (usual, unbounded) = (with(64), with(100_000));
    for _ in 0..5 {
        // EMFILE, and one more after one was closed.
        assert_eq!(usual.call(get("/")).await.unwrap().body(), "064 33 0");
        // ENFILE: all calls together may open 100.
        assert_eq!(unbounded.call(get("/")).await.unwrap().body(), "100 41 0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_long_data_to_files_in_parts() {
    let _turn = TURN.lock().await;
    let dir = tempfile::tempdir().unwrap();
    // Writes 5 MiB with one vector as often as it takes, as libraries do, and reads them again.
    let text = r#"(module
      (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_pread" (func $pread (param i32 i32 i32 i64 i32) (result i32)))
      (memory (export "memory") 200)
      (data (i32.const 64) "out")
      (data (i32.const 256) "{\"data\":\"ok\"}")
      (func (export "_start") (local $i i32) (local $at i32) (local $left i32)
        (local.set $i (i32.const 65536))
        (loop $l
          (i32.store (local.get $i) (local.get $i))
          (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 4))) (i32.const 5308416))))
        (if (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 3) (i32.const 9) (i64.const 66)
          (i64.const 0) (i32.const 0) (i32.const 16)) (then (unreachable)))
        (local.set $at (i32.const 65536)) (local.set $left (i32.const 5242880))
        (loop $l
          (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $left))
          (if (call $write (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8)) (then (unreachable)))
          (if (i32.ne (i32.load (i32.const 4)) (local.get $left)) (then (unreachable)))
          (local.set $at (i32.add (local.get $at) (i32.load (i32.const 8))))
          (local.set $left (i32.sub (local.get $left) (i32.load (i32.const 8))))
          (br_if $l (local.get $left)))
        (local.set $at (i32.const 0))
        (loop $l
          (i32.store (i32.const 0) (i32.add (i32.const 6553600) (local.get $at)))
          (i32.store (i32.const 4) (i32.sub (i32.const 5242880) (local.get $at)))
          (if (call $pread (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i64.extend_i32_u (local.get $at)) (i32.const 8))
            (then (unreachable)))
          (if (i32.eqz (i32.load (i32.const 8))) (then (unreachable)))
          (local.set $at (i32.add (local.get $at) (i32.load (i32.const 8))))
          (br_if $l (i32.lt_u (local.get $at) (i32.const 5242880))))
        (local.set $i (i32.const 0))
        (loop $l
          (if (i32.ne (i32.load offset=65536 (local.get $i)) (i32.load offset=6553600 (local.get $i))) (then (unreachable)))
          (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 4))) (i32.const 5242880))))
        (i32.store (i32.const 0) (i32.const 256)) (i32.store (i32.const 4) (i32.const 13))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;
    let directories = vec![PreopenedDirectory {
        dir: std::fs::File::open(dir.path()).unwrap(),
        to: "/".into(),
    }];
    let guest = guest_with(
        &engine(64 * MIB),
        text,
        GuestSpec {
            directories,
            ..spec()
        },
    );
    assert_eq!(guest.call(get("/")).await.unwrap().body(), "ok");
    assert_eq!(
        std::fs::metadata(dir.path().join("out")).unwrap().len(),
        5 << 20
    );
}

/// Lists the directory that it was given in pieces of 4 KiB, and says `ok` where it has 20,002
/// entries.
const LISTS: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_readdir" (func $list (param i32 i32 i32 i64 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 256) "{\"data\":\"ok\"}")
  (func (export "_start") (local $count i32) (local $at i32) (local $end i32) (local $cookie i64)
    (block $done
      (loop $more
        (if (call $list (i32.const 3) (i32.const 8192) (i32.const 4096) (local.get $cookie) (i32.const 512))
          (then (unreachable)))
        (local.set $at (i32.const 8192))
        (local.set $end (i32.add (i32.const 8192) (i32.load (i32.const 512))))
        (block $next
          (loop $entry
            (br_if $next (i32.lt_u (i32.sub (local.get $end) (local.get $at)) (i32.const 24)))
            (br_if $next (i32.lt_u (i32.sub (local.get $end) (local.get $at))
              (i32.add (i32.const 24) (i32.load offset=16 (local.get $at)))))
            (local.set $cookie (i64.load (local.get $at)))
            (local.set $at (i32.add (local.get $at) (i32.add (i32.const 24) (i32.load offset=16 (local.get $at)))))
            (local.set $count (i32.add (local.get $count) (i32.const 1)))
            (br $entry)))
        (br_if $more (i32.eq (i32.load (i32.const 512)) (i32.const 4096)))))
    (if (i32.ne (local.get $count) (i32.const 20002)) (then (unreachable)))
    (i32.store (i32.const 0) (i32.const 256)) (i32.store (i32.const 4) (i32.const 13))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_large_directory_is_listed_in_pieces() {
    let _turn = TURN.lock().await;
    let dir = tempfile::tempdir().unwrap();
    for i in 0..20_000 {
        std::fs::write(dir.path().join(format!("{i}-{}", "x".repeat(200))), "").unwrap();
    }
    let directories = vec![PreopenedDirectory {
        dir: std::fs::File::open(dir.path()).unwrap(),
        to: "/".into(),
    }];
    let engine = engine(64 * MIB);
    let guest = guest_with(
        &engine,
        LISTS,
        GuestSpec {
            directories,
            ..spec()
        },
    );
    let (answer, peak) = peak(guest.call(get("/"))).await;
    assert_eq!(answer.unwrap().body(), "ok");
    assert!(peak < 6 * MIB, "{} KiB", peak >> 10);
    assert_eq!(engine.account().free(), engine.account().total());
}
