// Cache: the worker's key/value namespace. Reads and writes see a snapshot of it and what this request changed; that
// reaches the store when the request was answered. `increment` asks the store itself.
{
  const { host, start } = wws;
  const loading = () => new Error("Cache can be used only while a request is handled: not where the worker is loaded");
  const refused = () => new Error("Cache: only while a request is handled, and no more than `limits.output` bytes of changes");
  const time = (ttl) => {
    if (ttl === undefined || ttl === null) return -1;
    if (!(ttl > 0)) throw new TypeError("the time to live must be a number of seconds above 0");
    return ttl * 1000;
  };
  const Cache = {
    // As in Wasm Workers Server 1.x: undefined where there is no value.
    get(key) {
      const value = host.kvGet(`${key}`);
      if (value === false) throw loading();
      return value;
    },
    // `ttl`: seconds after which the key is removed.
    set(key, value, { ttl } = {}) { if (host.kvSet(`${key}`, `${value}`, time(ttl)) === false) throw refused(); },
    delete(key) { if (host.kvDelete(`${key}`) === false) throw refused(); },
    async increment(key, by = 1) {
      if (!Number.isSafeInteger(by)) throw new TypeError("the increment must be a whole number");
      const [sum] = await start("increment", `${key}`, by);
      return Number(sum);
    },
    // Sets the key if its value is `expected` (undefined or null: if there is no such key), and tells whether it was.
    async compareAndSet(key, expected, value, { ttl } = {}) {
      const known = expected === undefined || expected === null ? [0] : [1, `${expected}`];
      const [done] = await start("compareAndSet", `${key}`, `${value}`, time(ttl), ...known);
      return done === "true";
    },
    // The keys with a prefix in the order of their bytes, after the key `after` if there is one: at most `limit`. None is the end.
    async list(prefix = "", { after, limit = 1000 } = {}) {
      if (!(limit >= 1)) throw new TypeError("the limit must be 1 or more");
      const from = after === undefined || after === null ? [0] : [1, `${after}`];
      const [keys] = await start("list", `${prefix}`, Math.min(Math.floor(limit), 1000), ...from);
      return JSON.parse(keys);
    },
  };
  wws.define({ Cache });
}
