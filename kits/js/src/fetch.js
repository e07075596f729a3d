// fetch and timers: the host does the waiting.
{
  const { start, body: { take, with: with_ }, headers: flat } = wws;

  const REDIRECTS = [301, 302, 303, 307, 308];

  const fetch = async (input, init) => {
    const request = new Request(input, init);
    const { signal } = request;
    signal.throwIfAborted();
    const body = await take(request);
    const follow = request.redirect === "follow";
    const head = [follow ? request.method : `${request.method} manual`, request.url, ...flat.flat(request.headers)].join("\0");
    const sent = start("fetch", head, body ?? undefined);
    const [lines, bytes] = await (request.signal.aborted ? sent : Promise.race([sent, aborted(signal)]));
    const list = lines.split("\0");
    const status = Number(list[0]);
    if (request.redirect === "error" && REDIRECTS.includes(status)) throw new TypeError(`fetch failed: ${request.url} redirects`);
    const empty = status === 204 || status === 205 || status === 304;
    const response = new Response(null, { status: status < 200 || status > 599 ? 502 : status, headers: flat.of(list, 3) });
    return with_(response, empty ? null : bytes, list[1]);
  };
  const aborted = (signal) => new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });

  const timers = new Map();
  let last = 0;
  const arm = (id, delay, run) => {
    const slept = start("sleep", Math.max(0, Number(delay) || 0));
    timers.set(id, run);
    slept.then(() => {
      if (timers.get(id) === run) run();
    });
  };
  const call = (callback, args) => {
    if (typeof callback !== "function") throw new TypeError("a timer needs a function");
    return () => {
      try { callback(...args); } catch (error) { console.error("in a timer:", error); }
    };
  };
  const setTimeout = (callback, delay, ...args) => {
    const id = ++last;
    const run = call(callback, args);
    arm(id, delay, () => { timers.delete(id); run(); });
    return id;
  };
  const setInterval = (callback, delay, ...args) => {
    const id = ++last;
    const run = call(callback, args);
    const again = () => { run(); if (timers.has(id)) arm(id, Math.max(1, delay), again); };
    arm(id, delay, again);
    return id;
  };
  const clearTimeout = (id) => { timers.delete(id); };

  wws.define({ fetch, setTimeout, setInterval, clearTimeout, clearInterval: clearTimeout });
}
