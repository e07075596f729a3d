//! `wasi:keyvalue`, `wasi:config` and `wasi:logging`.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use wws_engine::CallError;
use wws_kv::{Change, MemoryStore, Store};

use crate::program::{HostFunction, program};
use crate::{engine, guest, run, spec};

/// The interfaces of `wasi:keyvalue`, the first draft or the second.
fn imports(second: bool) -> String {
    let version = if second {
        "0.2.0-draft2"
    } else {
        "0.2.0-draft"
    };
    let cursor = if second { "string" } else { "u64" };
    let number = if second { "s64" } else { "u64" };
    let cas = if second {
        r#"(export "cas" (type $cas (sub resource)))
           (type $cas-variant (variant (case "store-error" $error) (case "cas-failed" (own $cas))))
           (export "cas-error" (type $cas-error (eq $cas-variant)))
           (export "[static]cas.new" (func (param "bucket" (borrow $bucket)) (param "key" string)
             (result (result (own $cas) (error $error)))))
           (export "[method]cas.current" (func (param "self" (borrow $cas))
             (result (result (option (list u8)) (error $error)))))
           (export "swap" (func (param "cas" (own $cas)) (param "value" (list u8))
             (result (result (error $cas-error)))))"#
    } else {
        ""
    };
    format!(
        r#"(import "wasi:keyvalue/store@{version}" (instance $store
          (export "bucket" (type $bucket (sub resource)))
          (type $variant (variant (case "no-such-store") (case "access-denied") (case "other" string)))
          (export "error" (type $error (eq $variant)))
          (type $page (record (field "keys" (list string)) (field "cursor" (option {cursor}))))
          (export "key-response" (type $key-response (eq $page)))
          (export "open" (func (param "identifier" string) (result (result (own $bucket) (error $error)))))
          (export "[method]bucket.get" (func (param "self" (borrow $bucket)) (param "key" string)
            (result (result (option (list u8)) (error $error)))))
          (export "[method]bucket.set" (func (param "self" (borrow $bucket)) (param "key" string)
            (param "value" (list u8)) (result (result (error $error)))))
          (export "[method]bucket.delete" (func (param "self" (borrow $bucket)) (param "key" string)
            (result (result (error $error)))))
          (export "[method]bucket.exists" (func (param "self" (borrow $bucket)) (param "key" string)
            (result (result bool (error $error)))))
          (export "[method]bucket.list-keys" (func (param "self" (borrow $bucket))
            (param "cursor" (option {cursor})) (result (result $key-response (error $error)))))))
        (alias export $store "bucket" (type $bucket))
        (alias export $store "error" (type $error))
        (import "wasi:keyvalue/atomics@{version}" (instance $atomics
          (alias outer 1 $bucket (type $outer-bucket))
          (export "bucket" (type $bucket (eq $outer-bucket)))
          (alias outer 1 $error (type $outer-error))
          (export "error" (type $error (eq $outer-error)))
          {cas}
          (export "increment" (func (param "bucket" (borrow $bucket)) (param "key" string)
            (param "delta" {number}) (result (result {number} (error $error)))))))
        (import "wasi:keyvalue/batch@{version}" (instance $batch
          (alias outer 1 $bucket (type $outer-bucket))
          (export "bucket" (type $bucket (eq $outer-bucket)))
          (alias outer 1 $error (type $outer-error))
          (export "error" (type $error (eq $outer-error)))
          (export "set-many" (func (param "bucket" (borrow $bucket))
            (param "key-values" (list (tuple string (list u8)))) (result (result (error $error)))))
          (export "delete-many" (func (param "bucket" (borrow $bucket))
            (param "keys" (list string)) (result (result (error $error)))))))"#
    )
}

/// Keys and values: "default" at 1024, "name" at 1031, "value" at 1035, "other" at 1040, a byte
/// that is no text at 1045.
const DATA: &str = "defaultnamevalueother\\ff";

const OPEN: HostFunction = HostFunction {
    name: "open",
    path: ("store", "open"),
    signature: "(param i32 i32 i32)",
};

const fn of_key(name: &'static str, function: &'static str) -> HostFunction {
    HostFunction {
        name,
        path: ("store", function),
        signature: "(param i32 i32 i32 i32)",
    }
}

const SET: HostFunction = HostFunction {
    name: "set",
    path: ("store", "[method]bucket.set"),
    signature: "(param i32 i32 i32 i32 i32 i32)",
};

const LIST: HostFunction = HostFunction {
    name: "list",
    path: ("store", "[method]bucket.list-keys"),
    signature: "(param i32 i32 i64 i32)",
};

