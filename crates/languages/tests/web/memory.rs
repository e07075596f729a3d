//! Workers that use up their memory or their stack.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn deep_recursion_is_an_error_that_can_be_caught() {
    let caught = "const caught = (run) => { try { run(); return 'none'; } catch (error) { return \
        error.name; } };";
    let depth = "let n = 0; const f = () => { n++; f(); }; try { f(); } catch (error) { if \
        (error.name !== 'RangeError') throw error; }";
    let body = format!("{depth} return new Response(String(n))");
    let plain: u32 = answer(&body, get("/")).await.parse().unwrap();
    assert!(plain >= 3000, "{plain} plain calls");
    let body =
        "const build = (n) => (n === 0 ? null : { next: build(n - 1) }), length = (list) => \
        (list ? 1 + length(list.next) : 0);
        return new Response(String(length(build(1000))))";
    assert_eq!(answer(body, get("/")).await, "1000");
    for run in [
        "JSON.parse('['.repeat(1e6))",
        "JSON.stringify(Array.from({ length: 1e5 }).reduce((a) => [a], []))",
        "{ const o = { toJSON() { return { o }; } }; JSON.stringify(o); }",
        "(0, eval)('('.repeat(1e5))",
        "{ const f = () => [1].map(f); f(); }",
        "{ const f = () => [2, 1].sort(f); f(); }",
        "{ const f = () => 'a'.replace(/a/, f); f(); }",
        "{ class A { constructor() { new A(); } } new A(); }",
        "{ const o = { get a() { return o.a; } }; o.a; }",
        "{ const o = { toString() { return `${o}`; } }; `${o}`; }",
        "{ const p = new Proxy({}, { get: (t, k, r) => r[k] }); p.x; }",
        "{ const f = () => Reflect.apply(f, null, []); f(); }",
        "{ const f = function () { return f.apply(this, arguments); }; f(1, 2, 3, 4, 5, 6, 7, 8); \
         }",
        "{ const f = () => new Map([[1, 1]]).forEach(f); f(); }",
        "{ const f = async () => { await f(); }; let e; f().catch((x) => { e = x; }); }",
        "{ function* g() { yield* g(); } g().next(); }",
        "{ const f = () => Array.from({ length: 1 }, f); f(); }",
        "{ let re = '('.repeat(5e4) + ')'.repeat(5e4); new RegExp(re); }",
        "{ let f = (x) => x; for (let i = 0; i < 1e5; i++) f = f.bind(null); f(1); }",
        "{ let o = {}; for (let i = 0; i < 1e5; i++) o = Object.create(o); o.x; }",
        "structuredClone(Array.from({ length: 1e5 }).reduce((a) => [a], []))",
        "console.log(Array.from({ length: 1e5 }).reduce((a) => [a], []))",
        "[[[]]].flat(Infinity), Array.from({ length: 1e5 }).reduce((a) => [a], []).flat(Infinity)",
        "String(Array.from({ length: 1e5 }).reduce((a) => [a], []))",
        "{ let s = 'x'; for (let i = 0; i < 1e5; i++) s = s + 'y' + i; s.indexOf('z'); }",
        "{ let r = Promise.resolve(); for (let i = 0; i < 1e5; i++) { const p = r; r = { then: (f) \
         => f(p) }; } Promise.resolve(r); }",
    ] {
        // It either works or is an error that the worker sees.
        let body = format!("{caught} return new Response(caught(() => {{ {run} }}))");
        let mut limits = spec();
        limits.limits.cpu_time = Duration::from_secs(20);
        let (_project, guest) = worker_with(&body, limits);
        let answered = guest
            .call(get("/"))
            .await
            .unwrap_or_else(|error| panic!("{run}: {error}"));
        let text = String::from_utf8_lossy(answered.body()).into_owned();
        assert!(
            ["RangeError", "SyntaxError", "InternalError", "none"].contains(&&*text),
            "{run}: {text}"
        );
    }
}

/// Bytes that this process had resident at most.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn discards_writes_that_fail() {
    let before = peak();
    let body = "const content = new Uint8Array(30 << 20).fill(1), codes = new Set();
        const all = []; for (let i = 0; i < 300; i++) all.push(fs.writeFile('/nowhere/x', \
        content).catch((error) => codes.add(error.code)));
        await Promise.all(all); return new Response([...codes].join())";
    assert_eq!(answer(body, get("/")).await, "ENOENT");
    let grown = peak().saturating_sub(before) >> 20;
    assert!(grown < 1024, "{grown} MiB more");
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_memory_can_be_caught() {
    let source = "import * as fs from 'node:fs/promises';
        export default async () => {
          const kept = [], text = 'x'.repeat(40 << 20);
          for (let n = 0; n < 60; n++) kept.push(new Uint8Array(1 << 20));
          const codes = [];
          try { new TextEncoder().encode(text); } catch (error) { codes.push(error.code ?? \
          error.name); }
          await fs.readFile('/data/x').catch((error) => codes.push(error.code));
          return new Response(codes.join());
        }";
    let project = Project::new(&[("w.js", source)]);
    let spec = with_directory(&project);
    std::fs::write(project.path().join("data/x"), vec![0; 50 << 20]).unwrap();
    let guest = project.guest("w.js", spec);
    let response = guest.call(get("/")).await.unwrap();
    let text = String::from_utf8_lossy(response.body()).into_owned();
    assert!(
        ["ENOMEM,ENOMEM", "InternalError,ENOMEM"].contains(&&*text),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_pending_writes() {
    let source = "import * as fs from 'node:fs/promises';
        export default async () => {
          const content = new Uint8Array(30 << 20).fill(1);
          const all = await Promise.allSettled(Array.from({ length: 200 }, (_, n) => \
          fs.writeFile('/data/x', content)));
          const codes = new Set(all.map((one) => one.reason?.code ?? one.status));
          const back = await fs.readFile('/data/x');
          return new Response([...codes].sort().join() + back.length);
        }";
    let project = Project::new(&[("w.js", source)]);
    let guest = project.guest("w.js", with_directory(&project));
    let before = peak();
    let response = guest.call(get("/")).await.unwrap();
    assert_eq!(response.body(), &format!("ENOMEM,fulfilled{}", 30 << 20));
    let grown = peak().saturating_sub(before) >> 20;
    assert!(grown < 1024, "{grown} MiB more");
}
