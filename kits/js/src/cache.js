// Cache: the worker's key/value namespace. Reads and writes see a snapshot of it and what this request changed; that
// reaches the store when the request was answered. `increment` asks the store itself.
{
  const { host, start } = wws;
  const loading = () => new Error("Cache can be used only while a request is handled: not where the worker is loaded");
  const refused = () => new Error("Cache: only while a request is handled, and no more than `limits.output` bytes of changes");
  const Cache = {
    // As in Wasm Workers Server 1.x: undefined where there is no value.
    get(key) {
      const value = host.kvGet(`${key}`);
      if (value === false) throw loading();
      return value;
    },
    set(key, value) { if (host.kvSet(`${key}`, `${value}`) === false) throw refused(); },
    delete(key) { if (host.kvDelete(`${key}`) === false) throw refused(); },
    async increment(key, by = 1) {
      if (!Number.isSafeInteger(by)) throw new TypeError("the increment must be a whole number");
      const [sum] = await start("increment", `${key}`, by);
      return Number(sum);
    },
  };
  wws.define({ Cache });
}
