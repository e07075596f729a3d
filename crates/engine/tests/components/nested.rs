//! Components that consist of components, each with a memory of its own.

use std::sync::Arc;

use crate::{engine, guest, run, spec};

/// A module of `pages` whose `run` traps unless its data is there, its other memory is zero and has
/// not grown. It writes to all of that.
fn module(pages: u32, data: char) -> String {
    format!(
        r#"(core module $m
          (memory (export "memory") {pages})
          (data (i32.const 65536) "{data}")
          (func $check (param i32) (if (i32.eqz (local.get 0)) (then unreachable)))
          (func (export "run") (result i32)
            (call $check (i32.eq (memory.size) (i32.const {pages})))
            (call $check (i32.eq (i32.load8_u (i32.const 65536)) (i32.const {byte})))
            (call $check (i32.eqz (i32.load8_u (i32.const 100))))
            (call $check (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))
            (call $check (i32.eqz (i32.load8_u (i32.const {end}))))
            (memory.fill (i32.const 0) (i32.const 9) (i32.const {end}))
            (i32.store8 (i32.const {end}) (i32.const 9))
            (i32.const 0)))"#,
        byte = u32::from(data),
        end = pages * 65536,
    )
}

/// A component whose program runs the functions of both modules, which lie two levels down. The one
/// of `outer` calls the one of `inner`.
fn nested(outer: &str, inner: &str) -> String {
    format!(
        r#"(component
          (component $middle
            (component $inner
              {inner}
              (core instance $i (instantiate $m))
              (func (export "run") (result (result)) (canon lift (core func $i "run"))))
            (component $outer
              (import "below" (func $inner (result (result))))
              (core func $below (canon lower (func $inner)))
              {outer}
              (core instance $i (instantiate $m))
              (core module $both
                (import "a" "below" (func $below (result i32)))
                (import "a" "own" (func $own (result i32)))
                (func (export "run") (result i32) (i32.or (call $below) (call $own))))
              (core instance $both (instantiate $both (with "a" (instance
                (export "below" (func $below)) (export "own" (func $i "run"))))))
              (func (export "run") (result (result)) (canon lift (core func $both "run"))))
            (instance $inner (instantiate $inner))
            (instance $outer (instantiate $outer (with "below" (func $inner "run"))))
            (export "run" (func $outer "run")))
          (instance $middle (instantiate $middle))
          (instance $cli (export "run" (func $middle "run")))
          (export "wasi:cli/run@0.2.0" (instance $cli)))"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn memories_of_nested_components_are_new_for_each_call() {
    let engine = engine();
    let free = engine.free_memory();
    // Of different sizes, so that both have an image; of one size; and one module twice.
    for (outer, inner) in [
        ((2, 'o'), (3, 'i')),
        ((2, 'o'), (2, 'i')),
        ((2, 's'), (2, 's')),
    ] {
        let text = nested(&module(outer.0, outer.1), &module(inner.0, inner.1));
        let guest = Arc::new(guest(&engine, &text, spec()));
        let calls: Vec<_> = (0..4)
            .map(|_| {
                let guest = guest.clone();
                tokio::spawn(async move {
                    for _ in 0..20 {
                        run(&guest).await.unwrap();
                    }
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
    }
    assert_eq!(engine.free_memory(), free);
}
