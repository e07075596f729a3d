// Random programs over the web's interfaces: the same numbers make the same programs everywhere, so that what they observe can
// be compared between a worker and Node. What differs on purpose is left out of what they look at; docs/workers/javascript.md lists it.

// https://gist.github.com/tommyettinger/46a874533244883189143505d203312c: mulberry32.
const random = (seed) => () => {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
};

const TEXTS = ["", "a", "abc", "a b", "é", "✓ x", "\u{1f600}", "\ud800", "x\udc00y", "a=1&b=2", "%zz%41", "+&=", "1", "null", "{\"n\":[1]}", "a\r\nb", "\0", "\ufeffa"];
const NAMES = ["a", "x-b", "X-B", "Set-Cookie", "cookie", "content-type", "Accept"];
const BAD_NAMES = ["", "a b", "é", "a:b", "x\n"];
const VALUES = ["", "1", " 2 ", "a, b", "text/html", "\té\t", "x\ty"];
const BAD_VALUES = ["a\nb", "a\0b", "a\r\nb: c"];
const URLS = ["http://a.example/", "https://u:p@b.example:8443/x/../y?q=1&q=2#h", "/path?x=ü", "?k=v", "#f", "../up/./x", "//host/p", "nothing", "",
  "mailto:me@x", "data:text/plain,hi", "http://EXAMPLE.com:80/%7Ea b", "http://[::1]:3/", "http://1.2.3/", "file:///c/d", "http://ex ample/", "http://é.example/", "\n http://c/ ", "http:\\\\a\\b", "javascript:1", "http://a/?%zz"];
// Node 20 takes the bytes 80 to 9f of windows-1252 for control characters.
const LABELS = ["utf-8", "UTF8", "utf-16le", "utf-16be", "windows-1251", " utf-8\t", "replacement", "no such", "iso-8859-15", "koi8-r"];
// Bytes that mean something: what Node makes of others in these encodings is not what the standard says.
const LEGACY = {
  shift_jis: [0x82, 0xa0, 0x61, 0x82, 0xa2], "euc-jp": [0xa4, 0xa2, 0x61, 0xa4, 0xa4], gbk: [0xc4, 0xe3, 0x61, 0xba, 0xc3], gb18030: [0x81, 0x30, 0x89, 0x38, 0xc4, 0xe3],
  big5: [0xa7, 0x41, 0x61, 0xa6, 0x6e], "euc-kr": [0xb0, 0xa1, 0x61, 0xb3, 0xaa], "iso-2022-jp": [0x61, 0x1b, 0x24, 0x42, 0x24, 0x22, 0x1b, 0x28, 0x42, 0x61],
};
const TYPES = ["", "text/plain", "Text/HTML", "a/b;charset=X", "é", "x\n"];
const METHODS = ["GET", "get", "post", "PUT", "patch", "PATCH", "head", "DELETE", "options", "trace", "a b", "X-own"];

// A maker of programs: each draws what it needs, and gives steps that are run one after the other.
class Draw {
  constructor(seed) { this.next = random(seed); }
  below(n) { return Math.floor(this.next() * n); }
  chance(p) { return this.next() < p; }
  of(list) { return list[this.below(list.length)]; }
  text() {
    const text = this.chance(0.7) ? this.of(TEXTS) : this.of(TEXTS) + this.of(TEXTS);
    // Node cuts characters that stand beside a percent sign which escapes nothing.
    return text.includes("%zz") ? text.replace(/[^\0-\x7f]/g, "") : text;
  }
  name() { return this.chance(0.9) ? this.of(NAMES) : this.of(BAD_NAMES); }
  value() { return this.chance(0.9) ? this.of(VALUES) : this.of(BAD_VALUES); }
  bytes(max = 12) { return Uint8Array.from({ length: this.below(max) }, () => this.of([0x41, 0x61, 0x80, 0xa0, 0xc3, 0xa9, 0xe2, 0x9c, 0x93, 0xf0, 0xff, 0xfe, 0xef, 0xbb, 0xbf, 0, 0x1b, 0x24, 0x42, 0xd8, this.below(256)])); }
  times(min, max, make) { return Array.from({ length: min + this.below(max - min + 1) }, make); }
}

