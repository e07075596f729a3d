// Finds a worker's handler, and hands it requests.
{
  const { host, start, body: { incoming, sent, is_stream, is_text }, sockets, headers: flat, describe, show, report, Response, Event } = wws;
  // In Wasm Workers Server 1.x any name of the event would do; "request" was in use.
  const EVENTS = ["fetch", "request"];
  const listeners = [];
  let handler = null;
  let self;
  let answered = false;
  let waiting = [];

  wws.define({
    addEventListener(type, listener) {
      if (!EVENTS.includes(`${type}`)) {
        wws.console.warn(`addEventListener(${JSON.stringify(`${type}`)}, ...) has no effect: a worker is sent "fetch" events alone`);
        return;
      }
      if (typeof listener !== "function" && typeof listener?.handleEvent !== "function") throw new TypeError('addEventListener("fetch", ...) needs a function');
      if (!listeners.includes(listener)) listeners.push(listener);
    },
    removeEventListener(type, listener) {
      const at = listeners.indexOf(listener);
      if (at >= 0 && EVENTS.includes(`${type}`)) listeners.splice(at, 1);
    },
    self: globalThis,
    navigator: { userAgent: "wws" },
  });

  // Called once, with the module's exports, or undefined for a script. Returns what is wrong, or undefined.
  wws.loaded = (exports) => {
    const main = exports?.default ?? exports?.fetch;
    if (typeof main === "function") handler = main;
    else if (typeof main?.fetch === "function") { handler = main.fetch; self = main; }
    else if (listeners.length === 0) {
      return exports === undefined || exports.default === undefined
        ? 'it has no handler: `export default { fetch(request) { ... } }` or `addEventListener("fetch", ...)` makes one'
        : `its default export is ${show(exports.default)}: it must be a function or have a function \`fetch\``;
    }
  };

  const fail = (error) => { if (!answered) { answered = true; host.fail(describe(error), wws.stackOf(error)); } };

  const waitUntil = (promise) => {
    waiting.push(Promise.resolve(promise).catch((error) => report("in waitUntil", error)));
  };

  const passThroughOnException = () => {};

  // Status and headers. As workers of Wasm Workers Server 1.x expect, text has a type. What is no text has the type that it brings
  // along, or none.
  const head_of = (response, has_type) => {
    if (response.status === 0) throw new TypeError("the worker answered with Response.error()");
    return flat.text(response.headers, `${response.status}`, has_type ? "text/html" : undefined);
  };

  // Sends the head at once and the body as it comes. What `waitUntil` was given goes on after that.
  const stream = async (head, body) => {
    const why = host.begin(head);
    if (why !== undefined) throw new TypeError(why);
    for (;;) {
      const piece = await body.next();
      if (piece === undefined) break;
      await start("send", 0, piece);
    }
    if (waiting.length === 0) { host.end(0); return; }
    host.end(1);
    while (waiting.length) await Promise.all(waiting.splice(0));
    host.end(0);
  };
  // Accepts the WebSocket that the client asks for. What `waitUntil` was given goes on after its end.
  const socket = async (head, end) => {
    const why = host.accept(head);
    if (why !== undefined) throw new TypeError(why);
    await sockets.attach(end);
    while (waiting.length) await Promise.all(waiting.splice(0));
    host.end(0);
  };
  // A body that is there, as one that streams.
  const once = (body) => {
    let left = body;
    return { next: async () => { const piece = left; left = undefined; return piece ?? undefined; } };
  };

  const settle = (response) => {
    if (answered) return;
    if (!(response instanceof Response)) {
      throw new TypeError(`the worker must answer with a Response, it answered with ${show(response)}`);
    }
    const is_string = is_text(response);
    const body = sent(response);
    const head = head_of(response, is_string);
    answered = true;
    if (response.webSocket !== null) {
      socket(head, response.webSocket).catch((error) => host.fail(describe(error), wws.stackOf(error)));
      return;
    }
    // What is there at once needs no further turns.
    if (!is_stream(body) && waiting.length === 0) { host.respond(head, body ?? undefined); return; }
    const streamed = is_stream(body) ? body : once(body);
    stream(head, streamed).catch((error) => {
      streamed.cancel?.(error);
      host.fail(describe(error), wws.stackOf(error));
    });
  };
  const settled = (response) => { try { settle(response); } catch (error) { fail(error); } };

  // Called by the host for each request: "method, URL, parameters as JSON, 1 if there is a body or 0, name, value, ..." with
  // NUL characters between.
  wws.dispatch = (head) => {
    // An instance that is reused has answered before.
    answered = false;
    waiting = [];
    try {
      const request = incoming(head);
      let result, given, has = false;
      if (handler) {
        result = handler.call(self, request, wws_env, { waitUntil, passThroughOnException, props: {} });
      } else {
        const event = new Event("fetch");
        event.request = request;
        event.waitUntil = waitUntil;
        event.passThroughOnException = passThroughOnException;
        event.respondWith = (response) => {
          if (has) throw new TypeError("respondWith was called before");
          has = true;
          given = response;
        };
        const answer_of = () => {
          if (!has) throw new TypeError("the listener did not call event.respondWith");
          return given;
        };
        for (const listener of listeners) {
          const returned = typeof listener === "function" ? listener.call(globalThis, event) : listener.handleEvent(event);
          // An asynchronous listener may answer after it waited.
          if (!has && returned instanceof Promise) result = returned.then(answer_of);
          if (has || result) break;
        }
        result ??= answer_of();
      }
      if (result instanceof Response) settled(result);
      else Promise.resolve(result).then(settled, fail);
    } catch (error) {
      fail(error);
    }
  };

  // Promises that were rejected and that nobody handles: the host tells of each, and asks for a report at the end of a turn.
  const rejected = new Map();
  wws.rejection = (promise, reason, is_handled) => {
    if (is_handled) rejected.delete(promise); else rejected.set(promise, reason);
  };
  wws.reportRejections = () => {
    const reasons = [...rejected.values()];
    rejected.clear();
    for (const reason of reasons) report("a promise was rejected, and nothing handles that", reason);
  };

  const wws_env = {};
  // A variable that has the name of a global is a property of `env` alone: code that uses the global means the global.
  wws.setVariable = (name, value) => {
    Object.defineProperty(wws_env, name, { value, writable: true, configurable: true, enumerable: true });
    if (name in globalThis) {
      wws.console.warn(`the variable ${name} has the name of a global: it is env.${name}, and ${name} is the global`);
      return;
    }
    Object.defineProperty(globalThis, name, { value, writable: false, configurable: true, enumerable: true });
  };
}