const INCREMENT: HostFunction = HostFunction {
    name: "increment",
    path: ("atomics", "increment"),
    signature: "(param i32 i32 i32 i64 i32)",
};

const SET_MANY: HostFunction = HostFunction {
    name: "set-many",
    path: ("batch", "set-many"),
    signature: "(param i32 i32 i32 i32)",
};

const DELETE_MANY: HostFunction = HostFunction {
    name: "delete-many",
    path: ("batch", "delete-many"),
    signature: "(param i32 i32 i32 i32)",
};

/// Opens the bucket `$h`.
const OPENED: &str = r"
    (call $open (i32.const 1024) (i32.const 7) (i32.const 0))
    (call $check (i32.eqz (i32.load8_u (i32.const 0))))
    (local.set $h (i32.load (i32.const 4)))";

/// A program with the first draft.
fn first(body: &str) -> String {
    let functions = [
        OPEN,
        of_key("get", "[method]bucket.get"),
        of_key("exists", "[method]bucket.exists"),
        of_key("delete", "[method]bucket.delete"),
        SET,
        LIST,
        INCREMENT,
        SET_MANY,
        DELETE_MANY,
    ];
    program(&imports(false), &functions, &["bucket"], 4, DATA, body)
}

/// A program with the second draft.
fn second(body: &str) -> String {
    let functions = [
        OPEN,
        INCREMENT,
        HostFunction {
            name: "cas",
            path: ("atomics", "[static]cas.new"),
            signature: "(param i32 i32 i32 i32)",
        },
        HostFunction {
            name: "current",
            path: ("atomics", "[method]cas.current"),
            signature: "(param i32 i32)",
        },
        HostFunction {
            name: "swap",
            path: ("atomics", "swap"),
            signature: "(param i32 i32 i32 i32)",
        },
        HostFunction {
            name: "list",
            path: ("store", "[method]bucket.list-keys"),
            signature: "(param i32 i32 i32 i32 i32)",
        },
        SET,
    ];
    program(&imports(true), &functions, &["bucket"], 4, DATA, body)
}

#[tokio::test]
async fn component_reads_and_changes_its_namespace() {
    let store = Arc::new(MemoryStore::default());
    store
        .set("own", "name".into(), "before".into())
        .await
        .unwrap();
    let text = first(&format!(
        r#"{OPENED}
        ;; name = "before", which has six bytes
        (call $get (local.get $h) (i32.const 1031) (i32.const 4) (i32.const 0))
        (call $check (i32.eqz (i32.load8_u (i32.const 0))))
        (call $check (i32.eq (i32.load8_u (i32.const 4)) (i32.const 1)))
        (call $check (i32.eq (i32.load (i32.const 12)) (i32.const 6)))
        (call $check (i32.eq (i32.load8_u (i32.load (i32.const 8))) (i32.const 98)))
        ;; other is missing
        (call $get (local.get $h) (i32.const 1040) (i32.const 5) (i32.const 0))
        (call $check (i32.eqz (i32.load16_u (i32.const 0))))
        (call $check (i32.eqz (i32.load8_u (i32.const 4))))
        (call $exists (local.get $h) (i32.const 1040) (i32.const 5) (i32.const 0))
        (call $check (i32.eqz (i32.load8_u (i32.const 4))))
        ;; name = "value"
        (call $set (local.get $h) (i32.const 1031) (i32.const 4) (i32.const 1035) (i32.const 5) (i32.const 0))
        (call $check (i32.eqz (i32.load8_u (i32.const 0))))
        ;; other += 41, then 1
        (call $increment (local.get $h) (i32.const 1040) (i32.const 5) (i64.const 41) (i32.const 0))
        (call $increment (local.get $h) (i32.const 1040) (i32.const 5) (i64.const 1) (i32.const 0))
        (call $check (i32.eqz (i32.load8_u (i32.const 0))))
        (call $check (i64.eq (i64.load (i32.const 8)) (i64.const 42)))
        (call $drop-bucket (local.get $h))
        (i32.const 0)"#
    ));
    let mut spec = spec();
    spec.kv = Some(wws_engine::KvGrant::new(store.clone(), "own"));
    run(&guest(&engine(), &text, spec)).await.unwrap();
    assert_eq!(store.get("own", "name").await.unwrap().unwrap(), "value");
    assert_eq!(store.get("own", "other").await.unwrap().unwrap(), "42");
}