// What a step saw, in a form that does not depend on the engine: values, or names of errors.
const show = (value) => {
  if (value === undefined) return "undefined";
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value === "number") return Object.is(value, -0) ? "-0" : String(value);
  if (typeof value === "bigint") return `${value}n`;
  if (value === null || typeof value !== "object") return String(value);
  if (value instanceof ArrayBuffer) return `buffer ${[...new Uint8Array(value)]}`;
  if (ArrayBuffer.isView(value)) return `${value[Symbol.toStringTag] ?? "DataView"} ${[...new Uint8Array(value.buffer, value.byteOffset, value.byteLength)]}`;
  if (value instanceof File) return `File ${show(value.name)} ${show(value.type)} ${value.size}`;
  if (value instanceof Blob) return `Blob ${show(value.type)} ${value.size}`;
  if (value instanceof Headers) return `Headers ${show([...value].filter(([k, v]) => v !== "text/plain;charset=UTF-8" && !v.startsWith("multipart/")))}`;
  if (value instanceof URLSearchParams || value instanceof URL) return show(String(value));
  if (value instanceof FormData) return `FormData ${show([...value])}`;
  if (value instanceof Error) return `${value.name}${value.message === "m" ? " m" : ""}`;
  if (value instanceof Date) return `Date ${value.getTime()}`;
  if (value instanceof RegExp) return String(value);
  if (value instanceof Map) return `Map ${show([...value])}`;
  if (value instanceof Set) return `Set ${show([...value])}`;
  if (Array.isArray(value)) return `[${value.map(show)}]`;
  return `{${Object.keys(value).map((key) => `${key}:${show(value[key])}`)}}`;
};

const headers_init = (d) => d.of([
  () => d.times(0, 4, () => [d.name(), d.value()]),
  () => Object.fromEntries(d.times(0, 4, () => [d.name(), d.value()])),
  () => new Headers(d.times(0, 3, () => [d.of(NAMES), d.of(VALUES) || "v"])),
  () => d.of([undefined, null, 1, "x", [["a"]], [["a", "b", "c"]], [1], new Map([["a", "b"]])]),
])();

