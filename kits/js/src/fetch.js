// Timers and fetch. https://html.spec.whatwg.org/#timers, https://fetch.spec.whatwg.org/#fetch-method
{
  const { host, begin, start, cancel, body: { sent, is_stream, flow, answered }, headers: flat, signals, mime } = wws;
  const { Request, Headers } = wws;
  const { atob } = globalThis;

  // The host knows the time of the first timer alone: it calls `tick` then, which runs one.
  const timers = new Map();
  // Ids and times of timers in a heap: the first is the next. Timers that were cleared are left out when their time comes.
  const heap = [];
  const before = (a, b) => a.due < b.due || (a.due === b.due && a.order < b.order);
  let last = 0, order = 0, armed = Infinity;

  const push = (timer) => {
    let at = heap.push(timer) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(timer, heap[parent])) break;
      heap[at] = heap[parent];
      at = parent;
    }
    heap[at] = timer;
  };
  const pop = () => {
    const first = heap[0], moved = heap.pop();
    if (heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1], heap[child])) child++;
      if (!before(heap[child], moved)) break;
      heap[at] = heap[child];
      at = child;
    }
    heap[at] = moved;
    return first;
  };
  const is_gone = (timer) => timers.get(timer.id) !== timer;
  const arm = () => {
    while (heap.length && is_gone(heap[0])) pop();
    const due = heap.length ? heap[0].due : Infinity;
    if (due === armed) return;
    armed = due;
    host.wake(due === Infinity ? -1 : Math.max(0, due - host.now()));
  };

  const set = (run, delay, interval) => {
    const timer = { id: ++last, run, due: host.now() + delay, order: ++order, interval };
    if (timer.due < armed) {
      if (host.wake(delay) === false) throw new Error("timers can be used only while a request is handled: not where the worker is loaded");
      armed = timer.due;
    }
    timers.set(timer.id, timer);
    push(timer);
    return timer.id;
  };
  const clear = (id) => {
    if (typeof id !== "number") id = Number(id);
    if (!timers.delete(id)) return;
    if (heap.length > 64 && heap.length > 4 * timers.size) {
      const left = heap.filter((timer) => !is_gone(timer));
      heap.length = 0;
      left.forEach(push);
    }
    arm();
  };
  // Called by the host when the time of the first timer has come.
  wws.tick = () => {
    armed = Infinity;
    const now = host.now();
    while (heap.length && is_gone(heap[0])) pop();
    if (heap.length && heap[0].due <= now) {
      const timer = pop();
      if (timer.interval === undefined) timers.delete(timer.id);
      try { timer.run(); } catch (error) { wws.report("in a timer", error); }
      if (timer.interval !== undefined && !is_gone(timer)) {
        timer.due = now + Math.max(1, timer.interval);
        timer.order = ++order;
        push(timer);
      }
    }
    arm();
  };
  wws.timers = { set: (run, delay) => set(run, delay) };

  // What is no 32-bit number of milliseconds is at once, as in browsers.
  const delay_of = (delay) => Math.max(0, delay | 0);
  const call = (callback, args) => {
    if (typeof callback !== "function") throw new TypeError("a timer needs a function");
    return () => callback(...args);
  };
  const setTimeout = (callback, delay, ...args) => set(call(callback, args), delay_of(delay));
  const setInterval = (callback, delay, ...args) => set(call(callback, args), delay_of(delay), delay_of(delay));
  const clearTimeout = (id) => clear(id);
  const clearInterval = (id) => clear(id);

  const REDIRECTS = [301, 302, 303, 307, 308];
  const is_empty = (status, method) => status === 204 || status === 205 || status === 304 || method === "HEAD";

  // https://fetch.spec.whatwg.org/#data-url-processor
  const data = (request) => {
    const url = request.url.split("#")[0];
    const comma = url.indexOf(",");
    if (comma < 0) throw new TypeError("fetch failed: a data: URL without a comma");
    let type = url.slice("data:".length, comma).trim();
    // A character for each byte: what is not ASCII was percent-encoded when the URL was parsed.
    let text = url.slice(comma + 1).replace(/%([0-9a-f]{2})/gi, (_, hex) => String.fromCharCode(parseInt(hex, 16)));
    const base64 = /;\x20*base64$/i.exec(type);
    if (base64) {
      type = type.slice(0, base64.index);
      try { text = atob(text); } catch { throw new TypeError("fetch failed: the content of the data: URL is not base64"); }
    }
    const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
    if (type.startsWith(";")) type = `text/plain${type}`;
    const headers = new Headers({ "content-type": mime(type)?.text ?? "text/plain;charset=US-ASCII" });
    return answered({ status: 200, statusText: "OK", headers, source: request.method === "HEAD" ? null : bytes, url: request.url, redirected: false });
  };

  // Sends the body of a request piece by piece. A peer that does not read all of it answers all the same.
  const send = async (id, body) => {
    try {
      for (;;) {
        const piece = await body.next();
        if (piece === undefined) break;
        try { await start("send", id, piece); } catch (error) { body.cancel(error); return; }
      }
      await start("finish", id);
    } catch (error) {
      host.breakOff(id);
      throw error;
    }
  };

  const fetch = async (input, init) => {
    const request = new Request(input, init);
    const { signal, method, url, redirect } = request;
    signal.throwIfAborted();
    if (url.startsWith("data:")) return data(request);
    if (!/^https?:/.test(url)) throw new TypeError(`fetch failed: ${url.slice(0, 100)}: only http:, https: and data: URLs can be fetched`);
    const body = sent(request);
    let operation, forget;
    const aborted = new Promise((_, reject) => {
      forget = signals.follow(signal, () => {
        if (operation) cancel(operation.id);
        reject(signal.reason);
      });
    });
    // Nobody may wait for it.
    aborted.catch(() => {});
    const head = flat.text(request.headers, `${redirect === "follow" ? method : `${method} manual`}\0${url}`);
    const streams = is_stream(body);
    operation = begin("fetch", head, streams ? undefined : body ?? undefined, streams ? 1 : 0);
    const first = [operation.ended, aborted];
    // Pending unless the worker's own stream fails.
    if (streams) first.push(new Promise((_, reject) => { send(operation.id, body).catch(reject); }));
    let ended;
    try { ended = await Promise.race(first); } finally { forget(); }
    const [lines, bytes] = ended;
    const source = bytes ?? flow(operation.id, signal);
    const [status_line, last_url, redirected, statusText, ...list] = lines.split("\0");
    const status = Number(status_line);
    if (redirect === "error" && REDIRECTS.includes(status)) throw new TypeError(`fetch failed: ${url} redirects`);
    return answered({
      status, statusText, headers: flat.of(list, 0), source: is_empty(status, method) ? null : source, url: last_url, redirected: redirected === "1",
    });
  };

  wws.define({ fetch, setTimeout, setInterval, clearTimeout, clearInterval });
}