#[tokio::test]
async fn components_do_not_see_the_namespaces_of_others() {
    let store = Arc::new(MemoryStore::default());
    let engine = engine();
    let writes = first(&format!(
        r"{OPENED}
        (call $set (local.get $h) (i32.const 1031) (i32.const 4) (i32.const 1035) (i32.const 5) (i32.const 0))
        (i32.load8_u (i32.const 0))"
    ));
    let finds = first(&format!(
        r"{OPENED}
        (call $exists (local.get $h) (i32.const 1031) (i32.const 4) (i32.const 0))
        (call $check (i32.eqz (i32.load8_u (i32.const 0))))
        (i32.load8_u (i32.const 4))"
    ));
    let of = |namespace: &str, text: &str| {
        let mut spec = spec();
        spec.kv = Some(wws_engine::KvGrant::new(store.clone(), namespace));
        guest(&engine, text, spec)
    };
    run(&of("first", &writes)).await.unwrap();
    run(&of("second", &finds)).await.unwrap();
    let found = run(&of("first", &finds)).await.unwrap_err();
    assert!(matches!(found, CallError::Exit { code: 1, .. }), "{found}");
}

#[tokio::test]
async fn store_is_denied_without_a_namespace_and_has_no_other() {
    const NO_SUCH_STORE: u8 = 0;
    const ACCESS_DENIED: u8 = 1;
    let opens_other = |error: u8| {
        first(&format!(
            r"(call $open (i32.const 1040) (i32.const 5) (i32.const 0))
            (call $check (i32.eq (i32.load8_u (i32.const 0)) (i32.const 1)))
            (call $check (i32.eq (i32.load8_u (i32.const 4)) (i32.const {error})))
            (i32.const 0)"
        ))
    };
    let engine = engine();
    let without = guest(&engine, &opens_other(ACCESS_DENIED), spec());
    run(&without).await.unwrap();
    let mut spec = spec();
    spec.kv = Some(wws_engine::KvGrant::new(
        Arc::new(MemoryStore::default()),
        "own",
    ));
    run(&guest(&engine, &opens_other(NO_SUCH_STORE), spec))
        .await
        .unwrap();
}

#[tokio::test]
async fn rejects_a_value_that_is_not_text() {
    const OTHER: u8 = 2;
    let store = Arc::new(MemoryStore::default());
    let text = first(&format!(
        r"{OPENED}
        (call $set (local.get $h) (i32.const 1031) (i32.const 4) (i32.const 1044) (i32.const 2) (i32.const 0))
        (call $check (i32.eq (i32.load8_u (i32.const 0)) (i32.const 1)))
        (call $check (i32.eq (i32.load8_u (i32.const 4)) (i32.const {OTHER})))
        (i32.const 0)"
    ));
    let mut spec = spec();
    spec.kv = Some(wws_engine::KvGrant::new(store.clone(), "own"));
    run(&guest(&engine(), &text, spec)).await.unwrap();
    assert_eq!(store.get("own", "name").await.unwrap(), None);
}

#[tokio::test]
async fn keys_are_listed_in_pages() {
    let store = Arc::new(MemoryStore::default());
    let keys: HashSet<String> = (0..2500).map(|n| format!("key {n}")).collect();
    let changes = keys.iter().map(|key| Change::Set(key.clone(), "x".into()));
    store.apply("own", changes.collect()).await.unwrap();
    // Deletes what it lists, so that what is left was not listed.
    let text = first(&format!(
        r"{OPENED}
        (loop $pages
          (call $list (local.get $h) (local.get $i) (i64.extend_i32_u (local.get $j)) (i32.const 0))
          (call $check (i32.eqz (i32.load8_u (i32.const 0))))
          (call $check (i32.le_u (i32.load (i32.const 12)) (i32.const 1000)))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (local.set $i (i32.load8_u (i32.const 16)))
          (local.set $j (i32.load (i32.const 24)))
          (call $delete-many (local.get $h) (i32.load (i32.const 8)) (i32.load (i32.const 12)) (i32.const 0))
          (call $check (i32.eqz (i32.load8_u (i32.const 0))))
          (br_if $pages (local.get $i)))
        (call $check (i32.eq (local.get $n) (i32.const 3)))
        (i32.const 0)"
    ));
    let mut spec = spec();
    spec.kv = Some(wws_engine::KvGrant::new(store.clone(), "own"));
    run(&guest(&engine(), &text, spec)).await.unwrap();
    assert_eq!(store.snapshot("own").await.unwrap().size(), 0);
}