const FAMILIES = {
  headers(d) {
    let h = new Headers();
    const steps = [() => { h = new Headers(headers_init(d)); return h; }];
    steps.push(...d.times(2, 8, () => d.of([
      () => h.append(d.name(), d.value()), () => h.set(d.name(), d.value()), () => h.delete(d.name()), () => h.get(d.name()), () => h.has(d.name()),
      () => h.getSetCookie(), () => [...h.keys()], () => [...h.values()], () => h,
      () => { const seen = []; let n = 0; for (const [k] of h) { seen.push(k); if (n++ < 3) d.chance(0.5) ? h.delete(k) : h.append("z" + n, "v"); } return seen; },
      () => { const seen = []; h.forEach((v, k) => seen.push(k + v)); return seen; },
      () => String(h.entries()), () => h.append("a"), () => h.get(),
    ])));
    return steps;
  },
  url(d) {
    let u = new URL("http://start.example/a?b=c#d");
    return [
      () => { u = d.chance(0.5) ? new URL(d.of(URLS)) : new URL(d.of(URLS), d.of(URLS)); return [u.href, u.origin]; },
      ...d.times(1, 6, () => d.of([
        () => { u.search = d.text().replace("\0", ""); return u; }, () => { u.hash = d.of(["", "#", "x y", "é"]); return u; },
        () => { u.pathname = d.of(["", "/", "a/b", "é", "../x", "?x", "#y"]); return u; }, () => { u.host = d.of(["h.example", "h:81", "", "x y", "[::2]:5"]); return u; },
        () => { u.port = d.of(["", "80", "443", "99999", "8x", "x"]); return u; }, () => { u.protocol = d.of(["https", "http:", "ftp", "x", ""]); return u; },
        () => { u.username = d.of(["", "a b", "é"]); return u; }, () => { u.password = d.of(["", "p:@"]); return u; },
        () => { u.hostname = d.of(["x.example", "a:b", "", "1.1"]); return u; }, () => { u.href = d.of(URLS); return u; },
        () => { u.searchParams.append(d.text(), d.text()); return u.search; }, () => { u.searchParams.delete(d.of(["q", "k", "b"])); return u; },
        () => { u.searchParams.set("q", d.text()); return u.href; }, () => [...u.searchParams], () => [u.hostname, u.port, u.pathname, u.search, u.hash, u.username, u.password, u.protocol],
        () => URL.canParse(d.of(URLS), d.of(URLS)), () => JSON.stringify(u),
      ])),
    ];
  },
  params(d) {
    let p = new URLSearchParams();
    return [
      () => { p = new URLSearchParams(d.of([() => d.text(), () => d.times(0, 3, () => [d.text(), d.text()]), () => Object.fromEntries(d.times(0, 3, () => [d.text(), d.text()])), () => new URLSearchParams("z=1&z=2"), () => d.of([undefined, 1, [["a"]], [["a", undefined]], [1], {}, "?x=1"])])()); return p; },
      ...d.times(2, 8, () => d.of([
        () => p.append(d.text(), d.text()), () => p.set(d.text(), d.text()), () => p.delete(d.text()), () => p.delete("a", "1"), () => p.delete("a", undefined), () => p.get(d.text()), () => p.getAll("z"), () => p.has(d.text()), () => p.has("a", "1"),
        () => p.sort(), () => p.size, () => p, () => [...p], () => p.append("x"),
        () => { const seen = []; let n = 0; for (const [k] of p) { seen.push(k); if (n++ < 4) d.chance(0.5) ? p.delete(k) : p.append("n" + n, ""); } return seen; },
        () => { const seen = []; p.forEach((v, k) => { seen.push(k); if (seen.length < 4) p.delete(k); }); return seen; },
      ])),
    ];
  },
  decoder(d) {
    let t = new TextDecoder();
    return [
      () => { t = new TextDecoder(d.of(LABELS), { fatal: d.chance(0.3), ignoreBOM: d.chance(0.3) }); return [t.encoding, t.fatal, t.ignoreBOM]; },
      ...d.times(1, 6, () => d.of([() => t.decode(d.bytes(), { stream: true }), () => t.decode(d.bytes()), () => t.decode(), () => t.decode(d.bytes().buffer, { stream: d.chance(0.5) }), () => t.decode(d.of([null, "x", 1]))])),
    ];
  },
  legacy(d) {
    const label = d.of(Object.keys(LEGACY)), t = new TextDecoder(label), bytes = Uint8Array.from(LEGACY[label]);
    return [() => {
      let text = "";
      for (let at = 0; at < bytes.length;) {
        const length = 1 + d.below(3);
        text += t.decode(bytes.subarray(at, at += length), { stream: true });
      }
      return [t.encoding, text + t.decode()];
    }];
  },
  encoder(d) {
    const e = new TextEncoder();
    return d.times(1, 4, () => d.of([
      () => e.encode(d.text()), () => e.encode(d.of([undefined, null, 1, {}])),
      () => { const to = new Uint8Array(d.below(8)); return [e.encodeInto(d.text(), to), to]; },
      () => atob(d.of(["YQ==", "YQ", "Y Q", "Y", "%", ""])), () => btoa(d.text()),
    ]));
  },
  blob(d) {
    let b = new Blob();
    const part = () => d.of([() => d.text(), () => d.bytes(), () => d.bytes().buffer, () => b, () => d.of([1, null, undefined, {}])])();
    return [
      () => { b = d.chance(0.7) ? new Blob(d.times(0, 4, part), d.of([undefined, {}, { type: d.of(TYPES) }, { endings: "native" }, null])) : new File(d.times(0, 2, part), d.text(), { type: d.of(TYPES), lastModified: 5 }); return [b, b.lastModified]; },
      ...d.times(1, 5, () => d.of([
        () => b.text(), () => b.arrayBuffer(), () => { b = b.slice(d.below(9) - 4, d.of([undefined, d.below(9) - 3]), d.of([undefined, "a/B"])); return b; },
        async () => { const parts = []; for await (const p of b.stream()) parts.push(...p); return parts; }, () => [b.size, b.type], () => new Response(b).text(), () => new Blob("x"), () => new File(["a"]),
      ])),
    ];
  },
  form(d) {
    let f = new FormData();
    // Node takes a byte order mark off the names and values of a multipart body, and a file without a name for a text.
    const name = () => d.text().replaceAll("\ufeff", "");
    const value = () => d.of([() => [name()], () => [new Blob([d.text()], { type: "a/b" })], () => [new Blob(["x"]), name() || "f"], () => [new File(["c"], "f.txt")], () => [1], () => ["t", "name"]])();
    return d.times(3, 9, () => d.of([
      () => f.append(name(), ...value()), () => f.set(name(), ...value()), () => f.delete(name()), () => f.get(name()), () => f.getAll(name()), () => f.has(name()), () => f,
      async () => { f = await new Response(f).formData(); return f; },
      async () => { f = await new Response(new URLSearchParams([[name(), name()], [name(), ""]])).formData(); return f; },
      async () => new Response(d.text(), { headers: { "content-type": d.of(["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", "multipart/form-data"]) } }).formData(),
      async () => { const files = []; for (const [, v] of await new Response(f).formData()) if (typeof v !== "string") files.push(v.type, await v.text()); return files; },
      () => { const seen = []; for (const [k] of f) { seen.push(k); if (seen.length < 3) f.delete(k); } return seen; },
    ]));
  },
  body(d) {
    const source = () => d.of([() => d.text(), () => d.bytes(), () => new Blob([d.text()], { type: d.of(["", "a/b"]) }), () => new URLSearchParams(d.text()), () => null, () => undefined,
      () => new ReadableStream({ start(c) { for (const p of d.times(0, 3, () => d.bytes())) if (p.length) c.enqueue(p); c.close(); } })])();
    let r = new Response("start"), other = null;
    const make = () => (d.chance(0.5) ? new Response(source()) : new Request("http://a.example/", { method: d.of(["POST", "POST", "PUT", "GET"]), body: source(), duplex: "half" }));
    return [
      () => { r = make(); return [r.bodyUsed, r.body === null, r.headers]; },
      ...d.times(2, 9, () => d.of([
        () => r.text(), () => r.text(), () => r.arrayBuffer(), () => r.json().catch((e) => e), async () => (await r.blob()).size, () => r.formData().then(() => "form", (e) => e.name),
        () => { const body = r.body; return body === null || r.bodyUsed || [body.locked, body instanceof ReadableStream]; },
        () => { other = r.clone(); return [other.bodyUsed, r.bodyUsed]; }, () => { if (other) [r, other] = [other, r]; return other !== null; }, () => r.bodyUsed,
        async () => { if (!r.body) return "none"; const reader = r.body.getReader(); const { done } = await reader.read(); reader.releaseLock(); return done; },
        () => { if (!r.body) return "none"; const [a, b] = r.body.tee(); other = new Response(a); r = new Response(b); return "tee"; },
        () => { if (!(r instanceof Request)) return "response"; other = r; r = new Request(r, d.of([undefined, {}, { headers: { a: "b" } }, { method: "POST", body: "new" }, { method: "GET" }])); return [other.bodyUsed, r.bodyUsed, r.method, r.headers]; },
        () => { r = new Response(r.body, { status: d.of([200, 201, 404]) }); return r.status; },
        () => new Response(r.body).text(),
      ])),
    ];
  },
  request(d) {
    const init = () => ({ method: d.of([undefined, ...METHODS]), headers: headers_init(d) ?? undefined, ...d.of([{}, {}, { redirect: d.of(["follow", "manual", "error", "x"]) }, { signal: d.of([null, undefined, AbortSignal.abort("r"), {}]) }, { mode: d.of(["cors", "navigate", "x"]) }, { credentials: d.of(["omit", "x"]) }, { cache: d.of(["no-store", "x"]) }, { body: "b" }, { integrity: "i", keepalive: 1 }]) });
    return d.times(1, 4, () => d.of([
      () => { const r = new Request(d.of(URLS), init()); return [r.method, r.url, r.headers, r.redirect, r.credentials, r.signal.aborted, r.signal.reason, r.integrity, r.keepalive, r.destination]; },
      () => { const r = new Request(new Request("http://a.example/#f", init()), init()); return [r.method, r.url, r.headers, r.redirect]; },
      () => new Request("http://a.example/", d.of([null, undefined, 1, "x"])).method,
      () => { const r = new Response(d.of([null, "t"]), { headers: d.of([undefined, { a: "b" }, [["a", "b"], ["a", "c"]]]), status: d.of([undefined, 200, 204, 304, 599, 600, 199, "201", "x", 200.9, null]), statusText: d.of([undefined, "OK", "a\nb", "é", "✓"]) }); return [r.status, r.statusText, r.ok, r.headers, r.type, r.url, r.redirected]; },
      () => { const r = Response.json(d.of([null, 1, "x", { a: [1, undefined] }, undefined, Symbol("s")]), d.of([undefined, { status: 201 }, { headers: { "content-type": "x/y" } }, { status: 204 }])); return [r.status, r.headers]; },
      () => { const r = Response.redirect(d.of(["http://a.example/é", "https://b.example"]), d.of([undefined, 301, 303, 307, 308, 200, "302"])); return [r.status, r.headers.get("location")]; },
      () => { const r = Response.error(); return [r.status, r.type, r.ok]; },
      async () => (await new Response("x", { headers: { "content-type": d.of(["Text/Plain; Charset=UTF-8", "a/b;x=\"y z\"", "bad", "a/b; c", "a/b;c=d;c=e"]) } }).blob()).type,
    ]));
  },
  clone(d) {
    const value = (depth) => d.of([() => d.text(), () => d.below(100), () => d.of([-0, NaN, null, undefined, true, 10n]), () => d.bytes(), () => d.bytes().buffer, () => new Date(5), () => /a/gi, () => new Error("m"), () => new RangeError("m", { cause: 1 }),
      () => new Map([[1, value(depth + 1)]]), () => new Set([d.text()]), () => d.times(0, 3, () => (depth > 2 ? 1 : value(depth + 1))), () => ({ a: depth > 2 ? 1 : value(depth + 1), ["__proto__"]: 1 }),
      () => JSON.parse('{"__proto__":{"x":1},"b":2}'), () => Object("boxed"), () => new Float64Array([1.5]), () => new DataView(new ArrayBuffer(3), 1), () => d.of([() => 1, Symbol("s"), new WeakMap(), Promise.resolve()])])();
    return d.times(1, 4, () => d.of([
      () => structuredClone(value(0)), () => { const o = { v: value(0) }; o.self = o; const c = structuredClone(o); return [c.self === c, c.v]; },
      () => { const b = new ArrayBuffer(4); const c = structuredClone({ b }, { transfer: [b] }); return [b.byteLength, c.b.byteLength]; },
      () => { const b = new ArrayBuffer(4); structuredClone(b, { transfer: [b] }); return structuredClone(b); }, () => structuredClone(1, { transfer: [1] }), () => structuredClone(),
      () => { const c = structuredClone(JSON.parse('{"__proto__":{"x":1}}')); return [Object.getPrototypeOf(c) === Object.prototype, c.x]; },
    ]));
  },
  events(d) {
    const target = new EventTarget(), log = [], controllers = [new AbortController(), new AbortController()];
    const listeners = [0, 1, 2].map((n) => (event) => { log.push(n + event.type); if (d.chance(0.1)) event.stopImmediatePropagation(); if (d.chance(0.2)) event.preventDefault(); });
    const options = () => d.of([undefined, true, {}, { once: true }, { capture: true }, { signal: controllers[0].signal }]);
    let signal = AbortSignal.any(controllers.map((c) => c.signal));
    return d.times(3, 10, () => d.of([
      () => target.addEventListener(d.of(["x", "y"]), d.of(listeners), options()), () => target.addEventListener("x", d.of(listeners)), () => target.removeEventListener("x", d.of(listeners), d.of([undefined, { capture: true }])),
      () => { const e = new Event("x", { cancelable: d.chance(0.5) }); const r = target.dispatchEvent(e); return [r, e.defaultPrevented, e.target === target, e.currentTarget, e.eventPhase, log.splice(0)]; },
      () => { controllers[0].abort(d.of([undefined, "r"])); return [signal.aborted, signal.reason]; }, () => { signal = AbortSignal.any([signal]); signal.onabort = () => log.push("any"); return signal.aborted; },
      () => { const c = new AbortController(); c.signal.addEventListener("abort", () => log.push("first")); c.signal.onabort = (e) => log.push(e.target === c.signal); c.abort(); c.abort(); return [log.splice(0), c.signal.reason]; },
      () => target.dispatchEvent({}), () => new Event(), () => new CustomEvent("c", { detail: 3 }).detail, () => AbortSignal.abort().reason, () => target.addEventListener("x", 1),
    ]));
  },
  // All in one step: what a timer waits for begins when it is set.
  timers(d) {
    return [async () => {
      const log = [], ids = [], failed = [];
      const set = [
        () => { const n = ids.length, delay = 20 * d.below(4) + 5; ids.push(setTimeout(() => { log.push(`${n}:${delay}`); }, delay)); },
        () => clearTimeout(d.of(ids)), () => clearTimeout(d.of([undefined, null, 99999, "x"])),
        () => { queueMicrotask(() => log.push("microtask")); }, () => setTimeout(d.of([undefined, 1])),
      ];
      for (const one of d.times(2, 9, () => d.of(set))) try { one(); } catch (error) { failed.push(error.name); }
      await new Promise((done) => setTimeout(done, 90));
      return [log, failed];
    }];
  },
};

// Programs of which a run is slow are drawn seldom.
const NAMES_OF_FAMILIES = Object.keys(FAMILIES).filter((name) => name !== "timers").flatMap((name) => [name, name, name, name]).concat("timers");

// Runs `count` programs from the number `first` on. Each gives a line for each of its steps.
export const run = async (first, count) => {
  const lines = [];
  for (let seed = first; seed < first + count; seed++) {
    const d = new Draw(Math.imul(seed + 1, 0x9e3779b1));
    const name = d.of(NAMES_OF_FAMILIES);
    const steps = FAMILIES[name](d);
    for (const [at, step] of steps.entries()) {
      let seen;
      // What was drawn before a step failed must not depend on how far it came.
      d.next = random(Math.imul(seed + 1, 0x85ebca6b) + at);
      try { seen = show(await step()); } catch (error) { seen = `throws ${error instanceof Error ? error.name : show(error)}`; }
      lines.push(`${name} ${seed}.${at}: ${seen}    ${String(step).replace(/\s+/g, " ").slice(0, 160)}`);
    }
  }
  return lines;
};
