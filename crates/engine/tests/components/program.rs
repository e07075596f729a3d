//! Writes components: programs (`wasi:cli/run`) whose work is a function of a core module.

use std::fmt::Write as _;

/// A function of the host that a program calls.
pub(crate) struct HostFunction {
    /// Its name in the core module.
    pub(crate) name: &'static str,
    /// The instance and the function in it.
    pub(crate) path: (&'static str, &'static str),
    /// Parameters and results in the core module.
    pub(crate) signature: &'static str,
}

/// The text of a component. `imports` declares instances and resources, `functions` are those that
/// `body` calls, `drops` the resources that it drops (`$drop-NAME`). `body` returns 0 if all is
/// well, and traps where a `$check` fails. Its memory is `pages` long; `data` lies at 1024, results
/// of the host are placed from 32768 on.
pub(crate) fn program(
    imports: &str,
    functions: &[HostFunction],
    drops: &[&str],
    pages: u32,
    data: &str,
    body: &str,
) -> String {
    let mut lowered = String::new();
    let mut given = String::new();
    let mut imported = String::new();
    for function in functions {
        let (instance, name) = function.path;
        let own = function.name;
        let signature = function.signature;
        writeln!(
            lowered,
            r#"(core func ${own} (canon lower (func ${instance} "{name}")
                 (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))"#
        )
        .unwrap();
        writeln!(given, r#"(export "{own}" (func ${own}))"#).unwrap();
        writeln!(
            imported,
            r#"(import "host" "{own}" (func ${own} {signature}))"#
        )
        .unwrap();
    }
    for resource in drops {
        writeln!(
            lowered,
            "(core func $drop-{resource} (canon resource.drop ${resource}))"
        )
        .unwrap();
        writeln!(
            given,
            r#"(export "drop-{resource}" (func $drop-{resource}))"#
        )
        .unwrap();
        writeln!(
            imported,
            r#"(import "host" "drop-{resource}" (func $drop-{resource} (param i32)))"#
        )
        .unwrap();
    }
    format!(
        r#"(component
          {imports}
          (core module $libc-module
            (memory (export "memory") {pages})
            (global $next (mut i32) (i32.const 32768))
            (func (export "realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
              (local $at i32)
              (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
              (global.set $next (i32.add (local.get $at) (local.get $size)))
              ;; Starts over rather than ever needing more memory.
              (if (i32.gt_u (global.get $next) (i32.const {end}))
                (then
                  (local.set $at (i32.const 32768))
                  (global.set $next (i32.add (i32.const 32768) (local.get $size)))))
              (local.get $at)))
          (core instance $libc (instantiate $libc-module))
          {lowered}
          (core module $main
            (import "libc" "memory" (memory 0))
            {imported}
            (data (i32.const 1024) "{data}")
            (func $check (param i32) (if (i32.eqz (local.get 0)) (then unreachable)))
            (func (export "run") (result i32)
              (local $i i32) (local $j i32) (local $n i32) (local $h i32)
              {body}))
          (core instance $run (instantiate $main
            (with "libc" (instance $libc))
            (with "host" (instance {given}))))
          (func $run (result (result)) (canon lift (core func $run "run")))
          (instance $cli (export "run" (func $run)))
          (export "wasi:cli/run@0.2.0" (instance $cli)))"#,
        end = u64::from(pages) * 65536,
    )
}