#[tokio::test]
async fn batch_changes_all_keys_or_none() {
    let store = Arc::new(MemoryStore::default());
    // Two pairs at 2048: name = "value", and other = a byte that is no text or "v".
    let sets = |at: u32, len: u32, error: u32| {
        first(&format!(
            r"{OPENED}
            (i32.store (i32.const 2048) (i32.const 1031)) (i32.store (i32.const 2052) (i32.const 4))
            (i32.store (i32.const 2056) (i32.const 1035)) (i32.store (i32.const 2060) (i32.const 5))
            (i32.store (i32.const 2064) (i32.const 1040)) (i32.store (i32.const 2068) (i32.const 5))
            (i32.store (i32.const 2072) (i32.const {at})) (i32.store (i32.const 2076) (i32.const {len}))
            (call $set-many (local.get $h) (i32.const 2048) (i32.const 2) (i32.const 0))
            (call $check (i32.eq (i32.load8_u (i32.const 0)) (i32.const {error})))
            (i32.const 0)"
        ))
    };
    let engine = engine();
    let of = |text: &str| {
        let mut spec = spec();
        spec.kv = Some(wws_engine::KvGrant::new(store.clone(), "own"));
        guest(&engine, text, spec)
    };
    run(&of(&sets(1045, 1, 1))).await.unwrap();
    assert_eq!(store.snapshot("own").await.unwrap().size(), 0);
    run(&of(&sets(1035, 1, 0))).await.unwrap();
    assert_eq!(store.get("own", "name").await.unwrap().unwrap(), "value");
    assert_eq!(store.get("own", "other").await.unwrap().unwrap(), "v");
}

#[tokio::test]
async fn swap_fails_with_the_current_value() {
    let store = Arc::new(MemoryStore::default());
    let text = second(&format!(
        r"{OPENED}
        ;; Looks at the missing key, which then changes.
        (call $cas (local.get $h) (i32.const 1031) (i32.const 4) (i32.const 0))
        (call $check (i32.eqz (i32.load8_u (i32.const 0))))
        (local.set $i (i32.load (i32.const 4)))
        (call $current (local.get $i) (i32.const 0))
        (call $check (i32.eqz (i32.load8_u (i32.const 4))))
        (call $set (local.get $h) (i32.const 1031) (i32.const 4) (i32.const 1040) (i32.const 5) (i32.const 0))
        ;; Fails, with a new cas.
        (call $swap (local.get $i) (i32.const 1035) (i32.const 5) (i32.const 0))
        (call $check (i32.eq (i32.load8_u (i32.const 0)) (i32.const 1)))
        (call $check (i32.eq (i32.load8_u (i32.const 4)) (i32.const 1)))
        (local.set $i (i32.load (i32.const 8)))
        (call $current (local.get $i) (i32.const 0))
        (call $check (i32.eq (i32.load8_u (i32.const 4)) (i32.const 1)))
        (call $check (i32.eq (i32.load8_u (i32.load (i32.const 8))) (i32.const 111)))
        ;; Succeeds.
        (call $swap (local.get $i) (i32.const 1035) (i32.const 5) (i32.const 0))
        (call $check (i32.eqz (i32.load8_u (i32.const 0))))
        ;; A cursor that was never returned.
        (call $list (local.get $h) (i32.const 1) (i32.const 1031) (i32.const 4) (i32.const 0))
        (call $check (i32.eq (i32.load8_u (i32.const 0)) (i32.const 1)))
        (i32.const 0)"
    ));
    let mut spec = spec();
    spec.kv = Some(wws_engine::KvGrant::new(store.clone(), "own"));
    run(&guest(&engine(), &text, spec)).await.unwrap();
    assert_eq!(store.get("own", "name").await.unwrap().unwrap(), "value");
}

#[tokio::test]
async fn buffers_bound_what_a_batch_holds() {
    let store = Arc::new(MemoryStore::default());
    // A value of 128 KiB, for a call that may hold 64 KiB.
    let text = first(&format!(
        r"{OPENED}
        (memory.fill (i32.const 65536) (i32.const 97) (i32.const 131072))
        (call $set (local.get $h) (i32.const 1031) (i32.const 4) (i32.const 65536) (i32.const 131072) (i32.const 0))
        (i32.load8_u (i32.const 0))"
    ));
    let engine = engine();
    let of = |buffers: u64| {
        let mut spec = spec();
        spec.limits.buffers = buffers;
        spec.kv = Some(wws_engine::KvGrant::new(store.clone(), "own"));
        guest(&engine, &text, spec)
    };
    let before = engine.free_memory();
    let refused = run(&of(64 << 10)).await.unwrap_err();
    assert!(
        matches!(refused, CallError::Exit { code: 1, .. }),
        "{refused}"
    );
    assert_eq!(store.snapshot("own").await.unwrap().size(), 0);
    run(&of(1 << 20)).await.unwrap();
    assert_eq!(
        store.get("own", "name").await.unwrap().unwrap().len(),
        131_072
    );
    assert_eq!(engine.free_memory(), before);
}

