// Finds a worker's handler, and hands it requests.
{
  const { host, body: { incoming, take }, headers: flat, describe, show } = wws;
  const listeners = [];
  let handler = null;
  let self;
  let answered = false;
  let waiting = [];

  wws.define({
    addEventListener(type, listener) {
      if (type !== "fetch") return;
      if (typeof listener !== "function") throw new TypeError('addEventListener("fetch", ...) needs a function');
      listeners.push(listener);
    },
    removeEventListener() {},
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

  const fail = (error) => { if (!answered) { answered = true; host.fail(describe(error)); } };

  const waitUntil = (promise) => {
    waiting.push(Promise.resolve(promise).catch((error) => console.error("in waitUntil:", error)));
  };

  const answer = async (response) => {
    if (!(response instanceof Response)) {
      throw new TypeError(`the worker must answer with a Response, it answered with ${show(response)}`);
    }
    const body = await take(response);
    while (waiting.length) await Promise.all(waiting.splice(0));
    respond(response, body);
  };
  const respond = (response, body) => {
    if (answered) return;
    answered = true;
    host.respond([response.status, ...flat.flat(response.headers)].join("\0"), body ?? undefined);
  };

  // What is there at once needs no further turns.
  const settle = (response) => {
    if (response instanceof Response && waiting.length === 0) {
      const body = take(response);
      if (!(body instanceof Promise)) { respond(response, body); return; }
      body.then((body) => answer_with(response, body)).catch(fail);
      return;
    }
    answer(response).catch(fail);
  };
  const answer_with = async (response, body) => {
    while (waiting.length) await Promise.all(waiting.splice(0));
    respond(response, body);
  };
  const settled = (response) => { try { settle(response); } catch (error) { fail(error); } };

  // Called by the host for each request: "method, url, parameters as JSON, name, value, ..." with NUL characters between.
  wws.dispatch = (head) => {
    try {
      const lines = head.split("\0");
      const request = new Request(incoming, { method: lines[0], url: lines[1], params: lines[2], lines });
      let result, given, has = false;
      if (handler) {
        result = handler.call(self, request, wws_env, { waitUntil, passThroughOnException() {}, props: {} });
      } else {
        const event = new Event("fetch");
        event.request = request;
        event.waitUntil = waitUntil;
        event.passThroughOnException = () => {};
        event.respondWith = (response) => {
          if (has) throw new TypeError("respondWith was called before");
          has = true;
          given = response;
        };
        for (const listener of listeners) {
          const returned = listener.call(globalThis, event);
          // An asynchronous listener may answer after it waited.
          if (!has && returned instanceof Promise) result = returned.then(() => answer_of());
          if (has || result) break;
        }
        const answer_of = () => {
          if (!has) throw new TypeError("the listener did not call event.respondWith");
          return given;
        };
        result ??= answer_of();
      }
      if (result instanceof Response) settled(result);
      else Promise.resolve(result).then(settled, fail);
    } catch (error) {
      fail(error);
    }
  };

  const wws_env = {};
  wws.setVariable = (name, value) => {
    wws_env[name] = value;
    Object.defineProperty(globalThis, name, { value, writable: false, configurable: true, enumerable: true });
  };
}
