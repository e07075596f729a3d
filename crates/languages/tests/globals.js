// Every global that docs/workers/javascript.md names, used once.
const equal = (a, b, what) => {
  const [x, y] = [JSON.stringify(a), JSON.stringify(b)];
  if (x !== y) throw new Error(`${what}: ${x} is not ${y}`);
};
const throws = async (run, name, what) => {
  try { await run(); } catch (error) { equal(error.name, name, what); return; }
  throw new Error(`${what}: nothing thrown`);
};

export default async (request) => {
  const url = new URL("../c?d=1#e", "https://user:pw@a.example:8080/x/b");
  equal([url.href, url.hostname, url.port, url.pathname, url.search, url.hash, url.origin],
    ["https://user:pw@a.example:8080/c?d=1#e", "a.example", "8080", "/c", "?d=1", "#e", "https://a.example:8080"], "URL");
  url.searchParams.append("k", "a b&c");
  equal(url.search, "?d=1&k=a+b%26c", "searchParams");
  url.pathname = "/é";
  equal(url.href, "https://user:pw@a.example:8080/%C3%A9?d=1&k=a+b%26c#e", "pathname");
  equal([URL.canParse("nothing"), URL.canParse("http://a")], [false, true], "canParse");
  await throws(() => new URL("x"), "TypeError", "a bad URL");
  equal([...new URLSearchParams("a=1&a=2&b=%C3%A9+x")], [["a", "1"], ["a", "2"], ["b", "é x"]], "URLSearchParams");

  equal([...new TextEncoder().encode("é✓")], [195, 169, 226, 156, 147], "TextEncoder");
  equal(new TextDecoder().decode(new Uint8Array([0xef, 0xbb, 0xbf, 195, 169])), "é", "TextDecoder");
  const decoder = new TextDecoder("utf-8");
  equal(decoder.decode(new Uint8Array([226, 156]), { stream: true }) + decoder.decode(new Uint8Array([147])), "✓", "decoding in parts");
  await throws(() => new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array([255])), "TypeError", "fatal");
  equal(new TextDecoder("iso-8859-1").decode(new Uint8Array([233])), "é", "latin1");
  equal([btoa("hi"), atob("aGk=")], ["aGk=", "hi"], "base64");

  const headers = new Headers({ "X-A": "1" });
  headers.append("x-a", "2");
  headers.append("set-cookie", "a"); headers.append("Set-Cookie", "b");
  equal([headers.get("X-a"), headers.getSetCookie(), [...headers.keys()]], ["1, 2", ["a", "b"], ["set-cookie", "set-cookie", "x-a"]], "Headers");

  equal(await new Blob(["a", new Uint8Array([98])], { type: "Text/Plain" }).text(), "ab", "Blob");
  equal(await new Blob(["abc"]).slice(1, 2).text(), "b", "slice");
  const form = new FormData();
  form.append("text", "é\n"); form.append("file", new File(["content"], "a \"b\".txt", { type: "text/x" }));
  const back = await new Response(form).formData();
  equal([back.get("text"), back.get("file").name, back.get("file").type, await back.get("file").text()], ["é\r\n", 'a "b".txt', "text/x", "content"], "FormData");
  equal([...await request.formData().catch(() => [])], [], "no form");

  const controller = new AbortController();
  let aborted = 0;
  controller.signal.addEventListener("abort", () => aborted++);
  controller.abort();
  equal([aborted, controller.signal.aborted, controller.signal.reason.name], [1, true, "AbortError"], "AbortController");
  await throws(() => fetch("http://a/", { signal: controller.signal }), "AbortError", "an aborted fetch");

  const stream = new ReadableStream({ start(c) { c.enqueue(new TextEncoder().encode("a")); c.enqueue(new TextEncoder().encode("b")); c.close(); } });
  equal(await new Response(stream).text(), "ab", "ReadableStream");
  const upper = new TransformStream({ transform(chunk, c) { c.enqueue(new TextEncoder().encode(new TextDecoder().decode(chunk).toUpperCase())); } });
  equal(await new Response(new Response("abc").body.pipeThrough(upper)).text(), "ABC", "TransformStream");

  const source = { a: [1, new Date(0)], m: new Map([["k", new Set([1])]]), b: new Uint8Array([1, 2]) };
  source.self = source;
  const copy = structuredClone(source);
  equal([copy.self === copy, copy.a !== source.a, copy.a[1].getTime(), copy.m.get("k").has(1), copy.b[1]], [true, true, 0, true, 2], "structuredClone");
  await throws(() => structuredClone(() => 1), "DataCloneError", "a function");

  const order = [];
  setTimeout(() => order.push("timer"), 0);
  const never = setTimeout(() => order.push("never"), 0);
  clearTimeout(never);
  queueMicrotask(() => order.push("microtask"));
  await new Promise((done) => setTimeout(done, 5));
  equal(order, ["microtask", "timer"], "order");
  let ticks = 0;
  await new Promise((done) => { const id = setInterval(() => { if (++ticks === 3) { clearInterval(id); done(); } }, 1); });

  const hex = (buffer) => new Uint8Array(buffer).toHex();
  equal(hex(await crypto.subtle.digest("SHA-256", new TextEncoder().encode("abc"))), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "digest");
  const key = await crypto.subtle.importKey("raw", new TextEncoder().encode("key"), { name: "HMAC", hash: "SHA-256" }, false, ["sign", "verify"]);
  const data = new TextEncoder().encode("The quick brown fox jumps over the lazy dog");
  const mac = await crypto.subtle.sign("HMAC", key, data);
  equal(hex(mac), "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8", "HMAC");
  equal(await crypto.subtle.verify("HMAC", key, mac, data), true, "verify");
  equal(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(crypto.randomUUID()), true, "randomUUID");
  equal(crypto.getRandomValues(new Uint16Array(8)).some((n) => n > 255), true, "getRandomValues");
  const numbers = Array.from({ length: 10 }, Math.random);
  equal([new Set(numbers).size, numbers.every((n) => n >= 0 && n < 1)], [10, true], "Math.random");
  equal(performance.now() > 0 && Math.abs(performance.timeOrigin + performance.now() - Date.now()) < 1000, true, "performance");

  const response = Response.json({ a: 1 }, { status: 201, headers: { "x-b": "c" } });
  equal([response.status, response.ok, response.headers.get("content-type"), response.headers.get("x-b"), await response.clone().json()],
    [201, true, "application/json", "c", { a: 1 }], "Response.json");
  equal(Response.redirect("https://a.example/", 301).headers.get("location"), "https://a.example/", "redirect");
  await throws(async () => { await response.text(); await response.text(); }, "TypeError", "a body that was read");
  const made = new Request("https://a.example/b", { method: "post", body: new URLSearchParams({ a: "1" }) });
  equal([made.method, made.headers.get("content-type"), await made.clone().text(), await made.text()],
    ["POST", "application/x-www-form-urlencoded;charset=UTF-8", "a=1", "a=1"], "Request");

  const [one, other] = Object.values(new WebSocketPair());
  const heard = new Promise((resolve) => { other.onmessage = (event) => resolve(event); });
  one.accept(); other.accept(); one.send("hi");
  const event = await heard;
  equal([event instanceof MessageEvent, event.data, one instanceof WebSocket], [true, "hi", true], "WebSocketPair");
  equal([new CloseEvent("close", { code: 1000, wasClean: true }).code, new ErrorEvent("error", { message: "x" }).message], [1000, "x"], "events");

  console.log("%s is %d", "one", 1, { a: [1, { b: 2 }], e: new Error("x") });
  console.error(new TypeError("shown"));
  equal([typeof self, navigator.userAgent, typeof wws], ["object", "wws", "undefined"], "surroundings");
  return new Response("ok");
};