#[tokio::test]
async fn config_has_the_variables() {
    for name in [
        "store@0.2.0-rc.1",
        "store@0.2.0-draft",
        "runtime@0.2.0-draft",
    ] {
        let imports = format!(
            r#"(import "wasi:config/{name}" (instance $config
              (type $variant (variant (case "upstream" string) (case "io" string)))
              (export "error" (type $error (eq $variant)))
              (export "get" (func (param "key" string) (result (result (option string) (error $error)))))
              (export "get-all" (func (result (result (list (tuple string string)) (error $error)))))))"#
        );
        let functions = [
            HostFunction {
                name: "get",
                path: ("config", "get"),
                signature: "(param i32 i32 i32)",
            },
            HostFunction {
                name: "get-all",
                path: ("config", "get-all"),
                signature: "(param i32)",
            },
        ];
        let body = r"
            (call $get (i32.const 1031) (i32.const 4) (i32.const 0))
            (call $check (i32.eq (i32.load8_u (i32.const 4)) (i32.const 1)))
            (call $check (i32.eq (i32.load (i32.const 12)) (i32.const 3)))
            (call $check (i32.eq (i32.load8_u (i32.load (i32.const 8))) (i32.const 97)))
            (call $get (i32.const 1040) (i32.const 5) (i32.const 0))
            (call $check (i32.eqz (i32.load8_u (i32.const 4))))
            (call $get-all (i32.const 0))
            (call $check (i32.eq (i32.load (i32.const 8)) (i32.const 2)))
            (i32.const 0)";
        let text = program(&imports, &functions, &[], 1, DATA, body);
        let mut spec = spec();
        spec.env = vec![("name".into(), "abc".into()), ("x".into(), "y".into())];
        run(&guest(&engine(), &text, spec)).await.unwrap();
    }
}

/// What was logged: level, context, message.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<(tracing::Level, String, String)>>>);

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "guest"
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        #[derive(Default)]
        struct Fields(String, String);
        impl tracing::field::Visit for Fields {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                match field.name() {
                    "context" => self.0 = format!("{value:?}"),
                    "message" => self.1 = format!("{value:?}"),
                    _ => {}
                }
            }
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = (*event.metadata().level(), fields.0, fields.1);
        self.0.lock().unwrap().push(line);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn messages_reach_the_log_with_their_level() {
    use tracing::Level;
    let lines = Lines::default();
    let _until_the_end = tracing::subscriber::set_default(lines.clone());
    let imports = r#"(import "wasi:logging/logging@0.1.0-draft" (instance $logging
      (type $levels (enum "trace" "debug" "info" "warn" "error" "critical"))
      (export "level" (type $level (eq $levels)))
      (export "log" (func (param "level" $level) (param "context" string) (param "message" string)))))"#;
    let log = HostFunction {
        name: "log",
        path: ("logging", "log"),
        signature: "(param i32 i32 i32 i32 i32)",
    };
    // A message of each level with the context "name", then 20 KiB without a context.
    let body = r"
        (loop $levels
          (call $log (local.get $i) (i32.const 1031) (i32.const 4) (i32.const 1035) (i32.const 5))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $levels (i32.lt_u (local.get $i) (i32.const 6))))
        (memory.fill (i32.const 4096) (i32.const 97) (i32.const 20480))
        (call $log (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 4096) (i32.const 20480))
        (i32.const 0)";
    let text = program(imports, &[log], &[], 1, DATA, body);
    run(&guest(&engine(), &text, spec())).await.unwrap();
    let lines = lines.0.lock().unwrap();
    let levels = [
        Level::TRACE,
        Level::DEBUG,
        Level::INFO,
        Level::WARN,
        Level::ERROR,
        Level::ERROR,
    ];
    for (line, level) in lines.iter().zip(levels) {
        assert_eq!(*line, (level, "\"name\"".to_owned(), "value".to_owned()));
    }
    let rest = &lines[levels.len()..];
    let (last, long) = rest.split_last().unwrap();
    let bytes: usize = long.iter().map(|(_, _, text)| text.len()).sum();
    assert_eq!(bytes, (16 << 10) - 6 * 5);
    assert!(last.2.contains("more bytes of log dropped"), "{last:?}");
}
